"""Every request that real targets sent to a pod, sent again to a real server, gets the right answer.

The recorded pods ran a recorder; ours transforms, so statuses that the recorder played by the name of the
object (``st422.jpg``) are 200 here, and bodies that are no image are 415.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from PIL import Image
from support.serving import start

#: The exchanges of the recording that are requests to a pod.
REQUESTS = 54
SECRET_PATH = "/v1/etl/_object/rec-etl/WcdUQwywdU"


@dataclass
class Target:
    """The other target, as recorded: 200 with nothing. Keeps the puts."""

    port: int = 0
    puts: list[tuple[str, bytes]] = field(default_factory=list)


@pytest.fixture(scope="module")
def other_target() -> Iterator[Target]:
    target = Target()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            target.puts.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    target.port = server.server_address[1]
    Thread(target=server.serve_forever, daemon=True).start()
    yield target
    server.shutdown()
    server.server_close()


@dataclass
class Pod:
    port: int
    disk: Path

    def put(self, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest("PUT", target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return answer


@pytest.fixture(scope="module")
def pod(other_target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """One server plays every pod of the recording; it is its own next stage."""
    disk = tmp_path_factory.mktemp("disk")
    server = start(
        disk.parent / "server.log",
        TVETL_ROOTS=str(disk),
        AIS_TARGET_URL=f"http://127.0.0.1:{other_target.port}{SECRET_PATH}",
        direct_put="true",
    )
    yield Pod(server.port, disk)
    assert server.stop() == 0
    assert "Traceback" not in server.log, server.log
    assert "WcdUQwywdU" not in server.log, "the write secret stays out of the log"


@pytest.fixture(scope="module")
def recording(shared: Path) -> list[dict[str, Any]]:
    lines = (shared / "wire" / "target-to-pod.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if "method" in record]


@pytest.fixture(scope="module")
def photograph() -> bytes:
    picture = Image.linear_gradient("L").resize((64, 48))
    file = io.BytesIO()
    Image.merge("RGB", (picture, picture.rotate(180), picture)).save(file, "JPEG")
    return file.getvalue()


def quoted(path: str) -> str:
    return quote(quote(path, safe=""), safe="")


def lay_out(record: dict[str, Any], pod: Pod, photograph: bytes) -> str:
    """Put the object where the recorded file name says, below our folder; gives the request's target with that."""
    target: str = record["target"]
    for name, value in parse_qsl(urlsplit(target).query):
        if name == "etl_fqn":
            fqn = unquote(value)
            assert fqn.startswith("/mnt/data/ais/mp")
            file = pod.disk / fqn[1:]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photograph)
    return target.replace(quoted("/mnt/data/"), quoted(f"{pod.disk}/mnt/data/"))


def expected(record: dict[str, Any]) -> tuple[int, str]:
    """Status and code (or the way of a good answer) that this request must get from a transformer."""
    target = record["target"]
    arguments = dict(parse_qsl(urlsplit(target).query)).get("etl_args")
    if arguments is not None:
        return 400, "bad_arguments"  # "plain text", and a parameter "s" that nothing knows
    if record["body_len"]:
        return 415, "not_an_image"  # "DATA-a.jpg", "T:fqn"
    if "etl_fqn=" not in target:
        return 400, "no_source"  # of hash#q?x.jpg only /src/hash arrived
    node = record["headers"].get("Ais-Node-Url", "")
    if not node:
        return 200, "answered"
    return (204, "delivered") if urlsplit(node).path else (200, "forwarded")


def test_every_recorded_request_gets_the_right_answer(
    recording: list[dict[str, Any]], pod: Pod, other_target: Target, photograph: bytes
) -> None:
    assert len(recording) == REQUESTS
    _, _, image = pod.put("/src/any.jpg", photograph, {"Host": "pod", "Content-Length": str(len(photograph))})
    assert image[1:4] == b"PNG"
    seen = set()
    for record in recording:
        headers = dict(record["headers"])
        node = headers.get("Ais-Node-Url", "")
        if node:
            place = f"127.0.0.1:{other_target.port if urlsplit(node).path else pod.port}"
            headers["Ais-Node-Url"] = node.replace(urlsplit(node).netloc, place)
        other_target.puts.clear()
        status, answered, body = pod.put(lay_out(record, pod, photograph), record["body_head"].encode(), headers)
        wanted, code = expected(record)
        seen.add(code)
        assert status == wanted, (record["target"], node, body)
        if status == 200:
            assert body == image, record["target"]
            assert answered["Content-Length"] == str(len(image))
        elif status == 204:
            assert answered["Ais-Direct-Put-Length"] == str(len(image))
            path = node.partition(urlsplit(node).netloc)[2]
            assert other_target.puts == [(SECRET_PATH + path, image)], "as recorded, byte for byte"
            put = record.get("direct_put")  # absent where the recorder played an error
            assert put is None or put["url"].endswith(other_target.puts[0][0])
        else:
            assert json.loads(body)["error"] == code, record["target"]
    assert seen == {"answered", "delivered", "forwarded", "bad_arguments", "not_an_image", "no_source"}
