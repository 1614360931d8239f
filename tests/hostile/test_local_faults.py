"""The stand-in under faults: killed, full, forbidden, its folder gone. No half object is ever seen, and it says why."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from support.faults import StandIn, is_whole, object_path, sealed, start_stand_in

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.errors import ClusterError, NotFound, RegistrationError
from tvetl.pod import PodSpec
from tvetl.spec import parse

Figure = Callable[[str, str], None]
PIPELINE = parse({"version": 1, "steps": [{"op": "CenterCrop", "size": 8}], "output": {"format": "png"}})
#: Times that it is killed in the middle of writing.
KILLS = 25
#: A transformer that answers 8 kB for everything.
EIGHT = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.send_header("Content-Length", "0"), self.end_headers()
    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200), self.send_header("Content-Length", "8192"), self.end_headers()
        self.wfile.write(b"x" * 8192)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
ALLOW = {"eight:1": [sys.executable, "-c", EIGHT]}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StandIn]]:
    """Start stand-ins, by default over ``tmp_path / "ais"``; all are stopped at the end."""
    running: list[StandIn] = []

    def run(root: Path = tmp_path / "ais", **settings: Any) -> StandIn:
        running.append(start_stand_in(root, tmp_path / "stand-in.log", allow=ALLOW, **settings))
        return running[-1]

    yield run
    for each in running:
        each.stop()


def message(body: bytes) -> str:
    return str(json.loads(body)["message"])


def files(root: Path) -> dict[str, bytes]:
    """Every object's bytes, as they lie on the disk."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and ".tvetl" not in path.parts:
            with suppress(FileNotFoundError):  # deleted since we looked
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


class Writer(threading.Thread):
    """Puts and deletes objects of its own until the connection breaks; knows what each may be afterwards."""

    def __init__(self, stand_in: StandIn, number: int, seed: int, known: dict[str, bytes | None]) -> None:
        super().__init__(daemon=True)
        self.stand_in, self.number, self.random, self.known = stand_in, number, random.Random(seed), known
        self.under_way: tuple[str, bytes | None] | None = None
        self.done = 0

    def run(self) -> None:
        with suppress(OSError, HTTPException):
            while True:
                name = f"w{self.number}/{self.random.choice('abc')}/{self.random.randrange(6)}"
                whole = sealed(self.random.randbytes(self.random.choice((0, 10, 5_000, 300_000, 900_000))))
                new = None if self.known.get(name) is not None and self.random.random() < 0.2 else whole
                self.under_way = name, new
                if new is None:
                    status, _ = self.stand_in.ask("DELETE", object_path("b", name))
                else:
                    status, _ = self.stand_in.ask("PUT", object_path("b", name), new)
                assert status == 200
                self.known[name], self.under_way = new, None
                self.done += 1


