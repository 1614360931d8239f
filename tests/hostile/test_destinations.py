"""Ais-Node-Url is not authenticated, and what it leads to gets the write secret: only nodes of the cluster may."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.hostile.node_urls import OBJECT, TRAPS, hostile_urls
from support.serving import SECRET, Reply, Server, free_port
from support.traps import (
    Behaviour,
    Peer,
    answering,
    exchange,
    peers,
    read_request,
    request,
    status,
    stores,
    take,
    timed,
)

from tvetl_server.errors import BadNodeUrl, HostNotAllowed, ObjectError
from tvetl_server.serving.delivery import Delivery
from tvetl_server.settings import Settings, TargetUrl

SECONDS = 2.0
#: What drips here would go on for minutes.
LATE = SECONDS + 12
PREFIX = f"/v1/etl/_object/rec-etl/{SECRET}/"


@dataclass
class World:
    server: Server
    target: Peer
    traps: list[Peer]
    image: bytes

    def put(self, node_url: str | bytes, body: bytes | None = None) -> Reply:
        value = node_url.encode() if isinstance(node_url, str) else node_url
        field = b"Ais-Node-Url: " + value
        return exchange(self.server.port, request(b"/src/a.jpg", self.image if body is None else body, field))

    def touched(self) -> list[str]:
        """Traps that somebody has connected to."""
        return [trap.host for trap in self.traps if trap.connections]


@pytest.fixture
def world(run_server: Callable[..., Server], image: bytes) -> Iterator[World]:
    target = Peer(stores)
    with ExitStack() as stack:
        stack.enter_context(peers(target))
        addresses = [*TRAPS, "::1"] if socket.has_ipv6 else [*TRAPS]
        traps = [Peer(stores, address=address, port=target.port) for address in addresses]
        traps.append(Peer(stores, address=TRAPS[0]))  # and on a port of its own
        stack.enter_context(peers(*traps))
        proxy = f"http://{traps[0].host}"
        server = run_server(
            AIS_TARGET_URL=f"http://{target.host}/v1/etl/_object/rec-etl/{SECRET}",
            direct_put="true",
            TVETL_THREADS="12",
            TVETL_DELIVERY_SECONDS=str(SECONDS),
            TVETL_ACCESS_LOG="json",
            # What else libraries take for a way out.
            **dict.fromkeys(
                ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), proxy
            ),
        )
        yield World(server, target, traps, image)
        metrics = server.get("/metrics").body.decode()
        server.stop()
        assert not [trap.host for trap in traps if trap.connections]
        assert "Traceback" not in server.log
        assert SECRET not in server.log + metrics


def test_nothing_connects_to_a_host_that_is_not_allowed(world: World, figure: Callable[[str, str], None]) -> None:
    # The traps work: what is put into one is seen there. (By us, and then forgotten.)
    for trap in world.traps:
        with socket.create_connection((trap.address, trap.port), timeout=10) as connection:
            connection.sendall(request(b"/", b"x"))
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert trap.connections == 1
        trap.connections = 0
    urls = list(dict.fromkeys(hostile_urls(world.target)))
    for url in urls:
        reply = world.put(url.encode("utf-8"))
        assert reply.status in (400, 403), (url, reply)
        assert world.touched() == [] and world.target.connections == 0, url
        assert SECRET.encode() not in reply.body and len(reply.body) < 1000, url
        assert json.loads(reply.body)["error"] in ("bad_node_url", "host_not_allowed"), (url, reply)
    assert world.put(f"http://{world.target.host}{OBJECT}").status == 204
    assert world.target.puts[0].target == PREFIX + OBJECT[1:]
    figure("destinations: forms of Ais-Node-Url", f"{len(urls):,} forms: 0 connections elsewhere, no secret told")


def test_line_ends_in_a_header_make_no_second_one(world: World) -> None:
    good = f"http://{world.target.host}{OBJECT}".encode()
    for end in (b"\r", b"\n", b"\0", b"\x0b", b"\x0c", b"\x85", b"\r\n ", b"\r\n\t", b"\xe2\x80\xa8"):
        for value in (good + end + b"X-Injected: yes", good + end + b"," + good, b"http://" + end + good[7:]):
            assert world.put(value).status in (0, 400), value
    assert world.target.connections == 0
    # Quoted, they are a part of the object's name: they stay quoted, and below the secret.
    for quoted in (
        "%0d%0aX-Injected:%20yes",
        "%0D%0A%0D%0APUT%20/v1/x%20HTTP/1.1",
        "%00",
        "%E2%80%A8",
        "%c0%ae%c0%ae%c0%af",
        "a;b=c",
        "a//b",
    ):
        assert world.put(f"http://{world.target.host}/ais%2F{quoted}").status == 204, quoted
        assert world.target.puts[-1].target == f"{PREFIX}ais%2F{quoted}"
        head = world.target.raw[-1].partition(b"\r\n\r\n")[0]
        assert len(head.split(b"\r\n")) == 4 and b"Injected: yes" not in head, head  # line, Host, type, length


def test_a_header_that_comes_twice_leads_nowhere_else(world: World) -> None:
    good = f"Ais-Node-Url: http://{world.target.host}{OBJECT}".encode()
    bad = f"Ais-Node-Url: http://{world.traps[0].host}{OBJECT}".encode()
    for fields in ((good, bad), (bad, good), (good.lower(), bad), (good.replace(b"-", b"_"), bad)):
        reply = exchange(world.server.port, request(b"/src/a.jpg", world.image, *fields))
        assert 200 <= reply.status < 500
    assert all(put.target.startswith(PREFIX) for put in world.target.puts)


@pytest.mark.parametrize("direct", [True, False], ids=["direct put", "next stage"])
def test_no_answer_leads_elsewhere(world: World, direct: bool) -> None:
    where = f"http://{world.traps[0].host}/v1/x"
    for code in (300, 301, 302, 303, 305, 307, 308, 399, 201, 202, 206, 426, 101):
        fields = {
            "Location": where,
            "Refresh": f"0; url={where}",
            "Alt_Svc": f'h2="{world.traps[1].host}"',
            "Content_Location": where,
        }
        world.target.otherwise = status(code, f"see {where} and {PREFIX}".encode(), once=True, Upgrade="h2c", **fields)
        reply = world.put(f"http://{world.target.host}{OBJECT if direct else ''}")
        assert reply.status == (426 if code == 426 and not direct else 502), code
        assert world.touched() == []
        if direct:  # what a stage says is handed on as it is; it has not been told our secret
            assert SECRET.encode() not in reply.body
        assert "Location" not in reply.headers and "Refresh" not in reply.headers


def test_what_a_stage_answers_injects_nothing(world: World) -> None:
    """Its status, type and bytes are handed on; its other headers are not, and a folded one is no type."""
    replies: dict[bytes, int] = {
        b"Content-Type: image/png\r\n X-Folded: yes\r\n": 200,
        b"Content-Type: image/\xff\r\n": 200,
        b"Content-Type: " + b"x" * 5000 + b"\r\n": 200,
        b"Set-Cookie: a=b\r\nAis-Etl-Retry-Reason: direct-put-transient\r\nX-Other: c\r\n": 200,
    }
    for fields, expected in replies.items():
        world.target.otherwise = answering(
            b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 4\r\n\r\nmade", once=True
        )
        reply = world.put(f"http://{world.target.host}")
        assert (reply.status, reply.body) == (expected, b"made"), fields
        assert not {"Set-Cookie", "X-Other", "X-Folded", "Ais-Etl-Retry-Reason"} & set(reply.headers)
    for length in (b"-1", b"1e9", b"9" * 30, b"0x10", b"1\r\n 2", b"\xb2"):
        world.target.otherwise = answering(
            b"HTTP/1.1 204 No Content\r\nAis-Direct-Put-Length: " + length + b"\r\n\r\n", once=True
        )
        reply = world.put(f"http://{world.target.host}")
        assert (reply.status, reply.headers.get("Ais-Direct-Put-Length")) == (204, None), length
    world.target.otherwise = status(507, f"\x1b[2J{PREFIX}\r\nsecond line\0 {SECRET * 3}".encode(), once=True)
    message = json.loads(world.put(f"http://{world.target.host}{OBJECT}").body)["message"]
    assert message.isprintable() and "second line" in message and SECRET not in message
    half = len(SECRET) // 2
    world.target.otherwise = status(507, b" " * (4096 - half) + SECRET.encode(), once=True)
    assert SECRET[:half] not in world.put(f"http://{world.target.host}{OBJECT}").body.decode(), "where a body is cut"
    assert "\x1b" not in world.server.log


def test_a_thousand_stages(world: World, image: bytes) -> None:
    stages = ",".join([f"http://{world.target.host}"] * 1000)
    assert world.put(stages).status == 400
    assert world.target.connections == 0
    # A stage that is this very server, again and again: each waits for the next, and all end.
    ring = ",".join([f"http://127.0.0.1:{world.server.port}"] * 30)
    seconds, reply = timed(lambda: world.put(ring))
    assert reply.status in (200, 502, 503, 504) and seconds < LATE
    end = time.monotonic() + 60
    while world.put("").status != 200:
        assert time.monotonic() < end
    assert exchange(world.server.port, request(b"/src/a.jpg", image, b"Ais-Node-Url: " + b"x" * 70_000)).status in (
        0,
        400,
        431,
    )
    assert world.put("").status == 200


def test_every_wait_ends(world: World, figure: Callable[[str, str], None]) -> None:
    def silent(peer: Peer, _: socket.socket) -> None:
        peer.wait(120)

    def never_answers(peer: Peer, connection: socket.socket) -> None:
        take(peer, connection)
        peer.wait(120)

    def dripping(before: bytes, drop: bytes) -> Behaviour:
        def behave(peer: Peer, connection: socket.socket) -> None:
            read_request(connection)
            connection.sendall(before)
            while not peer.stopped.wait(0.1):
                connection.sendall(drop)

        return behave

    def floods(peer: Peer, connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not peer.stopped.is_set():
            connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
            peer.wait(0.01)

    ways: dict[str, Behaviour] = {
        "silent": silent,
        "never answers": never_answers,
        "drips its status": dripping(b"", b"H"),
        "drips a header": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        "drips headers": dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        "drips its body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"y"),
        "drips a body without length": dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"y"),
        "drips chunks": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n"),
        "drips a chunk's length": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        "says 100 Continue for ever": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "sends chunks for ever": floods,
    }
    those = [Peer(behave) for behave in ways.values() for _ in range(2)]
    with peers(*those):
        urls = [f"http://{peer.host}{OBJECT if at % 2 else ''}" for at, peer in enumerate(those)]
        with ThreadPoolExecutor(len(urls)) as pool:
            # More than threads: the last ones wait for the first.
            answers = list(pool.map(lambda url: timed(lambda: world.put(url)), urls))
    for url, (seconds, reply) in zip(urls, answers, strict=True):
        assert (reply.status, json.loads(reply.body)["error"]) == (502, "delivery_failed"), (url, reply)
        assert seconds < len(urls) / 12 * SECONDS + 12
    assert world.put("").status == 200
    figure(
        "destinations: peers that never answer or drip",
        f"{len(urls)} waits on 12 threads ended, the last after {max(seconds for seconds, _ in answers):.1f} s "
        f"({SECONDS:.0f} s each)",
    )


def test_a_peer_that_reads_slowly_does_not_hold_a_thread() -> None:
    """More than the kernel buffers: the sending itself waits."""

    def sips(peer: Peer, connection: socket.socket) -> None:
        while not peer.stopped.wait(0.1):
            connection.recv(100)

    peer = Peer(sips)
    with peers(peer):
        target = TargetUrl("http", peer.host, f"/v1/etl/_object/e/{SECRET}")
        delivery = Delivery(Settings(pipeline="{}", target_url=target, direct_put=True, delivery_seconds=1))
        route = delivery.route(f"http://{peer.host}{OBJECT}")
        assert route is not None
        start = time.monotonic()
        with pytest.raises(ObjectError, match="in time"):
            delivery.send(route, "/src/a", bytes(64 << 20), "image/png", None, from_body=False)
        assert time.monotonic() - start < 10


TARGET = TargetUrl("http", "ais-target-1.ais-target.ais.svc.cluster.local:10080", f"/v1/etl/_object/rec-etl/{SECRET}")
DOMAIN = "ais-target.ais.svc.cluster.local"
ALIKE = [
    f"evil-{DOMAIN}", f"ais-target-1.{DOMAIN}.evil.example", f"ais-target-1.{DOMAIN}.evil",
    f"ais-target-1.evil-{DOMAIN}", DOMAIN, f".{DOMAIN}", f"..{DOMAIN}", f"a..{DOMAIN}", f"a.{DOMAIN}..",
    f"a.{DOMAIN}.evil.", f"a.{DOMAIN[:-1]}", f"a.{DOMAIN}x", "ais-target-1.ais-target", "ais-target-1",
    "ais-target-1.ais-target.ais.svc", "ais-target-1.ais-target.other.svc.cluster.local",
    "kubernetes.default.svc.cluster.local", "svc.cluster.local", "cluster.local", "local",
    f"a.{DOMAIN.replace('.', '-')}", f"a.{DOMAIN.replace('l', '1')}", f"a.{DOMAIN.replace('s', '5')}",
    f"a.{DOMAIN}%2eevil", f"a.{DOMAIN}%00.evil", f"xn--{DOMAIN}", f"a.{DOMAIN.replace('a', chr(0x430))}",
    f"a.{DOMAIN.replace('.', chr(0x3002))}", f"a.{DOMAIN.replace('c', chr(0xFF43))}", f"a.{DOMAIN}\u200b",
    f"\u2100.{DOMAIN}", f"a\u00ad.{DOMAIN}", f"a.{DOMAIN}\u0000", f"a.{DOMAIN}\\.evil", f"a.{DOMAIN}/../@evil@",
    f"{'a' * 64}.{DOMAIN}", f"*.{DOMAIN}", f"a_.evil?.{DOMAIN}", f"evil#.{DOMAIN}", f"evil/.{DOMAIN}",
    f"evil:1.{DOMAIN}", f"evil@a.{DOMAIN}", "stages.example", "notstages.example", "a.stages.example.evil",
    "node.example.evil", "a.node.example", "0x7f.0.0.9", "1.0.0.9",
]  # fmt: skip


@contextmanager
def noted_sockets() -> Iterator[list[str]]:
    """What this process looks up and connects to meanwhile, by Python's own audit events."""
    events: list[str] = []
    on = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if on and event in ("socket.getaddrinfo", "socket.connect", "socket.gethostbyname", "socket.sendto"):
            events.append(f"{event} {arguments}")

    sys.addaudithook(note)
    try:
        yield events
    finally:
        on = False  # a hook stays for ever


