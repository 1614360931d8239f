"""HTTP as AIStore speaks it: raw request targets, its JSON errors, keep-alive, files sent without reading them in."""

from __future__ import annotations

import contextlib
import errno
import html
import re
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

Message = TypeVar("Message")

_BLOCK = 1 << 18  # bytes a read: large enough that system calls do not count, small enough for many at once
_LONGEST_MESSAGE = 64 << 20  # bytes of a JSON body; a list of a million names fits
_PATIENCE = 300.0  # seconds that a connection may say nothing, or take nothing of what it is sent
#: What the operating system says of a disk, or of a quota or limit on it, that holds no more.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ApiError(Exception):
    """An answer of AIStore's kind: ``status``, one sentence, and the type code where AIStore gives one.

    ``node``, ``caller``, ``method`` and ``path`` replace those of the node that answers: a proxy hands on a target's.
    """

    def __init__(self, status: int, message: str, tcode: str = "", **place: str) -> None:
        super().__init__(message)
        self.status, self.message, self.tcode, self.place = status, message, tcode, place

    def reply(self, request: Request, node: str) -> Reply:
        """The JSON object of the recordings; of a HEAD in the header ``Hdr-Error``, as it has no body."""
        told = {
            "message": self.message, "method": request.method, "url_path": unquote(request.path, errors="replace"),
            "remote_addr": request.peer, "caller": "", "node": node,
        } | self.place  # fmt: skip
        ordered = ({"tcode": self.tcode} if self.tcode else {}) | told
        text = msgspec.json.encode({**ordered, "status": self.status})
        headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
        if request.method == "HEAD":
            return Reply(self.status, headers=headers | {"Hdr-Error": text.decode()})
        return Reply(self.status, text + b"\n", headers)


def disk_error(error: OSError) -> ApiError:
    """What the disk refused, in the words of the operating system and with the file: 507 where it is full, else 500."""
    where = f": {error.filename}" if error.filename else ""
    return ApiError(507 if error.errno in _FULL else 500, f"{error.strerror or error}{where}")


@dataclass
class Reply:
    """An answer: bytes, or an open file from where it stands for ``length`` bytes, or a writer of unknown length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: BinaryIO | None = None
    length: int | None = None
    stream: Callable[[BinaryIO], None] | None = None

    @classmethod
    def json(cls, value: object) -> Reply:
        """A JSON body with the newline that Go's encoder ends it with."""
        return cls(200, msgspec.json.encode(value) + b"\n", {"Content-Type": "application/json; charset=utf-8"})

    @classmethod
    def text(cls, value: str, status: int = 200) -> Reply:
        return cls(status, value.encode(), {"Content-Type": "text/plain; charset=utf-8"})

    @classmethod
    def redirect(cls, request: Request, location: str, status: int) -> Reply:
        """A redirect as Go's http.Redirect writes it: with a body of HTML for GET, a type for HEAD, else bare."""
        headers = {"Location": location}
        if request.method not in ("GET", "HEAD"):
            return cls(status, b"", headers)
        body = f'<a href="{html.escape(location)}">{responses[status]}</a>.\n\n'.encode()
        return cls(status, body, {"Content-Type": "text/html; charset=utf-8"} | headers)


