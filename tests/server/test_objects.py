"""An object of any name comes back as an image, by body and by file name alike."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from support.serving import PATIENCE

# Names as the targets of the recordings sent them, and worse.
NAMES = [
    "a.jpg",
    "dir/b c.jpg",
    "uni/ü-猫.jpg",
    "pct%41.jpg",
    "plus+amp&eq=.jpg",
    "dbl//slash.jpg",
    "//front.jpg",
    "hash#q?x.jpg",
    "semi;colon,comma.jpg",
    "quote\"'<>|^`{}.jpg",
    "back\\slash.jpg",
    "line\nend.jpg",
    "health",
    "metrics",
    "a=1&etl_args=2",
]


def size_of(body: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(body)) as picture:
        picture.load()
        return picture.size


@pytest.fixture
def server(run_server: Callable[..., Any], disk: Any) -> Any:
    return run_server(TVETL_ROOTS=str(disk.root))


def test_every_name_is_answered_by_file_and_by_body_alike(server: Any, disk: Any, image: bytes) -> None:
    answers = set()
    for name in NAMES:
        by_file = server.put(disk.add(name, image))
        by_body = server.put(f"/src/{quote(name)}", image)
        assert (by_file.status, by_body.status) == (200, 200), (name, by_file.body, by_body.body)
        assert by_file.headers["Content-Length"] == str(len(by_file.body))
        assert size_of(by_file.body) == (32, 32)
        answers |= {by_file.body, by_body.body}
    assert len(answers) == 1


def test_a_name_of_1024_bytes_quoted_three_times_fits(server: Any, disk: Any, image: bytes) -> None:
    folders = "/".join(["猫" * 80] * 4)  # a file system's own limit is 255 bytes a name
    name = f"{folders}/" + "é" * 20 + ".jpg"
    assert 1000 < len(name.encode()) <= 1024
    target = disk.add(name, image) + "&etl_args=" + quote(json.dumps({"seed": 7}))
    assert len(target) > 8190  # gunicorn's own limit
    assert server.put(target).status == 200


def test_the_object_is_named_in_errors_as_the_user_knows_it(server: Any, disk: Any) -> None:
    for name in ("uni/ü-猫 x.jpg", "dbl//slash.jpg", "hash#q?x.jpg"):
        reply = server.put(disk.add(name, b"no image at all"))
        assert reply.status == 415
        assert json.loads(reply.body)["object"] == f"src/{name}"


def test_a_seeded_result_depends_on_the_name_and_not_on_the_way(
    run_server: Callable[..., Any], disk: Any, image: bytes
) -> None:
    pipeline = '{"steps": [{"op": "RandomCrop", "size": 8}], "output": {"format": "png"}}'
    server = run_server(TVETL_ROOTS=str(disk.root), TVETL_PIPELINE=pipeline)
    arguments = "etl_args=" + quote('{"seed": 7, "epoch": 1}')
    answers = []
    for name in ("a.jpg", "pct%41.jpg", "dbl//slash.jpg"):
        by_file = server.put(f"{disk.add(name, image)}&{arguments}")
        by_body = server.put(f"/src/{quote(name)}?{arguments}", image)
        assert by_file.status == 200, by_file.body
        assert by_file.body == by_body.body
        answers.append(by_file.body)
    assert len(set(answers)) == len(answers), "each name draws its own"


def test_like_changes_the_draws_alone(run_server: Callable[..., Any], disk: Any, image: bytes) -> None:
    pipeline = '{"steps": [{"op": "RandomCrop", "size": 8}], "output": {"format": "png"}, "seed": 7}'
    server = run_server(TVETL_ROOTS=str(disk.root), TVETL_PIPELINE=pipeline)
    disk.add("secret.jpg", b"no image at all")
    b, like_b = server.put(disk.add("b.jpg", image)), "&etl_args=" + quote('{"like": "src/b.jpg"}')
    assert server.put(disk.add("a.jpg", image)).body != b.body
    assert server.put(disk.add("a.jpg", image) + like_b).body == b.body
    assert server.put("/src/a.jpg?" + like_b[1:], image).body == b.body
    # It is never what is read, and never what errors name.
    secret = "&etl_args=" + quote('{"like": "src/secret.jpg"}')
    assert server.put(disk.add("a.jpg", image) + secret).status == 200
    refused = server.put(disk.add("text.jpg", b"no image at all") + like_b)
    assert (refused.status, json.loads(refused.body)["object"]) == (415, "src/text.jpg")


def test_a_chunked_body_is_read_whole(server: Any, image: bytes) -> None:
    connection = server.connect()
    pieces: Iterator[bytes] = iter([image[:100], image[100:]])
    connection.request("PUT", "/src/a.jpg", body=pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    response = connection.getresponse()
    assert response.status == 200
    assert size_of(response.read()) == (32, 32)


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 413),
        ("?etl_args=nonsense", {}, 400),
        ("", {"Ais-Node-Url": "http://example.com/a"}, 403),
        ("", {"Ais-Node-Url": ","}, 400),
    ],
)
def test_a_large_body_is_refused_with_its_reason(
    run_server: Callable[..., Any], recorder: Any, query: str, headers: dict[str, str], status: int
) -> None:
    """The response comes while the client still sends. After a reset a target would repeat the object ten times."""
    server = run_server(TVETL_MAX_BYTES="1000", AIS_TARGET_URL=recorder.url, direct_put="true")
    connection = server.connect()
    for _ in range(2):  # on the same connection
        connection.putrequest("PUT", f"/src/a.jpg{query}")
        for name, value in {"Content-Length": str(8 * 2**20), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(bytes(8 * 2**20))
        response = connection.getresponse()
        assert (response.status, set(json.loads(response.read()))) == (status, {"error", "message", "object"})
        assert not response.will_close


def test_bodies_of_all_sizes_follow_each_other_on_one_connection(server: Any, disk: Any, image: bytes) -> None:
    """Each is a different picture, and the head of the next follows it; large, small and refused in turns."""
    chance = Random(1)
    sides = [900, 20, 500, 64, 1100, 33, 256, 700] * 3
    pictures = []
    for side in sides:
        Image.frombytes("RGB", (side, side), chance.randbytes(3 * side * side)).save(file := io.BytesIO(), "PNG")
        pictures.append(file.getvalue() if side != 33 else b"no picture" * side)
    alone = [server.put(f"/src/{at}.jpg", data).body for at, data in enumerate(pictures)]
    head = b"PUT /src/%d.jpg HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    sent = b"".join(head % (at, len(data)) + data for at, data in enumerate(pictures))
    assert max(map(len, pictures)) > 3_000_000
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection,
        connection.makefile("rb") as answers,
    ):
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        for body in alone:
            about = b"".join(iter(answers.readline, b"\r\n")).lower()
            assert answers.read(int(about.partition(b"content-length:")[2].split()[0])) == body
        sender.join()


def test_a_body_wins_over_a_file_name(server: Any, disk: Any, image: bytes) -> None:
    assert server.put(disk.push("not-there.jpg"), image).status == 200


def test_a_connection_is_kept_for_the_next_object(server: Any, disk: Any, image: bytes) -> None:
    target = disk.add("a.jpg", image)
    with ExitStack() as stack:
        connection = server.connect()
        stack.callback(connection.close)
        own_ports = set()
        for ask in (target, disk.push("gone.jpg"), target, "/src/nothing", target):
            connection.putrequest("PUT", ask)
            connection.putheader("Content-Length", "0")
            connection.endheaders()
            response = connection.getresponse()
            response.read()
            assert not response.will_close, "an error must not cost the connection"
            own_ports.add(connection.sock.getsockname()[1])
        assert len(own_ports) == 1


def test_health_means_that_an_image_was_transformed_here(server: Any) -> None:
    assert server.get("/health").status == 200


def test_buckets_called_health_and_metrics_work(server: Any, image: bytes) -> None:
    assert server.put("/health/a.jpg", image).status == 200
    assert server.put("/metrics/a.jpg", image).status == 200


def test_metrics_count_requests_bytes_and_seconds(server: Any, disk: Any, image: bytes) -> None:
    server.put(disk.add("a.jpg", image))
    server.put("/src/a.jpg", image)
    server.put(disk.push("gone.jpg"))
    text = server.get("/metrics").body.decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['tvetl_requests_total{status="200",code="answered"}'] == "2"
    assert lines['tvetl_requests_total{status="404",code="file_gone"}'] == "1"
    assert lines["tvetl_bytes_in_total"] == str(2 * len(image))
    assert lines["tvetl_requests_in_flight"] == "0"
    assert lines['tvetl_seconds_count{stage="transform"}'] == "2"


def test_metrics_are_those_of_all_workers(run_server: Callable[..., Any], image: bytes) -> None:
    server = run_server(TVETL_WORKERS="3")
    for _ in range(30):  # each on a connection of its own, so that all workers get some
        assert server.put("/src/a.jpg", image).status == 200
    texts = {server.get("/metrics").body.decode().partition("# HELP tvetl_requests_waiting")[0] for _ in range(10)}
    (text,) = texts
    assert 'tvetl_requests_total{status="200",code="answered"} 30\n' in text


def test_the_access_log_is_a_line_of_json_a_request(run_server: Callable[..., Any], image: bytes) -> None:
    server = run_server(TVETL_ACCESS_LOG="json")
    server.put("/src/%C3%BC.jpg", image)
    server.put("/src/none.jpg")
    server.stop()
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    assert [(line["object"], line["status"], line["code"]) for line in lines] == [
        ("src/ü.jpg", 200, "answered"),
        ("src/none.jpg", 400, "no_source"),
    ]
    assert lines[0]["bytes_in"] == len(image)
