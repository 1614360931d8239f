"""The interface to the server beyond WSGI: the client's socket, the raw URI, and ``readinto`` of a body.

gunicorn and worker.py provide all three. Another WSGI server may lack each of them, and Flask's test client does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["ClientSocket", "ServerRequest", "TooSlow"]


class TooSlow(TimeoutError):
    """Far too little of a body came in the time; raised by a server that measures this."""


class ClientSocket(Protocol):
    """``gunicorn.socket``: the connection to the client."""

    arrived: float
    """When the request's head was complete, on time.monotonic()."""

    def settimeout(self, seconds: float | None, /) -> None: ...


class ServerRequest:
    """One request, as the server's WSGI environment has it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.target = str(environ.get("RAW_URI", ""))
        """Path and query as they came."""
        self.socket: ClientSocket | None = environ.get("gunicorn.socket")
        self.arrived = self.socket.arrived if self.socket else time.monotonic()
        self.chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
        self.length = int(environ.get("CONTENT_LENGTH") or 0)  # a number: the server has checked it
        self.read: Callable[[int], bytes] = environ["wsgi.input"].read
        #: Fills memory with the body's next bytes, without a copy; None where the server has no such way.
        self.readinto: Callable[[memoryview], int] | None = getattr(environ["wsgi.input"], "readinto", None)

    def set_timeout(self, seconds: float | None) -> None:
        """For each wait of a read; None: no limit."""
        if self.socket is not None:
            self.socket.settimeout(seconds)
