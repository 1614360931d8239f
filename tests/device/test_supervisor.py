"""The supervisor of the device's process: starts, deaths, hangs, and the shared status."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.device.scripted import Scripted, Started, reason, request, together
from support.processes import children, runs
from support.waiting import PATIENCE, until

from tvetl_server.engine import DeviceRequest, NotByDevice
from tvetl_server.engine.driver import DeviceError
from tvetl_server.processes.device import timing


@pytest.mark.parametrize("how", ["die", "raise"])
def test_a_death_loses_the_running_batch_alone_and_the_process_is_restarted(
    start: Callable[..., Started], how: str
) -> None:
    started = start()
    assert started.up
    before = started.process
    found = together(started, [request("echo"), request(how), request("echo")])
    assert found == ["lost"] * 3
    started.is_back(deaths=1)
    assert not started.device.lost
    assert started.ask(do="echo") == [request("echo").data[::-1]]
    assert not runs(before)


def test_the_status_is_down_from_a_death_until_the_restart_is_ready(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"

    def make() -> Scripted:
        while slow.exists():
            time.sleep(0.01)
        return Scripted()

    started = start(make)
    assert (started.up, started.device.state) == (True, Scripted.about)
    slow.touch()
    os.kill(started.process, signal.SIGKILL)
    until(lambda: not started.up)
    until(lambda: "started again" in started.device.state)
    assert not started.device.lost
    link = started.link()
    assert reason(link, request("echo")) == "lost"
    slow.unlink()
    until(lambda: started.up)
    assert link.transform(request("echo"))


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times; processes forked afterwards have them."""
    monkeypatch.setattr(timing, "HANG", 1.0)
    monkeypatch.setattr(timing, "RETRY", 0.5)
    monkeypatch.setattr(timing, "POLL", 0.1)
    monkeypatch.setattr(timing, "START", 2.0)


@pytest.mark.usefixtures("short_times")
@pytest.mark.parametrize("how", [{"do": "sleep", "seconds": 1000}, {"do": "hang"}])
def test_a_process_that_hangs_is_killed_even_while_it_holds_the_interpreter_lock(
    start: Callable[..., Started], how: dict[str, Any]
) -> None:
    started = start()
    before = started.process
    began = time.monotonic()
    assert reason(started.link(), DeviceRequest(json.dumps(how).encode(), (1, 1), [[]], None, None)) == "lost"
    assert 0.9 < time.monotonic() - began < 10
    until(lambda: not runs(before))
    started.is_back(deaths=1)
    assert started.ask(do="echo")


@pytest.mark.usefixtures("short_times")
def test_idle_time_does_not_count_as_a_hang(start: Callable[..., Started]) -> None:
    started = start()
    before = started.process
    assert started.ask(do="echo")
    time.sleep(1.5)
    assert started.ask(do="sleep", seconds=0.5)
    assert started.process == before


@pytest.mark.usefixtures("short_times")
def test_a_start_that_hangs_is_killed(start: Callable[..., Started]) -> None:
    started = start(lambda: time.sleep(1000))
    assert not started.up
    before = started.process
    until(lambda: not runs(before))
    with pytest.raises(NotByDevice, match="lost"):
        started.ask(do="echo")


@pytest.mark.usefixtures("short_times")
def test_after_five_deaths_in_a_minute_the_device_is_lost_and_tried_again_later(start: Callable[..., Started]) -> None:
    started = start()
    for deaths in range(5):
        until(lambda: started.up)
        assert not started.device.lost
        link = started.link()
        assert reason(link, request("die")) == "lost"
        until(lambda deaths=deaths: started.number("tvetl_device_deaths_total") == deaths + 1)
    assert "died 5 times" in started.device.state
    assert started.device.lost
    assert not started.up
    began = time.monotonic()
    assert reason(link, request("echo")) == "lost"
    assert time.monotonic() - began < 0.4, "nobody waits for what is not there"
    until(lambda: started.up)
    assert time.monotonic() - began > 0.3
    assert started.device.state == Scripted.about
    assert link.transform(request("echo"))


def killed() -> Scripted:
    os.kill(os.getpid(), signal.SIGKILL)
    return Scripted()


def absent() -> Scripted:
    raise DeviceError("there is none", hint="Buy one.")