class Reader(threading.Thread):
    """Reads whatever is there, through HTTP and from the disk; counts what it saw, and what of it was half."""

    def __init__(self, stand_in: StandIn, root: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.stand_in, self.root, self.random = stand_in, root, random.Random(seed)
        self.seen = self.half = 0

    def run(self) -> None:
        with suppress(OSError, HTTPException):
            while True:
                name = f"w{self.random.randrange(3)}/{self.random.choice('abc')}/{self.random.randrange(6)}"
                status, body = self.stand_in.ask("GET", object_path("b", name))
                with suppress(FileNotFoundError):
                    self.look((self.root / "b" / name).read_bytes())
                if status == 200:
                    self.look(body)

    def look(self, data: bytes) -> None:
        self.seen += 1
        self.half += not is_whole(data)


def test_killed_while_writing_it_never_shows_half_an_object(
    start: Callable[..., StandIn], tmp_path: Path, figure: Figure
) -> None:
    root, chance = tmp_path / "ais", random.Random(20261123)
    known: list[dict[str, bytes | None]] = [{}, {}, {}]
    seen = half = acknowledged = interrupted = 0
    for _ in range(KILLS):
        stand_in = start()
        Cluster(stand_in.endpoint).create_bucket("b")
        writers = [Writer(stand_in, number, chance.randrange(10**9), known[number]) for number in range(3)]
        readers = [Reader(stand_in, root, chance.randrange(10**9)) for _ in range(2)]
        for thread in (*writers, *readers):
            thread.start()
        time.sleep(chance.uniform(0.02, 0.4))
        stand_in.kill()
        for thread in (*writers, *readers):
            thread.join(60)
            assert not thread.is_alive()

        for writer in writers:
            acknowledged += writer.done
            for name, was in list(writer.known.items()):
                path = root / "b" / name
                now = path.read_bytes() if path.is_file() else None
                may_be = [was] + ([writer.under_way[1]] if writer.under_way and writer.under_way[0] == name else [])
                assert now in may_be, f"{name} is neither what was acknowledged nor what was being written"
            if writer.under_way:
                name, interrupted = writer.under_way[0], interrupted + 1
                path = root / "b" / name
                writer.known[name] = path.read_bytes() if path.is_file() else None
        seen += sum(reader.seen for reader in readers)
        half += sum(reader.half for reader in readers)
        on_disk = files(root)
        seen, half = seen + len(on_disk), half + sum(not is_whole(data) for data in on_disk.values())

    stand_in = start()
    cluster = Cluster(stand_in.endpoint)
    listed = cluster.sizes("b")
    expected = {name: data for each in known for name, data in each.items() if data is not None}
    assert {name: cluster.get("b", name) for name in listed} == expected
    assert listed == {name: len(data) for name, data in expected.items()}
    assert list((root / ".tvetl" / "tmp").iterdir()) == []
    assert half == 0
    assert min(seen, acknowledged, interrupted) > KILLS
    figure(
        "the stand-in: killed while writing",
        f"{KILLS} times, {interrupted} writes under way: 0 of {acknowledged:,} acknowledged lost, "
        f"0 of {seen:,} objects read half",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB in memory, where we may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk needs the right to mount one; the limit on a file's size is tested without")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_a_full_disk_is_said_and_costs_nothing_that_is_there(
    start: Callable[..., StandIn], small_disk: Path, figure: Figure
) -> None:
    stand_in = start(small_disk)
    cluster = Cluster(stand_in.endpoint)
    cluster.create_bucket("b")
    old = sealed(os.urandom(400_000))
    cluster.put("b", "old", old)
    stored, refused = 0, 0
    for at in range(20):
        status, body = stand_in.ask("PUT", object_path("b", f"new{at}"), sealed(os.urandom(400_000)))
        stored += status == 200
        refused += status == 507 and "No space left on device" in message(body)
    assert stored
    assert (refused, stored + refused) == (max(refused, 10), 20)
    for at in range(5):  # over what is there already
        with pytest.raises(ClusterError, match="No space") as full:
            cluster.put("b", "old", sealed(bytes([at]) * 900_000))
        assert "Make space" in full.value.hint
    assert list((small_disk / ".tvetl" / "tmp").iterdir()) == []
    listed = cluster.sizes("b")
    assert len(listed) == stored + 1
    assert cluster.get("b", "old") == old
    assert all(is_whole(cluster.get("b", name)) for name in listed)

    stand_in.ask("DELETE", object_path("b", "new0"))  # frees what it takes
    cluster.put("b", "late", sealed(os.urandom(300_000)))
    assert is_whole(cluster.get("b", "late"))
    assert "Traceback" not in stand_in.log.read_text()
    figure("the stand-in: disk full", f"{refused + 5} writes refused with 507, 0 half, 0 of {stored + 2} objects lost")


def test_a_job_that_meets_a_full_disk_says_so_and_goes_on_when_there_is_room(
    start: Callable[..., StandIn], small_disk: Path
) -> None:
    stand_in = start(small_disk)
    cluster = Cluster(stand_in.endpoint)
    cluster.create_bucket("many")
    for at in range(40):
        cluster.put("many", f"{at:02}", b"x")
    cluster.register(PodSpec("test-eight", PIPELINE, "eight:1", start_timeout=60))
    begun = jobs.transform_bucket(cluster, "many", "out", "test-eight")
    assert jobs.wait(cluster, begun, timeout=60).ok
    for at in range(10, 40):
        cluster.delete("out", f"{at:02}")
    ballast = fill(small_disk)

    with pytest.raises(ClusterError, match="No space"):  # not even the note of what is to be begun
        jobs.transform_bucket(cluster, "many", "other", "test-eight")
    again = jobs.Request("many", "out", "test-eight")
    report = jobs.wait(cluster, jobs.begin(cluster, again), timeout=60)
    written = set(cluster.objects("out"))
    assert {error.object for error in report.failed} == set(cluster.objects("many")) - written
    assert "No space left" in report.aborted
    assert report.failed
    assert all(len(cluster.get("out", name)) == 8192 for name in written)

    ballast.unlink()
    report = jobs.wait(cluster, jobs.begin(cluster, again), timeout=60)
    assert report.ok
    assert (report.kept, report.wanted) == (len(written), 40)
    assert {len(cluster.get("out", name)) for name in cluster.objects("out")} == {8192}


def test_a_file_that_may_not_grow_so_large_is_refused_whole(start: Callable[..., StandIn]) -> None:
    assert resource.RLIMIT_FSIZE  # the limit holds for any user, so this runs where no small disk can be had
    stand_in = start(file_bytes=200_000)
    cluster = Cluster(stand_in.endpoint)
    cluster.create_bucket("b")
    old = sealed(os.urandom(150_000))
    cluster.put("b", "a", old)
    for size in (200_001 - 32, 300_000, 3_000_000):
        status, body = stand_in.ask("PUT", object_path("b", "a"), sealed(bytes(size)))
        assert (status, "File too large" in message(body)) == (507, True)
    assert cluster.get("b", "a") == old
    assert cluster.objects("b") == ["a"]


def test_rights_that_are_missing_are_said_and_change_nothing(start: Callable[..., StandIn], figure: Figure) -> None:
    user = 65534 if os.geteuid() == 0 else 0  # root may do everything, so the stand-in gives its rights up
    root = Path(tempfile.mkdtemp(prefix="tvetl-rights-"))
    try:
        for folder in (root, root / "b", root / "b" / "locked", root / "b" / "shut", root / "c"):
            folder.mkdir(exist_ok=True)
            if user:
                os.chown(folder, user, user)
        (root / "b" / "locked" / "a").write_bytes(b"old")
        (root / "b" / "unreadable").write_bytes(b"x")
        (root / "b" / "unreadable").chmod(0)
        (root / "b" / "locked").chmod(0o555)
        root.chmod(0o755)
        stand_in = start(root, user=user)
        cluster = Cluster(stand_in.endpoint)
        told = [
            stand_in.ask("PUT", object_path("b", "locked/a"), b"new"),
            stand_in.ask("PUT", object_path("b", "locked/b"), b"new"),
            stand_in.ask("DELETE", object_path("b", "locked/a")),
            stand_in.ask("GET", object_path("b", "unreadable")),
        ]
        (root / "b" / "shut").chmod(0)
        told.append(stand_in.ask("GET", object_path("b", "shut/x")))
        for status, body in told:
            assert (status, "Permission denied" in message(body)) == (500, True)
        with pytest.raises(ClusterError, match="Permission denied"):  # a listing without it would be a lie
            cluster.objects("b")
        (root / "b" / "shut").chmod(0o755)
        assert cluster.objects("b") == ["locked/a", "unreadable"]
        assert cluster.get("b", "locked/a") == b"old"
        cluster.put("b", "free", b"1")  # and the rest goes on
        cluster.put("c", "free", b"2")
        assert "Traceback" not in stand_in.log.read_text()
        figure("the stand-in: no permission", f"{len(told) + 1} requests told so, 0 changed anything")
    finally:
        shutil.rmtree(root)


def test_folders_that_go_while_it_runs_are_said(start: Callable[..., StandIn], tmp_path: Path, figure: Figure) -> None:
    root = tmp_path / "ais"
    stand_in = start()
    cluster = Cluster(stand_in.endpoint)
    for bucket in ("b", "c"):
        cluster.create_bucket(bucket)
        cluster.put(bucket, "a", b"1")
    (root / ".tvetl" / "logs").write_bytes(b"")  # so that no log can be written
    pod = PodSpec("test-eight", PIPELINE, "eight:1", start_timeout=60)
    with pytest.raises(RegistrationError, match="File exists"):
        cluster.register(pod)
    shutil.rmtree(root / ".tvetl")  # someone tidied up
    assert cluster.register(pod).form
    cluster.put("b", "a", b"2")
    assert cluster.get("b", "a") == b"2"
    shutil.rmtree(root / "c")
    for ask in (lambda: cluster.objects("c"), lambda: cluster.get("c", "a"), lambda: cluster.put("c", "a", b"3")):
        with pytest.raises(NotFound):
            ask()

    shutil.rmtree(root)
    asked = (lambda: cluster.objects("b"), lambda: cluster.get("b", "a"), lambda: cluster.put("b", "a", b"4"))
    for ask in (*asked, lambda: cluster.create_bucket("d")):
        with pytest.raises(ClusterError, match="is gone"):
            ask()
    root.mkdir()  # another folder, which another cluster may have by now
    for ask in (*asked, lambda: cluster.create_bucket("d")):
        with pytest.raises(ClusterError, match="is gone"):
            ask()
    assert list(root.iterdir()) == []
    stand_in.stop()
    again = Cluster(start().endpoint)
    again.create_bucket("b")
    again.put("b", "a", b"5")
    assert again.get("b", "a") == b"5"
    assert "Traceback" not in stand_in.log.read_text()
    figure("the stand-in: its folder gone", "11 requests told so, nothing written elsewhere, well after a restart")


def test_names_that_collide_with_folders_lose_nothing(start: Callable[..., StandIn], figure: Figure) -> None:
    stand_in = start()
    cluster = Cluster(stand_in.endpoint)
    cluster.create_bucket("b")
    names = ["a", "a/b", "a/b/c", "a/b/c/d", "e", "e/f"]
    statuses: list[int] = []

    def mix(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            name = chance.choice(names)
            if chance.random() < 0.6:
                statuses.append(stand_in.ask("PUT", object_path("b", name), sealed(name.encode()))[0])
            else:
                statuses.append(stand_in.ask("DELETE", object_path("b", name))[0])

    threads = [threading.Thread(target=mix, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(statuses) == {200, 404, 409}
    listed = cluster.objects("b")
    assert {name: cluster.get("b", name) for name in listed} == {name: sealed(name.encode()) for name in listed}
    assert not [name for name in listed for other in listed if other.startswith(f"{name}/")]
    for name in listed:
        assert stand_in.ask("DELETE", object_path("b", name))[0] == 200
    (Path(stand_in.log).parent / "ais" / "b" / "g" / "h").mkdir(parents=True)  # as a kill can leave them
    cluster.put("b", "g", b"1")
    assert cluster.objects("b") == ["g"]
    assert "Traceback" not in stand_in.log.read_text()
    told = statuses.count(409)
    figure("the stand-in: names that collide", f"{len(statuses)} requests, {told} told so (409), listing and get agree")
