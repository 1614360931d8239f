"""HTTP as AIStore speaks it: raw request targets, its JSON errors, keep-alive, chunks relayed as they come."""

from __future__ import annotations

import contextlib
import errno
import html
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.client import responses
from io import BufferedReader
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import BinaryIO, TypeVar, cast
from urllib.parse import parse_qsl, unquote

import msgspec

Message = TypeVar("Message")

BLOCK = 1 << 17  # bytes of a read at most, and so of a chunk, as with AIStore's own buffers
#: Go's answer to plain HTTP at a port for TLS.
_PLAIN_HTTP = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
_MOST_LINES, _LONGEST_LINE = 100, 1 << 20  # of a request's head, and their bytes: Go's default
_LONGEST_MESSAGE = 64 << 20  # bytes of a JSON body; a list of a million names fits
_PATIENCE = 300.0  # seconds that a connection may stay idle, in either direction
#: The errors of a full disk, or of a quota or limit on it.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ApiError(Exception):
    """An answer of AIStore's kind: ``status``, one sentence, and the type code where AIStore gives one.

    ``node``, ``caller``, ``method`` and ``path`` replace those of the node that answers: a proxy hands on a target's.
    """

    def __init__(self, status: int, message: str, tcode: str = "", **place: str) -> None:
        super().__init__(message)
        self.status, self.message, self.tcode, self.place = status, message, tcode, place

    def reply(self, request: HttpRequest, node: str) -> HttpResponse:
        """The JSON object of the recordings; of a HEAD in the header ``Hdr-Error``, as it has no body."""
        fields = {
            "message": self.message, "method": request.method, "url_path": unquote(request.path, errors="replace"),
            "remote_addr": request.peer, "caller": "", "node": node,
        } | self.place  # fmt: skip
        ordered = ({"tcode": self.tcode} if self.tcode else {}) | fields
        text = msgspec.json.encode({**ordered, "status": self.status})
        headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
        if request.method == "HEAD":
            return HttpResponse(self.status, headers=headers | {"Hdr-Error": text.decode()})
        return HttpResponse(self.status, text + b"\n", headers)


def disk_error(error: OSError) -> ApiError:
    """The operating system's message and the file: 507 where the disk is full, else 500."""
    where = f": {error.filename}" if error.filename else ""
    return ApiError(507 if error.errno in _FULL else 500, f"{error.strerror or error}{where}")


@dataclass
class HttpResponse:
    """An answer: bytes, ``length`` bytes of an open file from ``offset`` on, or blocks that become chunks.

    To HEAD it is ``length`` alone, where that is known.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: BinaryIO | None = None
    offset: int = 0
    length: int | None = None
    blocks: Iterable[bytes] | None = None

    @classmethod
    def json(cls, value: object) -> HttpResponse:
        """A JSON body with the newline that Go's encoder ends it with."""
        return cls(200, msgspec.json.encode(value) + b"\n", {"Content-Type": "application/json; charset=utf-8"})

    @classmethod
    def text(cls, value: str) -> HttpResponse:
        return cls(200, value.encode(), {"Content-Type": "text/plain; charset=utf-8"})

    @classmethod
    def redirect(cls, request: HttpRequest, location: str, status: int) -> HttpResponse:
        """A redirect as Go's http.Redirect writes it: with a body of HTML for GET, a type for HEAD, else bare."""
        headers = {"Location": location}
        if request.method not in ("GET", "HEAD"):
            return cls(status, b"", headers)
        body = f'<a href="{html.escape(location)}">{responses[status]}</a>.\n\n'.encode()
        return cls(status, body, {"Content-Type": "text/html; charset=utf-8"} | headers)


def read_head(file: BufferedReader) -> tuple[str, dict[str, str]]:
    """The first line of a request or an answer, and its headers by lower-case name.

    Raises EOFError where they break off, ValueError where they are malformed.
    """
    first, headers = "", dict[str, str]()
    for at in range(_MOST_LINES):
        line = file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise EOFError("EOF")
        text = line.decode("latin-1").rstrip("\r\n")
        name, colon, value = text.partition(":")
        key, value = name.lower(), value.strip()
        if not at:
            first = text
        elif not text:
            return first, headers
        elif not colon:
            raise ValueError(f"malformed header {text!r}")
        else:
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
    raise ValueError("too many headers")


class Body:
    """A message's body, delimited by Content-Length or chunks; with neither empty, or ``to_end`` of the connection.

    Raises ValueError where the length is no number.
    """

    def __init__(self, file: BufferedReader, headers: dict[str, str], to_end: bool = False) -> None:
        self._file = file
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._to_end = to_end and not self._chunked and "content-length" not in headers
        length = "0" if self._chunked else headers.get("content-length", "0")
        if not length.isdecimal():
            raise ValueError("Content-Length is not a number of bytes")
        self._left = int(length)

    @property
    def whole(self) -> bool:
        """Whether all of it was read, so that another message may follow."""
        return not (self._left or self._chunked or self._to_end)

    def read(self, most: int = BLOCK) -> bytes:
        """The next bytes as they come, none at the end. Raises ConnectionError where they break off."""
        if self._chunked and not self._left:
            size = self._file.readline(32).split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]+", size):  # also where the connection ended: b"" is no size
                raise ConnectionError("the body broke off between two chunks")
            self._left = int(size, 16)
            if not self._left:
                while self._file.readline(1024).strip():
                    pass
                self._chunked = False
        if self._to_end:
            return self._file.read1(most)
        if not self._left:
            return b""
        block = self._file.read1(min(self._left, most))
        if not block:
            raise ConnectionError("the body broke off")
        self._left -= len(block)
        if self._chunked and not self._left:
            self._file.readline(4)
        return block


