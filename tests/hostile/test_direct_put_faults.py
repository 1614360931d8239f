"""Direct put to targets that refuse, break off, hang or answer nonsense: tries and answers, and never two results."""

from __future__ import annotations

import io
import json
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from PIL import Image
from support.serving import SECRET, Disk, Reply, Server, free_port
from support.traps import Behaviour, Peer, answering, peers, read_request, reset, status, stores, take, timed

#: No seed: each run of it gives another result.
RANDOM = '{"steps": [{"op": "RandomCrop", "size": 32}], "output": {"format": "png"}}'
SECONDS = 3.0
#: An answer this late would be one that was waited for without end: what drips here would go on for minutes.
LATE = SECONDS + 12
#: Not now: nothing was stored.
TRANSIENT = status(503, once=True, Ais_Etl_Retry_Reason="direct-put-transient")


def reset_at_once(_: Peer, connection: socket.socket) -> None:
    connection.recv(1)  # earlier, and the connection may never have been one: then the target is asked to repeat
    reset(connection)


def reset_in_the_middle(_: Peer, connection: socket.socket) -> None:
    connection.recv(1000)
    reset(connection)


def reset_after_all(peer: Peer, connection: socket.socket) -> None:
    take(peer, connection)
    reset(connection)


def hang(peer: Peer, connection: socket.socket) -> None:
    take(peer, connection)
    peer.wait(60)


def dripping(before: bytes, drop: bytes) -> Behaviour:
    """Answers in drops, each of which begins a socket's time-out anew."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        take(peer, connection)
        connection.sendall(before)
        for _ in range(600):
            if peer.stopped.wait(0.1):
                return
            connection.sendall(drop)

    return behave


def slow(peer: Peer, connection: socket.socket) -> None:
    """In time, but late."""
    while take(peer, connection):
        peer.wait(0.5)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


hangs_up = answering(b"", once=True)
half_a_head = answering(b"HTTP/1.1 20", once=True)
half_a_body = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", once=True)
garbage = answering(bytes(range(256)) + b"\r\n\r\n", once=True)


AFTER_IT_WAS_STORED = [reset_after_all, hangs_up, half_a_head, half_a_body, garbage]


def refuses(peer: Peer, connection: socket.socket) -> None:
    """Not now: read and not stored."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 503 No\r\nAis-Etl-Retry-Reason: direct-put-transient\r\nContent-Length: 0\r\n\r\n")


@dataclass
class World:
    server: Server
    disk: Disk
    image: bytes

    def put(self, peer_host: str, name: str, *, by_name: bool) -> Reply:
        """What a target does with one object of a bucket job whose new home is ``peer_host``."""
        where = {"Ais-Node-Url": f"http://{peer_host}/ais%2F@%23%2Fdst%2F{name}?owt=3"}
        if by_name:
            return self.server.put(self.disk.add(name, self.image), headers=where)
        return self.server.put(f"/src/{name}", self.image, where)


