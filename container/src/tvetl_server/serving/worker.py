"""A gunicorn worker in which slow clients wait in the poller and occupy no thread.

gunicorn's own threads read requests however slowly these come, and send responses however slowly they are read. Its
main loop closes one connection after the other, for up to two seconds each. Here a connection waits in the poller until
its request has arrived. A thread then answers it, and stays for the next request, which mostly follows at once.

gunicorn has no interface for this. Private methods of its threaded worker are overridden, so container/pyproject.toml
bounds its version.
"""

from __future__ import annotations

import errno
import mmap
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from gunicorn.http.message import Request
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from tvetl_server.metrics import Metrics, hide_from_children
from tvetl_server.serving.client_connection import (
    PEEK,
    Arrival,
    ClientConnection,
    ResponseSocket,
    UnsentQuota,
    patience,
    wrap_body,
)

__all__ = ["ConnectionCounts", "CountedThreadPool", "Worker"]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds from the first byte of a request's head to its last.
HEAD = 10

#: Seconds that a worker leaves a new connection to one that has fewer.
YIELD = 0.005

#: Bytes read and dropped before a connection is closed. Closing it with unread bytes would reset it, and the client
#: might lose the response.
DRAINED = 1 << 20


class ConnectionCounts:
    """How many connections each worker has, in memory that all of them share: made before they are forked.

    Without it the worker that wakes first gets all connections that a client opens at once. It keeps them, and the
    other workers are idle.
    """

    def __init__(self, rows: int) -> None:
        self._memory = mmap.mmap(-1, rows * 4)
        self._cells = memoryview(self._memory).cast("i")
        for row in range(rows):
            self.clear(row)

    def hide_from_children(self) -> None:
        """Decoders must not count. Called in a worker, which alone forks any."""
        hide_from_children(self._memory)

    def clear(self, row: int) -> None:
        """No worker of that row accepts connections."""
        self._cells[row] = -1

    def set(self, row: int, connections: int) -> None:
        self._cells[row] = connections

    def fewest(self) -> int:
        return min((cell for cell in self._cells if cell >= 0), default=0)


class CountedThreadPool(ThreadPoolExecutor):
    """A thread pool that counts the requests waiting for a thread, and measures how long they wait."""

    def __init__(self, threads: int, metrics: Metrics) -> None:
        super().__init__(max_workers=threads)
        self._metrics = metrics

    def has_waiting(self) -> bool:
        return not self._work_queue.empty()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        submitted = time.perf_counter()

        def begin() -> T:
            self._metrics.waits(-1)
            self._metrics.spent("wait", time.perf_counter() - submitted)
            return fn(*args, **kwargs)

        self._metrics.waits(1)
        try:
            return super().submit(begin)
        except RuntimeError:  # shut down: it will not begin
            self._metrics.waits(-1)
            raise


class Shared(Protocol):
    """The state that all workers share; gunicorn's application object has it."""

    metrics: Metrics
    connections: ConnectionCounts


