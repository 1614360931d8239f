"""The client before a gateway with faults: every wait ends, every error says what to do, nothing is lost or half."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from support import faults
from support.faults import Fault, Gateway

from tvetl import answers, jobs
from tvetl.cluster import Cluster, connection, registration
from tvetl.errors import (
    NotAIStore,
    NotFound,
    NotReachable,
    ObjectFailed,
    RegistrationError,
    TimedOut,
    TvetlError,
    UsageError,
)
from tvetl.jobs import provenance, run
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.preview import preview
from tvetl.spec import parse

Figure = Callable[[str, str], None]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
PIPELINE = parse({"version": 1, "steps": [{"op": "CenterCrop", "size": 8}], "output": {"format": "png"}, "seed": 1})
TOKEN = "T0kenThatNobodyMaySee"
#: Seconds that no faulty answer may keep us here: our time-outs are set to 1 s, and some things are asked three times.
SOON = 30.0
PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>" + b"nothing here " * 500 + b"</body></html>"
PROGRAM = [sys.executable, "-c", "from tvetl.command.cli import main; main()"]

#: Faults that leave no answer to understand. A listing or an object cut to half of its length with the right header for
#: it is left out: of an object's bytes nobody could tell.
FAULTS: dict[str, Fault] = {
    "reset": faults.reset,
    "closed": faults.closed,
    "hangs": faults.hang,
    "cut": faults.cut,
    "cut chunked": faults.cut_chunked,
    "too long": faults.too_long,
    "around": faults.around,
    "elsewhere": faults.saying(307, "text/html", b"", Location="ftp://127.0.0.1/x"),
    "nowhere": faults.saying(307, "text/html", b"", Location="http://127.0.0.1:9/x"),
    "page 200": faults.saying(200, "text/html", PAGE),
    "page 404": faults.saying(404, "text/html", PAGE),
    "page 502": faults.saying(502, "text/html", PAGE),
    "storm": faults.saying(503, "application/json", b'{"message": "the cluster is starting", "status": 503}'),
    "empty": faults.saying(200, "application/json", b""),
    "half JSON": faults.saying(200, "application/json", b'[{"id": "a", "st'),
    "wrong types": faults.saying(200, "application/json", b'{"id": [1], "UUID": 7, "Entries": "x", "init_msg": []}'),
    "a number": faults.saying(200, "application/json", b"1e400"),
    "deep": faults.saying(200, "application/json", b"[" * 100_000),
    "not msgpack": faults.saying(200, "application/msgpack", b"\xc1" * 50),
    "binary": faults.saying(200, "application/octet-stream", bytes(range(256)) * 8),
    "huge": faults.saying(500, "text/plain", b"x" * (8 << 20)),
    "strange JSON error": faults.saying(400, "application/json", b'["no", {"message": 1}]'),
    "echo": faults.saying(403, "text/plain", f"Authorization: Bearer {TOKEN}".encode()),
    "echo JSON": faults.saying(403, "application/json", json.dumps({"message": f"not with {TOKEN}"}).encode()),
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), targets=2) as running:
        made = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").save(made, "PNG")
        direct = Cluster(running.endpoint)
        direct.create_bucket("images")
        for at in range(12):
            direct.put("images", f"photo_{at:02}.png", made.getvalue())
        direct.register(PodSpec("test-small", PIPELINE, start_timeout=60))
        yield running


@pytest.fixture(scope="module")
def direct(local: LocalCluster) -> Cluster:
    return Cluster(local.endpoint)


@pytest.fixture
def gateway(local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", TOKEN)
    monkeypatch.setattr(connection, "TIMEOUT", (1.0, 0.3))
    monkeypatch.setattr(registration, "GRACE", 1.0)
    monkeypatch.setattr(connection, "BACKOFF", 0.05)
    monkeypatch.setattr(connection, "PAUSE", 0.01)
    yield from faults.serve_gateway(local.endpoint)


def always(fault: Fault) -> faults.Choose:
    return lambda method, path, before: fault


#: What a user of the library may ask, by name.
VERBS: dict[str, Callable[[Cluster], object]] = {
    "etls": Cluster.etls,
    "show": lambda cluster: cluster.show("test-small"),
    "errors": lambda cluster: cluster.errors("test-small"),
    "logs": lambda cluster: cluster.logs("test-small"),
    "object_seconds": lambda cluster: cluster.object_seconds("test-small"),
    "objects": lambda cluster: cluster.objects("images"),
    "sizes": lambda cluster: cluster.sizes("images"),
    "tags": lambda cluster: cluster.tags("images"),
    "bucket_id": lambda cluster: cluster.bucket_id("images"),
    "snapshot": lambda cluster: cluster.snapshot("no-such-job"),
    "transforming": lambda cluster: cluster.transforming("images", "other"),
    "get": lambda cluster: cluster.get("images", "photo_00.png"),
    "get by ETL": lambda cluster: cluster.get("images", "photo_00.png", "test-small"),
    "put": lambda cluster: cluster.put("images", "photo_00.png", cluster.get("images", "photo_00.png")),
    "create_bucket": lambda cluster: cluster.create_bucket("images"),
    "delete_bucket": lambda cluster: cluster.delete_bucket("no-such-bucket"),
    "stop": lambda cluster: cluster.stop("no-such-etl"),
    "unregister": lambda cluster: cluster.unregister("no-such-etl"),
    "abort": lambda cluster: cluster.abort("no-such-job"),
    "register": lambda cluster: cluster.register(PodSpec("test-small", PIPELINE, start_timeout=1)),
    "begin": lambda cluster: jobs.transform_bucket(cluster, "images", "other", "test-small"),
    "estimate": lambda cluster: jobs.estimate(cluster, jobs.Request("images", "other", "test-small")),
    "preview": lambda cluster: preview(cluster, "images", "photo_00.png", "test-small", views=1),
    "records": lambda cluster: [*provenance.Records(cluster, "images").load()],
}
#: A plain read cannot tell another's bytes from the object's, and what waits for no answer is content with any.
BLIND = {"get", "get by ETL", "put", "create_bucket", "delete_bucket", "abort"}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_verb_says_what_is_wrong_in_time_and_without_secrets(
    gateway: Gateway, fault: str, direct: Cluster, figure: Figure, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = direct.sizes("images")
    gateway.choose = always(FAULTS[fault])
    cluster = Cluster(gateway.endpoint, patience=0.3)
    told: dict[str, TvetlError] = {}
    for name, ask in VERBS.items():
        began = time.monotonic()
        try:
            ask(cluster)
        except TvetlError as error:
            told[name] = error
        assert time.monotonic() - began < SOON, f"{name} waits on"
        _Counted.cases += 1
    for name, error in told.items():
        text = f"{error.message} {error.hint}"
        assert TOKEN not in text, name
        assert len(error.message) < 1000, name
        assert "\n" not in error.message, name
        assert error.exit_code in (1, 4, 5), name
        assert error.hint or isinstance(error, (NotFound, ObjectFailed)) or "JSON" in fault, (name, error)
    if FAULTS[fault] not in (faults.too_long, faults.reset, faults.cut, faults.cut_chunked):
        # Nothing is also what AIStore answers to these.
        content = BLIND | {"stop", "unregister"} if fault == "empty" else BLIND
        assert set(VERBS) - set(told) <= content, "a verb takes this for an answer of AIStore"
    assert TOKEN not in caplog.text
    assert direct.sizes("images") == before
    assert [etl.stage for etl in direct.etls()] == ["Running"]
    figure("the client: verbs before a faulty gateway", f"{_Counted.cases} cases, 0 traces, 0 secrets, 0 hung")


class _Counted:
    cases = 0


def test_what_answers_and_is_no_aistore_is_named(gateway: Gateway) -> None:
    gateway.choose = always(FAULTS["page 404"])
    cluster = Cluster(gateway.endpoint)
    with pytest.raises(NotAIStore, match="502 Bad Gateway") as page:
        cluster.get("images", "photo_00.png")
    assert "tvetl doctor" in page.value.hint
    assert page.value.exit_code == 5
    with pytest.raises(NotAIStore):  # or all of a data set would be skipped as missing
        cluster.objects("images")
    gateway.choose = always(faults.around)
    with pytest.raises(NotAIStore, match="redirects without end"):
        cluster.etls()
    gateway.choose = always(faults.closed)
    with pytest.raises(NotReachable, match="broke off"):
        cluster.etls()
    gateway.choose = always(faults.hang)
    with pytest.raises(TimedOut):
        Cluster(gateway.endpoint, patience=0.5).etls()


def test_a_token_goes_to_nobody_else(gateway: Gateway, local: LocalCluster) -> None:
    for trap in faults.serve_gateway(local.endpoint):
        away = trap.endpoint.replace("127.0.0.1", "localhost")
        gateway.choose = always(faults.saying(307, "text/html", b"", Location=f"{away}/v1/etl"))
        assert Cluster(gateway.endpoint).etls()
        assert [(path, token) for _, path, token in trap.asked] == [("/v1/etl", "")]
        assert gateway.asked[0][2] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("endpoint", ["http://user:Pa55word@127.0.0.1:1", "user:Pa55word@h", "http://Pa55word@h:x"])
def test_an_endpoint_with_a_password_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(UsageError) as refused:
        Cluster(endpoint)
    assert "Pa55word" not in refused.value.message + refused.value.hint
    done = subprocess.run(
        [*PROGRAM, "list", "--show-config", "-e", "http://user:Pa55word@h:1"], capture_output=True, check=True
    )
    assert b"Pa55word" not in done.stdout + done.stderr
    assert b"***@h" in done.stdout


def test_a_storm_that_passes_is_waited_out(gateway: Gateway) -> None:
    gateway.choose = lambda method, path, before: FAULTS["storm"] if before < 2 else None
    assert len(Cluster(gateway.endpoint).objects("images")) == 12
    gateway.asked.clear()
    gateway.choose = lambda method, path, before: faults.reset if before < 2 else None
    assert Cluster(gateway.endpoint).get("images", "photo_00.png")


def test_a_job_outlives_its_gateway(gateway: Gateway, direct: Cluster, figure: Figure) -> None:
    kinds = [faults.reset, FAULTS["page 502"], FAULTS["half JSON"], faults.cut]
    met = 0
    for at, fault in enumerate(kinds):
        bucket = f"through-{at}"
        cluster = Cluster(gateway.endpoint)
        gateway.choose = lambda method, path, before: None
        job = jobs.transform_bucket(cluster, "images", bucket, "test-small")
        gateway.asked.clear()
        gateway.choose = lambda method, path, before, fault=fault: fault if before < 3 else None
        report = jobs.wait(cluster, job, timeout=60)
        assert report.ok
        assert len(direct.objects(bucket)) == 12
        met += min(3, len(gateway.asked))
    figure("the client: a gateway that is away during a job", f"{len(kinds)} kinds, {met} answers lost, 0 jobs lost")


def test_a_gateway_that_stays_away_ends_the_wait_and_the_same_again_goes_on(
    gateway: Gateway, direct: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_AWAY", 1.0)
    cluster = Cluster(gateway.endpoint)
    job = jobs.transform_bucket(cluster, "images", "away", "test-small")
    gateway.choose = always(faults.closed)
    with pytest.raises(NotReachable) as away:
        jobs.wait(cluster, job)
    assert "the same again" in away.value.hint
    with pytest.raises(NotReachable):
        jobs.transform_bucket(cluster, "images", "away", "test-small")
    gateway.choose = lambda method, path, before: None
    report = jobs.wait(cluster, jobs.transform_bucket(cluster, "images", "away", "test-small"), timeout=60)
    assert report.ok
    assert (report.wanted, {tag.partition(":")[0] for tag in direct.tags("away").values()}) == (12, {"1"})


def test_a_job_through_a_gateway_that_fails_at_random_is_complete_in_the_end(
    gateway: Gateway, direct: Cluster, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    monkeypatch.setattr(run, "_AWAY", 0.5)
    chance = random.Random(7)
    kinds = [faults.closed, faults.reset, faults.cut, FAULTS["storm"], FAULTS["page 200"], FAULTS["half JSON"]]
    gateway.choose = lambda method, path, before: chance.choice(kinds) if chance.random() < 0.25 else None
    tries = 0
    while True:
        tries += 1
        assert tries < 100
        try:
            cluster = Cluster(gateway.endpoint)
            report = jobs.wait(cluster, jobs.transform_bucket(cluster, "images", "random", "test-small"), timeout=30)
            if report.ok:
                break
        except TvetlError:
            continue
    assert direct.objects("random") == direct.objects("images")
    assert {direct.get("random", name) for name in direct.objects("random")} == {
        direct.get("images", "photo_00.png", "test-small")
    }
    versions = {tag.partition(":")[0] for tag in direct.tags("random").values()}
    assert versions == {"1"}, "made twice"
    figure(
        "the client: every fourth answer of the gateway faulty",
        f"{tries} tries of one command, 12 of 12 objects right, none made twice",
    )


@pytest.fixture
def command(gateway: Gateway, tmp_path: Path) -> Run:
    """The command as a process, before the gateway; whatever it prints is looked through."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        env = {**os.environ, "AIS_ENDPOINT": gateway.endpoint, "AIS_AUTHN_TOKEN": TOKEN}
        done = subprocess.run(
            [*PROGRAM, *arguments], capture_output=True, timeout=120, check=False, env=env, cwd=tmp_path, **options
        )
        assert TOKEN.encode() not in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
        return done

    return run


