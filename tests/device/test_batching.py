"""When a batch begins: on a test's own clock, and in simulation, beside never waiting and always waiting."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

import pytest

from tvetl_server.processes.device.batching import PATIENCE, Batching

MANY = 64
#: Seconds of the simulated device: for a batch, and for each image in it.
START, EACH = 0.003, 0.0001


def learnt(most: int = 32, start: float = START, each: float = EACH) -> Batching:
    """Batching that has learnt the times of its device."""
    some, chance = Batching(most), Random(1)
    for _ in range(200):
        images = chance.randint(1, most)
        some.measured(images, start + each * images)
    return some


def dense(some: Batching, gap: float, count: int = 100) -> float:
    """``count`` images arrive one by one, ``gap`` seconds apart; returns the time."""
    now = 100.0
    for _ in range(count):
        now += gap
        some.arrived(now)
        some.removed()
    return now


def test_an_empty_batch_never_begins() -> None:
    some = Batching(4)
    assert some.begins(MANY) == math.inf
    some.arrived(1.0)
    some.removed()
    assert some.begins(MANY) == math.inf


def test_a_full_batch_begins_at_once() -> None:
    some = learnt(4)
    now = dense(some, 0.0001)
    some.arrived(now, 3)
    assert some.begins(MANY) > now
    some.arrived(now)
    assert some.begins(MANY) == -math.inf
    some.removed(4)
    some.arrived(now, 9)
    assert some.begins(MANY) == -math.inf, "more than full is full"


def test_a_batch_does_not_wait_for_decoders_that_do_not_exist() -> None:
    some = learnt()
    now = dense(some, 0.0001)
    some.arrived(now)
    assert some.begins(1) > now
    assert some.begins(0) == -math.inf


def test_a_lone_image_with_rare_traffic_is_not_kept_waiting() -> None:
    some = learnt()
    now = dense(some, 0.1, 200)
    some.arrived(now + 0.1)
    assert some.begins(MANY) == -math.inf
    fresh = Batching(32)
    fresh.arrived(5.0)
    assert fresh.begins(MANY) == -math.inf, "nor the very first"


def test_batching_follows_traffic_that_becomes_dense_and_rare_again() -> None:
    some = learnt()
    for gap, waits in ((0.1, False), (0.0001, True), (0.1, False)):
        now = dense(some, gap)
        some.arrived(now + gap)
        assert (some.begins(MANY) > now) is waits, gap
        some.removed()


def test_with_dense_traffic_a_batch_fills() -> None:
    some = learnt(32)
    gap = 0.00004
    now = dense(some, gap)
    for waiting in range(1, 32):
        now += gap
        some.arrived(now)
        assert some.begins(MANY) > now + gap, f"{waiting} wait, and the next would be there in 40 us"
    some.arrived(now + gap)
    assert some.begins(MANY) == -math.inf


def test_a_waiting_batch_waits_for_the_decoders_that_were_just_answered() -> None:
    """Else the clients split into two halves for ever, each in batches of its own."""
    some = learnt(32)
    now = dense(some, 0.00005)
    some.arrived(now, 16)
    some.removed(16)
    some.arrived(now + 0.0001, 15)
    some.finished(now + 0.004)
    assert now + 0.004 < some.begins(17) <= now + 0.004 + PATIENCE


@pytest.mark.parametrize("start", [0.1, 1.0, 1e9])
def test_patience_bounds_the_wait(start: float) -> None:
    """Whatever a batch costs and however dense the traffic: from the first image, or from when the device is free."""
    some = learnt(256, start)
    now = first = dense(some, 0.0001)
    while some.begins(MANY) > now and now < first + 1:
        some.arrived(now)
        now += 0.0001
    assert PATIENCE - 0.0002 <= now - first <= PATIENCE + 0.0002
    some.finished(first + 2)
    assert first + 2 <= some.begins(MANY) <= first + 2 + PATIENCE


def test_images_that_start_and_images_that_give_up_are_counted() -> None:
    some = learnt(32)
    now = dense(some, 0.0001)
    some.arrived(now, 5)
    some.removed(2)
    assert some.waiting == 3
    assert some.begins(MANY) < math.inf
    some.removed(3)
    assert some.begins(MANY) == math.inf


@pytest.mark.parametrize(("start", "each"), [(0.003, 0.0001), (0.0005, 0.002), (0.02, 0.0)])
@pytest.mark.parametrize("sizes", [(1, 32), (1, 2), (30, 32)])
def test_the_time_of_a_batch_is_learnt_from_noisy_times(start: float, each: float, sizes: tuple[int, int]) -> None:
    some, chance = Batching(32), Random(3)
    for _ in range(300):
        images = chance.randint(*sizes)
        some.measured(images, (start + each * images) * chance.uniform(0.95, 1.05))
    for images in sizes:  # beyond the measured sizes noise may put the line anywhere
        assert some.estimate(images) == pytest.approx(start + each * images, rel=0.1)
    if sizes == (1, 32):
        assert some.estimate(0) == pytest.approx(start, rel=0.4, abs=0.002)


def test_a_device_that_becomes_faster_is_learnt_again() -> None:
    some = learnt(start=1.0)
    for _ in range(200):
        some.measured(8, 0.004)
    assert some.estimate(8) == pytest.approx(0.004, rel=0.02)


def test_batches_of_one_size_give_a_sensible_estimate() -> None:
    some = Batching(32)
    for _ in range(1000):
        some.measured(32, 0.006)
        assert -1e-9 <= some.estimate(0) <= some.estimate(32)
    assert some.estimate(32) == pytest.approx(0.006)


@pytest.mark.parametrize("absurd", [-5.0, -1e300, 0.0, 1e300, math.inf, math.nan])
@pytest.mark.parametrize("images", [0, 1, 10**9])
def test_absurd_times_do_no_harm(absurd: float, images: int) -> None:
    """Whatever a broken clock says, a batch begins within its patience, and a full one at once."""
    some = learnt(4)
    now = dense(some, 0.0001)
    some.measured(images, absurd)
    some.arrived(now)
    assert some.begins(MANY) <= now + PATIENCE
    some.arrived(now - 1000)  # a clock that went back
    some.arrived(now + 1)
    assert some.begins(MANY) <= now + 1 + PATIENCE
    some.arrived(now + 1)
    assert some.begins(MANY) == -math.inf


# --- simulation -------------------------------------------------------------------------------------------------------


class Rule(Protocol):
    def arrived(self, now: float) -> None: ...
    def removed(self, images: int) -> None: ...
    def finished(self, now: float) -> None: ...
    def measured(self, images: int, seconds: float) -> None: ...
    def begins(self, others: int) -> float: ...


class Always:
    """Waits a fixed time from the first image, or until the batch is full."""

    def __init__(self, patience: float, most: int = 32) -> None:
        self._patience, self._most = patience, most
        self._first, self._waiting = 0.0, 0

    def arrived(self, now: float) -> None:
        if not self._waiting:
            self._first = now
        self._waiting += 1

    def removed(self, images: int) -> None:
        self._waiting -= images

    def finished(self, now: float) -> None:
        pass

    def measured(self, images: int, seconds: float) -> None:
        pass

    def begins(self, others: int) -> float:
        if not self._waiting:
            return math.inf
        return -math.inf if self._waiting >= self._most or not self._patience else self._first + self._patience


@dataclass(frozen=True)
class Found:
    rate: float
    """Images a second."""
    wait: float
    """Milliseconds from an image's arrival to its answer, on average."""
    batch: float


