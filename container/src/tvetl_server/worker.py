"""gunicorn's threaded worker, for peers that send one object after the other, and for some that send slowly.

gunicorn hands a connection to a thread for one request and takes it back to wait for the next; and its threads read
heads and bodies however slowly these come. Here a thread stays for the request that mostly follows at once, gets only
connections whose request head is there, and gives up a body that drips.
"""

from __future__ import annotations

import select
import selectors
import socket
import time

from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from .metrics import Metrics, Threads
from .source import TooSlow

__all__ = ["worker_class"]

#: Milliseconds that a thread waits for the next request of its connection, while no other connection waits for it.
STAY = 20

#: Seconds from the first byte of a request head to its last.
HEAD = 10

#: Seconds after which a body must have come at RATE bytes a second, and go on so. A target reads its own disk.
GRACE = 5
RATE = 1 << 16

#: Bytes looked at for the end of a head; of a longer one gunicorn reads until it is longer than it allows.
_LOOK = 1 << 16


def worker_class(counts: Metrics) -> type[ThreadWorker]:
    """The worker, with a count of the requests that wait for a thread."""

    class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
        tpool: Threads

        def get_thread_pool(self) -> Threads:
            return Threads(self.cfg.threads, counts)

        def handle(self, conn: TConn) -> object:
            """In a thread: this request, and those that follow."""
            if not conn.initialized:
                conn.sock.setblocking(True)
                conn.init()
                conn.parser.unreader = _Paced(conn.sock)
            while True:
                conn.parser.unreader.begin()
                keep = super().handle(conn)
                if keep is not True or not self.alive or self.tpool.waiting() or not _follows(conn):
                    return keep

        def enqueue_req(self, conn: TConn) -> None:
            """In the main thread, for a connection with something to read."""
            if _head_is_there(conn):
                super().enqueue_req(conn)
                return
            now = time.monotonic()
            conn.timeout = conn.head_by = getattr(conn, "head_by", None) or now + HEAD
            if now > conn.head_by:
                self.nr_conns -= 1
                conn.close()
                return
            conn.sock.setblocking(False)
            self.pending_conns.append(conn)
            self.poller.register(
                conn.sock, selectors.EVENT_READ, lambda client: self.on_pending_socket_readable(conn, client)
            )

    return Worker


class _Paced(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads a connection, and gives up where what is waited for drips."""

    def begin(self) -> None:
        """A request begins."""
        self._began = time.monotonic()
        self._got = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        late = time.monotonic() - self._began - GRACE
        if late > 0 and self._got < late * RATE:
            raise TooSlow("too slow")
        data: bytes = super().chunk(size_hint)
        self._got += len(data)
        return data


def _follows(conn: TConn) -> bool:
    """Whether the head of the next request comes within STAY."""
    if _buffered(conn):
        return True
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN)
    return bool(poll.poll(STAY)) and _head_is_there(conn)


def _buffered(conn: TConn) -> bool:
    """Whether gunicorn has read something of the next request already, behind the body of the last."""
    return conn.parser is not None and bool(conn.parser.unreader.buf.getvalue())


def _head_is_there(conn: TConn) -> bool:
    """Whether a thread would not wait for the rest of a head; if it would, the poller wakes us when more has come."""
    if _buffered(conn):
        return True
    try:
        seen = conn.sock.recv(_LOOK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # reset: gunicorn's own code finds it, and closes
    there = not seen or b"\r\n\r\n" in seen or len(seen) == _LOOK
    waited = getattr(conn, "head_by", None) is not None
    if not there or waited:
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 if there else len(seen) + 1)
    if there:
        conn.head_by = None
    return there