def test_the_command_ends_with_a_status_and_leaves_no_half_file(
    gateway: Gateway, command: Run, tmp_path: Path, figure: Figure
) -> None:
    (tmp_path / "out.png").write_bytes(b"old")
    (tmp_path / "p.json").write_text('{"version": 1, "steps": [{"op": "CenterCrop", "size": 8}]}')
    statuses = {"cut": 5, "cut chunked": 5, "around": 5, "storm": 1, "echo": 5, "echo JSON": 1}
    for fault, status in statuses.items():
        gateway.choose = always(FAULTS[fault])
        done = command("get", "images/photo_00.png", "--output", "out.png")
        assert (fault, done.returncode) == (fault, status), done.stderr
        assert len(done.stderr.splitlines()) in (1, 2)
        assert len(done.stderr) < 1500
    for arguments in (
        ("register", "test-small", "p.json", "--timeout", "1"),
        ("transform", "images", "other", "--etl", "test-small"),
        ("preview", "images/photo_00.png", "--etl", "test-small", "--output", "out.png"),
        ("doctor",),
    ):
        gateway.choose = always(FAULTS["page 200"])
        assert command(*arguments).returncode == 5, arguments
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "p.json"]
    figure("the client: the command before a faulty gateway", f"{len(statuses) + 4} runs, 0 traces, 0 half files")


