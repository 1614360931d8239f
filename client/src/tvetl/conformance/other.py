"""The kit as another target, or as the next stage: a listener that keeps what arrives and answers as it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

__all__ = ["Arrived", "Other", "listening"]


@dataclass(frozen=True)
class Arrived:
    """A request that came: its target as it was sent, its headers (names in lower case), its body."""

    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Other:
    """Where it listens, what came, and what it answers: once, and then 200 with nothing."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""
    arrived: list[Arrived] = field(default_factory=list)


@contextmanager
def listening(other: Other, host: str) -> Iterator[Other]:
    """Listen at a free port of this address of ours; ``other.url`` is ``http://<host>:<port>``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10  # seconds for the rest of a body that does not come

        def do_PUT(self) -> None:
            body = _body(self)
            other.arrived.append(
                Arrived(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            first = len(other.arrived) == 1
            self.send_response(other.status if first else 200)
            for name, value in (other.headers if first else {}).items():
                self.send_header(name, value.replace("{other}", other.url))
            if not first or other.status != 204:
                self.send_header("Content-Length", str(len(other.body) if first else 0))
            self.end_headers()
            if first:
                self.wfile.write(other.body)

        do_POST = do_GET = do_PUT

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a request that broke off did not arrive; the case will say so

    server = Server((host, 0), Handler)
    other.url = f"http://{host}:{server.server_address[1]}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield other
    finally:
        server.shutdown()
        server.server_close()


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)
