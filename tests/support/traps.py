"""Peers that misbehave as they are told, traps that note whoever connects, and requests sent byte by byte as given."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from support.serving import PATIENCE, Put, Reply

#: What a peer does with one connection; what it has read as a whole request it notes with ``peer.puts.append``.
Behaviour = Callable[["Peer", socket.socket], None]


@dataclass
class Peer:
    """A listener: each connection is handled by the next of ``behaviours``, and then by ``otherwise``."""

    otherwise: Behaviour
    address: str = "127.0.0.1"
    port: int = 0
    behaviours: list[Behaviour] = field(default_factory=list)
    connections: int = 0
    puts: list[Put] = field(default_factory=list)
    """Requests that came whole: what a target would have stored."""
    raw: list[bytes] = field(default_factory=list)
    """The same, as they came."""
    stopped: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket | None = None

    @property
    def host(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def start(self) -> Peer:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._listener = socket.create_server((self.address, self.port), family=family, backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self) -> None:
        self.stopped.set()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                behave = self.behaviours.pop(0) if self.behaviours else self.otherwise
                threading.Thread(target=self._handle, args=(behave, connection), daemon=True).start()

    def _handle(self, behave: Behaviour, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            behave(self, connection)

    def wait(self, seconds: float) -> None:
        """Pause, but not beyond the end of the test."""
        self.stopped.wait(seconds)


@contextmanager
def peers(*those: Peer) -> Iterator[None]:
    """Start them, and stop them at the end."""
    try:
        for peer in those:
            peer.start()
        yield
    finally:
        for peer in those:
            peer.stop()


def read_request(connection: socket.socket) -> bytes:
    """One request to the end of its body (by its Content-Length); less where the sender stops."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-le")]
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            break
        body += part
    return head + b"\r\n\r\n" + body


def take(peer: Peer, connection: socket.socket) -> bool:
    """Read one whole request and note it; False where none came."""
    data = read_request(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head:
        return False
    line, *fields = head.decode("latin-1").split("\r\n")
    peer.raw.append(data)
    peer.puts.append(Put(line.split(" ")[1], dict(each.split(": ", 1) for each in fields), body))
    return True


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def answering(reply: bytes, *, once: bool = False) -> Behaviour:
    """Takes each request and sends these very bytes; ``once``: then it hangs up."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        while take(peer, connection):
            connection.sendall(reply)
            if once:
                return

    return behave


def status(code: int, body: bytes = b"", *, once: bool = False, **headers: str) -> Behaviour:
    """Takes each request and answers it; ``once``: then it hangs up."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    reply = f"HTTP/1.1 {code} As-told\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body
    return answering(reply, once=once)


stores = status(200)
"""A target in good health: 200 with nothing."""


def exchange(port: int, request: bytes) -> Reply:
    """Send these very bytes and read one answer; status 0 where none came."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        with suppress(ConnectionError):  # a server that refuses early closes; its answer counts
            connection.sendall(request)
        response = http.client.HTTPResponse(connection, method="PUT")
        try:
            response.begin()
            return Reply(response.status, dict(response.getheaders()), response.read())
        except (ConnectionError, http.client.HTTPException):
            return Reply(0, {}, b"")


def request(target: bytes, body: bytes = b"", *fields: bytes) -> bytes:
    """A PUT as bytes, with these header lines."""
    head = [b"PUT " + target + b" HTTP/1.1", b"Host: pod", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came."""
    start = time.monotonic()
    result = work()
    return time.monotonic() - start, result
