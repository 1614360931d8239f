"""Every failure has a status and a code, in one line of JSON without a path or a secret."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from tvetl.spec import Arguments
from tvetl_server.problems import PROBLEMS
from tvetl_server.serving.app import create_app
from tvetl_server.settings import Settings

STATUS = {problem.code: problem.status for problem in PROBLEMS.values()}


@dataclass
class World:
    """The server of a case, and its surroundings."""

    server: Any
    disk: Any
    image: bytes
    recorder: Any

    def node(self, url: str, target: str = "/src/a.jpg", body: bytes | None = None) -> Any:
        return self.server.put(target, self.image if body is None else body, {"Ais-Node-Url": url})


@pytest.fixture
def world(run_server: Callable[..., Any], disk: Any, image: bytes, recorder: Any) -> World:
    server = run_server(
        TVETL_PIPELINE='{"steps": [{"op": "RandomCrop", "size": 40}], "output": {"format": "png"}}',
        TVETL_ROOTS=str(disk.root),
        TVETL_MAX_BYTES="100000",
        TVETL_MAX_PIXELS="70000",
        TVETL_MAX_FRAMES="2",
        TVETL_MAX_MEMBERS="2",
        TVETL_SECONDS="1",
        TVETL_DELIVERY_SECONDS="2",
        AIS_TARGET_URL=recorder.url,
        direct_put="true",
    )
    return World(server, disk, image, recorder)


def tarred(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def encoded(size: tuple[int, int], kind: str = "PNG", frames: int = 1, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    first, *rest = (Image.new("RGB", size, (40 * number, 9, 9)).convert("L").convert(mode) for number in range(frames))
    first.save(file, kind, **({"save_all": True, "append_images": rest} if rest else {}))
    return file.getvalue()


def truncated(world: World) -> bytes:
    """The body ends early, and the client still reads."""
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=60) as connection:
        connection.sendall(b"PUT /src/a.jpg HTTP/1.1\r\nHost: pod\r\nContent-Length: 1000\r\n\r\nonly this")
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


def slow(world: World) -> bytes:
    """The last byte comes after the deadline."""
    head = f"PUT /src/a.jpg HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(world.image)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=60) as connection:
        connection.sendall(head + world.image[:-1])
        time.sleep(1.2)
        connection.sendall(world.image[-1:])
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


def fifo(world: World) -> Any:
    world.disk.add("a.jpg", b"")
    os.mkfifo(world.disk.path("fifo.jpg"))
    return world.server.put(world.disk.push("fifo.jpg"))


def gone(world: World) -> Any:
    world.disk.add("a.jpg", world.image)
    return world.server.put(world.disk.push("dir/gone.jpg"))


def refused(world: World, *, by_name: bool = True) -> Any:
    """Direct put of a file to a closed port: the server retries, then gives up."""
    target = world.disk.add("a.jpg", world.image) if by_name else "/src/a.jpg"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/ais%2F@%23%2Fdst%2Fa.jpg"
        return world.node(url, target, b"" if by_name else None)


def unreachable(world: World) -> Any:
    """The same with an object in the request: its sender is asked to retry."""
    return refused(world, by_name=False)


CASES: dict[str, Callable[[World], Any]] = {
    "bad_arguments": lambda w: w.server.put("/src/a.jpg?etl_args=" + quote('{"sed": 7}'), w.image),
    "bad_node_url": lambda w: w.node("http://127.0.0.1/a/..%2Fb"),
    "no_source": lambda w: w.server.put("/src/hash"),
    "truncated_body": truncated,
    "outside_roots": lambda w: w.server.put("/src/a.jpg?etl_fqn=%252Fetc%252Fpasswd"),
    "unreadable_file": fifo,
    "host_not_allowed": lambda w: w.node("http://example.com/ais%2F@%23%2Fdst%2Fa.jpg"),
    "file_gone": gone,
    "too_many_bytes": lambda w: w.server.put("/src/a.jpg", bytes(100_001)),
    "not_an_image": lambda w: w.server.put("/src/a.jpg", b"%PDF-1.7 and so on"),
    "damaged_image": lambda w: w.server.put("/src/a.jpg", w.image[: len(w.image) // 2]),
    "wrong_depth": lambda w: w.server.put("/src/a.png", encoded((50, 50), mode="I;16")),
    "too_many_pixels": lambda w: w.server.put("/src/a.jpg", encoded((281, 250))),
    "too_many_frames": lambda w: w.server.put("/src/a.jpg", encoded((50, 50), "GIF", frames=3)),
    "too_many_members": lambda w: w.server.put("/src/a.tar", tarred({f"{at}.txt": b"." for at in range(3)})),
    "bad_shard": lambda w: w.server.put("/src/a.tar", tarred({"1.txt": b".", "1.TXT": b"."})),
    "bad_annotations": lambda w: w.server.put(
        "/src/a.jpg?etl_args=" + quote('{"boxes": [[0, 0, 5, 500]]}'), encoded((50, 50))
    ),
    "transform_failed": lambda w: w.server.put("/src/a.jpg", encoded((20, 20))),
    "out_of_time": slow,
    "delivery_failed": refused,
    "delivery_retry": unreachable,
}


def test_every_code_has_a_case() -> None:
    assert set(CASES) == set(STATUS)


@pytest.mark.parametrize("code", CASES)
def test_the_answer_has_its_status_and_one_line_of_json(world: World, code: str) -> None:
    reply = CASES[code](world)
    if isinstance(reply, bytes):  # from a bare socket
        head, _, body = reply.partition(b"\r\n\r\n")
        status = int(head.split()[1])
    else:
        status, body = reply.status, reply.body
    line = json.loads(body)
    assert (status, line["error"]) == (STATUS[code], code), line
    assert set(line) == {"error", "message", "object"}
    assert line["object"].startswith("src/")
    assert len(line["message"]) > 15
    assert b"\n" not in body
    assert str(world.disk.root).encode() not in body, "no path of the pod"
    world.server.stop()
    assert world.recorder.url.rpartition("/")[2] not in body.decode() + world.server.log, "no secret"
    assert "Traceback" not in world.server.log, "none of these is a bug"


def test_404_is_only_for_a_file_that_is_gone() -> None:
    assert [code for code, status in STATUS.items() if status == 404] == ["file_gone"]


def test_only_delivery_is_worth_repeating() -> None:
    """The SDK repeats these for 93 seconds."""
    assert {code for code, status in STATUS.items() if status in (429, 500, 502, 503, 504)} == {
        "delivery_failed",
        "delivery_retry",
    }


def test_a_retry_is_asked_for_by_its_header(world: World) -> None:
    reply = unreachable(world)
    assert (reply.status, reply.headers["Ais-Etl-Retry-Reason"]) == (503, "direct-put-transient")
    failed = refused(world)
    assert (failed.status, "Ais-Etl-Retry-Reason" in failed.headers) == (502, False)


def test_hpull_is_refused_with_a_reason(world: World) -> None:
    reply = world.server.get("/src/a.jpg")
    assert reply.status == 405
    assert json.loads(reply.body)["error"] == "method_not_allowed"
    assert "hpush" in json.loads(reply.body)["message"]


class Broken:
    """Decoders with a bug, or with an empty result."""

    bytes_in, read, transformed = 1, 0.0, 0.0

    def __init__(self, body: bytes | None = None) -> None:
        self.body = body or b""
        self.content_type = "image/png"
        self.ways: dict[str, int] = {}
        self.bug = body is None

    def transform(self, source: bytes, name: str, arguments: Arguments, deadline: float, admit: object) -> Broken:
        if self.bug:
            raise ZeroDivisionError("with /mnt/data/secret-path in it")
        return self

    def self_test(self) -> None:
        raise RuntimeError("no decoder")


def test_a_bug_is_500_and_only_the_log_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    client = create_app(Settings(pipeline="{}"), Broken()).test_client()
    with caplog.at_level(logging.ERROR, "tvetl_server"):
        reply = client.put("/src/a.jpg", data=b"x")
    assert (reply.status_code, json.loads(reply.data)["error"]) == (500, "internal")
    assert "secret-path" not in reply.text
    assert "ZeroDivisionError" in caplog.text


def test_an_empty_result_is_never_a_200() -> None:
    client = create_app(Settings(pipeline="{}"), Broken(b"")).test_client()
    assert client.put("/src/a.jpg", data=b"x").status_code == 422


def test_not_ready_before_an_image_was_transformed() -> None:
    assert create_app(Settings(pipeline="{}"), Broken()).test_client().get("/health").status_code == 503
