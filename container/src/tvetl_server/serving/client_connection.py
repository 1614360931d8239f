"""A client's connection: how much of its next request has arrived, and the unsent rest of its last response.

A slow client occupies no thread for long. The bytes of a partial request stay in the kernel, and the kernel wakes the
worker's poller once enough have arrived. The unsent rest of a response is kept, and sent by the worker's main loop.
"""

from __future__ import annotations

import errno
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from tvetl_server.serving.environ import TooSlow

__all__ = ["Arrival", "ClientConnection", "ResponseSocket", "UnsentQuota", "patience", "wrap_body"]

#: Milliseconds that a thread waits for its client to read more of a response; and for the next request, while no other
#: connection waits for the thread. Beyond that, the poller waits.
THREAD_WAIT = 20

#: Seconds that a client may let us wait in a body or a response, and one more for each RATE bytes transferred. A target
#: reads from its own disk, but the reader behind it may be slower.
GRACE = 5
RATE = 1 << 16

#: Bytes of a body that arrive before a thread gets the request. The kernel holds them.
BODY = 1 << 18

#: Bytes of unsent responses that a worker keeps. Beyond that, their threads wait for the clients.
UNSENT = 1 << 26

#: Bytes searched for the end of a head. gunicorn reads a longer one, and refuses it at its own limit.
PEEK = 1 << 16

#: How the head of most responses with a body begins. It is held back, and sent together with the body.
_OK = b"HTTP/1.1 200 "
_MORE = getattr(socket, "MSG_MORE", 0)  # Linux

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n")


def patience(size: int) -> float:
    """Seconds that a client has to transfer ``size`` bytes."""
    return GRACE + size / RATE


class UnsentQuota:
    """A quota for the unsent bytes of all connections of a worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def take(self, size: int) -> bool:
        with self._lock:
            if self._bytes + size > UNSENT:
                return False
            self._bytes += size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self._bytes -= size


class ResponseSocket(socket.socket):
    """A socket that keeps the unsent rest of a response, so that no thread waits for a client that reads slowly."""

    quota: UnsentQuota
    unsent = b""
    #: Whether a response of 200 has a body.
    has_body = False
    #: When the head of the current request was complete, on time.monotonic().
    arrived = 0.0

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]  # gunicorn sends bytes only
        """Send, and keep the bytes that the client does not read soon. Waits for the client beyond the quota."""
        kept = len(self.unsent)
        more = _MORE if self.has_body and data.startswith(_OK) else 0
        rest = data if kept else self._send(data, more)
        while rest and not kept and is_ready(self, select.POLLOUT, THREAD_WAIT):
            rest = self._send(rest)
        if not rest:
            return
        if kept <= PEEK and self.quota.take(len(rest)):
            self.unsent += rest
            return
        try:
            rest = self._take_unsent() + rest
            self.settimeout(patience(len(rest)))
            super().sendall(rest)
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the client does not read") from None
        finally:
            self.settimeout(None)  # with a time-out, MSG_DONTWAIT would wait: Python calls poll() first

    def send_unsent(self) -> None:
        """Send as much of the kept bytes as the client takes now."""
        rest = self._send(self._take_unsent())
        if rest and not self.quota.take(len(rest)):  # another connection took the quota meanwhile
            raise BrokenPipeError(errno.EPIPE, "the quota for unsent bytes is used up")
        self.unsent = rest

    def close(self) -> None:
        self._take_unsent()
        super().close()

    def _take_unsent(self) -> bytes:
        kept, self.unsent = self.unsent, b""
        self.quota.give_back(len(kept))
        return kept

    def _send(self, data: bytes, flags: int = 0) -> bytes:
        """Send without waiting; returns the rest."""
        try:
            return data[self.send(data, flags | socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return data


class _PacedReader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads from a connection, and raises TooSlow when the bytes come more slowly than RATE."""

    def begin(self, overdue: bool) -> None:
        """A request begins. ``overdue``: the poller has already waited long enough for the rest of it."""
        self._overdue = overdue
        self._waited = 0.0
        self._received = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        with self._paced():
            data: bytes = super().chunk(size_hint)
        self._received += len(data)
        return data

    def readinto(self, memory: memoryview) -> int:
        """Fill ``memory`` with the bytes that are there; 0 at the end of the connection."""
        held = self.take_buffered()
        if held:
            count = min(len(held), len(memory))
            memory[:count] = held[:count]
            self.buf.write(held[count:])
            return count
        with self._paced():
            count = int(self.sock.recv_into(memory))
        self._received += count
        return count

    @contextmanager
    def _paced(self) -> Iterator[None]:
        # gunicorn does not log an error with EPIPE.
        if self._overdue and not is_ready(self.sock, select.POLLIN, 0):
            raise TooSlow(errno.EPIPE, "too slow")
        if self._waited > patience(self._received):
            raise TooSlow(errno.EPIPE, "too slow")
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start


