"""gunicorn's threaded worker, for peers that send one object after the other, and for some that keep us waiting.

gunicorn's threads read heads and bodies however slowly these come, and write answers however slowly these are taken;
its main loop closes one connection after the other, each for up to two seconds. Here whoever keeps us waiting waits in
the poller, its bytes in the kernel; a thread gets a request once that is there; and it stays with its connection for
the next request, which mostly follows at once.
"""

from __future__ import annotations

import errno
import mmap
import re
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from enum import Enum, auto
from functools import partial

from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from tvetl_server.metrics import Metrics, Threads
from tvetl_server.serving.source import TooSlow

__all__ = ["Shares", "worker_class"]

#: Milliseconds that a thread waits for its peer to take more of an answer; and for the next request, while no other
#: connection waits for the thread. Then the poller waits.
STAY = 20

#: Seconds from the first byte of a request head to its last.
HEAD = 10

#: Seconds that a peer may keep us waiting in a body or an answer, and a second more for each RATE bytes that came or
#: went. A target reads its own disk; whom it reads for may be slower.
GRACE = 5
RATE = 1 << 16

#: Bytes of a body that come before a thread gets the request. The kernel holds them.
BODY = 1 << 18

#: Bytes of answers that wait for their peers, in a worker; beyond that, their threads wait with them.
UNSENT = 1 << 26

#: Seconds that a worker leaves a new connection to one that has fewer.
LEAVE = 0.005

#: Bytes looked at for the end of a head; of a longer one gunicorn reads until it is longer than it allows.
_LOOK = 1 << 16

#: Bytes read and forgotten when a connection is closed: closed with unread bytes it would be reset, and the peer might
#: lose the answer.
_FORGOTTEN = 1 << 20

#: What the head of an answer with a body begins like, mostly; it waits for the body, and goes with that.
_OK = b"HTTP/1.1 200 "
_MORE = getattr(socket, "MSG_MORE", 0)  # Linux

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n")


class _Next(Enum):
    """What is there of a connection's next request."""

    HERE = auto()  # all of it, or what gunicorn must see: the end, an error
    STREAM = auto()  # a head, of a body that is read while it comes
    HEAD = auto()  # less than a head
    BODY = auto()  # a head and less than its body


class Shares:
    """How many connections each worker has; in memory that they share, so made before they are.

    Whichever worker wakes first would get the connections of a peer that opens some at once, and keep them: the others
    had nothing to do.
    """

    def __init__(self, rows: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, rows * 4)).cast("i")
        for row in range(rows):
            self.clear(row)

    def clear(self, row: int) -> None:
        """No worker of that row takes connections."""
        self._cells[row] = -1

    def note(self, row: int, connections: int) -> None:
        self._cells[row] = connections

    def fewest(self) -> int:
        return min((cell for cell in self._cells if cell >= 0), default=0)


class _Unsent:
    """What waits for its peers, in bytes."""

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


