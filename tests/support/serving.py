"""Real server processes over real sockets, a target's disk, and a target that writes down what is put to it."""

from __future__ import annotations

import io
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar
from urllib.parse import quote

import pytest
from PIL import Image
from support.waiting import PATIENCE

from tvetl_server.processes.jail import Jail

T = TypeVar("T")

PIPELINE = '{"version": 1, "steps": [{"op": "CenterCrop", "size": 32}], "output": {"format": "png"}}'
SECRET = "S3cr3tOfTheWrites"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A running tvetl-server."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def put(self, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """PUT exactly this request target, on a connection of its own."""
        return ask(self.connect(), "PUT", target, body, headers)

    def get(self, target: str) -> Reply:
        return ask(self.connect(), "GET", target)

    def stop(self) -> int:
        """End it as Kubernetes would, and give its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def ask(
    connection: HTTPConnection,
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    keep: bool = False,
) -> Reply:
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    reply = Reply(response.status, dict(response.getheaders()), response.read())
    if not keep:
        connection.close()
    return reply


@contextmanager
def sampled(look: Callable[[], T], seconds: float) -> Iterator[list[T]]:
    """What is to be seen: before, and then again and again meanwhile, so often."""
    seen, over = [look()], Event()

    def again() -> None:
        while not over.wait(seconds):
            seen.append(look())

    thread = Thread(target=again)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**settings: str) -> dict[str, str]:
    """What the process gets: nothing of ours but where Python finds things, and a jail wherever there can be one."""
    paths = os.pathsep.join(path for path in sys.path if path)
    jail = "try" if any(jailed().values()) else "require"
    return {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "TVETL_HOST": "127.0.0.1", "TVETL_JAIL": jail, **settings}


@cache
def jailed() -> Mapping[str, str]:
    """For each part of the jail why this machine has none, or nothing."""
    return Jail("try").parts


def start(log_file: Path, module: str = "tvetl_server.wsgi", *, every: float = 0.05, **settings: str) -> Server:
    """``module`` is what Python runs: one that runs the server's own main(). It is asked ``every`` so many seconds."""
    port = free_port()
    env = environment(**{"TVETL_PIPELINE": PIPELINE, "TVETL_WORKERS": "1", "PORT": str(port), **settings})
    with log_file.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", module], env=env, stdout=log, stderr=log)
    server = Server(process, port, log_file)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None and "self-test failed" not in server.log:
        try:
            if server.get("/health").status == 200:
                return server
        except OSError:
            pass
        time.sleep(every)
    server.process.kill()
    raise AssertionError(f"the server did not start: {server.log}")


@pytest.fixture
def run_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with these settings; all are stopped at the end."""
    with ExitStack() as stack:

        def run(module: str = "tvetl_server.wsgi", **settings: str) -> Server:
            server = start(tmp_path / f"server-{len(list(tmp_path.iterdir()))}.log", module, **settings)
            stack.callback(server.stop)
            return server

        yield run


@pytest.fixture(scope="session")
def image() -> bytes:
    """A JPEG of 64 x 48 with something in it."""
    picture = Image.linear_gradient("L").resize((64, 48))
    file = io.BytesIO()
    Image.merge("RGB", (picture, picture.rotate(180), picture)).save(file, "JPEG", quality=90)
    return file.getvalue()


@dataclass
class Disk:
    """A target's mount: where objects lie as AIStore lays them out."""

    root: Path

    def path(self, name: str, bucket: str = "src") -> Path:
        return self.root / "ais" / "mp1" / "@ais" / bucket / "%ob" / name.lstrip("/")

    def add(self, name: str, data: bytes, bucket: str = "src") -> str:
        """Put an object there; gives the request target of a push by file name."""
        path = self.path(name, bucket)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return self.push(name, bucket)

    def push(self, name: str, bucket: str = "src") -> str:
        return f"/{bucket}/{quote(name)}?{by_name(str(self.root / 'ais/mp1/@ais' / bucket / '%ob') + '/' + name)}"


def by_name(fqn: str) -> str:
    """etl_fqn as a target writes it: quoted as a path component, and again as a query."""
    return f"etl_fqn={quote(quote(fqn, safe=''), safe='')}"


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    root = tmp_path / "mnt" / "data"
    root.mkdir(parents=True)
    return Disk(root)


@dataclass
class Put:
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Recorder:
    """Another target (or stage): writes down each PUT, answers ``replies`` in turn and then 200 with nothing."""

    puts: list[Put] = field(default_factory=list)
    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"
    #: How many connections came, with a handshake or without.
    connections: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """AIS_TARGET_URL, were this our own target."""
        return f"{self.scheme}://{self.host}/v1/etl/_object/rec-etl/{SECRET}"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as notes:
        yield notes


@contextmanager
def recording(tls: ssl.SSLContext | None = None) -> Iterator[Recorder]:
    """A recorder that listens until the end, over https with a context."""
    notes = Recorder(scheme="https" if tls else "http")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            notes.connections += 1
            super().setup()

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            notes.puts.append(Put(self.path, dict(self.headers), body))
            status, headers, reply = notes.replies.pop(0) if notes.replies else (200, {}, b"")
            if status == 0:  # hang up without an answer
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    notes.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield notes
    finally:
        server.shutdown()
        server.server_close()
