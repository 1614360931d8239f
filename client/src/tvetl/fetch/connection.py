"""A node of the cluster, a kept connection to it, and the read that it serves."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tvetl.cluster import Access, Json
from tvetl.errors import TvetlError
from tvetl.fetch.response import Response
from tvetl.proxies import before

#: The response of an idle connection.
NO_RESPONSE = Response()


@dataclass(eq=False)
class Fetch:
    """One object to read, and what became of it: ``data``, or ``error``, or with neither ``into`` is filled.

    ``home`` is the target that it lies on, as :meth:`Fetcher.homes` says; None to have it computed. ``arguments`` are
    ``etl_args`` of this read alone, beside those of :meth:`Fetcher.ask`. ``into`` is where the body belongs if it is
    ``prefix`` and exactly as many bytes; any other body comes as ``data``. ``tag`` is the caller's. A new one for each
    read; one that has an ``error`` already is not read, and ends with it.
    """

    name: str
    tag: object = None
    home: int | None = None
    arguments: Mapping[str, Json] | None = None
    into: memoryview | None = None
    prefix: bytes = b""
    data: bytearray | bytes | None = None
    error: TvetlError | None = None
    redirects: int = 0


class Node:
    """A proxy or target: its address, its requests' headers, and the connections to it that are idle."""

    def __init__(self, url: str, access: Access, endpoint: str) -> None:
        parts = urlsplit(url)
        self.name = parts.hostname or ""
        self.tls = parts.scheme == "https"
        #: What stands before the paths of AIStore's API, where something else stands before AIStore.
        self.base = parts.path.rstrip("/").encode()
        self.idle: list[Connection] = []
        #: The HTTP proxy that the environment puts before it.
        self.proxy = before(url)
        self._port = parts.port or (443 if self.tls else 80)
        self._addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []
        common = f" HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: {access.user_agent}\r\nAccept: */*\r\n"
        self._common, self._access = common, access
        self._downgraded = endpoint.startswith("https:") and not self.tls
        #: What follows a path where a redirect addresses the node: no token.
        self.redirected = f"{common}\r\n".encode()

    @property
    def ours(self) -> bytes:
        """What follows a path where we address the node: with the token, as it is now. Raises UsageError.

        In plain http there is none for a node of a cluster that we reach by https.
        """
        token = "" if self._downgraded else self._access.token
        return f"{self._common}Authorization: Bearer {token}\r\n\r\n".encode() if token else self.redirected

    def address(self) -> tuple[socket.AddressFamily, tuple[object, ...]]:
        """Looked up once. Raises OSError, UnicodeError."""
        if not self._addresses:
            answers = socket.getaddrinfo(self.name, self._port, type=socket.SOCK_STREAM)
            self._addresses = [(family, address) for family, _, _, _, address in answers]
        return self._addresses[0]

    def has_other_address(self, tried: object) -> bool:
        """After a failure at the address that was tried: whether there is another, which is used from now on."""
        if self._addresses and self._addresses[0][1] == tried:
            del self._addresses[0]
        return bool(self._addresses)


class Connection:
    """A connection, and the read that it serves; without one it is idle."""

    __slots__ = ("address", "fetch", "node", "request", "response", "reused", "sent", "since", "sock", "stage")

    def __init__(self, sock: socket.socket, node: Node, address: object) -> None:
        self.sock, self.node, self.address = sock, node, address
        #: connect, handshake (TLS's), ready or closed.
        self.stage = "connect"
        self.fetch: Fetch | None = None
        self.request = b""
        #: Bytes of the request that are sent.
        self.sent = 0
        #: Whether it has served another read, and not a byte has come for this one: the node may have ended it before.
        self.reused = False
        self.response = NO_RESPONSE
        #: time.monotonic() of the last sign of life.
        self.since = 0.0
