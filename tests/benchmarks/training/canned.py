"""Servers without a cluster behind them: they send the same bytes again and again, as fast as they are taken.

:func:`serve` plays a cluster of one target with what a real one answered. Nothing is transformed meanwhile, so whoever
reads from it has a processor to itself. :func:`serve_bytes` sends bytes without HTTP.
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from tvetl.cluster import Cluster, Json
from tvetl.spec import Pipeline
from tvetl.spec.table import split

#: Bytes of the number of images that :func:`serve_bytes` is asked for.
COUNT = 8
#: AIStore copies an answer in pieces of this size, and sends each as a chunk.
_CHUNK = 128 << 10
#: Bytes of a request's head: ours have about 300.
_HEAD = 1 << 16
_HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
#: How a request asks for pixels: in its etl_args, quoted.
_PIXELS = b"%22pixels%22"


@dataclass(frozen=True)
class Recorded:
    """What a cluster answered: what it says of the ETL, and one object, as values and (where it can) as pixels."""

    details: Mapping[str, Json]
    values: bytes
    pixels: bytes | None


def record(cluster: Cluster, bucket: str, name: str, etl: str, pipeline: Pipeline, seed: int) -> Recorded:
    """Ask a cluster for what :func:`serve` is to answer: the object of epoch 0, as an npy."""
    asked: dict[str, Json] = {"seed": seed, "epoch": 0, "format": "npy"}
    container = cluster.show(etl)
    assert container is not None
    environment: list[Json] = [{"name": key, "value": value} for key, value in container.env.items()]
    runtime: dict[str, Json] = {"image": container.image, "command": [*container.command], "env": environment}
    details: dict[str, Json] = {"name": etl, "runtime": runtime, "obj_timeout": f"{cluster.object_seconds(etl)}s"}
    values = cluster.get(bucket, name, etl, asked)
    pixels = cluster.get(bucket, name, etl, {**asked, "pixels": True}) if split(pipeline) else None
    return Recorded({"init_msg": details}, values, pixels)


def serve(connection: Connection, recorded: Recorded) -> None:
    """Play that cluster until ``connection`` ends; sends its endpoint first."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        _Loop(listener, connection, recorded).run()


def serve_bytes(connection: Connection, size: int) -> None:
    """Send ``size`` bytes for each image asked for, on one TCP connection; sends ``host:port`` first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection.send(f"127.0.0.1:{listener.getsockname()[1]}")
        image = bytes(size)
        peer, _ = listener.accept()
        with peer:
            while asked := peer.recv(COUNT, socket.MSG_WAITALL):
                for _ in range(int.from_bytes(asked, "big")):
                    peer.sendall(image)


@dataclass(eq=False)
class _Peer:
    sock: socket.socket
    #: What came of a request's head, and what of the answer is to be sent.
    head: bytes = b""
    left: memoryview = field(default_factory=lambda: memoryview(b""))


class _Loop:
    """One thread, no work but sending: an answer is bytes that lie there already."""

    def __init__(self, listener: socket.socket, connection: Connection, recorded: Recorded) -> None:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._connection, self._listener = connection, listener
        self._map = _json_answer(_cluster_map(endpoint))
        self._details = _json_answer(recorded.details)
        self._values = _chunked(recorded.values)
        self._pixels = _chunked(recorded.pixels) if recorded.pixels is not None else self._values
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(connection, selectors.EVENT_READ)
        connection.send(endpoint)

    def run(self) -> None:
        """Until the connection to who started it ends."""
        with self._selector:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._connection:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._advance(key.data)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, _Peer(sock))

    def _advance(self, peer: _Peer) -> None:
        """Receive a request, or go on sending what it asked for."""
        try:
            if not peer.left and not self._receive(peer):
                return
            peer.left = peer.left[peer.sock.send(peer.left) :]
        except BlockingIOError:
            pass
        except OSError:
            self._selector.unregister(peer.sock)
            peer.sock.close()
            return
        wanted = selectors.EVENT_WRITE if peer.left else selectors.EVENT_READ
        if self._selector.get_key(peer.sock).events != wanted:
            self._selector.modify(peer.sock, wanted, peer)

    def _receive(self, peer: _Peer) -> bool:
        """Whether a request is there. Raises OSError at the connection's end."""
        data = peer.sock.recv(_HEAD)
        peer.head += data
        if not data or len(peer.head) > _HEAD:
            raise ConnectionError("no request")
        if not peer.head.endswith(b"\r\n\r\n"):
            return False
        peer.left, peer.head = memoryview(self._answer(peer.head)), b""
        return True

    def _answer(self, head: bytes) -> bytes:
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/v1/objects/"):
            return self._pixels if _PIXELS in path else self._values
        if path.startswith(b"/v1/daemon"):
            return self._map
        return self._details if path.startswith(b"/v1/etl/") else b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def _chunked(body: bytes) -> bytes:
    pieces = [body[at : at + _CHUNK] for at in range(0, len(body), _CHUNK)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return _HEADERS + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _json_answer(data: object) -> bytes:
    body = json.dumps(data).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _cluster_map(endpoint: str) -> object:
    """One proxy and one target, both of them this server."""
    port = endpoint.rpartition(":")[2]
    net = {"node_ip_addr": "127.0.0.1", "daemon_port": port, "direct_url": endpoint}
    proxy = {"daemon_id": "p", "daemon_type": "proxy", "public_net": net}
    target = {"daemon_id": "t", "daemon_type": "target", "public_net": net, "id_digest": 1}
    about = {"version": "1", "uuid": "canned", "creation_time": ""}
    return {"pmap": {"p": proxy}, "tmap": {"t": target}, "proxy_si": proxy, **about}
