"""A response is the same in whatever pieces it arrives, and goes where it is to go."""

from __future__ import annotations

import random

import pytest

from tvetl.fetch.response import Malformed, Response

HEAD = b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 03:01:26 GMT\r\n"


def with_length(body: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes, *sizes: int, trailer: bytes = b"", extension: bytes = b"") -> bytes:
    """In chunks of these sizes, the last one again and again."""
    made, at = HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 0
    while at < len(body):
        size, *rest = sizes
        sizes = tuple(rest) or (size,)
        part = body[at : at + size]
        made += b"%X%b\r\n%b\r\n" % (len(part), extension, part)
        at += len(part)
    return made + b"0\r\n" + trailer + b"\r\n"


def received(wire: bytes, response: Response, choose: random.Random) -> bytes:
    """Feed it as a socket would, in pieces drawn by ``choose``; what follows the response."""
    at = 0
    while not response.done:
        assert at < len(wire), "it waits for more than there is"
        size = choose.choice((1, 2, 3, 17, 200, 5000))
        if response.left and choose.random() < 0.7:
            room = response.room()[:size]
            count = min(len(room), len(wire) - at)
            room[:count] = wire[at : at + count]
            response.filled(count)
        else:
            count = min(size, len(wire) - at)
            response.feed(wire[at : at + count])
        at += count
    return wire[at:]


BODY = bytes(random.Random(1).randbytes(3000))
WIRES = {
    "length": with_length(BODY),
    "one chunk": chunked(BODY, 3000),
    "even chunks": chunked(BODY, 128),
    "odd chunks": chunked(BODY, 1, 2, 500, 7),
    "extension": chunked(BODY, 999, extension=b";name=value"),
    "trailer": chunked(BODY, 999, trailer=b"Expires: never\r\nX: y\r\n"),
}


@pytest.mark.parametrize("name", WIRES)
def test_a_body_is_the_same_in_any_pieces(name: str) -> None:
    choose = random.Random(2)
    for _ in range(50):
        response = Response(usual=choose.choice((1, 100, 5000)))
        received(WIRES[name], response, choose)
        assert (response.status, response.body(), response.closes) == (200, bytearray(BODY), False)


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("prefix", [0, 1, 128])
def test_a_body_that_fits_is_received_in_place(name: str, prefix: int) -> None:
    choose = random.Random(3)
    in_place = 0
    for _ in range(50):
        memory = bytearray(len(BODY) - prefix)
        response = Response(memoryview(memory), BODY[:prefix])
        received(WIRES[name], response, choose)
        body = response.body()
        in_place += body is None
        assert BODY[:prefix] + memory == BODY if body is None else body == BODY
    assert in_place == 50 if prefix == 0 else in_place > 0  # a prefix in many pieces is not worth it


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("more", [-1000, -1, 1, 1000])
def test_a_body_of_another_length_comes_whole(name: str, more: int) -> None:
    choose = random.Random(4)
    for _ in range(20):
        memory = bytearray(len(BODY) + more)
        response = Response(memoryview(memory))
        received(WIRES[name], response, choose)
        assert response.body() == BODY


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("at", [0, 5, 63])
def test_a_body_that_begins_otherwise_comes_whole(name: str, at: int) -> None:
    choose = random.Random(5)
    other = bytearray(BODY[:64])
    other[at] ^= 1
    for _ in range(20):
        response = Response(memoryview(bytearray(len(BODY) - 64)), bytes(other))
        received(WIRES[name], response, choose)
        assert response.body() == BODY


def test_an_error_never_goes_where_the_object_belongs() -> None:
    memory = bytearray(len(BODY))
    response = Response(memoryview(memory))
    response.feed(WIRES["length"].replace(b"200 OK", b"422 No"))
    assert (response.status, response.body(), memory) == (422, BODY, bytes(len(BODY)))


def test_what_has_no_body_is_done_with_its_head() -> None:
    for wire in (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        response = Response()
        response.feed(wire)
        assert (response.done, response.body()) == (True, b"")


def test_chunks_win_over_a_length() -> None:
    for order in (
        b"Content-Length: 9\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 9",
    ):
        response = Response()
        response.feed(HEAD + order + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert response.body() == b"abc"


def test_a_length_alone_takes_no_memory() -> None:
    response = Response()
    response.feed(HEAD + b"Content-Length: 99999999999999\r\n\r\nabc")
    assert len(response.room()) < 1 << 27


def test_a_redirect_tells_where_to() -> None:
    response = Response()
    response.feed(
        b"HTTP/1.1 301 Moved\r\nlocation: http://t:1/v1/o?a=b \r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    )
    assert (response.status, response.location, response.closes) == (301, "http://t:1/v1/o?a=b", True)


def test_after_more_than_was_asked_for_the_connection_is_not_used_again() -> None:
    response = Response()
    response.feed(WIRES["odd chunks"] + b"HTTP/1.1 200 OK\r\n")
    assert response.done
    assert response.closes


def test_a_redirect_may_repeat_a_query_with_thousands_of_keypoints() -> None:
    address = "http://10.0.0.1:8081/v1/objects/photos/a.jpg?etl_args=" + "%5B1.5%2C2.5%5D%2C" * 20_000
    response = Response()
    wire = f"HTTP/1.1 301 Moved\r\nLocation: {address}\r\nContent-Length: 0\r\n\r\n".encode()
    for begin in range(0, len(wire), 8192):
        response.feed(wire[begin : begin + 8192])
    assert (response.done, response.status, response.location) == (True, 301, address)


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/2 200\r\nContent-Length: 1\r\n\r\nx",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        HEAD + b"Content-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e9\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: y" + b"y" * 1_100_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"x" * 2000,
    ],
)
def test_what_is_no_response_is_refused(wire: bytes) -> None:
    for step in (1, 7, len(wire)):
        with pytest.raises(Malformed):
            feed_all(Response(), [wire[at : at + step] for at in range(0, len(wire), step)])


def feed_all(response: Response, pieces: list[bytes]) -> None:
    for piece in pieces:
        response.feed(piece)
