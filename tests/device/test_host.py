"""The whole way by the device's own code on the CPU: nvImageCodec and torch in their process, a real server around."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.alone import descriptors
from support.device.fake_server import device_of, number, ways
from support.metrics import counted
from support.processes import memory, processes
from support.serving import Disk, Server, ask, start
from support.waiting import PATIENCE, until

from tvetl.spec import Arguments, parse, parse_arguments
from tvetl_server import problems
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

pytest.importorskip("torch", reason="the device needs torch, which is not installed")
pytest.importorskip("nvidia.nvimgcodec", reason="the device needs nvImageCodec, which is not installed")

PIPELINE = """{"version": 1, "seed": 5, "steps": [{"op": "RandomHorizontalFlip"}, {"op": "RandomCrop", "size": 96}],
 "output": {"format": "png"}}"""
_ENGINE = Engine(parse(PIPELINE), Limits())


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(tmp_path_factory.mktemp("mount"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mount: Disk) -> Iterator[Server]:
    """One for all tests here: torch takes seconds."""
    settings = {"TVETL_PIPELINE": PIPELINE, "TVETL_DEVICE": "host", "TVETL_BATCH": "8", "TVETL_DECODERS": "8"}
    running = start(tmp_path_factory.mktemp("host") / "log", **settings, TVETL_ROOTS=str(mount.root))
    yield running
    assert running.stop() == 0, running.log
    assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def given(photographs: list[Path]) -> dict[str, bytes]:
    """Objects of all kinds, by name: photographs, those that a device does not take, and damage."""
    found: dict[str, bytes] = {}
    for place, path in enumerate(photographs):
        image = Image.open(path).convert("RGB")
        image.thumbnail((260, 260))
        kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
            "plain.jpg": (image, "JPEG", {"quality": 88}),
            "gray.jpg": (image.convert("L"), "JPEG", {}),
            "full.jpg": (image, "JPEG", {"subsampling": "4:4:4"}),
            "progressive.jpg": (image, "JPEG", {"progressive": True}),
            "cmyk.jpg": (image.convert("CMYK"), "JPEG", {}),
            "a.png": (image, "PNG", {}),
            "a.webp": (image, "WEBP", {}),
        }
        for kind, (what, format, options) in kinds.items():
            file = io.BytesIO()
            what.save(file, format, **options)
            found[f"{place}-{kind}"] = file.getvalue()
        plain = found[f"{place}-plain.jpg"]
        broken = bytearray(plain)
        broken[len(plain) // 2 : len(plain) // 2 + 40] = os.urandom(40).replace(b"\xff", b"\0")
        found[f"{place}-codes.jpg"] = bytes(broken)
        found[f"{place}-short.jpg"] = plain[: len(plain) // 2]
        found[f"{place}-head.jpg"] = plain[:200]
        found[f"{place}-small.jpg"] = _small()
        found[f"{place}-text.jpg"] = b"This is no image."
    deep = io.BytesIO()
    Image.fromarray(np.arange(200 * 200, dtype=np.uint16).reshape(200, 200)).save(deep, "PNG")
    found["deep.png"] = deep.getvalue()
    return found


def _small() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "JPEG")
    return file.getvalue()


def expected(name: str, data: bytes, arguments: Arguments | None = None) -> tuple[int, bytes]:
    """What a server without a device answers."""
    try:
        body = _ENGINE.transform(data, f"src/{name}", arguments or Arguments()).body
        return 200, body if isinstance(body, bytes) else body.read()
    except Exception as error:  # noqa: BLE001
        problem = problems.problem_of(error)
        return problem.status, problems.body(problem, str(error), f"src/{name}")


def test_each_answer_from_mixed_batches_equals_the_cpus(server: Server, given: dict[str, bytes], mount: Disk) -> None:
    """By body and by name, eight at a time; moved pixels are the same pixels, so every byte is."""
    right = {name: expected(name, data) for name, data in given.items()}
    assert len(set(right.values())) > 40
    before, names = ways(server), sorted(given)
    wrong: list[str] = []

    def client(place: int) -> None:
        connection = server.connect()
        for turn in range(2):
            for step in range(len(names)):
                name = names[(7 * place + step) % len(names)]
                if turn:
                    reply = ask(connection, "PUT", targets[name], keep=True)
                else:
                    reply = ask(connection, "PUT", f"/src/{name}", given[name], keep=True)
                if (reply.status, reply.body) != right[name]:
                    wrong.append(f"{name}: {reply.status} {reply.body[:80]!r}, not {right[name][1][:80]!r}")
        connection.close()

    targets = {name: mount.add(name, data) for name, data in given.items()}
    clients = [threading.Thread(target=client, args=(place,)) for place in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(PATIENCE)
        assert not each.is_alive()
    assert wrong == []
    after = ways(server)
    gone = {way: count - before.get(way, 0) for way, count in after.items()}
    # Of each photograph three whole ones go there, and one that is broken but decodes; one may be refused.
    assert gone["device"] >= 8 * 2 * 5 * 3
    assert gone["format"] >= 8 * 2 * 5 * 4
    assert "lost" not in gone
    text = server.get("/metrics").body.decode()
    assert counted(text, "tvetl_device_batch_sum") / counted(text, "tvetl_device_batch_count") > 1.1
    assert counted(text, "tvetl_device_deaths_total") == 0


def test_views_arguments_and_shards_equal_the_cpus(server: Server, given: dict[str, bytes]) -> None:
    name, data = "1-plain.jpg", given["1-plain.jpg"]
    for asked in ('{"views": 9}', '{"size": 50}', '{"epoch": 2, "view": 3}', '{"format": "webp", "quality": 30}'):
        target = f"/src/{name}?etl_args={asked.replace(' ', '').replace(chr(34), '%22')}"
        reply = server.put(target, data)
        assert (reply.status, reply.body) == expected(name, data, parse_arguments(asked)), asked
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member_name in ("0-plain.jpg", "0-a.png", "1-gray.jpg", "2-progressive.jpg"):
            member = tarfile.TarInfo(member_name)
            member.size = len(given[member_name])
            tar.addfile(member, io.BytesIO(given[member_name]))
    before = ways(server)
    reply = server.put("/src/a.tar", buffer.getvalue())
    assert (reply.status, reply.body) == expected("a.tar", buffer.getvalue())
    after = ways(server)
    assert (after["device"] - before["device"], after["format"] - before["format"]) == (2, 2)


def test_health_and_metrics_report_the_device(server: Server) -> None:
    assert "the CPU in place of a GPU" in server.get("/health").body.decode()
    assert "nvjpeg" not in server.log.lower(), "nobody asked for libraries that are not there"
    assert number(server, "tvetl_device_up") == 1


def test_no_memory_or_descriptor_is_leaked_over_a_thousand_objects(server: Server, given: dict[str, bytes]) -> None:
    data = {name: given[name] for name in ("0-plain.jpg", "1-gray.jpg", "2-full.jpg", "3-codes.jpg")}

    def load(count: int) -> None:
        def client(place: int) -> None:
            connection = server.connect()
            for turn in range(count):
                name = [*data][(place + turn) % len(data)]
                ask(connection, "PUT", f"/src/{name}", data[name], keep=True)
            connection.close()

        clients = [threading.Thread(target=client, args=(place,)) for place in range(8)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(3 * PATIENCE)
            assert not each.is_alive()

    load(40)
    time.sleep(0.3)
    began, before = memory(server).own, len(descriptors(device_of(server)))
    everyone = processes(server)
    load(150)
    time.sleep(0.3)
    # On a busy machine an object may be slow, and the spare decoder that it gets takes another's place.
    until(lambda: len(processes(server)) == len(everyone))
    until(lambda: len(descriptors(device_of(server))) <= before)
    assert memory(server).own < 1.05 * began + 10 * 2**20
    assert "died" not in server.log


def test_a_killed_device_process_returns_and_the_cpu_answers_meanwhile(server: Server, given: dict[str, bytes]) -> None:
    name, data = "0-plain.jpg", given["0-plain.jpg"]
    victim = device_of(server)
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while device_of(server) == victim:
        assert time.monotonic() < end
        reply = server.put(f"/src/{name}", data)
        assert (reply.status, reply.body) == expected(name, data)
    until(lambda: number(server, "tvetl_device_up") == 1)
    before = ways(server)
    assert before["lost"] > 0
    assert server.put(f"/src/{name}", data).body == expected(name, data)[1]
    assert ways(server)["device"] == before["device"] + 1
    assert number(server, "tvetl_device_deaths_total") == 1
