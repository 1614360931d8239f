"""The stand-in as a process that can be killed, and a gateway before it with any fault that it is told to have."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

from tvetl.local.certificates import authority, signed

PATIENCE = 60.0

_RUN = """
import json, os, resource, sys
from pathlib import Path
import tvetl.local.api, encodings.idna  # before any right is given up
from tvetl.local import LocalCluster
it = json.loads(sys.argv[1])
if it["file_bytes"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (it["file_bytes"], it["file_bytes"]))
if it["user"]:
    os.setegid(it["user"]), os.seteuid(it["user"])
with LocalCluster(Path(it["root"]), targets=it["targets"], port=it["port"], allow=it["allow"]) as cluster:
    print(cluster.endpoint, flush=True)
    sys.stdin.read()
"""


@dataclass
class StandIn:
    """A running stand-in for AIStore; it ends with us, however we end."""

    process: subprocess.Popen[bytes]
    endpoint: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
            return
        self.kill()

    def ask(self, method: str, target: str, body: bytes = b"", timeout: float = PATIENCE) -> tuple[int, bytes]:
        """One request, redirects followed; the status and the body."""
        return ask(self.endpoint, method, target, body, timeout)


def start_stand_in(
    root: Path,
    log: Path,
    *,
    targets: int = 1,
    port: int = 0,
    file_bytes: int = 0,
    user: int = 0,
    allow: dict[str, list[str]] | None = None,
) -> StandIn:
    """``file_bytes`` is the largest file that it may write, ``user`` the one whose rights it keeps."""
    settings = {"root": str(root), "targets": targets, "port": port, "file_bytes": file_bytes, "user": user}
    argv = [sys.executable, "-c", _RUN, json.dumps({**settings, "allow": allow or {}})]
    with log.open("ab") as errors:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    ready = select.select([process.stdout], [], [], PATIENCE)[0]
    endpoint = process.stdout.readline().decode().strip() if ready else ""
    if not endpoint:
        process.kill()
        process.wait(PATIENCE)
        raise AssertionError(f"the stand-in did not start: {log.read_text()[-2000:]}")
    return StandIn(process, endpoint, log)


def ask(endpoint: str, method: str, target: str, body: bytes = b"", timeout: float = PATIENCE) -> tuple[int, bytes]:
    url = endpoint + target
    for _ in range(5):
        parts = urlsplit(url)
        connection = HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)
        try:
            connection.request(method, url[len(f"{parts.scheme}://{parts.netloc}") :], body)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status not in (301, 307):
            return response.status, data
        url = response.headers["Location"]
    raise AssertionError(f"{target} is redirected without end")


def object_path(bucket: str, name: str) -> str:
    return f"/v1/objects/{bucket}/{quote(name, safe='/')}"


def sealed(payload: bytes) -> bytes:
    """Bytes that tell whether they are whole."""
    return sha256(payload).digest() + payload


def is_whole(data: bytes) -> bool:
    return len(data) >= 32 and sha256(data[32:]).digest() == data[:32]


# -- the gateway --------------------------------------------------------------------------------------------------

#: What a gateway does with a request: nothing special (None), or one of the functions below.
Fault = Callable[["_Handler"], None]
#: Chooses the fault for ``(method, path, how many requests came before)``.
Choose = Callable[[str, str, int], "Fault | None"]


@dataclass
class Gateway:
    """A proxy before a stand-in, whose redirects lead back to itself, so that it also stands before the targets.

    Asked for a whole URL it is the HTTP proxy of the environment, and changes nothing that it hands on.
    """

    behind: str
    choose: Choose = lambda method, path, before: None
    endpoint: str = ""
    #: Every request that came, with its Authorization.
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    #: Set at the end: whatever hangs lets go.
    over: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer of two writes takes 40 ms
    gateway: Gateway

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(PATIENCE)

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        before = len(self.gateway.asked)
        self.gateway.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        fault = self.gateway.choose(self.command, self.path, before)
        try:
            (fault or through)(self)
        except (OSError, HTTPException):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_CONNECT = _any

    def fetch(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """The real answer, with its redirects turned to us."""
        host, path = urlsplit(self.gateway.behind).netloc, self.path
        if whole := re.match(r"http://([^/]+)(/.*)", path):
            host, path = whole[1], whole[2]
        if moved := re.match(r"/at/(\d+)(/.*)", path):
            host, path = f"127.0.0.1:{moved[1]}", moved[2]
        connection = HTTPConnection(host, timeout=PATIENCE)
        try:
            headers = {k: v for k, v in self.headers.items() if k not in ("Host", "Accept-Encoding", "Content-Length")}
            connection.request(self.command, path, self.body, headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        kept = [
            (k, re.sub(r"^http://127\.0\.0\.1:(\d+)", rf"{self.gateway.endpoint}/at/\1", v) if k == "Location" else v)
            for k, v in response.getheaders()
            if k not in ("Content-Length", "Transfer-Encoding", "Connection")
        ]
        if whole:
            return response.status, [(k, response.headers[k]) for k, _ in kept], data
        if "what=smap" in path:  # who reads straight from the targets comes here, too
            data = re.sub(rb"http://127\.0\.0\.1:(\d+)", rf"{self.gateway.endpoint}/at/\1".encode(), data)
        return response.status, kept, data

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int | None = None) -> None:
        """``length`` is what Content-Length says, the truth if left out, and -1 for none at all."""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if length == -1:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def hang_up(self, *, rudely: bool = False) -> None:
        self.close_connection = True
        if rudely:  # RST, where an ordinary end is FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


def through(handler: _Handler) -> None:
    """No fault: what a gateway is for."""
    handler.answer(*handler.fetch())


def reset(handler: _Handler) -> None:
    """The connection is reset before an answer, though what was asked for is done."""
    handler.fetch()
    handler.hang_up(rudely=True)


def closed(handler: _Handler) -> None:
    """The connection ends before an answer, and nothing was done."""
    handler.hang_up()


def hang(handler: _Handler) -> None:
    """No answer, and no end."""
    handler.gateway.over.wait(PATIENCE)
    handler.hang_up()


def cut(handler: _Handler) -> None:
    """Half of the body, then the end of the connection."""
    status, headers, data = handler.fetch()
    handler.answer(status, headers, data[: len(data) // 2], max(1, len(data)))
    handler.hang_up()


def cut_chunked(handler: _Handler) -> None:
    """A chunked body without its last chunk."""
    status, headers, data = handler.fetch()
    handler.send_response_only(status)
    for name, value in [*headers, ("Transfer-Encoding", "chunked")]:
        handler.send_header(name, value)
    handler.end_headers()
    half = data[: len(data) // 2]
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(half), half) if half else b"")
    handler.wfile.flush()
    handler.hang_up()


def too_long(handler: _Handler) -> None:
    """A Content-Length that promises 100 bytes more than come."""
    status, headers, data = handler.fetch()
    handler.answer(status, headers, data, len(data) + 100)
    handler.hang_up()


def saying(status: int, kind: str, data: bytes, **headers: str) -> Fault:
    """This answer, whatever was asked; of what was asked nothing is done."""

    def fault(handler: _Handler) -> None:
        handler.answer(status, [("Content-Type", kind), *headers.items()], data)

    return fault


def around(handler: _Handler) -> None:
    """A redirect to itself."""
    handler.answer(307, [("Location", handler.gateway.endpoint + handler.path)], b"")


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 with its key and its authority, in one file. Needs openssl's command."""
    ca = authority(folder)
    crt, key = signed(ca, "node")
    made = folder / "all.pem"
    made.write_bytes(crt.read_bytes() + key.read_bytes() + ca.read_bytes())
    return made


def serve_gateway(behind: str, pem: Path | None = None, clients: Path | None = None) -> Generator[Gateway, None, None]:
    """For a fixture: a gateway until the fixture ends; with a certificate it speaks https.

    With ``clients`` it asks for certificates of that authority.
    """
    gateway = Gateway(behind)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"gateway": gateway}))
    server.daemon_threads = True
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        if clients:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
    gateway.endpoint = f"http{'s' if pem else ''}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield gateway
    gateway.over.set()
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)
