"""The event loop: requests over kept connections, their responses received as they arrive, in one thread.

An object is asked of the target it lies on; where the cluster refuses direct reads, of the proxy, whose redirect is
followed. An ETL's answer, good or bad, is final. Whatever else happens (a refused connection, a body that breaks off,
a status that may pass) sends the object through :meth:`Cluster.get`, in a thread: it retries, words the errors, and
its answer is always right.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import quote

from tvetl import notation
from tvetl.cluster import Cluster, Json, Target
from tvetl.cluster.error_mapping import too_late
from tvetl.errors import TvetlError
from tvetl.fetch.connection import NO_RESPONSE, Connection, Fetch, Node
from tvetl.fetch.places import places
from tvetl.fetch.query import Query
from tvetl.fetch.response import Malformed, Response
from tvetl.fetch.threads import DaemonThreads
from tvetl.spec.seed import addressable

#: Bytes of the read that takes a response's head; what it takes of the body is copied once more.
_SCRATCH = 1 << 13
#: Seconds to connect, as :class:`Cluster` waits.
_CONNECT = 3.0
#: Seconds between two checks for reads that are late, and at least between two cluster maps.
_CHECK_EVERY = 1.0
#: Redirects that one read follows: the proxy's, and those of targets that know better.
_REDIRECTS = 5
#: The exceptions of a socket that would have to wait.
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_log = logging.getLogger("tvetl.datasets")


class Fetcher:
    """Reads objects of one bucket, through an ETL or as they are, many at a time.

    For one thread at a time, and not across a fork. ``cluster`` is its own, and ``patience`` how many seconds a read
    waits for bytes. Closing it ends all connections.
    """

    def __init__(self, cluster: Cluster, bucket: str, etl: str, *, patience: float, threads: int) -> None:
        self._cluster, self._bucket, self._etl, self._patience = cluster, bucket, etl, patience
        named, self._name = notation.bucket(bucket), notation.bucket(bucket).name
        self._access = cluster.access()
        #: Other clusters' buckets are left to the SDK: an alias tells no place. So are nodes behind a proxy (_send).
        self._left_to_sdk = bool(named.cluster) or not self._name.isprintable()
        self._tls: ssl.SSLContext | None = None
        self._refused = False
        self._nodes: dict[str, Node] = {}
        self._targets: list[Node] | None = None
        self._digests: list[int] = []
        self._mapped = 0.0
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._threads = DaemonThreads(threads, "tvetl-read")
        #: The reads of threads, each with an exception that no read should raise, and a new cluster map where needed.
        self._by_sdk: deque[tuple[Fetch, BaseException | None, Sequence[Target]]] = deque()
        self._process = os.getpid()
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._busy: set[Connection] = set()
        self._unfinished = 0
        self._done: list[Fetch] = []
        self._usual_size = 1 << 16
        self._checked = time.monotonic()
        self.ask({})

    def ask(self, arguments: Mapping[str, Json], *, by_name: bool = False) -> None:
        """The ``etl_args`` of all reads that begin from now on; ``by_name`` as of :class:`Query`."""
        self._query = Query(self._bucket, self._etl, arguments, by_name=by_name)

    def homes(self, names: Sequence[str]) -> list[int]:
        """Which target each object lies on, for :class:`Fetch`: cheaper for many names at once."""
        self._ensure_map()
        return places(self._bucket, names, self._digests) if self._targets else [0] * len(names)

    def start(self, fetch: Fetch) -> None:
        """Begin to read an object."""
        self._unfinished += 1
        if fetch.error:
            return self._done.append(fetch)
        self._ensure_map()
        if fetch.home is None:
            [fetch.home] = self.homes([fetch.name])
        try:
            query = self._query.text(fetch.name, fetch.arguments)
            path = f"/v1/objects/{self._name}/{quote(fetch.name)}{query}".encode()
        except UnicodeEncodeError:
            return self._to_sdk(fetch)
        if self._left_to_sdk or not addressable(fetch.name):
            self._to_sdk(fetch)
        elif self._refused or not self._targets:
            self._send(fetch, self._node(self._cluster.endpoint), path)
        else:
            if fetch.home >= len(self._targets):
                [fetch.home] = self.homes([fetch.name])
            self._send(fetch, self._targets[fetch.home], path)
        return None

    def wait(self, *, idle: bool = False) -> list[Fetch]:
        """The reads that ended. Waits until one has, :meth:`wake` was called, or unless ``idle`` there is none."""
        woken = False
        while (self._unfinished or idle) and not self._done and not woken:
            for key, mask in self._selector.select(_CHECK_EVERY):
                if key.data is None:
                    woken = True
                    self._take_answers()
                else:
                    self._advance(key.data, mask)
            self._end_late()
        done, self._done = self._done, []
        self._unfinished -= len(done)
        return done

    def wake(self) -> None:
        """Have :meth:`wait` return, from another thread."""
        with suppress(OSError):  # full: it is awake; closed: nobody waits
            self._waker.send(b"\0")

    def abandon(self) -> None:
        """Give up all that is being read. Idle connections stay."""
        for connection in [*self._busy]:
            self._close(connection)
        # What a thread reads still is not ours any more when it comes.
        self._by_sdk, self._unfinished, self._done = deque(), 0, []

    def close(self) -> None:
        self.abandon()
        for node in self._nodes.values():
            while node.idle:
                self._close(node.idle.pop())
        self._threads.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()
        self._cluster.close()

    # The cluster map

    def _ensure_map(self) -> None:
        """Ask for the map, once. Without it all reads go by the proxy, whose errors tell the reason."""
        if self._targets is None:
            targets: Sequence[Target] = ()
            if not self._left_to_sdk:
                with suppress(TvetlError):
                    targets = self._cluster.targets()
            self._follow(targets)

    def _follow(self, targets: Sequence[Target]) -> None:
        self._targets = [self._node(target.url) for target in targets]
        self._digests = [target.digest for target in targets]
        self._mapped = time.monotonic()

    def _node(self, url: str) -> Node:
        if url not in self._nodes:
            node = Node(url, self._access, self._cluster.endpoint)
            if node.proxy and not any(known.proxy for known in self._nodes.values()):
                _log.warning("the SDK reads through %s, which is slower: %s", node.proxy, node.proxy.hint)
            self._nodes[url] = node
        return self._nodes[url]

    # Connections

    def _send(self, fetch: Fetch, node: Node, path: bytes) -> None:
        """Send the request over an idle connection, or begin to connect; behind an HTTP proxy the SDK does."""
        if node.proxy:
            return self._to_sdk(fetch)
        tail = node.redirected if fetch.redirects else node.ours
        return self._request(fetch, node, b"GET " + node.base + path + tail, node.idle.pop() if node.idle else None)

    def _request(self, fetch: Fetch, node: Node, request: bytes, connection: Connection | None) -> None:
        """Send a request over this connection, or over a new one."""
        try:
            connection = connection or self._connect(node)
        except (OSError, UnicodeError):
            return self._to_sdk(fetch, stale=True)
        connection.fetch, connection.request, connection.sent = fetch, request, 0
        connection.reused = connection.stage == "ready"
        connection.response = Response(fetch.into, fetch.prefix, self._usual_size)
        connection.since = time.monotonic()
        self._busy.add(connection)
        if connection.reused:
            self._advance(connection, selectors.EVENT_WRITE)
        return None

    def _connect(self, node: Node) -> Connection:
        """Begin to connect, to the first address that does not refuse at once. Raises OSError, UnicodeError."""
        family, address = node.address()
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(BlockingIOError):
                sock.connect(address)
        except OSError:
            sock.close()
            if node.has_other_address(address):
                return self._connect(node)
            raise
        connection = Connection(sock, node, address)
        self._selector.register(sock, selectors.EVENT_WRITE, connection)
        return connection

    def _advance(self, connection: Connection, mask: int) -> None:
        """Go on with a connection as far as it goes without waiting."""
        if connection.stage == "closed":  # earlier among the same events
            return
        try:
            if connection.stage != "ready":
                self._open(connection)
            elif mask & selectors.EVENT_WRITE and connection.sent < len(connection.request):
                self._write(connection)
            else:
                while self._receive(connection):
                    pass
        except _WOULD_BLOCK:
            pass
        except (OSError, ValueError, MemoryError, Malformed):
            self._lose(connection)

    def _open(self, connection: Connection) -> None:
        """The connection is made, or TLS's handshake goes on. Raises OSError."""
        if connection.stage == "connect":
            if error := connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "cannot connect")
            connection.stage = "ready"
            if connection.node.tls:
                self._selector.unregister(connection.sock)
                self._tls = self._tls or self._access.tls()
                connection.sock = self._tls.wrap_socket(
                    connection.sock, server_hostname=connection.node.name, do_handshake_on_connect=False
                )
                self._selector.register(connection.sock, selectors.EVENT_READ, connection)
                connection.stage = "handshake"
        if connection.stage == "handshake":
            assert isinstance(connection.sock, ssl.SSLSocket)
            connection.sock.do_handshake()
            connection.stage = "ready"
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        with suppress(*_WOULD_BLOCK):
            connection.sent += connection.sock.send(connection.request[connection.sent :])
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.sent < len(connection.request) else 0)
        if self._selector.get_key(connection.sock).events != events:
            self._selector.modify(connection.sock, events, connection)

    def _receive(self, connection: Connection) -> bool:
        """One system call, and the response's next step; whether another call may receive more."""
        response = connection.response
        if response.left and connection.fetch:
            room = response.room()
            count = connection.sock.recv_into(room)
            response.filled(count)
            size = len(room)
        else:
            size = _SCRATCH
            count = connection.sock.recv_into(self._scratch)
            if count and connection.fetch:
                response.feed(bytes(self._scratch[:count]))
        if not count or not connection.fetch:
            raise Malformed("the node ended the connection, or speaks unasked")
        connection.since, connection.reused = time.monotonic(), False
        if response.done:
            self._complete(connection)
            return False
        return count == size

    def _close(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.stage != "closed" and os.getpid() == self._process:  # a fork shares the selector with its parent
            with suppress(KeyError, ValueError):
                self._selector.unregister(connection.sock)
        connection.stage = "closed"
        connection.sock.close()

    def _lose(self, connection: Connection) -> None:
        """The connection, or the response over it, is of no use."""
        connecting = connection.stage == "connect"
        self._close(connection)
        fetch, connection.fetch = connection.fetch, None
        if fetch is None:
            with suppress(ValueError):
                connection.node.idle.remove(connection)
        elif connection.reused or (connecting and connection.node.has_other_address(connection.address)):
            # The node had ended it before it got our request, or has another address.
            self._request(fetch, connection.node, connection.request, None)
        else:
            self._to_sdk(fetch, stale=True)

    def _end_late(self) -> None:
        """Once a second, end the reads that have waited for too long."""
        now = time.monotonic()
        if now - self._checked < _CHECK_EVERY:
            return
        self._checked = now
        for connection in [*self._busy]:
            connected = connection.stage == "ready"
            if now - connection.since > (self._patience if connected else _CONNECT):
                if not connected:
                    self._lose(connection)
                elif fetch := connection.fetch:
                    connection.fetch = None
                    self._close(connection)
                    self._finish(fetch, None, too_late(self._cluster.endpoint))

    # Responses

    def _complete(self, connection: Connection) -> None:
        """The response is there: the connection is idle, the read ended or goes on elsewhere."""
        fetch, response = connection.fetch, connection.response
        assert fetch is not None
        body = response.body()
        # An idle connection must not hold the memory of a response.
        connection.fetch, connection.response = None, NO_RESPONSE
        self._busy.discard(connection)
        if response.closes:
            self._close(connection)
        else:
            connection.node.idle.append(connection)
        if response.status == 200 and (body is None or body or not self._etl):
            self._usual_size = len(body) if body else self._usual_size
            self._finish(fetch, body, None)
        else:
            self._refer(fetch, response, bytes(body or b""))

    def _refer(self, fetch: Fetch, response: Response, body: bytes) -> None:
        """No object came: follow a redirect, take an ETL's error as final, and leave all else to the SDK."""
        status, location = response.status, response.location
        if status in (301, 302, 307, 308) and fetch.redirects < _REDIRECTS and location.startswith("http"):
            fetch.redirects += 1
            scheme, _, rest = location.partition("://")
            host, _, path = rest.partition("/")
            with suppress(ValueError):  # no address
                return self._send(fetch, self._node(f"{scheme}://{host}"), b"/" + path.encode("latin-1"))
        if status >= 400 and status not in (429, 503) and b'"ETL error: ' in body[:200]:
            return self._finish(fetch, None, self._cluster.refused(status, body.decode("utf-8", "replace")))
        if status == 403 and not fetch.redirects and not self._refused:
            self._refused = True
            _log.info("the cluster refuses direct reads (403): objects are read by its proxy's redirect")
        return self._to_sdk(fetch, stale=status == 404)

    def _finish(self, fetch: Fetch, data: bytearray | bytes | None, error: TvetlError | None) -> None:
        fetch.data, fetch.error = data, error
        self._done.append(fetch)

    # Reads by the SDK

    def _to_sdk(self, fetch: Fetch, *, stale: bool = False) -> None:
        """Read by the SDK, in a thread. Where the map may be ``stale``, ask for it again."""
        by_sdk, arguments = self._by_sdk, self._query.arguments(fetch.name, fetch.arguments)
        again = stale and time.monotonic() - self._mapped > _CHECK_EVERY
        if again:
            self._mapped = time.monotonic()

        def read() -> None:
            fault: BaseException | None = None
            targets: Sequence[Target] = ()
            try:
                fetch.data = self._cluster.get(self._bucket, fetch.name, self._etl, arguments)
            except TvetlError as error:
                fetch.error = error
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
                fault = error
            if again:
                with suppress(TvetlError):
                    targets = self._cluster.targets()
            by_sdk.append((fetch, fault, targets))
            self.wake()

        self._threads.submit(read)

    def _take_answers(self) -> None:
        with suppress(*_WOULD_BLOCK):
            self._woken.recv(4096)
        while self._by_sdk:
            fetch, fault, targets = self._by_sdk.popleft()
            if targets:
                self._follow(targets)
            if fault is not None:
                raise fault
            self._done.append(fetch)
