"""PUTs to other nodes, over connections that are kept and shared by the threads.

http.client parses; what is ours is one deadline for the whole exchange (a time-out of a socket starts anew with
each byte that drips), and telling whether a failed request can have arrived. Nothing is followed or repeated here.
"""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import WriteableBuffer

from tvetl_server.processes.result_body import Body, pieces

__all__ = ["Broken", "NotSent", "Peers", "Reply", "TooLong"]

#: Seconds for a connection within a cluster.
_CONNECT = 3.0
#: Read at most so much between two looks at the clock.
_STEP = 1 << 20


class NotSent(Exception):
    """There was no connection: nothing of the request can have arrived."""


class Broken(Exception):
    """It broke off after the request began: the peer may have taken it."""


class TooLong(Exception):
    """The reply has more bytes than the limit; the peer has taken the request."""


@dataclass(frozen=True)
class Reply:
    """What the peer said. Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Peers:
    """Connections to other nodes; at most ``keep`` of them wait for the next request."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._idle: list[tuple[tuple[str, str], HTTPConnection]] = []  # the one used last comes last

    def put(
        self, node: SplitResult, target: str, data: Body, headers: Mapping[str, str], deadline: float, limit: int
    ) -> Reply:
        """PUT ``data`` to ``target`` (path and query, as they go on the wire) at ``node``'s scheme, host and port.

        ``deadline`` is in time.monotonic() seconds, ``limit`` the most bytes of a reply's body.
        Raises NotSent, Broken, TooLong or TimeoutError; no message of theirs quotes the URL.
        """
        key = (node.scheme, node.netloc)
        connection = self._take(key)
        if connection is None:
            connection = _connected(node, deadline)
        kept = False
        try:
            reply, kept = _exchange(connection, node.netloc, target, data, headers, deadline, limit)
        except TimeoutError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            # By its kind only: what these say may quote the URL, and with it the secret.
            raise Broken(type(error).__name__) from None
        finally:
            if kept:
                self._give(key, connection)
            else:
                connection.close()
        return reply

    def _take(self, key: tuple[str, str]) -> HTTPConnection | None:
        """A kept connection that still lives; those that do not are closed."""
        while True:
            with self._lock:
                at = next((at for at in reversed(range(len(self._idle))) if self._idle[at][0] == key), None)
                if at is None:
                    return None
                connection = self._idle.pop(at)[1]
            # Readable without a request: closed by the peer, or it says what nobody asked for.
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()

    def _give(self, key: tuple[str, str], connection: HTTPConnection) -> None:
        with self._lock:
            self._idle.append((key, connection))
            oldest = self._idle.pop(0)[1] if len(self._idle) > self._keep else None
        if oldest is not None:
            oldest.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@cache
def _tls() -> ssl.SSLContext:
    """Checks certificates; made once, as it reads all that the system trusts."""
    return ssl.create_default_context()


def _connected(node: SplitResult, deadline: float) -> HTTPConnection:
    host, seconds = node.hostname or "", min(_CONNECT, _left(deadline))
    connection = (
        HTTPSConnection(host, node.port, timeout=seconds, context=_tls())
        if node.scheme == "https"
        else HTTPConnection(host, node.port, timeout=seconds)
    )
    try:
        connection.connect()
    except TimeoutError:
        connection.close()
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that DNS cannot ask for
        connection.close()
        raise NotSent(type(error).__name__) from None
    return connection


def _exchange(
    connection: HTTPConnection,
    host: str,
    target: str,
    data: Body,
    headers: Mapping[str, str],
    deadline: float,
    limit: int,
) -> tuple[Reply, bool]:
    """One request and its reply, and whether the connection can take another."""
    connection.sock.settimeout(_left(deadline))
    connection.putrequest("PUT", target, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": host, **headers, "Content-Length": str(len(data))}.items():
        connection.putheader(name, value)
    connection.endheaders()
    whole = _send(connection.sock, data, deadline)
    # getresponse() calls this with the socket and the method.
    connection.response_class = partial(_Response, deadline)  # type: ignore[assignment]
    response = connection.getresponse()
    with response:
        if not whole and response.status < 400:
            raise ConnectionError  # it cannot have what it says it took
        body = _read(response, limit)
        names = {name.lower(): value for name, value in response.getheaders()}
        # After 1xx the real reply is still to come: the next request would take it for its own.
        kept = whole and response.status >= 200 and not response.will_close
        return Reply(response.status, names, body), kept


def _send(connection: socket.socket, data: Body, deadline: float) -> bool:
    """Whether all was sent; a peer that refuses early closes, and what it said can often still be read."""
    try:
        for piece in pieces(data):
            view = memoryview(piece)
            while view:
                connection.settimeout(_left(deadline))
                view = view[connection.send(view) :]
    except ConnectionError:
        return False
    return True


def _read(response: HTTPResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    got = 0
    while part := response.read(_STEP):
        parts.append(part)
        got += len(part)
        if got > limit:
            raise TooLong
    if response.length:
        raise ConnectionError  # it ended early
    return b"".join(parts)


class _Response(HTTPResponse):
    """A reply that must be there, to its last byte, by the deadline."""

    def __init__(self, deadline: float, connection: socket.socket, *, method: str | None = None) -> None:
        super().__init__(connection, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Until(connection, deadline))


class _Until(io.RawIOBase):
    """What comes over a connection until the deadline; then TimeoutError."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline
        self._raw = connection.makefile("rb", buffering=0)  # holds the connection open, as http.client expects

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._connection.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._raw.close()
        super().close()
