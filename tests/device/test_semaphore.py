"""The semaphore over processes: never more holders than slots, and a killed holder frees its own."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.forks import Fork, end
from support.waiting import until

from tvetl_server.processes.device.semaphore import Semaphore

Make = Callable[[int], Semaphore]


class Seen:
    """Counts the holders in all processes; each writes only its own byte."""

    def __init__(self, count: int) -> None:
        self.cells = mmap.mmap(-1, count)

    @property
    def now(self) -> int:
        return sum(self.cells[:])


@pytest.fixture
def make() -> Iterator[Make]:
    """Semaphores that are closed with the test."""
    with ExitStack() as stack:

        def some(count: int) -> Semaphore:
            semaphore = Semaphore(count)
            stack.callback(semaphore.close)
            return semaphore

        yield some


def test_all_slots_are_used_and_never_more(make: Make, fork: Fork) -> None:
    semaphore, seen, most = make(3), Seen(12), mmap.mmap(-1, 12)

    def work(place: int) -> None:
        for _ in range(30):
            with semaphore.hold():
                seen.cells[place] = 1
                most[place] = max(most[place], seen.now)
                time.sleep(0.002)
                seen.cells[place] = 0

    began = time.monotonic()
    processes = [fork(lambda place=place: work(place)) for place in range(12)]
    for process in processes:
        assert os.waitpid(process, 0)[1] == 0
    assert max(most[:]) == 3
    assert time.monotonic() - began > 12 * 30 * 0.002 / 3 * 0.9


def test_a_waiter_gets_the_first_free_slot_and_a_killed_holder_frees_its_own(make: Make, fork: Fork) -> None:
    semaphore, seen = make(2), Seen(8)

    def hold(place: int) -> None:
        with semaphore.hold():
            seen.cells[place] = 1
            time.sleep(1000)

    processes = [fork(lambda place=place: hold(place)) for place in range(2)]
    until(lambda: seen.now == 2)
    # Kill either holder in turn, so that neither slot nor process id matters.
    for kills in range(6):
        processes.append(fork(lambda place=kills + 2: hold(place)))
        time.sleep(0.15)
        assert seen.now == 2
        held = [place for place in range(len(processes)) if seen.cells[place]]
        victim = held[kills % 2]
        end(processes[victim])
        seen.cells[victim] = 0
        until(lambda: seen.now == 2, 5)


def test_an_error_releases_the_slot(make: Make, fork: Fork) -> None:
    semaphore = make(1)
    with pytest.raises(ZeroDivisionError), semaphore.hold():
        raise ZeroDivisionError

    def work() -> None:
        with semaphore.hold():
            pass

    assert os.waitpid(fork(work), 0)[1] == 0
