"""`LocalCluster`: a proxy and its targets in this process, on loopback, over a folder of buckets."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from tvetl.errors import TvetlError
from tvetl.local.api import Api
from tvetl.local.etl import Etls
from tvetl.local.http import HttpRequest, HttpResponse, NodeServer
from tvetl.local.store import Store
from tvetl.local.xactions import Xactions


class LocalCluster:
    """A stand-in for an AIStore cluster, for tests and for trying things out; also a context manager.

    ``root`` is the folder of the buckets, made where it is missing. ``port`` 0 takes a free one. ``allow`` maps further
    images to their commands. ``server`` is the command for ``tvetl-server``, by default the program beside this Python,
    else on the path. Without ``direct`` targets answer 403 to reads that no proxy redirected, as AIStore's do where
    authentication or request signing is configured.
    """

    def __init__(
        self, root: Path, *, targets: int = 1, port: int = 0, allow: Mapping[str, Sequence[str]] | None = None,
        server: Sequence[str] | None = None, log: Callable[[str], None] = lambda line: None, direct: bool = True,
    ) -> None:  # fmt: skip
        if targets < 1:
            raise TvetlError("a cluster needs at least one target")
        self.root = root
        self._targets_count, self._port = targets, port
        self._allow, self._log, self._direct = dict(allow or {}), log, direct
        self._server = list(server) if server else [_server()]
        self._nodes: list[NodeServer] = []  # the proxy, then all targets by number
        self._targets: list[NodeServer] = []  # those in the map
        self._etls: Etls | None = None
        self._xactions: Xactions | None = None
        self._store: Store | None = None
        self.endpoint = ""

    def start(self) -> None:
        """Listen. Raises TvetlError where the folder or the port is taken."""
        try:
            self._store = store = Store(self.root)
            self._nodes = [NodeServer(self._port, "p", "proxy0", self._answer)]
            for number in range(self._targets_count):
                self._nodes.append(NodeServer(0, "t", f"target{number}", self._answer))
        except OSError as error:
            self._close()
            where = f"port {self._port} and {self.root}" if self._port else str(self.root)
            raise TvetlError(f"cannot start on {where}: {error}", hint="choose another port or folder") from error
        proxy, *self._targets = self._nodes
        self._etls = Etls(store, proxy, self._targets, self._server, self._allow, self._log)
        self._xactions = Xactions(self._targets)
        self._api = Api(store, self._etls, self._xactions, proxy, self._targets, self._direct)
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
        node = NodeServer(port, "t", f"target{number}", self._answer)
        self._nodes[1 + number : 2 + number] = [node]
        node.begin()
        assert self._etls
        self._etls.join(node)
        self._targets.append(node)
        self._api.version += 1

    def _answer(self, node: NodeServer, request: HttpRequest) -> HttpResponse:
        return self._api.answer(node, request)

    def stop(self) -> None:
        """End jobs, transformers and sockets; the buckets stay."""
        for job in self._xactions.find() if self._xactions else []:
            job.stop("the cluster stops")
        if self._etls:
            for etl in self._etls.all():
                self._etls.delete(etl.name)
        for node in self._nodes:
            node.end()
        self._close()

    def _close(self) -> None:
        for node in self._nodes:
            node.server_close()
        self._nodes = []
        if self._store:
            self._store.close()
        self._store = None

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _server() -> str:
    beside = Path(sys.executable).parent / "tvetl-server"
    return str(beside) if beside.exists() else shutil.which("tvetl-server") or "tvetl-server"


def serve(
    root: Path, *, port: int = 0, targets: int = 1, allow: Mapping[str, Sequence[str]] | None = None,
    server: Sequence[str] | None = None, log: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Run a cluster in the foreground until SIGINT or SIGTERM; ``log`` gets its address and how to use it."""
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with LocalCluster(root, targets=targets, port=port, allow=allow, server=server, log=log) as cluster:
            log(f"AIStore's stand-in is at {cluster.endpoint}, its buckets are the folders in {root}")
            log(f"    export AIS_ENDPOINT={cluster.endpoint}")
            log("Copy images to a folder of a folder there, or put them with the SDK. Ctrl-C ends it.")
            while not stop.wait(0.2):  # a wait without an end would not see the signal on every system
                pass
            log("Ending the transformers")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