@dataclass
class _Parked:
    """A connection in the poller."""

    deadline: float
    on_timeout: Callable[[], object]
    idle: bool


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker with a main loop of its own for connections; ``row`` is set before the fork."""

    app: Shared
    row: int
    tpool: CountedThreadPool

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._parked: dict[ClientConnection, _Parked] = {}
        self._unsent_quota = UnsentQuota()
        self._checked = 0.0
        self._yielding_since: float | None = None

    def get_thread_pool(self) -> CountedThreadPool:
        # A body that is read while it comes keeps its thread waiting, so such requests only wait for each other.
        self._streaming_pool = CountedThreadPool(max(1, self.cfg.threads // 4), self.app.metrics)
        return CountedThreadPool(self.cfg.threads, self.app.metrics)

    # --- in a thread ---

    def handle(self, conn: ClientConnection) -> object:
        """Answer this request, and those that follow soon. Returns whether to keep the connection."""
        while True:
            conn.begin()
            keep = super().handle(conn)
            if keep is not True or conn.sock.unsent or not self.alive or self.tpool.has_waiting():
                return keep
            if not conn.follows_soon():
                return keep

    def handle_request(self, req: Request, conn: ClientConnection) -> object:
        wrap_body(req)
        conn.sock.has_body = req.method == "PUT"  # the only frequent request: an object's
        return super().handle_request(req, conn)

    # --- in the main thread: accepting ---

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        self._share_count()

    def _share_count(self) -> None:
        if self._accepting:
            self.app.connections.set(self.row, self.nr_conns)
        else:
            self.app.connections.clear(self.row)

    def _yields(self) -> bool:
        """Whether to leave a connection to a worker that has fewer; for YIELD at most, as that one may be busy."""
        now = time.monotonic()
        expired = self._yielding_since is not None and now > self._yielding_since + YIELD
        if expired or self.nr_conns <= self.app.connections.fewest():
            self._yielding_since = None
            return False
        self._yielding_since = self._yielding_since or now
        time.sleep(YIELD / 20)
        return True

    def accept(self, listener: socket.socket) -> None:
        if self._yields():
            return
        try:
            accepted, client = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.05)  # until another connection is closed
            return
        sock = ResponseSocket(accepted.family, accepted.type, accepted.proto, accepted.detach())
        sock.quota = self._unsent_quota
        self.nr_conns += 1
        self._share_count()
        self.enqueue_req(ClientConnection(self.cfg, sock, client, listener.getsockname()))

    # --- in the main thread: before and after a request ---

    def enqueue_req(self, conn: ClientConnection, *, woken: bool = False) -> None:
        """Bytes have arrived: give the connection to a thread, once the request is there."""
        arrival = conn.peek(woken=woken)
        now = time.monotonic()
        if arrival is Arrival.PART_OF_HEAD:
            conn.head_due = conn.head_due or now + HEAD
            self._park(conn, conn.head_due, partial(self.enqueue_req, conn, woken=True), partial(self._close, conn))
        elif arrival is Arrival.PART_OF_BODY:
            on_timeout = partial(self._submit, conn, overdue=True)
            self._park(conn, now + conn.patience, partial(self._submit, conn), on_timeout)
        else:
            self._submit(conn)

    def _submit(self, conn: ClientConnection, *, overdue: bool = False) -> None:
        conn.overdue = overdue
        future = (self._streaming_pool if conn.streams else self.tpool).submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def finish_request(self, conn: ClientConnection, done: Future[object]) -> None:
        """A thread has left the connection."""
        keep = not done.cancelled() and not done.exception() and bool(done.result())
        if conn.sock.unsent:
            self._send_unsent(conn, keep=keep, deadline=time.monotonic() + patience(len(conn.sock.unsent)))
        else:
            self._after_response(conn, keep=keep)

    def _send_unsent(self, conn: ClientConnection, *, keep: bool, deadline: float) -> None:
        try:
            conn.sock.send_unsent()
        except OSError:
            self._close(conn)
            return
        if conn.sock.unsent:
            again = partial(self._send_unsent, conn, keep=keep, deadline=deadline)
            self._park(conn, deadline, again, partial(self._close, conn), event=selectors.EVENT_WRITE)
        else:
            self._after_response(conn, keep=keep)

    def _after_response(self, conn: ClientConnection, *, keep: bool) -> None:
        """The response is sent: wait for the next request, or close."""
        now = time.monotonic()
        if keep and conn.has_begun():
            self.enqueue_req(conn)
        elif keep:
            deadline = now + (self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)
            self._park(conn, deadline, partial(self.enqueue_req, conn), partial(self._close, conn), idle=True)
        else:
            try:
                conn.sock.shutdown(socket.SHUT_WR)
            except OSError:  # the client has closed it already
                self._close(conn)
            else:
                self._drain(conn, DRAINED, now + STOP_KEEPALIVE_LINGER)

    def _drain(self, conn: ClientConnection, limit: int, deadline: float) -> None:
        """Drop up to ``limit`` bytes that still come, and close."""
        try:
            while limit > 0:
                data = conn.sock.recv(PEEK, socket.MSG_DONTWAIT)
                if not data:
                    break
                limit -= len(data)
        except BlockingIOError:
            self._park(conn, deadline, partial(self._drain, conn, limit, deadline), partial(self._close, conn))
            return
        except OSError:
            pass
        self._close(conn)

    def _close(self, conn: ClientConnection) -> None:
        self.nr_conns -= 1
        self._share_count()
        conn.close()

    # --- in the main thread: the poller ---

    def _park(
        self,
        conn: ClientConnection,
        deadline: float,
        on_event: Callable[[], object],
        on_timeout: Callable[[], object],
        *,
        event: int = selectors.EVENT_READ,
        idle: bool = False,
    ) -> None:
        """Wait in the poller for ``event``, until ``deadline`` on time.monotonic()."""
        self._parked[conn] = _Parked(deadline, on_timeout, idle)
        self.poller.register(conn.sock, event, partial(self._on_event, conn, on_event))

    def _on_event(self, conn: ClientConnection, then: Callable[[], object], _: object) -> None:
        self._unpark(conn)
        then()

    def _unpark(self, conn: ClientConnection) -> None:
        self.poller.unregister(conn.sock)
        del self._parked[conn]

    def murder_pending(self) -> None:
        """gunicorn's name for: look for passed deadlines. It calls this after all events, and once a second."""
        now = time.monotonic()
        if now < self._checked + 0.5:
            return
        self._checked = now
        for conn, parked in [(conn, parked) for conn, parked in self._parked.items() if parked.deadline < now]:
            self._unpark(conn)
            parked.on_timeout()

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn's name for: the worker stops, so idle connections are closed at ``deadline``."""
        for parked in self._parked.values():
            if parked.idle:
                parked.deadline = min(parked.deadline, deadline)
