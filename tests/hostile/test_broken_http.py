"""Broken HTTP: what is no request is refused, what is short is not transformed, and no request is taken for another."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support import faulty_ops
from support.serving import PATIENCE, Disk, Server, start

PUT = b"PUT /src/a.png HTTP/1.1\r\nHost: pod\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each object is an image of one level, and the answer tells which: no answer can be taken for another's."""
    folder = tmp_path_factory.mktemp("levels")
    settings = {"TVETL_MAX_BYTES": "1000000", "TVETL_ROOTS": str(folder), "TVETL_SECONDS": "8"}
    running = start(folder / "log", **faulty_ops.install(folder), **settings)
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log


def talk(server: Server, *pieces: bytes, pause: float = 0.0, close: bool = True) -> bytes:
    """Send these, and give all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if close:
                connection.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                found += part
        return found


def answers(found: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer, all of them whole."""
    listed = []
    while found:
        lines, _, rest = found.partition(b"\r\n\r\n")
        length = next((int(at[15:]) for at in lines.split(b"\r\n") if at.lower().startswith(b"content-length:")), None)
        body, found = (rest, b"") if length is None else (rest[:length], rest[length:])
        assert length is None or len(body) == length
        listed.append((int(lines.split()[1]), body))
    return listed


def statuses(found: bytes) -> list[int]:
    return [status for status, _ in answers(found)]


def levels(found: bytes) -> list[int]:
    """The images that were answered."""
    return [faulty_ops.level_of(body) for status, body in answers(found) if status == 200]


