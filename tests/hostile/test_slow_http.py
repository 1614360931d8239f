"""Slow and broken HTTP: who keeps the server waiting waits alone, and no request is taken for another."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support import faulty_ops
from support.peers import Peers, percentile
from support.serving import PATIENCE, Server, start

#: A tensor of 600 kB, as of ImageNet's usual 224 x 224: more than a socket takes of an answer that nobody reads.
PIPELINE = json.dumps(
    {"steps": [{"op": "Resize", "size": [224, 224]}, {"op": "ToTensor"}], "output": {"format": "npy"}, "seed": 1}
)


class Bad:
    """Peers that keep the server waiting; what it closes is opened again."""

    def __init__(self, server: Server, count: int, first: bytes, then: bytes) -> None:
        """Each sends ``first`` at once, and a byte of ``then`` (over and over) each second; it reads nothing."""
        self._server, self._count, self._first, self._then = server, count, first, then
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.opened = 0

    def __enter__(self) -> Bad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        peers: list[socket.socket] = []
        at = 0
        while not self._stop.is_set():
            alive = []
            for peer in peers:
                with contextlib.suppress(OSError):
                    if self._then:
                        peer.send(self._then[at % len(self._then) :][:1])
                    if not _ended(peer):
                        alive.append(peer)
                        continue
                peer.close()
            peers = alive
            while len(peers) < self._count:
                peers.append(self._open())
            at += 1
            self._stop.wait(1)
        for peer in peers:
            peer.close()

    def _open(self) -> socket.socket:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE)
        peer.connect(("127.0.0.1", self._server.port))
        peer.sendall(self._first)
        self.opened += 1
        return peer


def _ended(peer: socket.socket) -> bool:
    """Whether the server has closed it; nothing is read."""
    with selectors.DefaultSelector() as selector:
        selector.register(peer, selectors.EVENT_READ)
        if not selector.select(0):
            return False
    with contextlib.suppress(BlockingIOError):
        return not peer.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False


def head(name: str, length: int | str, *more: str) -> bytes:
    lines = [f"PUT /src/{name} HTTP/1.1", "Host: pod", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tensors")
    server = start(folder / "log", TVETL_PIPELINE=PIPELINE, TVETL_WORKERS="1", TVETL_ROOTS=str(folder))
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log


def picture(number: int) -> bytes:
    return faulty_ops.picture(number % 250, 32)


def right(number: int, answer: bytes) -> bool:
    return bool(abs(float(np.frombuffer(answer[-4:], "<f4")[0]) * 255 - number % 250) < 0.01)


SENT = faulty_ops.picture(77, 32)
BAD = {
    "100 heads of a byte a second": (100, b"", b"PUT /src/slow.png HTTP/1.1\r\nHost: pod\r\nX: yyyyy"),
    "100 bodies of a byte a second": (100, head("slow.png", 10_000), b"x"),
    "100 large bodies of a byte a second": (100, head("large.png", 50_000_000), b"x"),
    "100 chunked bodies of a byte a second": (
        100, b"PUT /src/c.png HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n1000000\r\n", b"x"
    ),
    "100 that read no answer": (100, head("deaf.png", len(SENT)) + SENT, b""),
    "20 that read no answer and send on": (20, (head("deaf.png", len(SENT)) + SENT) * 20, b""),
    "1,000 idle connections": (1000, b"", b""),
    "1,000 idle connections after a request": (1000, b"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n", b""),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_good_peers_do_not_notice(
    what: str, tensors: Server, figure: Callable[[str, str], None], pytestconfig: pytest.Config
) -> None:
    """Without and with them in turn; the bad peers come back when they are closed."""
    count, first, then = BAD[what]
    rounds = 5 if pytestconfig.getoption("--long", default=False) else 1
    without: list[float] = []
    beside: list[float] = []
    for _ in range(rounds):
        for seconds, found in ((1.5, without), (2.5, beside)):
            with contextlib.ExitStack() as stack:
                if found is beside:
                    bad = stack.enter_context(Bad(tensors, count, first, then))
                    time.sleep(1)
                good = stack.enter_context(Peers(tensors, 4, picture, right, pause=0.005))
                time.sleep(seconds)
                good.stop()
                assert good.lost() == []
                found += [outcome.seconds for outcome in good.outcomes]
    before, after = percentile(without, 0.99), percentile(beside, 0.99)
    figure(
        f"p99 of good traffic beside {what}",
        f"{1000 * before:.1f} ms without, {1000 * after:.1f} ms beside them ({after / before:.2f} times; median "
        f"{1000 * percentile(without, 0.5):.1f}, {1000 * percentile(beside, 0.5):.1f} ms)",
    )
    assert bad.opened >= count
    assert after < 4 * before + 0.05
