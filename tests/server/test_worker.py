"""Connections are shared evenly between workers, and a closed one leaves nothing behind."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.serving import PATIENCE, ask

from tvetl_server.serving import client_connection
from tvetl_server.serving.worker import ConnectionCounts


def sockets(process: int) -> int:
    found = 0
    for at in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += "socket" in str(at.readlink())
    return found


def workers(server: Any) -> list[int]:
    return [int(line.split()[-1]) for line in server.log.splitlines() if "Booting worker" in line]


def test_only_workers_that_accept_connections_count() -> None:
    counts = ConnectionCounts(4)
    assert counts.fewest() == 0
    counts.set(1, 5)
    counts.set(2, 3)
    assert counts.fewest() == 3
    counts.clear(2)
    assert counts.fewest() == 5


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells a process's connections as Linux does")
def test_connections_are_shared_evenly(run_server: Callable[..., Any], image: bytes) -> None:
    """Also those that one client opens at once."""
    server = run_server(TVETL_WORKERS="2")
    end = time.monotonic() + PATIENCE
    while len(workers(server)) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    both = workers(server)
    time.sleep(2)  # until the second one accepts connections, too
    before = [sockets(worker) for worker in both]
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(40)]
        for connection in connections:
            connection.request("PUT", "/src/a.jpg", body=image)
        assert {connection.getresponse().read()[:4] for connection in connections} == {b"\x89PNG"}
        counts = [sockets(worker) - had for worker, had in zip(both, before, strict=True)]
        assert sum(counts) == 40
        assert max(counts) - min(counts) <= 8, counts


def test_a_single_worker_accepts_all(run_server: Callable[..., Any], image: bytes) -> None:
    """It leaves no connection to a worker that is gone."""
    server = run_server(TVETL_WORKERS="1")
    connections = [server.connect() for _ in range(50)]
    began = time.monotonic()
    for connection in connections:
        assert ask(connection, "PUT", "/src/a.jpg", image, keep=True).status == 200
    assert time.monotonic() - began < PATIENCE / 2
    for connection in connections:
        connection.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells a process's open files as Linux does")
def test_little_memory_of_bodies_is_kept(run_server: Callable[..., Any], image: bytes) -> None:
    server = run_server(TVETL_WORKERS="1")
    (worker,) = workers(server)

    def kept() -> list[int]:
        """Bytes of each piece of shared memory that the worker has: buffers, and a decoder's or two's results."""
        found = {}  # mmap has descriptors of its own
        for at in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if "memfd:tvetl" in str(at.readlink()):
                    found[at.stat().st_ino] = at.stat().st_blocks * 512
        return list(found.values())

    large = image + bytes(12 * 2**20)
    with ThreadPoolExecutor(12) as many:
        for data in (image, image[:50], large, image) * 2:
            answers = many.map(lambda name, data=data: server.put(f"/src/{name}", data), range(36))
            assert {answer.status for answer in answers} <= {200, 422}
            end = time.monotonic() + PATIENCE
            while (len(kept()) > 4 + 2 or max(kept()) > 2**23) and time.monotonic() < end:
                time.sleep(0.1)
            assert len(kept()) <= 4 + 2 and max(kept()) <= 2**23


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells a process's connections as Linux does")
def test_closed_connections_leave_nothing(run_server: Callable[..., Any], image: bytes) -> None:
    server = run_server(TVETL_WORKERS="1")
    (worker,) = workers(server)
    assert server.put("/src/a.jpg", image).status == 200
    before = sockets(worker)
    for sent in (b"", b"PUT /s", b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n") * 10:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
    end = time.monotonic() + PATIENCE
    while sockets(worker) > before and time.monotonic() < end:
        time.sleep(0.1)
    assert sockets(worker) <= before


def test_a_client_that_does_not_read_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main loop reads from such a connection before it closes it, and must not wait."""
    monkeypatch.setattr(client_connection, "GRACE", 0.2)
    monkeypatch.setattr(client_connection, "RATE", 1 << 40)
    ours, theirs = socket.socketpair()
    with theirs, client_connection.ResponseSocket(ours.family, ours.type, ours.proto, ours.detach()) as client:
        client.quota = client_connection.UnsentQuota()
        client.sendall(bytes(8 << 20))  # the kernel does not take all, and the rest exceeds what is kept
        with pytest.raises(BrokenPipeError):
            client.sendall(b"more")
        assert client.gettimeout() is None
        with pytest.raises(BlockingIOError):
            client.recv(1, socket.MSG_DONTWAIT)
