"""`LocalCluster`: a proxy and its targets in this process, on loopback, over a folder of buckets."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tvetl.errors import TvetlError
from tvetl.local.api import Api
from tvetl.local.certificates import authority, signed
from tvetl.local.etl import Etls
from tvetl.local.guard import Guard
from tvetl.local.http import HttpRequest, HttpResponse, NodeServer
from tvetl.local.remote import RemoteStore
from tvetl.local.store import OURS, Store
from tvetl.local.xactions import Xactions


class LocalCluster:
    """A stand-in for an AIStore cluster, for tests and for trying things out; also a context manager.

    ``root`` is the folder of the buckets, made where it is missing. ``port`` 0 takes a free one. ``allow`` maps further
    images to their commands. ``server`` is the command for ``tvetl-server``, by default the program beside this Python,
    else on the path. Without ``direct`` targets answer 403 to reads that no proxy redirected, as AIStore's do where
    authentication or request signing is configured.

    With ``tls`` all nodes speak https, with certificates of an authority made anew: its file is ``ca``. With ``authn``
    the proxy asks for a token of :meth:`token`, and targets serve nobody directly. ``remote`` is the endpoint of the
    cluster whose ais buckets stand for those of other providers and clusters (:mod:`tvetl.local.remote`).
    """

    def __init__(
        self, root: Path, *, targets: int = 1, port: int = 0, allow: Mapping[str, Sequence[str]] | None = None,
        server: Sequence[str] | None = None, log: Callable[[str], None] = lambda line: None, direct: bool = True,
        tls: bool = False, authn: bool = False, remote: str = "",
    ) -> None:  # fmt: skip
        if targets < 1:
            raise TvetlError("a cluster needs at least one target")
        self.root = root
        self._targets_count, self._port = targets, port
        self._allow, self._log = dict(allow or {}), log
        self._remote = remote
        self._guard = Guard(direct=direct, authn=authn)
        self._tls: ssl.SSLContext | None = None
        #: The authority's file, with ``tls``.
        self.ca = root.absolute() / OURS / "tls" / "ca.pem" if tls else None
        self._server = list(server) if server else [_server()]
        self._nodes: list[NodeServer] = []  # the proxy, then all targets by number
        self._targets: list[NodeServer] = []  # those in the map
        self._opened = ExitStack()  # the folder's lock and the nodes' sockets
        self.endpoint = ""

    def start(self) -> None:
        """Listen. Raises TvetlError where the folder or the port is taken."""
        with ExitStack() as opened:
            try:
                store = RemoteStore(self.root, self._remote) if self._remote else Store(self.root)
                opened.callback(store.close)
                if self.ca:
                    self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    self._tls.load_cert_chain(*signed(authority(self.ca.parent), "node"))
                nodes = [opened.enter_context(NodeServer(self._port, "p", "proxy0", self._answer, self._tls))]
                for number in range(self._targets_count):
                    node = NodeServer(0, "t", f"target{number}", self._answer, self._tls)
                    nodes.append(opened.enter_context(node))
            except OSError as error:
                where = f"port {self._port} and {self.root}" if self._port else str(self.root)
                raise TvetlError(f"cannot start on {where}: {error}", hint="choose another port or folder") from error
            self._opened = opened.pop_all()
        self._nodes = nodes
        proxy, *self._targets = nodes
        xactions = Xactions(self._targets)
        etls = Etls(store, xactions, proxy, self._targets, self._server, self._allow, self._log)
        self._api = Api(store, etls, xactions, proxy, self._targets)
        self.endpoint = proxy.url
        for node in self._nodes:
            node.begin()

    def stop_target(self, number: int) -> None:
        """Take a target down and out of the map. Its transformers run on, as pods do."""
        node = self._nodes[1 + number]
        self._targets.remove(node)
        self._api.version += 1
        node.end()

    def start_target(self, number: int) -> None:
        """Bring a stopped target back, at its port."""
        self._join(number, self._nodes[1 + number].server_address[1])

    def add_target(self) -> int:
        """Add a target to the map; its number."""
        number = len(self._nodes) - 1
        self._join(number, 0)
        return number

    def _join(self, number: int, port: int) -> None:
        node = NodeServer(port, "t", f"target{number}", self._answer, self._tls)
        self._nodes[1 + number : 2 + number] = [node]
        node.begin()
        self._api.etls.join(node)
        self._targets.append(node)
        self._api.version += 1

    def token(self, subject: str = "tvetl", *, admin: bool = True, seconds: float = 0, delay: float = 0) -> str:
        """A token for a cluster with ``authn``, good ``delay`` seconds from now, for ``seconds`` (0: 10 years)."""
        return self._guard.issue(subject, admin=admin, seconds=seconds, delay=delay)

    def _answer(self, node: NodeServer, request: HttpRequest) -> HttpResponse:
        self._guard.check(node, request)
        return self._api.answer(node, request)

    def stop(self) -> None:
        """End jobs, transformers and sockets; the buckets stay."""
        if not self._nodes:
            return
        for job in self._api.xactions.find():
            job.stop("the cluster stops")
        for etl in self._api.etls.all():
            self._api.etls.delete(etl.name)
        for node in self._nodes:
            node.end()
        self._nodes = []
        self._opened.close()

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _server() -> str:
    beside = Path(sys.executable).parent / "tvetl-server"
    return str(beside) if beside.exists() else shutil.which("tvetl-server") or "tvetl-server"


def serve(
    root: Path, *, port: int = 0, targets: int = 1, allow: Mapping[str, Sequence[str]] | None = None,
    server: Sequence[str] | None = None, log: Callable[[str], None] = print, tls: bool = False,
    token: float | None = None,
) -> None:  # fmt: skip
    """Run a cluster in the foreground until SIGINT or SIGTERM; ``log`` gets its address and how to use it.

    ``token`` asks for one: it ends after so many seconds (0: never), and its file has another before that.
    """
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with LocalCluster(
            root, targets=targets, port=port, allow=allow, server=server, log=log, tls=tls, authn=token is not None
        ) as cluster:
            file = None if token is None else root.absolute() / OURS / "token"
            written = _write_token(file, cluster.token(seconds=token or 0)) if file else 0.0
            _tell(cluster, file, log)
            while not stop.wait(0.2):  # a wait without an end would not see the signal on every system
                if file and token and time.monotonic() > written + token / 2:
                    written = _write_token(file, cluster.token(seconds=token))
            log("Ending the transformers")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(cluster: LocalCluster, token: Path | None, log: Callable[[str], None]) -> None:
    log(f"AIStore's stand-in is at {cluster.endpoint}, its buckets are the folders in {cluster.root}")
    log(f"    export AIS_ENDPOINT={cluster.endpoint}")
    if cluster.ca:
        log(f"    export AIS_CLIENT_CA={shlex.quote(str(cluster.ca))}")
    if token:
        log(f"    export AIS_AUTHN_TOKEN_FILE={shlex.quote(str(token))}")
    log("Copy images to a folder of a folder there, or put them with the SDK. Ctrl-C ends it.")


def _write_token(file: Path, token: str) -> float:
    """Write the token's file, readable by its owner alone; returns the time, as :func:`time.monotonic` has it."""
    new = file.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.write(token)
    new.replace(file)
    return time.monotonic()