def head(name: str, length: int | str, *more: str) -> bytes:
    lines = [f"PUT /src/{name} HTTP/1.1", "Host: pod", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def put(level: int, *more: str) -> bytes:
    sent = faulty_ops.picture(level)
    return head(f"{level}.png", len(sent), *more) + sent


def chunked(level: int, step: int = 30) -> bytes:
    sent = faulty_ops.picture(level)
    parts = [sent[at : at + step] for at in range(0, len(sent), step)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return PUT + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


# Which request is which


def test_five_requests_in_one_segment_are_answered_in_order(server: Server) -> None:
    sent = put(121) + chunked(122) + put(123) + chunked(124) + put(125)
    assert levels(talk(server, sent)) == [121, 122, 123, 124, 125]


def test_wherever_a_segment_ends_the_answers_are_the_same(server: Server, figure: Callable[[str, str], None]) -> None:
    sent = put(121) + chunked(122) + put(123)
    cuts = range(1, len(sent), 7)
    for cut in cuts:
        assert levels(talk(server, sent[:cut], sent[cut:], pause=0.002)) == [121, 122, 123], cut
    assert levels(talk(server, *(sent[at : at + 9] for at in range(0, len(sent), 9)), pause=0.001)) == [121, 122, 123]
    figure("three requests in two segments, cut anywhere", f"{len(cuts)} cuts, all answers right and in order")


REFUSED = {
    "no object": ("PUT /src HTTP/1.1\r\nHost: pod\r\n", 400),
    "bad arguments": ("PUT /src/a.png?etl_args=%7B HTTP/1.1\r\nHost: pod\r\n", 400),
    "no image": ("PUT /src/a.png HTTP/1.1\r\nHost: pod\r\n", 415),
    "no such method": ("POST /src/a.png HTTP/1.1\r\nHost: pod\r\n", 405),
}


@pytest.mark.parametrize("size", [10, 5_000, 300_000, 900_000])
@pytest.mark.parametrize("what", REFUSED)
def test_the_body_of_a_refused_request_is_no_request(what: str, size: int, server: Server) -> None:
    """It is made of requests; either the connection ends with the refusal, or the next answer is that of the next."""
    lines, status = REFUSED[what]
    trap = (put(140) * (size // len(put(140)) + 1))[:size]
    refused = f"{lines}Content-Length: {size}\r\n\r\n".encode()
    for pieces in ((refused + trap + put(126),), (refused, trap, put(126))):
        found = talk(server, *pieces, pause=0.01)
        assert statuses(found) in ([status], [status, 200])
        assert levels(found) in ([], [126])


def test_a_body_beyond_the_limit_is_refused_and_no_request(server: Server) -> None:
    assert statuses(talk(server, head("large.png", 1_000_001), put(140) * 20, pause=0.01)) == [413]


SMUGGLED = {
    "both": "Content-Length: {n}\r\nTransfer-Encoding: chunked",
    "both, the other way": "Transfer-Encoding: chunked\r\nContent-Length: {n}",
    "two lengths": "Content-Length: {n}\r\nContent-Length: 0",
    "two lengths, the other way": "Content-Length: 0\r\nContent-Length: {n}",
    "the same length twice": "Content-Length: {n}\r\nContent-Length: {n}",
    "chunked twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "chunked twice in one": "Transfer-Encoding: chunked, chunked",
    "chunked, then not": "Transfer-Encoding: chunked, identity",
    "not chunked": "Content-Length: {n}\r\nTransfer-Encoding: identity",
    "unknown": "Transfer-Encoding: xchunked",
    "a blank before the colon": "Content-Length: {n}\r\nTransfer-Encoding : chunked",
    "a control character": "Content-Length: {n}\r\nTransfer-Encoding: \x0bchunked",
    "folded": "Content-Length: {n}\r\nTransfer-Encoding:\r\n chunked",
    "a bare line feed": "X: y\nTransfer-Encoding: chunked\r\nContent-Length: {n}",
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_a_body_of_two_measures_is_refused_and_the_connection_closed(what: str, server: Server) -> None:
    hidden = b"0\r\n\r\n" + put(142)
    lines = SMUGGLED[what].format(n=len(hidden)).encode("latin-1")
    found = talk(server, PUT + lines + b"\r\n\r\n" + hidden + put(143))
    assert statuses(found) in ([400], [501]), found[:300]


# Lengths and chunks that are none


@pytest.mark.parametrize(
    "length", ["-1", "+5", "0x10", "1e3", "5, 5", "5 5", "", "five", "\u0663", "\u00b2", "1_0", "5;5", "9" * 30, "\t-0"]
)
def test_a_length_that_is_none_is_refused(length: str, server: Server) -> None:
    """And what follows is not read as a request."""
    assert statuses(talk(server, head("a.png", length) + put(141))) in ([400], [413])


@pytest.mark.parametrize(
    "size", [b"-1", b"0x5", b"g", b"", b" 5", b"5 ", b"+5", b"5\n", b"F" * 20, b"5;\r", b"5" * 70_000, b"1_0"]
)
def test_a_chunk_size_that_is_none_is_refused(size: bytes, server: Server) -> None:
    body = size + b"\r\n" + faulty_ops.picture(144) + b"\r\n0\r\n\r\n"
    found = talk(server, PUT + b"Transfer-Encoding: chunked\r\n\r\n" + body + put(145))
    assert statuses(found) in ([400], [413]), found[:300]


def test_a_body_cut_short_is_not_transformed(server: Server, figure: Callable[[str, str], None]) -> None:
    counted = []
    for sent in (chunked(127), put(127)):
        assert levels(talk(server, sent)) == [127]
        cuts = range(sent.index(b"\r\n\r\n") + 4, len(sent))
        for cut in cuts:
            ((status, body),) = answers(talk(server, sent[:cut]))
            assert (status, json.loads(body)["error"]) == (400, "truncated_body"), cut
        counted.append(len(cuts))
    found = "{} in chunks, {} with a length: none transformed, all told".format(*counted)
    figure("bodies cut short, then closed", found)


# Large heads


def test_a_name_of_1_kb_of_cjk_with_arguments(server: Server) -> None:
    name = "/".join(["\u8a9e" * 80] * 4 + ["\u8a9e" * 20 + ".png"])
    assert len(name.encode()) > 1000
    arguments = quote(json.dumps({"seed": 7, "format": "png"}), safe="")
    found = server.put(f"/src/{quote(name)}?etl_args={arguments}", faulty_ops.picture(129))
    assert (found.status, faulty_ops.level_of(found.body)) == (200, 129)
    by_file = Disk(server.log_file.parent).add(name, faulty_ops.picture(130))
    found = server.put(f"{by_file}&etl_args={arguments}")
    assert (found.status, faulty_ops.level_of(found.body)) == (200, 130)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"PUT /src/%b HTTP/1.1\r\n\r\n" % (b"a" * 700_000), 414),
        (PUT + b"X: %b\r\n\r\n" % (b"y" * 70_000), 431),
        (PUT + b"X: y\r\n" * 70 + b"\r\n", 431),
        (b"A" * 1_000_000, 414),
        (PUT + b"X: y\r\n" * 1_000_000, 431),
    ],
    ids=["a line", "a header", "headers", "a line without an end", "headers without an end"],
)
def test_what_is_huge_is_refused(sent: bytes, status: int, server: Server) -> None:
    assert statuses(talk(server, sent)) == [status]


# Manners


def test_who_asks_before_sending_is_told_to_go_on(server: Server) -> None:
    sent = faulty_ops.picture(131)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(head("131.png", len(sent), "Expect: 100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(sent + put(132))
        connection.shutdown(socket.SHUT_WR)
        assert levels(connection.makefile("rb").read()) == [131, 132]
    assert statuses(talk(server, head("a.png", 5, "Expect: more") + b"12345")) == [417]


def test_who_closes_its_side_after_the_request_hears_the_answer(server: Server) -> None:
    assert levels(talk(server, put(133))) == [133]
    old = put(134).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert levels(talk(server, old + put(135), close=False)) == [134], "HTTP/1.0 ends with its answer"
    assert levels(talk(server, put(136, "Connection: close") + put(137), close=False)) == [136]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells a process's time as Linux does")
def test_half_a_request_and_an_end_cost_no_time(server: Server) -> None:
    """A poller that wakes for what is no more would turn for ever."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    (worker,) = children.read_text(encoding="ascii").split()

    def spent() -> float:
        fields = Path(f"/proc/{worker}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    halves = [b"PUT /src/a", head("a.png", 100)[:-2], head("a.png", 100), head("a.png", 100) + b"x", put(134) + b"PU"]
    with contextlib.ExitStack() as stack:
        before = spent()
        for half in halves * 4:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            connection.sendall(half)
            time.sleep(0.01)
            connection.shutdown(socket.SHUT_WR)
        time.sleep(2)
        assert spent() - before < 1


def test_what_becomes_of_who_keeps_us_waiting(server: Server, figure: Callable[[str, str], None]) -> None:
    """All at once: each gets its answer, or its end, in time."""
    found: dict[str, tuple[float, bytes]] = {}

    def wait(what: str, first: bytes, then: bytes) -> None:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as connection:
            connection.sendall(first)
            answer = b""
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                while time.monotonic() < began + PATIENCE and b"}" not in answer:
                    connection.send(then)
                    with contextlib.suppress(TimeoutError):
                        part = connection.recv(1 << 16)
                        answer += part
                        if not part:
                            break
        found[what] = (time.monotonic() - began, answer)

    chunks = PUT + b"Transfer-Encoding: chunked\r\n\r\n100\r\n"
    peers = {
        "a dripping head": (b"P", b"X"),
        "half a head": (b"PUT /sr", b""),
        "a dripping body": (head("a.png", 1000), b"x"),
        "half a body": (head("a.png", 1000), b""),
        "dripping chunks": (chunks, b"x"),
        "half a chunk": (chunks, b""),
        "a large dripping body": (head("a.png", 900_000), b"x"),
        "half a large body": (head("a.png", 900_000) + bytes(400_000), b""),
    }
    threads = [threading.Thread(target=wait, args=(what, *how)) for what, how in peers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for what, (seconds, answer) in found.items():
        assert seconds < 25, what
        assert answer.startswith((b"HTTP/1.1 422 ", b"HTTP/1.1 400 ")) or (answer == b"" and "head" in what), what
    listed = ", ".join(f"{what} {seconds:.0f} s" for what, (seconds, _) in found.items())
    figure("how long a peer may keep the server waiting", listed)
