"""A server with a device that fails: no object is lost or wrong, and metrics and /health report the failure.

The device is launch.py's, which has no torch; all else is the real server.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device.launch import DIES, FAILS, HANGS, REFUSES, SLOW
from device.looking import PATIENCE, children, counted, runs, until
from hostile import faulty
from hostile.peers import Peers
from hostile.promises import memory, processes
from PIL import Image
from support.alone import descriptors
from support.serving import PIPELINE, Disk, Server, ask

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

Run = Callable[..., Server]


@pytest.fixture
def pretend(run_server: Callable[..., Server]) -> Run:
    def run(**settings: str) -> Server:
        given = {"TVETL_DEVICE": "host", "TVETL_DECODERS": "12", "TVETL_BATCH": "8", **settings}
        return run_server("device.launch", **given)

    return run


@cache
def picture(number: int, width: int = 64) -> bytes:
    """A JPEG, different for each number."""
    values = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).resize((width, 48)).save(file, "JPEG", quality=90)
    return file.getvalue()


_ENGINE = Engine(parse(PIPELINE), Limits())


@cache
def expected(data: bytes) -> bytes:
    body = _ENGINE.transform(data, "src/a", Arguments()).body
    assert isinstance(body, bytes)
    return body


def source(number: int) -> bytes:
    return picture(number % 100)


def right(number: int, answer: bytes) -> bool:
    return answer == expected(picture(number % 100))


def number(server: Server, name: str) -> float:
    return counted(server.get("/metrics").body.decode(), name)


def ways(server: Server) -> dict[str, float]:
    text = server.get("/metrics").body.decode()
    found = re.findall(r'^tvetl_device_images_total{way="(\w+)"} (\d+)$', text, re.MULTILINE)
    return {way: int(count) for way, count in found if int(count)}


def device_of(server: Server) -> int:
    """The id of the process that owns the device, from the log."""
    return int(re.findall(r"\[(\d+)\] \[INFO\] The device is ready", server.log)[-1])


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


def workers(server: Server) -> list[int]:
    supervisor = parent(device_of(server))
    return [child for child in children(server.process.pid) if child != supervisor]


def decoders(server: Server) -> list[int]:
    return [child for worker in workers(server) for forkserver in children(worker) for child in children(forkserver)]


def is_up(server: Server) -> bool:
    return number(server, "tvetl_device_up") == 1


def comes_through(server: Server, data: bytes) -> None:
    """The answer is the right one, from the device or the CPU."""
    reply = server.put("/src/a.jpg", data)
    assert (reply.status, reply.body == expected(data)) == (200, True)


# --- normal operation -------------------------------------------------------------------------------------------------


def test_thousands_of_objects_each_get_their_own_result_and_nothing_is_leaked(pretend: Run, disk: Disk) -> None:
    server = pretend(TVETL_WORKERS="2", TVETL_DECODERS="6", TVETL_ROOTS=str(disk.root))
    named = {n: disk.add(f"{n}.jpg", picture(n)) for n in range(100)}
    # The second worker may still be starting; its decoders must connect to the device before they are measured.
    until(lambda: len(decoders(server)) == 12)
    time.sleep(0.5)
    wrong: list[str] = []

    def client(place: int, count: int) -> None:
        connection = server.connect()
        for n in range(place, place + count):
            by_name = {"target": named[n % 100], "body": b""}
            how = by_name if n % 2 else {"target": f"/src/{n}.jpg", "body": source(n)}
            reply = ask(connection, "PUT", how["target"], how["body"], keep=True)  # type: ignore[arg-type]
            if reply.status != 200 or not right(n, reply.body):
                wrong.append(f"{n}: {reply.status}")
        connection.close()

    def load(count: int) -> None:
        clients = [threading.Thread(target=client, args=(7 * place, count)) for place in range(12)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(PATIENCE)
            assert not each.is_alive()

    def held() -> dict[int, int]:
        return {process: len(descriptors(process)) for process in processes(server)}

    load(60)
    time.sleep(0.5)
    began, before = memory(server).own, held()
    load(200)
    assert wrong == []
    assert ways(server) == {"device": 12 * 260}
    batches = number(server, "tvetl_device_batch_count")
    assert number(server, "tvetl_device_batch_sum") / batches > 1.5
    time.sleep(0.5)
    assert set(held()) == set(before), "nobody died"
    before[device_of(server)] = 12 + 3 * len(decoders(server))  # with those that were not connected before
    for process, count in held().items():
        assert count <= before[process] + 5, f"descriptors of {process}, beside what is kept"
    assert memory(server).own < 1.1 * began + 10 * 2**20
    assert number(server, "tvetl_device_deaths_total") == 0
    assert server.get("/health").status == 200
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_the_way_of_each_image_is_counted(pretend: Run, tmp_path: Path) -> None:
    server = pretend()
    png = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(png, "PNG")
    large = io.BytesIO()
    Image.new("RGB", (500, 500), (9, 99, 200)).save(large, "JPEG")
    for data in (picture(1), png.getvalue(), picture(1, REFUSES), large.getvalue()):
        comes_through(server, data)
    assert ways(server) == {"device": 1, "format": 1, "refused": 2}
    assert server.put("/src/a.jpg", picture(1)[:200]).status == 422
    assert ways(server)["device"] == 1
    own = pretend(**faulty.install(tmp_path))
    reply = own.put("/src/a.jpg", picture(1))
    assert reply.status == 200
    assert ways(own) == {"step": 1}, "a plugin op is the CPU's"


def test_bad_images_fail_alone_and_with_the_cpus_own_errors(pretend: Run, run_server: Run) -> None:
    server, plain = pretend(), run_server()
    good = [source(n) for n in range(20)]
    bad = [picture(1)[:-30], picture(2)[:300], b"no image", picture(3)[:400] + b"\xff\xd9", picture(4, 20)]
    given = [data for some in zip(good, bad * 4, strict=True) for data in some]
    replies: dict[int, Any] = {}

    def send(place: int) -> None:
        replies[place] = server.put(f"/src/{place}.jpg", given[place])

    threads = [threading.Thread(target=send, args=(place,)) for place in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for place, data in enumerate(given):
        alone = plain.put(f"/src/{place}.jpg", data)
        assert (replies[place].status, replies[place].body) == (alone.status, alone.body), place
    assert ways(server)["device"] >= len(good)
    assert number(server, "tvetl_device_deaths_total") == 0


# --- failures ---------------------------------------------------------------------------------------------------------


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
        time.sleep(0.5)
    counts = peers.counts()
    assert peers.lost() == []
    assert counts["answered"] > 200
    assert number(server, "tvetl_device_deaths_total") == 4
    found = ways(server)
    assert found["device"] > found.get("lost", 0)
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
    server = pretend(PRETEND_HANG="1", TVETL_SECONDS="20")
    victim = device_of(server)
    with Peers(server, 4, source, right, pause=0.01) as peers:
        began = time.monotonic()
        comes_through(server, picture(1, HANGS))
        assert 0.9 < time.monotonic() - began < 10
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


# --- the end of other processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["kill -9 of the first", "Ctrl-C", "SIGTERM to each"])
def test_no_process_is_left_behind(pretend: Run, by: str) -> None:
    server = pretend(TVETL_WORKERS="2")
    comes_through(server, picture(1))
    everyone = processes(server)
    assert device_of(server) in everyone
    if by == "kill -9 of the first":
        server.process.kill()
    for process in everyone if by != "kill -9 of the first" else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGINT if by == "Ctrl-C" else signal.SIGTERM)
    status = server.process.wait(PATIENCE)
    assert status == (-signal.SIGKILL if by == "kill -9 of the first" else 0)
    until(lambda: not any(runs(process) for process in everyone))
    assert "DeviceError" not in server.log


def test_killed_decoders_and_workers_harm_no_object_and_leak_nothing(pretend: Run) -> None:
    server = pretend(TVETL_WORKERS="2")
    victim = device_of(server)
    with Peers(server, 8, source, right, pause=0.002) as peers:
        for _ in range(10):
            time.sleep(0.1)
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(decoders(server)[0], signal.SIGKILL)
    assert peers.lost() == [], "each is tried once more"
    held = len(descriptors(victim))
    with Peers(server, 8, source, right, pause=0.002) as peers:
        for _ in range(3):
            os.kill(workers(server)[0], signal.SIGKILL)
            until(lambda: len(workers(server)) == 2)
            time.sleep(0.5)
    assert peers.counts()["wrong"] == 0
    assert peers.counts()["answered"] > 50
    assert device_of(server) == victim
    assert number(server, "tvetl_device_deaths_total") == 0
    comes_through(server, picture(1))
    # Three descriptors a decoder; the new ones may be connected or not yet.
    until(lambda: len(descriptors(victim)) <= max(held, 10 + 3 * len(decoders(server))))


def test_sigterm_lets_requests_finish_on_the_device(pretend: Run) -> None:
    server = pretend()
    slow = picture(1, SLOW)
    head = f"PUT /src/a.jpg HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(slow)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            for _ in range(2)
        ]
        for connection in connections:
            connection.sendall(head + slow)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        for connection in connections:
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(expected(slow))
    assert server.process.wait(PATIENCE) == 0
    assert "DeviceError" not in server.log