def test_names_that_look_alike_are_not_even_looked_up(figure: Callable[[str, str], None]) -> None:
    # ".0.0.9": whoever allows this means a domain; 0x7f.0.0.9 is an address to the system's resolver.
    allowed = ("node.example", ".stages.example", ".0.0.9")
    delivery = Delivery(Settings(pipeline="{}", target_url=TARGET, direct_put=True, allow_hosts=allowed))
    with noted_sockets() as events:
        for host in ALIKE:
            for url in (f"http://{host}:10080{OBJECT}", f"http://{host}{OBJECT}", f"https://{host}"):
                with pytest.raises((BadNodeUrl, HostNotAllowed)) as caught:
                    delivery.route(url)
                assert len(str(caught.value)) < 500
        assert events == []
        route = delivery.route(f"http://127.0.0.1.{DOMAIN}:{free_port()}{OBJECT}")
        assert route is not None
    for host in (
        f"a.{DOMAIN}",
        f"A.{DOMAIN.upper()}",
        f"a.{DOMAIN}.",
        f"a.b.{DOMAIN}",
        "node.example",
        "a.stages.example",
    ):
        assert delivery.route(f"http://{host}:10080{OBJECT}") is not None
    figure("destinations: names that look like a node's", f"{len(ALIKE)} names: 0 looked up, 0 connections")
