"""HTTP/1.1 to the byte, as a target speaks it: request lines that no library changes, bodies that break off."""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import cast


class NoAnswer(Exception):
    """The connection or the time ended before an answer was complete."""


@dataclass(frozen=True)
class ServerResponse:
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    closing: bool
    """The server announced that the connection ends with it."""

    def __str__(self) -> str:
        text = " ".join(self.body[:200].decode("utf-8", "replace").split()) if self.status >= 400 else ""
        short = text if len(text) <= 80 else f"{text[:80]}..."
        return f"status {self.status}" + (f" ({short})" if text else "")


def write(
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    chunked: bool = False,
    cut: bool = False,
) -> bytes:
    """A request's bytes; ``cut`` leaves out the second half of the body, which Content-Length still counts."""
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in {**headers, **framing}.items())]
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    half = len(body) // 2
    parts = [body[:half]] if cut else [body[:half], body[half:]]
    if chunked:
        parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + ([] if cut else [b"0\r\n\r\n"])
    return head + b"".join(parts)


class _Kept(io.BufferedReader):
    """A reader that outlives the answers read from it."""

    def close(self) -> None:
        pass


class RawConnection:
    """One connection. ``seconds`` is how long it waits for the next byte."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        self._socket = socket.create_connection((host, port), timeout=seconds)
        self._reader = _Kept(socket.SocketIO(self._socket, "rb"))

    def send(self, data: bytes) -> None:
        """Raises NoAnswer where nobody listens any more."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise NoAnswer(_reason(error)) from error

    def finish(self) -> None:
        """Send the end of the stream."""
        with suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_WR)

    def receive(self, method: str) -> ServerResponse:
        """The next answer, to a request of that method. Raises NoAnswer."""
        response = HTTPResponse(cast(socket.socket, self), method=method)
        try:
            response.begin()
            body = response.read()
        except (OSError, HTTPException, ValueError) as error:
            raise NoAnswer(_reason(error)) from error
        headers = {name.lower(): value for name, value in response.getheaders()}
        return ServerResponse(response.status, headers, body, closing=response.will_close)

    def makefile(self, *_: object) -> io.BufferedReader:
        """The one method of a socket that HTTPResponse calls: all answers come from one buffer."""
        return self._reader

    def close(self) -> None:
        self._socket.close()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"no answer: {str(error) or type(error).__name__}"