def test_a_file_is_whole_or_as_it_was_however_the_command_is_killed(tmp_path: Path, figure: Figure) -> None:
    path, chance = tmp_path / "out", random.Random(3)
    write = """
import sys
from pathlib import Path
from tvetl.files import write_whole
print(flush=True)
while True:
    for byte in b"ab":
        write_whole(Path(sys.argv[1]), bytes([byte]) * 3_000_000)
"""
    seen = set()
    for _ in range(15):
        with subprocess.Popen([sys.executable, "-c", write, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(chance.uniform(0.005, 0.05))
            process.send_signal(signal.SIGKILL)
        data = path.read_bytes() if path.exists() else b""
        assert data in (b"", b"a" * 3_000_000, b"b" * 3_000_000)
        seen.add(data[:1])
    assert {b"a", b"b"} <= seen
    figure("the client: killed while a file is written", "15 times, 0 half files")


def test_a_place_that_cannot_be_written_is_said(direct: Cluster, command: Run, tmp_path: Path) -> None:
    done = command("get", "images/photo_00.png", "--output", "no/such/folder/x")
    assert (done.returncode, b"No such file or directory" in done.stderr) == (1, True)
    done = command("get", "images/photo_00.png", "--output", "/dev/full")
    assert (done.returncode, b"No space left on device" in done.stderr) == (1, True)
    with Path("/dev/full").open("wb") as full:
        env = {**os.environ, "AIS_ENDPOINT": direct.endpoint}
        argv = [*PROGRAM, "get", "images/photo_00.png"]
        written = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60, env=env)
    assert (written.returncode, b"No space left" in written.stderr) == (1, True)
    assert b"Traceback" not in written.stderr
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert command("get", "images/photo_00.png", "--output", "link").returncode == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == direct.get("images", "photo_00.png")


def test_the_secret_of_the_targets_is_nowhere(
    gateway: Gateway, local: LocalCluster, direct: Cluster, command: Run
) -> None:
    direct.create_bucket("secret")
    secret = local._api.etls.known("test-small").secret
    log = local.root / ".tvetl" / "logs"
    for name in direct.objects("images"):
        (local.root / "secret" / name / "in the way").mkdir(parents=True)
        (local.root / "secret" / name / "in the way" / "x").write_bytes(b"")
    job = jobs.transform_bucket(direct, "images", "secret", "test-small")
    report = jobs.wait(direct, job, timeout=60)
    assert len(report.failed) == 12
    told = repr(report) + repr(direct.errors("test-small")) + repr(direct.show("test-small"))
    for arguments in (("logs", "test-small"), ("show", "test-small"), ("list",), ("doctor",)):
        done = command(*arguments)
        told += (done.stdout + done.stderr).decode()
    told += "".join(path.read_text() for path in log.iterdir())
    assert "test-small" in told
    assert secret not in told


def test_a_start_that_our_server_ends_is_not_waited_for_to_its_end(tmp_path: Path, figure: Figure) -> None:
    again = "import time\nwhile True: print('tvetl-server: PipelineError: $.steps[0]: no', flush=True); time.sleep(0.2)"
    with LocalCluster(tmp_path / "ais", targets=2, allow={"again:1": [sys.executable, "-c", again]}) as local:
        cluster = Cluster(local.endpoint)
        began = time.monotonic()
        with pytest.raises(RegistrationError, match=r"tvetl-server: PipelineError: \$\.steps\[0\]: no(\n|$)"):
            cluster.register(PodSpec("test-again", PIPELINE, "again:1", start_timeout=120))
        took = time.monotonic() - began
        assert took < 60
        assert cluster.etls() == []
    figure("the client: a start that cannot succeed", f"told after {took:.0f} s, where AIStore would wait for 120 s")


def test_a_gateway_that_is_down_is_told_at_once(command: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    for words in ("list", "transform a b --etl test-small", "rm test-small"):
        done = command(*words.split(), "-e", f"http://127.0.0.1:{port}")
        assert done.returncode == 5
        assert b"Connection refused" in done.stderr
    assert time.monotonic() - began < 60


def shard(members: int) -> bytes:
    """A tar of images with labels, each name's content its own."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for at in range(members):
            for name, data in ((f"{at}.cls", str(at).encode()), (f"{at}.txt", b"t" * (at + 1) * 100)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def test_a_shard_cut_off_anywhere_is_damaged(figure: Figure) -> None:
    whole = shard(10)
    everything = list(answers.members(whole))
    assert len(everything) == 20
    end = whole.rstrip(b"\0")
    mark = (len(end) + 511) // 512 * 512
    for at in (*range(512, mark + 512, 512), *range(600, mark, 997)):
        with pytest.raises(UsageError):
            list(answers.members(whole[:at]))
    assert list(answers.members(whole[: mark + 512])) == everything
    figure("the client: a shard cut off", f"{mark // 512 + len(range(600, mark, 997))} places, each told")


def test_answers_that_are_damaged_are_told_whatever_they_are(figure: Figure) -> None:
    chance = random.Random(11)
    pixels = np.frombuffer(chance.randbytes(48 * 64 * 3), np.uint8).reshape(48, 64, 3)
    made: dict[str, bytes] = {}
    for kind in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        made[kind] = file.getvalue()
    file = io.BytesIO()
    np.save(file, pixels)
    made["npy"] = file.getvalue()
    header = json.dumps({"x": {"dtype": "U8", "shape": [48, 64, 3], "data_offsets": [0, 9216]}}).encode()
    made["safetensors"] = len(header).to_bytes(8, "little") + header + pixels.tobytes()
    made["sample"] = save({"image": pixels, "boxes": np.ones((3, 4), np.float32)}, {"of": "[48, 64]"})
    tried = refused = 0
    for kind, data in made.items():
        read = answers.read_sample if kind == "sample" else answers.read_answer
        damaged = [data[: len(data) * part // 64] for part in range(64)]
        for _ in range(200):
            spot = bytearray(data)
            for _ in range(chance.choice((1, 4, 20))):
                spot[chance.randrange(min(len(spot), chance.choice((20, 200, 20_000))))] = chance.randrange(256)
            damaged.append(bytes(spot))
        for broken in damaged:
            tried += 1
            try:
                read(broken)
            except UsageError:
                refused += 1
        if kind in ("npy", "safetensors", "sample"):
            for part in range(64):
                with pytest.raises(UsageError):
                    read(data[: len(data) * part // 64])
    huge = made["npy"].replace(b"(48, 64, 3)", b"(9999999999,)")[: len(made["npy"])]
    with pytest.raises(UsageError):
        answers.read_answer(huge)
    assert refused > tried // 4
    figure("the client: damaged answers", f"{tried:,} read, {refused:,} told damaged, 0 other errors")


def test_a_data_set_does_not_skip_over_a_gateway(gateway: Gateway, direct: Cluster) -> None:
    pytest.importorskip("torch", reason="data sets give torch's tensors")
    from tvetl.datasets import TransformedStream

    others = set(threading.enumerate())
    stream = TransformedStream(Cluster(gateway.endpoint), "images", "test-small", on_error="skip", reads=2)
    for fault in ("closed", "page 404", "storm"):
        gateway.choose = always(FAULTS[fault])
        with pytest.raises((NotReachable, TvetlError)) as raised:
            list(stream)
        assert not isinstance(raised.value, NotFound)
        gateway.choose = lambda method, path, before: None
        assert len(list(stream)) == 12
    assert stream.counts.skipped == 0
    gateway.choose = lambda method, path, before: faults.cut if "photo_" in path else None
    with pytest.raises(NotReachable):
        list(stream)
    gateway.choose = lambda method, path, before: faults.cut if "photo_03" in path else None
    assert len(list(stream)) == 11  # which is that object's failure

    def readers() -> list[threading.Thread]:
        return [thread for thread in set(threading.enumerate()) - others if thread.name.startswith("tvetl-read")]

    end = time.monotonic() + SOON
    while len(readers()) > 2 and time.monotonic() < end:  # those of an iteration that failed end with what they read
        time.sleep(0.05)
    assert len(readers()) <= 2
