"""The peer of a case, another target or the next stage: a listener that keeps requests and sends one given answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

__all__ = ["Arrived", "Peer", "listening"]


@dataclass(frozen=True)
class Arrived:
    """A request that arrived: its target as it was sent, its headers (names in lower case), its body."""

    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Peer:
    """A listener: its address, the requests that arrived, and its answer to the first; to others an empty 200."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""
    arrived: list[Arrived] = field(default_factory=list)


@contextmanager
def listening(peer: Peer, host: str) -> Iterator[Peer]:
    """Listen at a free port of this address of ours; ``peer.url`` is ``http://<host>:<port>``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10  # seconds for the rest of a body that does not come

        def do_PUT(self) -> None:
            body = _body(self)
            peer.arrived.append(Arrived(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            first = len(peer.arrived) == 1
            self.send_response(peer.status if first else 200)
            for name, value in (peer.headers if first else {}).items():
                self.send_header(name, value.replace("{other}", peer.url))
            if not first or peer.status != 204:
                self.send_header("Content-Length", str(len(peer.body) if first else 0))
            self.end_headers()
            if first:
                self.wfile.write(peer.body)

        do_POST = do_GET = do_PUT

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a request that broke off did not arrive; the case will say so

    server = Server((host, 0), Handler)
    peer.url = f"http://{host}:{server.server_address[1]}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield peer
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