class Request:
    """A request: the path as it came (still escaped), the query decoded, the body read when asked for."""

    def __init__(self, handler: Handler) -> None:
        self.method = handler.command
        self.path, _, raw_query = handler.path.partition("?")
        self.raw_query = raw_query
        self.query = dict(parse_qsl(raw_query, keep_blank_values=True))
        self.headers = handler.headers
        self.peer = f"{handler.client_address[0]}:{handler.client_address[1]}"
        self._file = handler.rfile
        self._chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()
        try:
            self._left = 0 if self._chunked else int(self.headers.get("Content-Length") or 0)
            if self._left < 0:
                raise ValueError
        except ValueError:
            raise ValueError("Content-Length is not a number of bytes") from None

    def read(self) -> bytes:
        """At most `_BLOCK` bytes of the body; empty at its end. Raises ConnectionError where it breaks off."""
        if self._chunked and not self._left:
            size = self._file.readline(32).split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]+", size):  # nothing is no zero: the connection ended before the body
                raise ConnectionError("the body broke off between two chunks")
            self._left = int(size, 16)
            if not self._left:
                while self._file.readline(1024).strip():
                    pass
                self._chunked = False
        if not self._left:
            return b""
        block = self._file.read(min(self._left, _BLOCK))
        if not block:
            raise ConnectionError("the body broke off")
        self._left -= len(block)
        if self._chunked and not self._left:
            self._file.readline(4)
        return block

    def message(self, kind: type[Message]) -> Message:
        """The JSON body as ``kind``, or 400 saying which member is wrong."""
        body = b""
        while block := self.read():
            body += block
            if len(body) > _LONGEST_MESSAGE:
                raise ApiError(413, "the message is too long")
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ApiError(400, f"failed to unmarshal JSON request: {error}") from error


class _Chunks:
    """A file to write to whose blocks go out as HTTP chunks."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def write(self, data: bytes) -> int:
        if data:
            self._out.write(b"%x\r\n%b\r\n" % (len(data), data))
        return len(data)


class _Lines:
    """A file of which the last line read is known."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.last = b""

    def readline(self, most: int = -1) -> bytes:
        self.last = self._file.readline(most)
        return self.last


class Handler(BaseHTTPRequestHandler):
    """One connection to one node; every method goes to the node's ``answer``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # headers and a small body leave in one packet
    timeout = _PATIENCE
    server: NodeServer

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def parse_request(self) -> bool:
        """Refuse headers that break off: the standard library takes the end of the connection for theirs."""
        lines = _Lines(self.rfile)
        self.rfile, whole = lines, self.rfile  # type: ignore[assignment]
        try:
            understood = super().parse_request()
        finally:
            self.rfile = whole
        complete = lines.last in (b"\r\n", b"\n")
        self.close_connection |= not complete
        return understood and complete

    def handle_any(self) -> None:
        try:
            request = Request(self)
            reply = self._reply(request)
            self._send(reply)
            while request.read():  # what nobody read stands in the way of the next request
                pass
        except (ConnectionError, TimeoutError, ValueError):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = handle_any

    def _reply(self, request: Request) -> Reply:
        try:
            return self.server.answer(self.server, request)
        except ApiError as error:
            return error.reply(request, self.server.label)
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            return disk_error(error).reply(request, self.server.label)
        except Exception as error:  # noqa: BLE001 - a bug of ours is an answer too, and a trace for us
            traceback.print_exc()
            return ApiError(500, f"{type(error).__name__}: {error}").reply(request, self.server.label)

    def _send(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            clean = value.encode(errors="replace").decode("latin-1")  # Go sends UTF-8 as it is
            self.send_header(name, clean.replace("\r", " ").replace("\n", " "))
        self.send_header("Date", self.date_time_string())
        if reply.stream:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.status != 204 and not (self.command == "HEAD" and reply.length is None):
            self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(reply)
        if reply.file:
            reply.file.close()
        self.wfile.flush()

    def _send_body(self, reply: Reply) -> None:
        if reply.stream:
            reply.stream(_Chunks(self.wfile))  # type: ignore[arg-type]
            self.wfile.write(b"0\r\n\r\n")
        elif reply.file:
            left = reply.length or 0
            while left and (block := reply.file.read(min(left, _BLOCK))):
                self.wfile.write(block)
                left -= len(block)
            if left:  # a hand cut the file short; whoever waits for the rest of it learns so by the connection's end
                raise ConnectionError("the file is shorter than was promised")
        elif reply.status != 204:
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request is not news."""


class NodeServer(ThreadingHTTPServer):
    """A listening socket on loopback with a thread a connection; ``answer`` is the node's table of routes."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, kind: str, node_id: str, answer: Callable[[NodeServer, Request], Reply]) -> None:
        self.id, self.label, self.answer = node_id, f"{kind}[{node_id}]", answer
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name=node_id, daemon=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is not our fault."""

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop listening, and end the connections that clients keep open."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
