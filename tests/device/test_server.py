"""A server with a device: each object gets its own result, and nothing is leaked, also where processes end.

The device is support/fake_device.py's, which has no torch; all else is the real server.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import faulty_ops
from support.alone import descriptors
from support.device.fake_server import (
    Run,
    comes_through,
    decoders,
    device_of,
    expected,
    number,
    picture,
    right,
    source,
    ways,
    workers,
)
from support.fake_device import REFUSES, SLOW
from support.peers import Peers
from support.processes import memory, processes, runs
from support.serving import Disk, ask
from support.waiting import PATIENCE, until


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
    # On a busy machine an object may be slow, and the spare decoder that it gets takes another's place.
    until(lambda: len(held()) == len(before))
    assert "died" not in server.log
    before[device_of(server)] = 12 + 3 * len(decoders(server))  # with those that were not connected before
    for process, count in held().items():
        assert count <= before.get(process, count) + 5, f"descriptors of {process}, beside what is kept"
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
    own = pretend(**faulty_ops.install(tmp_path))
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


# --- the end of processes ---------------------------------------------------------------------------------------------


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
        until(lambda: peers.counts()["answered"] > 50)
    assert peers.counts()["wrong"] == 0
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