def broken() -> Scripted:
    raise ImportError("no module named so\nand more")


@pytest.mark.parametrize(
    ("make", "words"),
    [(killed, "its process died 5 times"), (absent, "there is none"), (broken, "ImportError: no module named so")],
)
def test_a_needed_device_that_is_missing_is_an_error_with_its_reason(make: Callable[[], Any], words: str) -> None:
    before = set(children(os.getpid()))
    with pytest.raises(DeviceError) as error:
        Started(make, needed=True)
    assert words in str(error.value)
    assert error.value.hint == ("Buy one." if make is absent else "")
    assert set(children(os.getpid())) == before


@pytest.mark.usefixtures("short_times")
def test_a_device_needed_at_the_start_may_be_lost_later(start: Callable[..., Started], tmp_path: Path) -> None:
    taken = tmp_path / "taken"

    def make() -> Scripted:
        return absent() if taken.exists() else Scripted()

    started = start(make, needed=True)
    taken.touch()
    os.kill(started.process, signal.SIGKILL)
    until(lambda: "there is none" in started.device.state)
    assert reason(started.link(), request("echo")) == "lost"
    taken.unlink()
    until(lambda: started.up)


@pytest.mark.usefixtures("short_times")
def test_a_missing_device_that_is_not_needed_is_tried_again(start: Callable[..., Started], tmp_path: Path) -> None:
    there = tmp_path / "there"

    def make() -> Scripted:
        return Scripted() if there.exists() else absent()

    started = start(make)
    assert "there is none" in started.device.state
    assert not started.up
    link = started.link()
    assert reason(link, request("echo")) == "lost"
    there.touch()
    until(lambda: started.up)
    assert link.transform(request("echo"))
    assert started.number("tvetl_device_deaths_total") == 0


@pytest.mark.usefixtures("short_times")
@pytest.mark.parametrize("both", [False, True])
def test_without_its_supervisor_the_process_ends_and_no_decoder_waits(
    start: Callable[..., Started], both: bool
) -> None:
    started = start()
    link, process = started.link(), started.process
    assert link.transform(request("echo"))
    if both:
        os.kill(started.supervisor, signal.SIGSTOP)  # it must not notice the end of the process
        os.kill(process, signal.SIGKILL)
    os.kill(started.supervisor, signal.SIGKILL)
    until(lambda: not runs(started.supervisor) and not runs(process))
    began = time.monotonic()
    for _ in range(3):
        assert reason(link, request("echo")) == "lost"
    assert time.monotonic() - began < 1
    assert "not there" in started.device.state
    if not both:
        assert not started.up
        assert started.device.lost


def test_closing_ends_both_processes(start: Callable[..., Started]) -> None:
    started = start()
    process = started.process
    started.device.close()
    until(lambda: not runs(started.supervisor) and not runs(process))
    assert not started.device.lost, "an end is no loss"


def test_repeated_kills_under_load_give_no_wrong_result_and_no_wait(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "DEATHS", 1000)
    started = start()
    outcomes: Counter[str] = Counter()
    longest = [0.0]
    over = threading.Event()

    def decoder(place: int) -> None:
        link = started.link()
        number = 0
        while not over.is_set():
            number += 1
            what = request("echo", left=20.0, n=[place, number])
            began = time.monotonic()
            try:
                outcomes["right" if link.transform(what) == [what.data[::-1]] else "wrong"] += 1
            except NotByDevice as error:
                outcomes[str(error)] += 1
                time.sleep(0.005)  # the CPU would take about as long
            longest[0] = max(longest[0], time.monotonic() - began)

    threads = [threading.Thread(target=decoder, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    kills = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        time.sleep(0.2)
        until(lambda: started.up)
        os.kill(started.process, signal.SIGKILL)
        kills += 1
        until(lambda kills=kills: started.number("tvetl_device_deaths_total") == kills)
    until(lambda: started.up)
    time.sleep(0.2)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert set(outcomes) <= {"right", "lost"}
    assert outcomes["right"] > 20 * kills > 100
    assert longest[0] < 5


def test_a_status_message_may_have_any_length(start: Callable[..., Started]) -> None:
    class Long(Scripted):
        about = "Gerät " * 1000

    state = start(Long).device.state
    assert Long.about.startswith(state[:-1])
    assert len(state) > 500