class _Socket(socket.socket):
    """A connection whose answers do not wait for the peer."""

    room: _Unsent
    unsent = b""
    #: Whether an answer of 200 has a body.
    has_body = False
    #: When the head of the request that is worked on was there, on time.monotonic().
    since = 0.0

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]  # gunicorn sends bytes only
        """Send, or keep what the peer does not take soon; wait with it where there is no room, or more to come."""
        kept = len(self.unsent)
        more = _MORE if self.has_body and data.startswith(_OK) else 0
        rest = data if kept else self._send(data, more)
        while rest and not kept and _ready(self, select.POLLOUT, STAY):
            rest = self._send(rest)
        if not rest:
            return
        if kept <= _LOOK and self.room.take(len(rest)):
            self.unsent += rest
            return
        try:
            rest = self._taken() + rest
            self.settimeout(GRACE + len(rest) / RATE)
            super().sendall(rest)
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the peer does not read") from None
        finally:
            self.settimeout(None)  # with one, MSG_DONTWAIT would wait: Python asks poll() first

    def send_rest(self) -> None:
        """Send of what was kept as much as the peer takes now."""
        rest = self._send(self._taken())
        if rest and not self.room.take(len(rest)):  # somebody was quicker
            raise BrokenPipeError(errno.EPIPE, "no room")
        self.unsent = rest

    def close(self) -> None:
        self._taken()
        super().close()

    def _taken(self) -> bytes:
        kept, self.unsent = self.unsent, b""
        self.room.give_back(len(kept))
        return kept

    def _send(self, data: bytes, flags: int = 0) -> bytes:
        """The rest."""
        try:
            return data[self.send(data, flags | socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return data


class _Paced(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads a connection, and gives up where what is waited for drips."""

    def begin(self, late: bool) -> None:
        """A request begins; it is ``late`` where the poller has waited long enough for the rest of it."""
        self._late = late
        self._waited = 0.0
        self._got = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        with self._in_time():
            data: bytes = super().chunk(size_hint)
        self._got += len(data)
        return data

    def into(self, memory: memoryview) -> int:
        """What is there of the connection, up to so many bytes; 0 at its end."""
        held = self.take_buffered()
        if held:
            some = min(len(held), len(memory))
            memory[:some] = held[:some]
            self.buf.write(held[some:])
            return some
        with self._in_time():
            got = int(self.sock.recv_into(memory))
        self._got += got
        return got

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        if self._late and not _ready(self.sock, select.POLLIN, 0):
            raise TooSlow(errno.EPIPE, "too slow")
        if self._waited > GRACE + self._got / RATE:
            raise TooSlow(errno.EPIPE, "too slow")  # which gunicorn does not log
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start


class _Body(Body):  # type: ignore[misc]  # gunicorn has no types
    """A body of known length, which may be read into memory that is there, and copied nowhere else."""

    def readinto(self, memory: memoryview) -> int:
        """Up to so many bytes; 0 at the end."""
        reader = self.reader
        wanted = memory[: reader.length]
        if not wanted:
            return 0
        try:
            got: int = reader.unreader.into(wanted)
        except Exception:
            self.failed = True  # as gunicorn's own does
            raise
        reader.length -= got
        return got


class _Chunks:
    """A body in chunks, whose end is an OSError wherever it is not that of a body."""

    def __init__(self, reader: ChunkedReader) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        try:
            return self._reader.read(size)  # type: ignore[no-any-return]
        except ParseException as error:
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error


class _Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn knows of a connection, and what is there of its next request."""

    sock: _Socket

    def __init__(self, *about: object) -> None:
        super().__init__(*about)
        self._seen = 0
        self._least = 1  # bytes that wake the poller
        #: On time.monotonic(): when the head must be there, and when it was.
        self.head_by: float | None = None
        self.head_at: float | None = None
        #: Seconds that the body may take.
        self.patience = 0.0
        self.streams = False
        self.late = False

    def begin(self) -> None:
        """In a thread: read the request."""
        if not self.initialized:
            self.init()
            self.parser.unreader = _Paced(self.sock)
        self._wake_at(1)
        self.parser.unreader.begin(self.late)
        self.sock.since = self.head_at or time.monotonic()
        self._seen = 0
        self.head_by = self.head_at = None
        self.late = self.streams = False

    def begun(self) -> bool:
        """Whether something of a next request is there, as far as was looked."""
        return self._seen > 0 or bool(self._read_already())

    def follows(self) -> bool:
        """Whether the next request is there within STAY."""
        if not self._read_already() and not _ready(self.sock, select.POLLIN, STAY):
            return False
        found = self.look()
        if found is _Next.BODY and not self.streams and _ready(self.sock, select.POLLIN, STAY):
            return True
        return found is _Next.HERE

    def look(self, *, woken: bool = False) -> _Next:
        """What is there; where that is not all, the poller wakes us when more is."""
        before = self._read_already()
        try:
            new = self.sock.recv(_LOOK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            new = b""
        except OSError:
            return _Next.HERE  # reset: gunicorn's own code finds it, and closes
        else:
            if not new:
                return _Next.HERE
        seen = before + new
        end = seen.find(b"\r\n\r\n")
        if end < 0:
            # Woken by no more than was there: it is at its end, or there is no room for more.
            if len(seen) >= _LOOK or (woken and 0 < len(seen) == self._seen):
                return _Next.HERE
            self._seen = len(seen)
            self._wake_at(len(new) + 1)
            return _Next.HEAD
        self.head_at = self.head_at or time.monotonic()
        head = seen[: end + 2].lower()
        if b"\r\ntransfer-encoding:" in head or b"\r\nexpect:" in head:
            self.streams = True
            return _Next.STREAM
        length = _LENGTH.search(head)
        body = int(length[1]) if length else 0
        if end + 4 + body <= len(seen):
            return _Next.HERE
        self.streams = body > BODY
        self.patience = GRACE + min(body, BODY) / RATE
        self._seen = len(seen)
        self._wake_at(end + 4 + min(body, BODY) - len(before))
        if not _ready(self.sock, select.POLLIN, 0):
            return _Next.BODY
        return _Next.STREAM if self.streams else _Next.HERE

    def _read_already(self) -> bytes:
        """What gunicorn has read of the next request, behind the body of the last."""
        return self.parser.unreader.buf.getvalue() if self.parser else b""

    def _wake_at(self, least: int) -> None:
        if least != self._least:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            self._least = least


class _Wait:
    """A connection in the poller."""

    def __init__(self, until: float, late: Callable[[], object], idle: bool) -> None:
        self.until = until
        self.late = late
        self.idle = idle


def worker_class(counts: Metrics, shares: Shares) -> type[ThreadWorker]:
    """The worker, with a count of the requests that wait for a thread, and of the connections of all workers."""

    class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
        tpool: Threads

        def __init__(self, *about: object) -> None:
            super().__init__(*about)
            self._waits: dict[_Connection, _Wait] = {}
            self._unsent = _Unsent()
            self._looked = 0.0
            self._left_at: float | None = None

        def get_thread_pool(self) -> Threads:
            # Bodies that are read while they come keep their threads waiting: only each other's.
            self._streams = Threads(max(1, self.cfg.threads // 4), counts)
            return Threads(self.cfg.threads, counts)

        # --- in a thread ---

        def handle(self, conn: _Connection) -> object:
            """This request, and those that follow."""
            while True:
                conn.begin()
                keep = super().handle(conn)
                if keep is not True or conn.sock.unsent or not self.alive or self.tpool.waiting():
                    return keep
                if not conn.follows():
                    return keep

        def handle_request(self, req: Request, conn: _Connection) -> object:
            if isinstance(req.body.reader, ChunkedReader):
                req.body.reader = _Chunks(req.body.reader)
            elif isinstance(req.body.reader, LengthReader):
                req.body = _Body(req.body.reader)
            conn.sock.has_body = req.method == "PUT"  # an object's; nothing else is answered often
            return super().handle_request(req, conn)

        # --- in the main thread ---

        def set_accept_enabled(self, enabled: bool) -> None:
            super().set_accept_enabled(enabled)
            self._share()

        def _share(self) -> None:
            if self._accepting:
                shares.note(self.tvetl_row, self.nr_conns)
            else:
                shares.clear(self.tvetl_row)

        def _leaves_it(self) -> bool:
            """Whether to leave a connection to a worker that has fewer; for a while, as that may not come."""
            now = time.monotonic()
            if self.nr_conns <= shares.fewest() or (self._left_at is not None and now > self._left_at + LEAVE):
                self._left_at = None
                return False
            self._left_at = self._left_at or now
            time.sleep(LEAVE / 20)
            return True

        def accept(self, listener: socket.socket) -> None:
            if self._leaves_it():
                return
            try:
                accepted, client = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    time.sleep(0.05)  # others will close
                return
            sock = _Socket(accepted.family, accepted.type, accepted.proto, accepted.detach())
            sock.room = self._unsent
            self.nr_conns += 1
            self._share()
            self.enqueue_req(_Connection(self.cfg, sock, client, listener.getsockname()))

        def enqueue_req(self, conn: _Connection, *, woken: bool = False) -> None:
            """For a connection with something to read: a thread, once the request is there."""
            found = conn.look(woken=woken)
            now = time.monotonic()
            if found is _Next.HEAD:
                conn.head_by = conn.head_by or now + HEAD
                self._wait(conn, conn.head_by, partial(self.enqueue_req, conn, woken=True), partial(self._drop, conn))
            elif found is _Next.BODY:
                late = partial(self._submit, conn, late=True)
                self._wait(conn, now + conn.patience, partial(self._submit, conn), late)
            else:
                self._submit(conn)

        def _submit(self, conn: _Connection, *, late: bool = False) -> None:
            conn.late = late
            work = (self._streams if conn.streams else self.tpool).submit(self.handle, conn)
            work.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

        def finish_request(self, conn: _Connection, done: Future[object]) -> None:
            """A thread has left the connection."""
            keep = not done.cancelled() and not done.exception() and bool(done.result())
            if conn.sock.unsent:
                by = time.monotonic() + GRACE + len(conn.sock.unsent) / RATE
                self._send_rest(conn, keep=keep, by=by)
            else:
                self._finish(conn, keep=keep)

        def _send_rest(self, conn: _Connection, *, keep: bool, by: float) -> None:
            try:
                conn.sock.send_rest()
            except OSError:
                self._drop(conn)
                return
            if conn.sock.unsent:
                again = partial(self._send_rest, conn, keep=keep, by=by)
                self._wait(conn, by, again, partial(self._drop, conn), event=selectors.EVENT_WRITE)
            else:
                self._finish(conn, keep=keep)

        def _finish(self, conn: _Connection, *, keep: bool) -> None:
            """The answer is sent."""
            now = time.monotonic()
            if keep and conn.begun():
                self.enqueue_req(conn)
            elif keep:
                until = now + (self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)
                self._wait(conn, until, partial(self.enqueue_req, conn), partial(self._drop, conn), idle=True)
            else:
                try:
                    conn.sock.shutdown(socket.SHUT_WR)
                except OSError:  # the peer was quicker
                    self._drop(conn)
                else:
                    self._forget(conn, _FORGOTTEN, now + STOP_KEEPALIVE_LINGER)

        def _forget(self, conn: _Connection, most: int, until: float) -> None:
            """Read what still comes, and close."""
            try:
                while most > 0:
                    data = conn.sock.recv(_LOOK, socket.MSG_DONTWAIT)
                    if not data:
                        break
                    most -= len(data)
            except BlockingIOError:
                self._wait(conn, until, partial(self._forget, conn, most, until), partial(self._drop, conn))
                return
            except OSError:
                pass
            self._drop(conn)

        def _drop(self, conn: _Connection) -> None:
            self.nr_conns -= 1
            self._share()
            conn.close()

        def _wait(
            self,
            conn: _Connection,
            until: float,
            ready: Callable[[], object],
            late: Callable[[], object],
            *,
            event: int = selectors.EVENT_READ,
            idle: bool = False,
        ) -> None:
            """Until ``event``, for ``ready``; or until the time, for ``late``."""
            self._waits[conn] = _Wait(until, late, idle)

            def happened(_: object) -> None:
                self._wake(conn)
                ready()

            self.poller.register(conn.sock, event, happened)

        def _wake(self, conn: _Connection) -> None:
            self.poller.unregister(conn.sock)
            del self._waits[conn]

        def murder_pending(self) -> None:
            """gunicorn's name for: look who is late. After all that happens, and at least once a second."""
            now = time.monotonic()
            if now < self._looked + 0.5:
                return
            self._looked = now
            for conn, wait in [(conn, wait) for conn, wait in self._waits.items() if wait.until < now]:
                self._wake(conn)
                wait.late()

        def _cap_keepalive(self, deadline: float) -> None:
            """gunicorn's name for: we stop, so who is idle is closed at the deadline."""
            for wait in self._waits.values():
                if wait.idle:
                    wait.until = min(wait.until, deadline)

    return Worker


def _ready(sock: socket.socket, event: int, milliseconds: int) -> bool:
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(milliseconds))