@dataclass(frozen=True)
class Load:
    """``rate`` images a second at random, or ``clients`` that send the next ``think`` seconds after an answer."""

    name: str
    rate: float = 0.0
    clients: int = MANY
    think: Callable[[Random], float] = lambda chance: 0.0


def simulate(rule: Rule, load: Load, seed: int = 1, until: float = 2.0, most: int = 32) -> Found:
    chance = Random(seed)
    moments: list[tuple[float, str]] = []
    now = 0.0
    if load.rate:
        while (now := now + chance.expovariate(load.rate)) < until:
            moments.append((now, "came"))
    else:
        moments = sorted((chance.uniform(0, 0.01), "came") for _ in range(load.clients))
    now = began = 0.0
    waiting: list[float] = []
    running: list[float] = []
    waits: list[float] = []
    batches = 0
    while moments or waiting:
        begins = math.inf if running else rule.begins(load.clients - len(waiting))
        if begins <= now:
            running, waiting, began = waiting[:most], waiting[most:], now
            rule.removed(len(running))
            batches += 1
            heapq.heappush(moments, (now + (START + EACH * len(running)) * chance.uniform(0.9, 1.1), "ended"))
        elif begins < (moments[0][0] if moments else math.inf):
            now = begins
        else:
            assert moments, "some wait for ever"
            now, what = heapq.heappop(moments)
            if what == "came":
                waiting.append(now)
                rule.arrived(now)
                continue
            rule.measured(len(running), now - began)
            rule.finished(now)
            waits += [now - came for came in running]
            if not load.rate and now < until:
                for _ in running:
                    heapq.heappush(moments, (now + load.think(chance), "came"))
            running = []
    return Found(len(waits) / now, 1000 * sum(waits) / len(waits), len(waits) / batches)