@pytest.fixture(scope="module")
def noise() -> bytes:
    """Every crop of it is another one."""
    file = io.BytesIO()
    Image.frombytes("RGB", (64, 64), random.Random(7).randbytes(64 * 64 * 3)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def world(run_server: Callable[..., Server], disk: Disk, noise: bytes) -> Iterator[World]:
    server = run_server(
        TVETL_PIPELINE=RANDOM,
        TVETL_ROOTS=str(disk.root),
        TVETL_THREADS="16",
        TVETL_DELIVERY_SECONDS=str(SECONDS),
        AIS_TARGET_URL=f"http://127.0.0.1:{free_port()}/v1/etl/_object/rec-etl/{SECRET}",
        direct_put="true",
    )
    yield World(server, disk, noise)
    metrics = server.get("/metrics").body.decode()
    server.stop()
    assert "Traceback" not in server.log
    assert SECRET not in server.log + metrics


@dataclass(frozen=True)
class Case:
    """What the other target does, first and then; and what comes of it by file name and by body."""

    first: list[Behaviour]
    otherwise: Behaviour
    by_name: tuple[int, int]
    """The answer's status, and the connections that the other target saw."""
    by_body: tuple[int, int]


CASES: dict[str, Case] = {
    "reset once, at once": Case([reset_at_once], stores, (204, 2), (204, 2)),
    "reset once, in the middle": Case([reset_in_the_middle], stores, (204, 2), (204, 2)),
    "reset once, with all of it stored": Case([reset_after_all], stores, (204, 2), (204, 2)),
    "hung up once": Case([hangs_up], stores, (204, 2), (204, 2)),
    "half a status line once": Case([half_a_head], stores, (204, 2), (204, 2)),
    "half a reply's body once": Case([half_a_body], stores, (204, 2), (204, 2)),
    "no HTTP once": Case([garbage], stores, (204, 2), (204, 2)),
    "reset in the middle, always": Case([], reset_in_the_middle, (502, 4), (502, 4)),
    "hung up always": Case([], hangs_up, (502, 4), (502, 4)),
    "transient once": Case([TRANSIENT], stores, (204, 2), (503, 1)),
    "transient always": Case([], TRANSIENT, (502, 4), (503, 1)),
    "transient after it hung up": Case([hangs_up], TRANSIENT, (502, 4), (502, 4)),
    "500": Case([], status(500, b"no"), (502, 1), (502, 1)),
    "507": Case([], status(507, b"no space"), (502, 1), (502, 1)),
    "503 without its header": Case([], status(503), (502, 1), (502, 1)),
    "404": Case([], status(404), (502, 1), (502, 1)),
    "200 with a page": Case([], status(200, b"<html>Welcome</html>"), (502, 1), (502, 1)),
    "early hints": Case([], answering(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), (502, 1), (502, 1)),
    "status 999": Case([], status(999), (502, 1), (502, 1)),
    "slow": Case([], slow, (204, 1), (204, 1)),
    "hanging": Case([], hang, (502, 1), (502, 1)),
    "a head that drips": Case([], dripping(b"HTTP/1.1 200 OK\r\nX: ", b"y"), (502, 1), (502, 1)),
    "a body that drips": Case(
        [], dripping(b"HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n", b"y"), (502, 1), (502, 1)
    ),
    "chunks that drip": Case(
        [], dripping(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n"), (502, 1), (502, 1)
    ),
    "100 Continue, again and again": Case([], dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (502, 1), (502, 1)),
    "headers without end": Case(
        [], answering(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000, once=True), (502, 4), (502, 4)
    ),
    "a line without end": Case(
        [], answering(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, once=True), (502, 4), (502, 4)
    ),
}


def run_case(world: World, at: int, case: Case, *, by_name: bool) -> tuple[float, Reply, Peer]:
    peer = Peer(case.otherwise, behaviours=list(case.first))
    with peers(peer):
        seconds, reply = timed(lambda: world.put(peer.host, f"case-{at}-{by_name}.png", by_name=by_name))
        return seconds, reply, peer


def test_tries_and_answers_are_as_the_protocol_says(world: World, figure: Callable[[str, str], None]) -> None:
    jobs = [(at, name, by_name) for at, name in enumerate(CASES) for by_name in (True, False)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(lambda job: run_case(world, job[0], CASES[job[1]], by_name=job[2]), jobs))
    stored = 0
    for (_, name, by_name), (seconds, reply, peer) in zip(jobs, results, strict=True):
        said = f"{name}, {'by name' if by_name else 'by body'}: {reply.status} {reply.body!r}, {peer.connections}"
        expected = CASES[name].by_name if by_name else CASES[name].by_body
        assert (reply.status, peer.connections) == expected, said
        assert seconds < LATE, said
        assert len({put.body for put in peer.puts}) <= 1, f"two results were put: {said}"
        assert all(put.target.startswith(f"/v1/etl/_object/rec-etl/{SECRET}/ais%2F@%23%2F") for put in peer.puts)
        stored += len(peer.puts)
        assert SECRET.encode() not in reply.body
        retry = reply.headers.get("Ais-Etl-Retry-Reason")
        assert retry == ("direct-put-transient" if reply.status == 503 else None), said
        if reply.status == 204:
            assert reply.headers["Ais-Direct-Put-Length"] == str(len(peer.puts[-1].body)), said
        else:
            assert json.loads(reply.body)["error"] == ("delivery_retry" if retry else "delivery_failed"), said
    longest = max(seconds for seconds, _, _ in results)
    figure(
        "direct put: faults of the other target, by file name and by body",
        f"{len(jobs)} cases with the tries and answers of the protocol, {stored} puts, never two results for one "
        f"object, the longest answered after {longest:.1f} s of {SECONDS:.0f} s",
    )


def test_where_nobody_listens_or_accepts(world: World) -> None:
    refused = f"127.0.0.1:{free_port()}"
    assert world.put(refused, "refused-1.png", by_name=True).status == 502
    reply = world.put(refused, "refused-2.png", by_name=False)
    assert (reply.status, reply.headers["Ais-Etl-Retry-Reason"]) == (503, "direct-put-transient")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:  # never accepts, and its queue is full
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        seconds, reply = timed(
            lambda: world.put(f"127.0.0.1:{full.getsockname()[1]}", "full.png", by_name=True),
        )
        for each in waiting:
            each.close()
    assert (reply.status, seconds < LATE) == (502, True)


def fault(dice: random.Random) -> Behaviour:
    return dice.choice([reset_at_once, reset_in_the_middle, *AFTER_IT_WAS_STORED, refuses, refuses, refuses])


def test_a_random_result_is_never_stored_in_two_versions(world: World, figure: Callable[[str, str], None]) -> None:
    """With a sender that keeps a target's rules: it repeats on 503 with the reason, where it sent the object itself."""
    dice = random.Random(20)
    plans = [[fault(dice) for _ in range(dice.randrange(6))] for _ in range(120)]

    def run(at: int) -> tuple[int, int, list[bytes]]:
        peer = Peer(stores, behaviours=list(plans[at]))
        asked = 0
        with peers(peer):
            for _ in range(10):
                reply = world.put(peer.host, f"object-{at}.png", by_name=at % 2 == 0)
                asked += 1
                if reply.headers.get("Ais-Etl-Retry-Reason") is None:
                    break
            return reply.status, asked, [put.body for put in peer.puts]

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(run, range(len(plans))))
    assert all(len(set(stored)) <= 1 for _, _, stored in results)
    assert all(stored for status, _, stored in results if status == 204)
    lost = sum(status != 204 for status, _, _ in results)
    again = sum(asked > 1 for _, asked, _ in results)
    twice = sum(len(stored) > 1 for _, _, stored in results)
    different = len({stored[0] for _, _, stored in results if stored})
    assert again > 0 and twice > 0 and different > 20, "else this shows nothing"
    figure(
        "direct put: a random pipeline without seed, faults by a fixed seed",
        f"{len(plans)} objects, {sum(map(len, plans))} faults, {twice} put more than once: none with two results; "
        f"{lost} refused with 502",
    )


def test_a_stage_that_may_have_put_elsewhere_is_not_asked_again(world: World) -> None:
    """It would make another result; where its answer comes back through us, nothing was put, and it is."""
    for rest, expected, tries in ((",http://127.0.0.1:1/ais%2Fdst%2Fa", 502, 1), ("", 200, 2)):
        stage = Peer(status(200, b"what it made"), behaviours=[hangs_up])
        with peers(stage):
            reply = world.server.put("/src/a.png", world.image, {"Ais-Node-Url": f"http://{stage.host}{rest}"})
        assert (reply.status, stage.connections) == (expected, tries)
        assert len({put.body for put in stage.puts}) == 1


def test_a_fault_leaves_the_next_object_alone(world: World) -> None:
    """Its connection is not used again, or what came on it is not taken for the next answer."""
    hints = answering(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    more = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    closing = answering(b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", once=True)
    without_length = answering(b"HTTP/1.1 500 No\r\n\r\nno", once=True)
    broken, whole = (
        [hints, closing, without_length],
        [answering(more), status(200, b"<html>"), status(507, b"x" * 99_999)],
    )
    for at, fault in enumerate(broken + whole):
        peer = Peer(status(507), behaviours=[fault])
        with peers(peer):
            for number in range(2):  # never a 204 that was meant for another
                assert world.put(peer.host, f"object-{at}-{number}.png", by_name=False).status == 502
        assert peer.connections == (2 if fault in broken else 1)