class HttpRequest(Body):
    """A request: the path as it came (still escaped), the query decoded, the body read when asked for."""

    def __init__(self, file: BufferedReader, peer: tuple[str, int]) -> None:
        line, self.headers = read_head(file)
        self.method, target, version = line.split()
        if not version.startswith("HTTP/1."):
            raise ValueError(f"{version} is not spoken here")
        super().__init__(file, self.headers)
        self.path, _, self.raw_query = target.partition("?")
        self.query = dict(parse_qsl(self.raw_query, keep_blank_values=True))
        self.peer = f"{peer[0]}:{peer[1]}"
        self.old = version == "HTTP/1.0"  # knows no chunks
        self.last = self.old or "close" in self.headers.get("connection", "").lower()

    def message(self, kind: type[Message]) -> Message:
        """The JSON body as ``kind``, or 400 with the member that is wrong."""
        body = b""
        while block := self.read():
            body += block
            if len(body) > _LONGEST_MESSAGE:
                raise ApiError(413, "the message is too long")
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ApiError(400, f"failed to unmarshal JSON request: {error}") from error


class Handler(StreamRequestHandler):
    """One connection to one node; every request goes to the node's ``answer``."""

    disable_nagle_algorithm = True
    timeout = _PATIENCE
    server: NodeServer

    def setup(self) -> None:
        """Begin TLS where the node has it, and answer plain HTTP there as Go does. Raises OSError."""
        if self.server.tls:
            self.request.settimeout(_PATIENCE)
            if self.request.recv(1, socket.MSG_PEEK) not in (b"\x16", b""):
                self.request.sendall(_PLAIN_HTTP)
                raise ConnectionError("plain HTTP")
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        """Serve until the client goes or breaks off, or (ApiError) an answer breaks off."""
        self.server.connections.add(self.connection)
        with contextlib.suppress(EOFError, ConnectionError, TimeoutError, ApiError, ssl.SSLError):
            while self._exchange():
                pass

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):  # say that it ends, and wait for no answer
                self.connection.settimeout(0)
                self.connection.unwrap()
            self.connection.close()

    def _exchange(self) -> bool:
        """Serve one request; returns whether another may follow."""
        try:
            request = HttpRequest(cast(BufferedReader, self.rfile), self.client_address)
        except ValueError:
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")  # as Go
            return False
        if request.headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._send(request, self._reply(request))
        while request.read():  # an unread rest would be taken for the next request
            pass
        return not request.last

    def _reply(self, request: HttpRequest) -> HttpResponse:
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

    def _send(self, request: HttpRequest, reply: HttpResponse) -> None:
        head = self._head(request, reply)
        if request.method == "HEAD" or reply.status == 204:
            self.wfile.write(head)
        elif reply.blocks is not None:
            self._send_blocks(head, reply.blocks, chunked=not request.old)
        else:
            self.wfile.write(head + reply.body)
            if reply.file:
                self._send_file(reply.file, reply.offset, reply.length or 0)

    def _send_file(self, file: BinaryIO, offset: int, length: int) -> None:
        with file:
            sent = self.connection.sendfile(file, offset, length) if length else 0
        if sent < length:  # somebody cut the file short: the connection's end tells the client
            raise ConnectionError("the file is shorter than was promised")

    def _send_blocks(self, head: bytes, blocks: Iterable[bytes], *, chunked: bool) -> None:
        """Send each block at once, the first one together with the head."""
        for block in blocks:
            parts = (head + b"%x\r\n" % len(block), block, b"\r\n") if chunked else (head, block)
            head = b""
            sent = 0 if isinstance(self.connection, ssl.SSLSocket) else self.connection.sendmsg(parts)
            if sent < sum(map(len, parts)):  # all of it with TLS, which has no sendmsg
                self.connection.sendall(b"".join(parts)[sent:])
        self.connection.sendall(head + (b"0\r\n\r\n" if chunked else b""))

    def _head(self, request: HttpRequest, reply: HttpResponse) -> bytes:
        lines = [f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}"]
        for name, value in reply.headers.items():
            lines.append(f"{name}: {value}".replace("\r", " ").replace("\n", " "))
        lines.append(f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}")
        if request.last:
            lines.append("Connection: close")
        if reply.blocks is not None:
            lines += [] if request.old else ["Transfer-Encoding: chunked"]
        elif reply.status != 204 and not (request.method == "HEAD" and reply.length is None):
            lines.append(f"Content-Length: {len(reply.body) if reply.length is None else reply.length}")
        return "\r\n".join([*lines, "", ""]).encode(errors="replace")  # Go sends UTF-8 as it is


class NodeServer(ThreadingTCPServer):
    """A listening socket on loopback with a thread a connection; ``answer`` is the node's table of routes.

    ``kind`` is "p" for a proxy and "t" for a target. With ``tls`` it speaks https.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, port: int, kind: str, node_id: str, answer: Callable[[NodeServer, HttpRequest], HttpResponse],
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self.id, self.kind, self.label, self.answer, self.tls = node_id, kind, f"{kind}[{node_id}]", answer, tls
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_address[1]}"
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
