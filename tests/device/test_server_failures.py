"""A server with a device that fails: no object is lost or wrong, and metrics and /health report the failure.

The device is support/fake_device.py's, which has no torch; all else is the real server.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.device.fake_server import Run, comes_through, device_of, is_up, number, picture, right, source, ways
from support.fake_device import DIES, FAILS, HANGS, SLOW
from support.peers import Peers
from support.processes import parent, runs
from support.waiting import PATIENCE, until


def test_a_device_killed_every_half_second_under_load_loses_no_object(pretend: Run) -> None:
    # Four times: a fifth death in a minute would make the device lost.
    server = pretend(TVETL_WORKERS="2")
    seen = set()
    with Peers(server, 12, source, right, pause=0.002) as peers:
        for _ in range(4):
            time.sleep(0.5)
            victim = device_of(server)
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: device_of(server) != victim)
            seen.add(is_up(server))
        until(lambda: is_up(server))
        until(lambda: peers.counts()["answered"] > 200 and ways(server).get("device", 0) > 100)
    counts = peers.counts()
    assert peers.lost() == []
    assert number(server, "tvetl_device_deaths_total") == 4
    found = ways(server)
    assert sum(found.values()) == counts["answered"]
    assert max(outcome.ended - outcome.began for outcome in peers.outcomes) < 10
    assert server.stop() == 0


def test_metrics_report_a_device_that_is_down(pretend: Run) -> None:
    server = pretend(PRETEND_RETRY="2")
    seen = [number(server, "tvetl_device_up")]
    for deaths in range(5):
        # Until the previous death is counted, the status may still be up, and this image would not reach the device.
        until(lambda deaths=deaths: number(server, "tvetl_device_deaths_total") == deaths and is_up(server))
        comes_through(server, picture(1, DIES))
    until(lambda: not is_up(server))
    seen.append(number(server, "tvetl_device_up"))
    until(lambda: is_up(server))
    seen.append(number(server, "tvetl_device_up"))
    assert seen == [1, 0, 1]


def test_five_deaths_end_a_server_that_is_set_to_stop_and_it_says_why(pretend: Run) -> None:
    server = pretend(TVETL_WITHOUT_DEVICE="stop")
    for deaths in range(5):
        # Until the previous death is counted, the status may still be up, and this image would not reach the device.
        until(lambda deaths=deaths: number(server, "tvetl_device_deaths_total") == deaths and is_up(server))
        comes_through(server, picture(1, DIES))
    assert server.process.wait(PATIENCE) == 1
    last = server.log.splitlines()[-1]
    assert last == "tvetl-server: DeviceError: the device is not there: its process died 5 times"
    assert server.log.count("started again") == 4


@pytest.mark.parametrize("told", ["refuse", "cpu"])
def test_other_settings_serve_on_by_the_cpu_until_the_device_returns(pretend: Run, tmp_path: Path, told: str) -> None:
    gone = tmp_path / "gone"
    server = pretend(TVETL_WITHOUT_DEVICE=told, PRETEND_RETRY="0.5", PRETEND_NO_DEVICE=str(gone))
    comes_through(server, picture(1))
    gone.touch()
    os.kill(device_of(server), signal.SIGKILL)
    until(lambda: "unplugged" in server.get("/health").body.decode())
    assert server.get("/health").status == 200
    assert not is_up(server)
    comes_through(server, picture(2))
    assert ways(server) == {"device": 1, "lost": 1}
    gone.unlink()
    until(lambda: is_up(server))
    assert "tests' own" in server.get("/health").body.decode()
    comes_through(server, picture(3))
    assert ways(server) == {"device": 2, "lost": 1}
    assert server.stop() == 0


@pytest.mark.parametrize("told", ["refuse", "stop"])
def test_a_device_missing_at_the_start_is_handled_as_set(pretend: Run, tmp_path: Path, told: str) -> None:
    gone = tmp_path / "gone"
    gone.touch()
    with pytest.raises(AssertionError, match="the server did not start") as error:
        pretend(PRETEND_NO_DEVICE=str(gone), TVETL_WITHOUT_DEVICE=told)
    assert str(error.value).rstrip().endswith("  Plug it in.\ntvetl-server: DeviceError: it is unplugged")
    server = pretend(PRETEND_NO_DEVICE=str(gone), TVETL_WITHOUT_DEVICE="cpu", PRETEND_RETRY="0.5")
    comes_through(server, picture(2))
    gone.unlink()
    until(lambda: is_up(server))


def test_a_device_process_that_hangs_is_ended_and_the_cpu_answers_in_time(pretend: Run) -> None:
    server = pretend(PRETEND_HANG="1", TVETL_SECONDS="120")
    victim = device_of(server)
    with Peers(server, 4, source, right, pause=0.01) as peers:
        began = time.monotonic()
        comes_through(server, picture(1, HANGS))
        assert time.monotonic() - began < 60, "half of its time, after which the CPU would have done it anyway"
        until(lambda: is_up(server) and device_of(server) != victim)
    assert peers.lost() == []
    assert not runs(victim)
    assert number(server, "tvetl_device_deaths_total") == 1


def test_the_cpu_answers_where_the_device_is_late(pretend: Run) -> None:
    """The device gets half of an object's time."""
    server = pretend(TVETL_SECONDS="2")
    began = time.monotonic()
    comes_through(server, picture(1, SLOW))
    assert time.monotonic() - began < 2
    assert ways(server) == {"late": 1}
    comes_through(server, picture(2))
    comes_through(server, picture(3))


def test_an_error_on_the_device_restarts_its_process(pretend: Run) -> None:
    server = pretend()
    comes_through(server, picture(1, FAILS))
    until(lambda: number(server, "tvetl_device_deaths_total") == 1 and is_up(server))
    comes_through(server, picture(1))
    assert ways(server) == {"lost": 1, "device": 1}
    assert "the device is lost" in server.log


def test_a_killed_supervisor_ends_a_server_that_is_set_to_stop(pretend: Run) -> None:
    server = pretend(TVETL_WITHOUT_DEVICE="stop")
    os.kill(parent(device_of(server)), signal.SIGKILL)
    assert server.process.wait(PATIENCE) == 1
    assert "its supervisor was killed" in server.log.splitlines()[-1]


def test_a_killed_supervisor_leaves_other_servers_to_the_cpu(pretend: Run) -> None:
    server = pretend()
    comes_through(server, picture(1))
    victim = device_of(server)
    with Peers(server, 4, source, right, pause=0.01) as peers:
        os.kill(parent(victim), signal.SIGKILL)
        until(lambda: not runs(victim))
        time.sleep(0.5)
    assert peers.lost() == []
    assert max(outcome.ended - outcome.began for outcome in peers.outcomes) < 5
    assert not is_up(server)
    assert "not there" in server.get("/health").body.decode()
    assert server.stop() == 0
