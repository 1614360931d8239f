"""An HTTP client for PUTs to other nodes, with a connection pool that all threads share.

http.client parses. Added here is one deadline for a whole exchange, as a socket's time-out starts anew with each byte.
The class of an error says whether the request may have arrived. Redirects are not followed, and nothing is retried.
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
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import WriteableBuffer

from tvetl.tls import handshake_fault
from tvetl_server.processes.result_body import Body, FileBody

__all__ = ["Broken", "ClientResponse", "HttpClient", "NoTrust", "NotSent", "TooLong"]

#: Seconds to connect to a node of the cluster.
_CONNECT = 3.0
#: How a send fails where the node has closed the connection. One that refuses a request early, or our certificate after
#: the handshake, does so, and its response can often still be read.
_GONE = (ConnectionError, ssl.SSLEOFError)
#: Bytes of one read. Between two reads the deadline is checked.
_STEP = 1 << 20


class NotSent(Exception):
    """No connection: nothing of the request can have arrived."""


class NoTrust(Exception):
    """TLS refuses the node, or the node us; the message follows the node's name, "'s certificate has expired".

    Nothing was accepted. The request was not even sent, unless it is the node that refuses.
    """


class Broken(Exception):
    """The connection broke after the request began: the node may have accepted it."""


class TooLong(Exception):
    """The response has more bytes than the limit; the node has accepted the request."""


@dataclass(frozen=True)
class ClientResponse:
    """A node's response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Sends PUTs; its pool keeps at most ``pool_size`` idle connections, so that TLS's handshakes are few.

    ``tls`` makes the context for https. It is called for the first such node, as it may read all of the system's
    authorities.
    """

    def __init__(self, pool_size: int, tls: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        self._pool_size = pool_size
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._idle: list[tuple[tuple[str, str], HTTPConnection]] = []  # the last used comes last

    def put(
        self, node: SplitResult, target: str, data: Body, headers: Mapping[str, str], deadline: float, limit: int
    ) -> ClientResponse:
        """PUT ``data`` to ``target`` (path and query, as they go on the wire) at ``node``'s scheme, host and port.

        ``deadline`` is on time.monotonic(); ``limit`` is in bytes, of the response's body.
        Raises NotSent, NoTrust, Broken, TooLong or TimeoutError; none of their messages quotes the URL.
        """
        key = (node.scheme, node.netloc)
        connection = self._take(key)
        if connection is None:
            connection = _connect(node, deadline, self._context_for(node))
        reusable = False
        try:
            response, reusable = _round_trip(connection, node.netloc, target, data, headers, deadline, limit)
        except TimeoutError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            if fault := handshake_fault(error):  # with TLS 1.3 a node refuses our certificate after the handshake
                raise NoTrust(fault.phrase) from None
            # The type alone: the messages of these errors may quote the URL, and with it the secret.
            raise Broken(type(error).__name__) from None
        finally:
            if reusable:
                self._give_back(key, connection)
            else:
                connection.close()
        return response

    def _context_for(self, node: SplitResult) -> ssl.SSLContext | None:
        if node.scheme != "https":
            return None
        with self._lock:
            self._context = self._context or self._tls()
        return self._context

    def _take(self, key: tuple[str, str]) -> HTTPConnection | None:
        """An idle connection that is still open; closed ones are dropped from the pool."""
        while True:
            with self._lock:
                at = next((at for at in reversed(range(len(self._idle))) if self._idle[at][0] == key), None)
                if at is None:
                    return None
                connection = self._idle.pop(at)[1]
            # Readable without a request: the node has closed it, or sent an unsolicited response.
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()

    def _give_back(self, key: tuple[str, str], connection: HTTPConnection) -> None:
        with self._lock:
            self._idle.append((key, connection))
            oldest = self._idle.pop(0)[1] if len(self._idle) > self._pool_size else None
        if oldest is not None:
            oldest.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connect(node: SplitResult, deadline: float, context: ssl.SSLContext | None) -> HTTPConnection:
    """An open connection, TLS's handshake included where there is a ``context``: until it holds, nothing is sent."""
    host, seconds = node.hostname or "", min(_CONNECT, _left(deadline))
    connection = (
        HTTPSConnection(host, node.port, timeout=seconds, context=context)
        if context
        else HTTPConnection(host, node.port, timeout=seconds)
    )
    try:
        connection.connect()
    except TimeoutError:
        connection.close()
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that DNS cannot encode
        connection.close()
        if fault := handshake_fault(error):
            raise NoTrust(fault.phrase) from None
        raise NotSent(type(error).__name__) from None
    return connection


def _round_trip(
    connection: HTTPConnection,
    host: str,
    target: str,
    data: Body,
    headers: Mapping[str, str],
    deadline: float,
    limit: int,
) -> tuple[ClientResponse, bool]:
    """Send one request; its response, and whether the connection can be used again."""
    connection.sock.settimeout(_left(deadline))
    connection.putrequest("PUT", target, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": host, **headers, "Content-Length": str(len(data))}.items():
        connection.putheader(name, value)
    try:
        connection.endheaders()
        _send(connection.sock, data, deadline)
        complete = True
    except _GONE:
        complete = False
    # getresponse() calls this with the socket and the method.
    connection.response_class = partial(_Response, deadline)  # type: ignore[assignment]
    response = connection.getresponse()
    with response:
        if not complete and response.status < 400:
            raise ConnectionError  # success without all of the request: the node is broken
        body = _read(response, limit)
        names = {name.lower(): value for name, value in response.getheaders()}
        # After 1xx the final response is still to come, and the next request would take it for its own.
        reusable = complete and response.status >= 200 and not response.will_close
        return ClientResponse(response.status, names, body), reusable


def _send(connection: socket.socket, data: Body, deadline: float) -> None:
    for piece in data if isinstance(data, FileBody) else [data]:
        view = memoryview(piece)
        while view:
            connection.settimeout(_left(deadline))
            view = view[connection.send(view) :]


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
    """A response whose last byte must arrive by the deadline."""

    def __init__(self, deadline: float, connection: socket.socket, *, method: str | None = None) -> None:
        super().__init__(connection, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(connection, deadline))


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until the deadline; then raises TimeoutError."""

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
