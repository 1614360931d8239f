"""A stand-in cluster of two targets with the real server, a bucket of photographs, and a scripted AIStore."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tvetl.cluster import Cluster
from tvetl.command import terminal
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline, parse


def _pipeline(size: int = 32, format: str = "jpeg", seed: int | None = None) -> Pipeline:
    steps = [{"op": "RandomResizedCrop", "size": size}, {"op": "RandomHorizontalFlip"}]
    if format == "npy":
        steps += [{"op": "ToTensor"}, {"op": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}]
    return parse({"version": 1, "steps": steps, "output": {"format": format}, "seed": seed})


@pytest.fixture(autouse=True)
def _unspoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the command runs in this process it takes logs and warnings for itself; other tests have theirs."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(terminal._Speech, "json", False)
    sdk = logging.getLogger("aistore.sdk.request_client")
    level = sdk.level
    yield
    sdk.setLevel(level)
    for handler in [each for each in logging.root.handlers if isinstance(each, terminal._Notes)]:
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Pipeline]:
    """Makes small pipelines: crops of ``size``, to ``format``."""
    return _pipeline


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), targets=2) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(local: LocalCluster) -> Cluster:
    return Cluster(local.endpoint)


@pytest.fixture(scope="session")
def images(cluster: Cluster, photographs: list[Path]) -> str:
    """A bucket: photo_0, photo_1, ... and, between them in order of name, one text that calls itself photo_1.txt."""
    cluster.create_bucket("images")
    for at, path in enumerate(photographs):
        cluster.put("images", f"photo_{at}{path.suffix}", path.read_bytes())
    cluster.put("images", "photo_1.txt", b"This is no photograph.\n")
    return "images"


@pytest.fixture(scope="session")
def crops(cluster: Cluster) -> str:
    """An ETL that runs: seeded crops of 32 x 32 to JPEG."""
    cluster.register(PodSpec("test-crops", _pipeline(seed=1), start_timeout=60))
    return "test-crops"


@pytest.fixture
def tvetl() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs the command as a process, as a shell would."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        program = [sys.executable, "-c", "from tvetl.command.cli import main; main()", *arguments]
        return subprocess.run(program, capture_output=True, timeout=120, check=False, **options)

    return run


@dataclass
class Script:
    """What a scripted AIStore was asked, and how it answers: ``answer(method, path, body) -> (status, body)``."""

    answer: Callable[[str, str, Any], tuple[int, str]] = lambda method, path, body: (404, "")
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    endpoint: str = ""


@pytest.fixture
def script() -> Iterator[Script]:
    """AIStore played over a real socket, for answers that the stand-in has no reason to give."""
    playing = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(text) if text.startswith(b"{") else None
            playing.asked.append((self.command, self.path, body))
            status, answer = playing.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        do_GET = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    playing.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield playing
    server.shutdown()
    server.server_close()
