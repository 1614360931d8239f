"""One HTTP/1.1 response, received into memory that is there already. Knows no sockets: it is fed bytes.

As RFC 9112 has it, and as far as AIStore's nodes go: a body has a ``Content-Length`` or is chunked.
"""

from __future__ import annotations

import re

_HEAD_LIMIT = 1 << 20  # bytes of a status line and headers: a redirect repeats a query with thousands of keypoints
_FIRST_BUFFER = 1 << 26  # bytes that are taken before as many have come, whatever a length promises
_LINE_LIMIT = 1 << 10  # bytes of a chunk's line, and of the trailer after the last chunk
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.I)
_ENCODED = re.compile(rb"\r\ncontent-encoding:", re.I)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.I)
_LOCATION = re.compile(rb"\r\nlocation:[ \t]*([^\r\n]+)", re.I)
_CHUNK = re.compile(rb"(?:\r\n)?([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_PARTIAL_CHUNK = re.compile(rb"\r?\n?(?:[0-9A-Fa-f]+[ \t]*(?:;[^\r\n]*)?\r?)?")
_TRAILER = re.compile(rb"(?:[^\r\n]+\r\n)*\r\n")


class Malformed(Exception):
    """Not a response that HTTP/1.1 knows."""


class Response:
    """Feed it what arrives until it is ``done``; or, while bytes of the body are missing, receive into :meth:`room`.

    ``into`` is where the body of a 200 belongs if it is ``prefix`` and exactly as many bytes: then :meth:`body` is
    None. Any other body goes into a buffer, of ``usual`` bytes first where no header says its length.
    """

    __slots__ = (
        "_buffer", "_chunked", "_head", "_into", "_partial_head", "_partial_line", "_pos", "_prefix", "_prefix_seen",
        "_trailer", "_usual", "_view", "closes", "done", "left", "status",
    )  # fmt: skip

    def __init__(self, into: memoryview | None = None, prefix: bytes = b"", usual: int = 1 << 16) -> None:
        self._into, self._prefix, self._usual = into, prefix, usual
        self._head = self._partial_line = b""
        self._partial_head = bytearray()
        self._chunked = self._trailer = False
        #: Bytes of the prefix that have come.
        self._prefix_seen = 0
        self._buffer: bytearray | None = None
        self._view = memoryview(b"")
        self._pos = 0
        #: The status, 0 before the head is there.
        self.status = 0
        #: Whether the connection cannot serve another request.
        self.closes = False
        #: Bytes of the body to come before its end, or before the next chunk's line.
        self.left = 0
        self.done = False

    @property
    def location(self) -> str:
        """Where a redirect leads, "" without one."""
        location = _LOCATION.search(self._head)
        return location[1].decode("latin-1").strip() if location else ""

    def body(self) -> bytearray | None:
        """The whole body once it is done; None where it filled ``into``."""
        if self._buffer is None and (self._prefix_seen < len(self._prefix) or self._pos < len(self._view)):
            self._to_buffer(0)
        if self._buffer is not None:
            self._view.release()
            del self._buffer[self._pos :]
        return self._buffer

    def room(self) -> memoryview:
        """Where the next bytes go, ``left`` of them at most. Tell :meth:`filled` how many came."""
        missing_prefix = self._buffer is None and self._prefix_seen < len(self._prefix)
        too_small = missing_prefix or self._pos + self.left > len(self._view)
        if too_small and (self._buffer is None or self._pos == len(self._view)):
            self._to_buffer(min(self.left, _FIRST_BUFFER))
        return self._view[self._pos : self._pos + self.left]

    def filled(self, count: int) -> None:
        """``count`` bytes were received into :meth:`room`."""
        self._pos += count
        self.left -= count
        self.done = not self.left and not self._chunked

    def feed(self, data: bytes) -> None:
        """Take in bytes from wherever the response stands. Raises Malformed."""
        if not self.status:
            data = self._read_head(data)
            if not self.status:
                return
        while data and not self.done:
            if self.left:
                data = self._store(data)
            else:
                data = self._read_line(data)
        self.closes |= bool(data)  # bytes after the end of the response

    def _read_head(self, data: bytes) -> bytes:
        """Read the status line and headers; what follows them."""
        seen = len(self._partial_head)
        if seen:  # searched and copied once, however few bytes come at a time
            self._partial_head += data
            data = b""
        end = (self._partial_head if seen else data).find(b"\r\n\r\n", max(0, seen - 3))
        if end < 0:
            self._partial_head += data
            if len(self._partial_head) > _HEAD_LIMIT:
                raise Malformed("headers without end")
            return b""
        head = bytes(self._partial_head) if seen else data
        self._partial_head.clear()
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
            raise Malformed("this is no HTTP/1.1")
        self.status = int(head[9:12])
        self._head, rest = head[: end + 2], head[end + 4 :]
        self.closes = bool(_CLOSES.search(self._head))
        self._chunked = bool(_CHUNKED.search(self._head))
        length = _LENGTH.search(self._head)
        if not (length or self._chunked or self.status in (204, 304)) or _ENCODED.search(self._head):
            raise Malformed("no header says the length of its body, or the body is compressed")
        self.left = int(length[1]) if length and not self._chunked else 0
        self.done = not self.left and not self._chunked
        fits = self._into is not None and self.left == len(self._prefix) + len(self._into)
        if self._into is not None and self.status == 200 and (fits or self._chunked):
            self._view = self._into
        else:
            self._to_buffer(min(self.left or self._usual, _FIRST_BUFFER))
        return rest

    def _to_buffer(self, more: int) -> None:
        """Go on in a buffer with room for ``more`` bytes; what was received moves there."""
        begun = bytes(self._view[: self._pos])
        if self._buffer is None:
            begun = self._prefix[: self._prefix_seen] + begun
            self._prefix, self._prefix_seen = b"", 0
        size = max(len(begun) + more, 2 * self._pos)
        self._buffer = bytearray(size)
        self._buffer[: len(begun)] = begun
        self._view, self._pos = memoryview(self._buffer), len(begun)

    def _store(self, data: bytes) -> bytes:
        """Keep what belongs to the body; what follows it."""
        if self._buffer is None and self._prefix_seen < len(self._prefix):
            missing = self._prefix[self._prefix_seen :]
            seen = data[: min(len(missing), self.left)]
            if missing.startswith(seen):
                self._prefix_seen += len(seen)
                self.left -= len(seen)
                self.done = not self.left and not self._chunked
                return data[len(seen) :]
            self._to_buffer(self._usual)
        room = self.room()
        part = data[: len(room)]
        room[: len(part)] = part
        self.filled(len(part))
        return data[len(part) :]

    def _read_line(self, data: bytes) -> bytes:
        """Read the line before a chunk, or the trailer after the last; what follows it."""
        line = self._partial_line + data
        match = (_TRAILER if self._trailer else _CHUNK).match(line)
        if match is None:
            if len(line) > _LINE_LIMIT or not (self._trailer or _PARTIAL_CHUNK.fullmatch(line)):
                raise Malformed("this is no chunk")
            self._partial_line = line
            return b""
        self._partial_line = b""
        if self._trailer:
            self.done = True
        else:
            self.left = int(match[1], 16)
            self._trailer = not self.left
        return line[match.end() :]
