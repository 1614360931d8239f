"""Ten times what can be served: all of it is answered in turn, or told that it is out of time, and then it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import faulty_ops
from support.peers import Peers, percentile
from support.serving import Server

#: Each object takes so long in its decoder: the server's pace is known, and is not this machine's.
PACE = 0.2
DECODERS = 4
#: Peers that would keep so many decoders busy, times ten.
PEERS = 10 * DECODERS


def slow(number: int) -> bytes:
    return faulty_ops.picture(faulty_ops.LEVELS["slow"])


def right(number: int, answer: bytes) -> bool:
    return faulty_ops.level_of(answer) == faulty_ops.LEVELS["slow"]


def test_ten_times_as_much_as_can_be_served(
    tmp_path: Path, run_server: Callable[..., Server], figure: Callable[[str, str], None], pytestconfig: pytest.Config
) -> None:
    """Closed loop: each peer sends its next object when it has the last. Fewer threads than peers, too."""
    seconds = 60.0 if pytestconfig.getoption("--long", default=False) else 8.0
    settings = {"TVETL_WORKERS": "1", "TVETL_DECODERS": str(DECODERS), "TVETL_THREADS": "16"}
    server = run_server(**faulty_ops.install(tmp_path), **settings)
    with Peers(server, 2 * DECODERS, slow, right) as peers:
        time.sleep(3)
    before = percentile([outcome.seconds for outcome in peers.outcomes], 0.5)
    with Peers(server, PEERS, slow, right) as many:
        time.sleep(seconds)
        many.stop()
    over = time.monotonic()
    times = [outcome.seconds for outcome in many.outcomes]
    assert many.lost() == []
    assert sum(outcome.repeats for outcome in many.outcomes) == 0, "no connection refused or reset"
    with Peers(server, 2 * DECODERS, slow, right) as peers:
        time.sleep(3)
    normal = next(
        outcome.began for outcome in sorted(peers.outcomes, key=lambda at: at.began) if outcome.seconds < 1.5 * before
    )
    assert normal - over < 5
    fair = max(times) / percentile(times, 0.5)
    assert fair < 3, "in turn"
    median = percentile(times, 0.5)
    figure(
        f"ten times overload for {seconds:g} s, {PEERS} connections, 16 threads",
        f"{len(times):,} objects, all answered and right, no 503, no 429, no reset; median {median:.2f} s, slowest "
        f"{max(times):.2f} s ({before:.2f} s before); normal again after {max(0.0, normal - over):.1f} s",
    )


def test_what_cannot_be_served_in_time_is_told(
    tmp_path: Path, run_server: Callable[..., Server], figure: Callable[[str, str], None]
) -> None:
    """More than fits into TVETL_SECONDS: 422 out_of_time, and no other status."""
    settings = {"TVETL_WORKERS": "1", "TVETL_DECODERS": "1", "TVETL_SECONDS": "1"}
    server = run_server(**faulty_ops.install(tmp_path), **settings)
    with Peers(server, 100, slow, right) as many:
        time.sleep(4)
    times = [outcome.seconds for outcome in many.outcomes]
    counts = many.counts()
    answered = counts.pop("answered")
    assert counts
    assert all(what.startswith("422 ") and "out_of_time" in what for what in counts), counts
    assert answered >= 4 / PACE / 2, "it goes on working"
    assert max(times) < 4, "each is told in time"
    figure(
        "twenty times what can be served in time",
        f"{answered:,} answered, {sum(counts.values()):,} told out_of_time (limit 1 s), "
        f"the slowest after {max(times):.2f} s",
    )


def test_500_connections_at_full_speed(
    run_server: Callable[..., Server], image: bytes, figure: Callable[[str, str], None], pytestconfig: pytest.Config
) -> None:
    seconds = 60.0 if pytestconfig.getoption("--long", default=False) else 6.0
    server = run_server(TVETL_WORKERS="2")
    with Peers(server, 500, lambda _: image, lambda _, body: body.startswith(b"\x89PNG")) as many:
        time.sleep(seconds)
    times = [outcome.seconds for outcome in many.outcomes]
    assert many.lost() == []
    assert sum(outcome.repeats for outcome in many.outcomes) == 0
    began = time.monotonic()
    while server.put("/src/a.jpg", image).status != 200 or time.monotonic() - began > 5:
        assert time.monotonic() - began < 5
    figure(
        f"500 connections at full speed for {seconds:g} s",
        f"{len(times):,} objects, all answered; median {percentile(times, 0.5):.2f} s, "
        f"99 % {percentile(times, 0.99):.2f} s, slowest {max(times):.2f} s",
    )