class _SizedBody(Body):  # type: ignore[misc]  # gunicorn has no types
    """A body of known length that can be read straight into the caller's memory."""

    def readinto(self, memory: memoryview) -> int:
        """Fill ``memory`` with the next bytes; 0 at the end."""
        reader = self.reader
        wanted = memory[: reader.length]
        if not wanted:
            return 0
        try:
            count: int = reader.unreader.readinto(wanted)
        except Exception:
            self.failed = True  # as gunicorn's own read() does
            raise
        reader.length -= count
        return count


class _Chunks:
    """A chunked body whose every malformed end is an OSError."""

    def __init__(self, reader: ChunkedReader) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        try:
            return self._reader.read(size)  # type: ignore[no-any-return]
        except ParseException as error:
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error


def wrap_body(request: Request) -> None:
    """Give a request that gunicorn has parsed a body as environ.py promises it."""
    if isinstance(request.body.reader, ChunkedReader):
        request.body.reader = _Chunks(request.body.reader)
    elif isinstance(request.body.reader, LengthReader):
        request.body = _SizedBody(request.body.reader)


class Arrival(Enum):
    """How much of a connection's next request has arrived."""

    COMPLETE = auto()  # all of it; or an end or an error, which gunicorn handles
    STREAMED = auto()  # a head, and the begin of a body that is read while it comes
    PART_OF_HEAD = auto()
    PART_OF_BODY = auto()  # the head and a part of a body that is awaited


class ClientConnection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's connection, extended by how much of its next request has arrived."""

    sock: ResponseSocket

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._seen = 0  # bytes of the next request, when they were last counted
        self._wakes_at = 1  # unread bytes that wake the poller
        #: On time.monotonic(): when the head must be complete, and when it was.
        self.head_due: float | None = None
        self.head_arrived: float | None = None
        #: Seconds that the body may take.
        self.patience = 0.0
        self.streams = False
        self.overdue = False

    def begin(self) -> None:
        """Prepare for reading the request; called in a thread."""
        if not self.initialized:
            self.init()
            self.parser.unreader = _PacedReader(self.sock)
        self._wake_at(1)
        self.parser.unreader.begin(self.overdue)
        self.sock.arrived = self.head_arrived or time.monotonic()
        self._seen = 0
        self.head_due = self.head_arrived = None
        self.overdue = self.streams = False

    def has_begun(self) -> bool:
        """Whether a part of the next request is known to have arrived."""
        return self._seen > 0 or bool(self._read_ahead())

    def follows_soon(self) -> bool:
        """Whether the next request arrives within THREAD_WAIT."""
        if not self._read_ahead() and not is_ready(self.sock, select.POLLIN, THREAD_WAIT):
            return False
        arrival = self.peek()
        if arrival is Arrival.PART_OF_BODY and not self.streams and is_ready(self.sock, select.POLLIN, THREAD_WAIT):
            return True
        return arrival is Arrival.COMPLETE

    def peek(self, *, woken: bool = False) -> Arrival:
        """How much has arrived. Sets the number of bytes that wake the poller; ``woken``: it was just woken."""
        try:
            unread = self.sock.recv(PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            unread = b""
        except OSError:
            return Arrival.COMPLETE  # reset: gunicorn's own code finds it, and closes
        else:
            if not unread:
                return Arrival.COMPLETE
        read_ahead = self._read_ahead()
        data = read_ahead + unread
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            return self._peek_body(data, end, len(read_ahead))
        # Woken without a new byte: the connection is at its end, or the kernel has no room for more.
        if len(data) >= PEEK or (woken and 0 < len(data) == self._seen):
            return Arrival.COMPLETE
        self._seen = len(data)
        self._wake_at(len(unread) + 1)
        return Arrival.PART_OF_HEAD

    def _peek_body(self, data: bytes, end: int, read_ahead: int) -> Arrival:
        """The same for the body, as the head is complete: it ends in ``data`` at ``end``."""
        self.head_arrived = self.head_arrived or time.monotonic()
        head = data[: end + 2].lower()
        if b"\r\ntransfer-encoding:" in head or b"\r\nexpect:" in head:
            self.streams = True
            return Arrival.STREAMED
        length = _LENGTH.search(head)
        body = int(length[1]) if length else 0
        if end + 4 + body <= len(data):
            return Arrival.COMPLETE
        awaited = min(body, BODY)
        self.streams = body > BODY
        self.patience = patience(awaited)
        self._seen = len(data)
        self._wake_at(end + 4 + awaited - read_ahead)
        if not is_ready(self.sock, select.POLLIN, 0):
            return Arrival.PART_OF_BODY
        return Arrival.STREAMED if self.streams else Arrival.COMPLETE

    def _read_ahead(self) -> bytes:
        """Bytes of the next request that gunicorn has read behind the body of the last."""
        return self.parser.unreader.buf.getvalue() if self.parser else b""

    def _wake_at(self, unread: int) -> None:
        if unread != self._wakes_at:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, unread)
            self._wakes_at = unread


def is_ready(sock: socket.socket, event: int, milliseconds: int) -> bool:
    """Whether ``event`` of poll(2) happens in the time."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(milliseconds))
