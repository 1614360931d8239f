"""Processes killed, ended and replaced under load: what is lost is counted, and named by the peers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import pytest
from support import faulty_ops
from support.peers import Outcome, Peers
from support.processes import family
from support.serving import PATIENCE, Server

#: Seconds after a kill within which objects come through again.
BACK = 2.0


def kill(server: Server, kind: str, seconds: float, rate: float = 0.5) -> list[float]:
    """End one of that kind every half second; gives the moments."""
    moments = []
    chance = random.Random(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        victims = family(server)[kind]
        if victims:
            moments.append(time.monotonic())
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal.SIGKILL)
        time.sleep(rate)
    return moments


def pauses(outcomes: list[Outcome], moments: list[float]) -> list[float]:
    """Seconds from each moment to the first object after it that was asked for later, and answered."""
    good = sorted(outcome.ended for outcome in outcomes if outcome.what == "answered")
    return [next((ended for ended in good if ended > moment), float("inf")) - moment for moment in moments]


def picture(number: int) -> bytes:
    return faulty_ops.picture(110 + number % 100)


def right(number: int, answer: bytes) -> bool:
    return faulty_ops.level_of(answer) == 110 + number % 100


@pytest.mark.parametrize(("kind", "seconds"), [("decoder", 4.0), ("fork server", 3.0), ("worker", 5.0)])
def test_one_killed_every_half_second(
    kind: str, seconds: float, tmp_path: Path, run_server: Callable[..., Server], figure: Callable[[str, str], None]
) -> None:
    server = run_server(**faulty_ops.install(tmp_path), TVETL_WORKERS="2")
    with Peers(server, 16, picture, right, pause=0.01) as peers:
        time.sleep(1)
        moments = kill(server, kind, seconds)
        time.sleep(BACK)
    counts, lost = peers.counts(), peers.lost()
    assert counts["answered"] > 10 * len(moments)
    assert server.process.poll() is None
    assert counts["wrong"] == 0
    assert len({outcome.name for outcome in lost}) == len(lost), "each is named"
    back = max(pauses(peers.outcomes, moments))
    assert back < BACK
    if kind == "worker":
        # What a worker had read is lost with it, as an answer that is not sent whole: at most one object a connection.
        assert {outcome.what for outcome in lost} <= {"end of file", "IncompleteRead"}
        assert len(lost) <= 16 * len(moments)
    else:
        assert lost == []
    repeats = sum(outcome.repeats for outcome in peers.outcomes)
    figure(
        f"kill -9 of a {kind} every 0.5 s, under 16 connections",
        f"{len(moments)} killed; {counts['answered']:,} objects right, {len(lost)} lost, all of them named; "
        f"{repeats} connections repeated; back within {back:.2f} s",
    )
    assert server.stop() == 0


def test_the_only_worker_is_back_within_two_seconds(
    run_server: Callable[..., Server], image: bytes, figure: Callable[[str, str], None]
) -> None:
    server = run_server()
    found = {"decoder": 0.0, "worker": 0.0, "fork server": 0.0}
    for kind in found:
        os.kill(family(server)[kind][0], signal.SIGKILL)
        end = time.monotonic() + 2 * BACK
        while time.monotonic() < end:
            began = time.monotonic()
            while not _comes_through(server, image):
                time.sleep(0.02)
            found[kind] = max(found[kind], time.monotonic() - began)
    assert max(found.values()) < BACK
    figure(
        "kill -9 of the only one of its kind: longest time without an object",
        ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in found.items()),
    )


def _comes_through(server: Server, image: bytes) -> bool:
    with contextlib.suppress(OSError, HTTPException):
        return bool(server.put("/src/a.jpg", image).status == 200)
    return False


def test_sigterm_under_64_connections_loses_nothing(
    tmp_path: Path, run_server: Callable[..., Server], figure: Callable[[str, str], None]
) -> None:
    """Who has sent a request before is answered; who comes later is refused or reset, and repeats elsewhere."""
    server = run_server(**faulty_ops.install(tmp_path), TVETL_WORKERS="2", TVETL_DECODERS="2")
    time.sleep(1)  # the second worker, too
    slow = faulty_ops.picture(faulty_ops.LEVELS["slow"])
    head = f"PUT /src/a.png HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(slow)}\r\n\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(64)]
    for connection in connections:
        connection.sendall(head + slow)
    time.sleep(1)  # they are accepted; each takes 0.2 s of a decoder
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    answers = []
    for connection in connections:
        with connection, contextlib.suppress(ConnectionResetError):
            answers.append(connection.makefile("rb").readline())
    assert answers == [b"HTTP/1.1 200 OK\r\n"] * 64
    assert server.process.wait(PATIENCE) == 0
    took = time.monotonic() - began
    assert took < 45, "the grace time"
    figure("SIGTERM under 64 connections with a request each", f"64 of 64 answered, exit 0 after {took:.1f} s")


@pytest.mark.parametrize("how", ["SIGHUP to the first process", "SIGTERM to a worker"])
def test_recycled_workers_lose_nothing(
    how: str, tmp_path: Path, run_server: Callable[..., Server], figure: Callable[[str, str], None]
) -> None:
    server = run_server(**faulty_ops.install(tmp_path), TVETL_WORKERS="2")
    with Peers(server, 16, picture, right, pause=0.005) as peers:
        moments = []
        for _ in range(2):
            time.sleep(0.5)
            moments.append(time.monotonic())
            before = server.log.count("Booting worker")
            if how.startswith("SIGHUP"):
                server.process.send_signal(signal.SIGHUP)
            else:
                os.kill(min(family(server)["worker"]), signal.SIGTERM)
            while server.log.count("Booting worker") == before:
                assert time.monotonic() < moments[-1] + PATIENCE
                time.sleep(0.1)
        time.sleep(0.5)
    assert peers.lost() == []
    back = max(pauses(peers.outcomes, moments))
    longest = max(outcome.seconds for outcome in peers.outcomes)
    figure(
        f"workers replaced under load ({how})",
        f"{len(moments)} times; {len(peers.outcomes):,} objects right, none lost; "
        f"the first one after it came after {back:.2f} s, the slowest took {longest:.2f} s",
    )
