"""The peer of a case, another target or the next stage: a listener that keeps requests and sends one given answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tvetl.conformance.wire import ServerResponse

_EMPTY = ServerResponse(200, {}, b"", closing=False)


@dataclass(frozen=True)
class Arrived:
    """A request that arrived: its target as it was sent, its headers (names in lower case), its body."""

    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Peer:
    """A listener at ``http://<host>:<port>``, and the requests that arrived."""

    url: str
    arrived: list[Arrived] = field(default_factory=list)


@contextmanager
def listening(answer: ServerResponse, host: str) -> Iterator[Peer]:
    """Listen at a free port of this address of ours. The first request gets ``answer``, others an empty 200.

    In its headers ``{other}`` stands for the peer's URL.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10  # seconds for the rest of a body that does not come

        def do_PUT(self) -> None:
            body = _body(self)
            peer.arrived.append(Arrived(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            reply = answer if len(peer.arrived) == 1 else _EMPTY
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name.title(), value.replace("{other}", peer.url))
            if reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_POST = do_GET = do_PUT

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a request that broke off did not arrive; the case will say so

    server = Server((host, 0), Handler)
    peer = Peer(f"http://{host}:{server.server_address[1]}")
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