OPEN = [Load(f"{rate} a second", rate=rate) for rate in (10, 100, 200, 400, 1000, 2000, 3000, 4500)]
CLOSED = [
    Load(f"{clients} clients, {1000 * mean:g} ms {kind}", clients=clients, think=think)
    for clients in (1, 4, 32, 64)
    for mean in (0.0002, 0.001, 0.004)
    for kind, think in (
        ("or so", lambda chance, mean=mean: chance.uniform(0.5, 1.5) * mean),
        ("on average", lambda chance, mean=mean: chance.expovariate(1 / mean)),
    )
]


@pytest.mark.parametrize("load", [*OPEN, *CLOSED], ids=lambda load: load.name)
def test_batching_is_about_as_good_as_the_better_of_never_and_always_waiting(load: Load) -> None:
    """At most 10 % less throughput and 12 % more wait; measured: 6 % and 7 %."""
    found = simulate(Batching(32), load)
    never, always = simulate(Always(0.0), load), simulate(Always(0.005), load)
    assert found.rate >= 0.90 * max(never.rate, always.rate)
    assert found.wait <= 1.12 * min(never.wait, always.wait)


@pytest.mark.parametrize("clients", [4, 8])
def test_a_few_clients_form_one_batch_and_not_two_halves(clients: int) -> None:
    """Better than both: without waiting the clients split into two halves that wait for each other."""
    load = Load("", clients=clients, think=lambda chance: chance.uniform(0.0005, 0.0015))
    found = simulate(Batching(32), load)
    others = [simulate(Always(patience), load) for patience in (0.0, 0.005)]
    assert found.rate > 1.2 * max(other.rate for other in others)
    assert found.wait < 0.85 * min(other.wait for other in others)
    assert found.batch > 0.8 * clients


@pytest.mark.parametrize("seed", range(20))
def test_no_image_waits_for_ever(seed: int) -> None:
    """simulate() fails where one does: under bursts, silence, and wrong times."""
    chance = Random(seed)

    class Confused(Batching):
        def measured(self, images: int, seconds: float) -> None:
            super().measured(images, chance.choice([seconds, 0.0, -1.0, 100.0, 1e-9]))

    for load in (
        Load("", clients=chance.randint(1, 64), think=lambda chance: chance.choice([0.0, 0.0, 0.0001, 0.05])),
        Load("", rate=chance.uniform(1, 3000)),
    ):
        found = simulate(Confused(chance.randint(1, 64)), load, seed, until=0.5)
        assert found.wait < 1000 * (2 * PATIENCE + 2 * (START + 64 * EACH)) + 100
