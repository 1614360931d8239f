"""Reading straight from targets that fail: every object is given or named, once, in time, and nothing stays behind."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import faults
from support.alone import alone, descriptors
from support.faults import Fault, Gateway

from tvetl.cluster import Cluster, connection
from tvetl.errors import NotFound, ObjectFailed, TimedOut, TvetlError
from tvetl.fetch import Fetch, Fetcher
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import parse

Figure = Any
PIPELINE = parse(
    {"steps": [{"op": "CenterCrop", "size": 8}, {"op": "ToTensor"}], "output": {"format": "npy"}, "seed": 1}
)
COUNT = 24
#: Seconds that a node may say nothing, here.
PATIENCE = 1.5
#: Seconds that nothing may take; each object alone has PATIENCE, and the SDK's tries.
SOON = 30.0


def photograph() -> bytes:
    made = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((24, 16)).save(made, "PNG")
    return made.getvalue()


def fill(local: LocalCluster, bucket: str, count: int) -> None:
    """Put photographs into the bucket's folder: a bucket is one."""
    Cluster(local.endpoint).create_bucket(bucket)
    for at in range(count):
        (local.root / bucket / f"photo_{at:05}.png").write_bytes(photograph())


def register(local: LocalCluster) -> None:
    Cluster(local.endpoint).register(PodSpec("read-small", PIPELINE, start_timeout=60))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path, targets=2) as running:
        fill(running, "images", COUNT)
        register(running)
        yield running


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One that no test changes."""
    with LocalCluster(tmp_path_factory.mktemp("steady"), targets=2) as running:
        fill(running, "images", COUNT)
        (running.root / "images" / "bad.png").write_bytes(b"no photograph\n")
        register(running)
        yield running


@pytest.fixture
def gateway(steady: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(connection, "BACKOFF", 0.05)
    monkeypatch.setattr(connection, "PAUSE", 0.01)
    yield from faults.serve_gateway(steady.endpoint)


def fetcher_of(endpoint: str) -> contextlib.closing[Fetcher]:
    cluster = Cluster(endpoint, patience=PATIENCE)
    return contextlib.closing(Fetcher(cluster, "images", "read-small", patience=PATIENCE, threads=4))


def read(fetcher: Fetcher, names: list[str]) -> dict[str, Fetch]:
    """All of them, eight at a time, each once."""
    todo, done = [*reversed(names)], {}
    flying = 0
    while todo or flying:
        while todo and flying < 8:
            fetcher.start(Fetch(todo.pop()))
            flying += 1
        for fetch in fetcher.wait():
            flying -= 1
            assert fetch.name not in done
            done[fetch.name] = fetch
    return done


def names_of(endpoint: str) -> list[str]:
    return Cluster(endpoint).objects("images", "photo_")


def good(endpoint: str) -> dict[str, bytes]:
    cluster = Cluster(endpoint)
    return {name: cluster.get("images", name, "read-small") for name in names_of(endpoint)}


def at_targets(fault: Fault) -> faults.Choose:
    """The fault for every object that is asked of a target, directly or redirected."""
    return lambda method, path, before: fault if path.startswith("/at/") and "/v1/objects/" in path else None


# The same answers and errors as the SDK's way


def test_objects_are_read_without_the_proxy(gateway: Gateway) -> None:
    expected = good(gateway.endpoint)
    before = len(gateway.asked)
    with fetcher_of(gateway.endpoint) as fetcher:
        done = read(fetcher, [*expected])
    assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected
    asked = [path for _, path, _ in gateway.asked[before:]]
    assert sum("/v1/objects/" in path for path in asked) == len(expected)
    assert all(path.startswith("/at/") for path in asked if "/v1/objects/" in path)
    assert sum("what=smap" in path for path in asked) == 1


@pytest.mark.parametrize(
    "name", ["photo_00001.png", "bad.png", "gone.png", "100%.png", "a b#c?.png", "ü-猫.png", "\udcff"]
)
def test_one_object_is_what_get_makes_of_it(steady: LocalCluster, name: str) -> None:
    data, error = None, None
    try:
        data = Cluster(steady.endpoint).get("images", name, "read-small")
    except TvetlError as raised:
        error = raised
    with fetcher_of(steady.endpoint) as fetcher:
        fetch = read(fetcher, [name])[name]
    assert (data is None) == (fetch.data is None)
    assert bytes(fetch.data or b"") == (data or b"")
    assert told(fetch.error) == told(error)


def told(error: TvetlError | None) -> tuple[object, ...]:
    """All that an error says."""
    return () if error is None else (type(error), error.message, error.hint, getattr(error, "code", ""))


FAULTS: dict[str, Fault] = {
    "reset": faults.reset,
    "closed": faults.closed,
    "cut": faults.cut,
    "cut chunked": faults.cut_chunked,
    "around": faults.around,
    "page 200": faults.saying(200, "text/html", b""),
    "page 404": faults.saying(404, "text/html", b"<title>404</title>"),
    "page 502": faults.saying(502, "text/html", b"<title>502</title>"),
    "storm": faults.saying(503, "application/json", b'{"message": "the cluster is starting", "status": 503}'),
    "forbidden": faults.saying(403, "application/json", b'{"message": "not allowed", "status": 403}'),
    "refused": faults.saying(
        422, "application/json", b'{"message": "ETL error: {\\"error\\": \\"x\\", \\"message\\": \\"y\\"}"}'
    ),
    "nowhere": faults.saying(307, "text/html", b"", Location="http://127.0.0.1:9/x"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_as_get_tells_it(gateway: Gateway, fault: str) -> None:
    gateway.choose = at_targets(FAULTS[fault])
    with pytest.raises(TvetlError) as raised:
        Cluster(gateway.endpoint, patience=PATIENCE).get("images", "photo_00003.png", "read-small")
    with fetcher_of(gateway.endpoint) as fetcher:
        fetch = read(fetcher, ["photo_00003.png"])["photo_00003.png"]
        assert told(fetch.error) == told(raised.value)
        # And it is over when the fault is.
        gateway.choose = lambda method, path, before: None
        names = names_of(gateway.endpoint)
        assert not [fetch.error for fetch in read(fetcher, names).values() if fetch.error]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "refused"])  # which is an ETL's word
def test_a_fault_in_passing_costs_no_object(gateway: Gateway, fault: str) -> None:
    """Every fourth answer of a target: the SDK asks again."""
    expected = good(gateway.endpoint)
    at = iter(range(10**9))
    gateway.choose = lambda method, path, before: (
        FAULTS[fault]
        if path.startswith("/at/") and "pid=" not in path and "/v1/objects/" in path and next(at) % 4 == 0
        else None
    )
    with fetcher_of(gateway.endpoint) as fetcher:
        done = read(fetcher, [*expected])
    assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected


def test_a_target_that_hangs_costs_its_objects_their_time_and_no_more(gateway: Gateway) -> None:
    gateway.choose = lambda method, path, before: faults.hang if "photo_00003" in path else None
    began = time.monotonic()
    with fetcher_of(gateway.endpoint) as fetcher:
        done = read(fetcher, names_of(gateway.endpoint))
    assert time.monotonic() - began < PATIENCE + 5
    failed = {name: type(fetch.error) for name, fetch in done.items() if fetch.error}
    assert failed == {"photo_00003.png": TimedOut}


@pytest.mark.parametrize("sizes", ["1", "100", "all"])
def test_chunks_of_any_size_are_one_body(gateway: Gateway, sizes: str) -> None:
    expected = good(gateway.endpoint)

    def chunks(handler: Any) -> None:
        status, headers, data = handler.fetch()
        handler.send_response_only(status)
        for name, value in [*headers, ("Transfer-Encoding", "chunked")]:
            handler.send_header(name, value)
        handler.end_headers()
        step = len(data) if sizes == "all" else int(sizes)
        for at in range(0, len(data), step):
            part = data[at : at + step]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")

    gateway.choose = at_targets(chunks)
    with fetcher_of(gateway.endpoint) as fetcher:
        done = read(fetcher, [*expected][:8])
    assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == dict([*expected.items()][:8])


def test_kept_connections_that_the_nodes_ended_meanwhile_cost_nothing(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = good(local.endpoint)
    monkeypatch.setattr(Cluster, "get", lambda *arguments: pytest.fail("the SDK was asked"))
    with fetcher_of(local.endpoint) as fetcher:
        for _ in range(3):
            done = read(fetcher, [*expected])
            assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected
            for node in local._nodes:
                for connection in [*node.connections]:
                    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:99999/x", "http://[::1/x", "http://..../x", "http://x:y/z", "ftp"]
)
def test_a_redirect_to_nowhere_is_read_by_the_sdk(gateway: Gateway, location: str, close: bool) -> None:
    headers = {"Location": location, **({"Connection": "close"} if close else {})}
    lost = faults.saying(307, "text/html", b"", **headers)
    gateway.choose = lambda method, path, before: (
        lost if path.startswith("/at/") and "/v1/objects/" in path and "pid=" not in path else None
    )
    with fetcher_of(gateway.endpoint) as fetcher:
        assert read(fetcher, ["photo_00001.png"])["photo_00001.png"].data


def test_what_is_no_error_of_ours_is_raised_and_not_swallowed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> bytes:
        raise MemoryError("too much")

    monkeypatch.setattr(Cluster, "get", fails)
    gateway.choose = at_targets(faults.closed)
    with fetcher_of(gateway.endpoint) as fetcher, pytest.raises(MemoryError):
        read(fetcher, ["photo_00001.png"])


def test_a_host_of_two_addresses_is_asked_at_the_one_that_answers(
    steady: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = socket.getaddrinfo

    def two(host: str, *arguments: Any, **options: Any) -> Any:
        found = whole(host, *arguments, **options)
        return [(*each[:4], ("127.0.0.1", 9)) for each in found] + found

    expected = good(steady.endpoint)
    with fetcher_of(steady.endpoint) as fetcher:
        fetcher.homes(["a"])  # asks for the map
        monkeypatch.setattr(socket, "getaddrinfo", two)
        monkeypatch.setattr(Cluster, "get", lambda *arguments: pytest.fail("the SDK was asked"))
        done = read(fetcher, [*expected])
    assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected


def test_a_child_that_ends_its_copy_leaves_the_parents_reads_alone(steady: LocalCluster) -> None:
    with fetcher_of(steady.endpoint) as fetcher:
        names = names_of(steady.endpoint)
        read(fetcher, names)
        for name in names[:4]:
            fetcher.start(Fetch(name))
        alone(fetcher.close)
        found: list[Fetch] = []
        while len(found) < 4:
            found += fetcher.wait()
    assert not [fetch.error for fetch in found if fetch.error]


HANGS = """
import sys
import tvetl.datasets.reader as reader
from tvetl.cluster import Cluster
from tvetl.datasets import TransformedBatches
it = iter(TransformedBatches(Cluster(sys.argv[1]), "images", "read-small", batch=4))
print("begins", flush=True)
next(it)
"""


def test_ctrl_c_ends_a_process_whose_reads_hang(gateway: Gateway) -> None:
    pytest.importorskip("torch", reason="datasets give torch's tensors")
    gateway.choose = lambda method, path, before: (
        None if "/v1/objects/" not in path else faults.reset if path.startswith("/at/") else faults.hang
    )
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, gateway.endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begins\n"
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SOON)
    assert errors.strip().endswith(b"KeyboardInterrupt")


# A cluster that changes


def test_a_target_that_goes_and_comes_back(local: LocalCluster) -> None:
    expected = good(local.endpoint)
    with fetcher_of(local.endpoint) as fetcher:
        for change in (lambda: None, lambda: local.stop_target(1), lambda: local.start_target(1)):
            change()
            done = read(fetcher, [*expected])
            assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected
            time.sleep(1.1)  # the map is asked for again at most once a second
        assert len(read(fetcher, [*expected])) == len(expected)


def test_a_new_target_is_found(local: LocalCluster) -> None:
    expected = good(local.endpoint)
    with fetcher_of(local.endpoint) as fetcher:
        assert len(read(fetcher, [*expected])) == COUNT
        local.stop_target(0)
        local.add_target()
        done = read(fetcher, [*expected])
        assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected


def test_a_redirect_of_a_target_is_followed(gateway: Gateway) -> None:
    expected = good(gateway.endpoint)
    targets = [target.url for target in Cluster(gateway.endpoint).targets()]

    def elsewhere(handler: Any) -> None:
        path = handler.path.split("/", 3)[3]
        other = next(url for url in targets if not (gateway.endpoint + handler.path).startswith(url))
        handler.answer(307, [("Location", f"{other}/{path}&moved=1")], b"")

    gateway.choose = lambda method, path, before: (
        elsewhere if path.startswith("/at/") and "/v1/objects/" in path and "moved=1" not in path else None
    )
    with fetcher_of(gateway.endpoint) as fetcher:
        done = read(fetcher, [*expected])
    assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected


def test_where_direct_reads_are_refused_the_proxy_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCluster(tmp_path, targets=2, direct=False) as local:
        fill(local, "images", COUNT)
        register(local)
        expected = good(local.endpoint)
        by_sdk: list[str] = []
        whole = Cluster.get
        monkeypatch.setattr(Cluster, "get", lambda self, *a, **k: (by_sdk.append(a[1]), whole(self, *a, **k))[1])
        with caplog.at_level("INFO", "tvetl.datasets"), fetcher_of(local.endpoint) as fetcher:
            done = read(fetcher, [*expected])
        assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == expected
        assert len(by_sdk) <= 8  # those that were in flight when the first was refused
        assert [record.message for record in caplog.records if "refuses direct reads" in record.message]
        assert len(caplog.records) == 1


def test_the_token_goes_to_nodes_and_not_along_with_a_redirect(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "T0ken")
    with fetcher_of(gateway.endpoint) as fetcher:
        read(fetcher, ["photo_00001.png"])
    (direct,) = [token for _, path, token in gateway.asked if "/v1/objects/" in path]
    assert direct == "Bearer T0ken"
    gateway.asked.clear()
    gateway.choose = lambda method, path, before: (
        faults.saying(403, "application/json", b"{}") if path.startswith("/at/") and "pid=" not in path else None
    )
    with fetcher_of(gateway.endpoint) as fetcher:
        read(fetcher, ["photo_00001.png"])
        read(fetcher, ["photo_00002.png"])
    redirected = [token for _, path, token in gateway.asked if "photo_00002" in path and "pid=" in path]
    assert redirected == [""]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl's command")
@pytest.mark.parametrize("settings", ["CA", "not verified", "unknown CA"])
def test_tls_is_spoken_as_the_sdks_variables_say(
    steady: LocalCluster, tmp_path: Path, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = faults.certificate(tmp_path)
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which requests prefers to the SDK's own
        monkeypatch.delenv(variable, raising=False)
    if settings == "CA":
        monkeypatch.setenv("AIS_CLIENT_CA", str(pem))
    if settings == "not verified":
        monkeypatch.setenv("AIS_SKIP_VERIFY_CRT", "true")
    serving = faults.serve_gateway(steady.endpoint, pem)
    with contextlib.closing(serving), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's, of what is not verified
        gateway = next(serving)
        with fetcher_of(gateway.endpoint) as fetcher:
            done = read(fetcher, names_of(steady.endpoint))
        direct = [path for _, path, _ in gateway.asked if "/v1/objects/" in path]
        if settings == "unknown CA":
            assert not direct
            with pytest.raises(TvetlError) as raised:
                Cluster(gateway.endpoint).get("images", "photo_00001.png", "read-small")
            assert {told(fetch.error) for fetch in done.values()} == {told(raised.value)}
        else:
            assert {name: bytes(fetch.data or b"") for name, fetch in done.items()} == good(steady.endpoint)
            assert len(direct) == COUNT
            assert all(path.startswith("/at/") for path in direct)


# Many, and what is left of them


def test_of_ten_thousand_every_one_is_given_or_named(tmp_path: Path, figure: Figure) -> None:
    torch = pytest.importorskip("torch", reason="datasets give torch's tensors")
    from tvetl.datasets import TransformedBatches

    assert torch
    count, bad = 10_000, 500
    with LocalCluster(tmp_path, targets=2) as local:
        fill(local, "images", count)
        register(local)
        for at in range(0, count, count // bad):
            (local.root / "images" / f"photo_{at:05}.png").write_bytes(b"no photograph\n")

        def epoch() -> None:
            before, threads = descriptors(), set(threading.enumerate())
            cluster = Cluster(local.endpoint)
            feed = TransformedBatches(
                cluster, "images", "read-small", batch=64, on_error="skip", reads=16
            )  # fmt: skip
            seen = Counter(name for _, names in feed for name in names)
            assert len(seen) == count - bad
            assert set(seen.values()) == {1}
            assert not [name for name in seen if int(name[6:11]) % (count // bad) == 0]
            assert (feed.counts.given, feed.counts.skipped) == (count - bad, bad)
            del feed
            cluster.close()
            left = [thread for thread in set(threading.enumerate()) - threads if thread.name.startswith("tvetl")]
            assert not left
            assert descriptors() <= before

        alone(epoch)
    figure("reading: 10,000 objects, 500 of them damaged", "9,500 given once, 500 named, no descriptor or thread left")


def test_memory_is_flat_over_fifty_epochs(steady: LocalCluster) -> None:
    pytest.importorskip("torch", reason="datasets give torch's tensors")
    from tvetl.datasets import TransformedBatches

    def epochs() -> None:
        names = names_of(steady.endpoint)
        feed = TransformedBatches(Cluster(steady.endpoint), "images", "read-small", batch=8, names=names)
        sizes, open_ones = [], []
        for at in range(50):
            feed.set_epoch(at)
            assert sum(len(images) for images, _ in feed) == len(names)
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
            sizes.append(resident)
            open_ones.append(len(descriptors()))
        assert max(sizes[10:]) - sizes[9] < 4_000_000
        assert max(open_ones[10:]) <= open_ones[9] + 2

    alone(epochs)


def test_nothing_is_asked_of_a_cluster_that_is_not_there() -> None:
    with fetcher_of("http://127.0.0.1:9") as fetcher:
        (fetch,) = read(fetcher, ["a.png"]).values()
    assert fetch.error is not None
    assert fetch.error.message.startswith("nobody answers at http://127.0.0.1:9")
    assert not isinstance(fetch.error, (NotFound, ObjectFailed))
