"""A real server with support/fake_device.py's device, as a fixture; and what can be seen of it from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image
from support.metrics import counted
from support.processes import children, parent
from support.serving import PIPELINE, Server

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

Run = Callable[..., Server]


@pytest.fixture
def pretend(run_server: Callable[..., Server]) -> Run:
    def run(**settings: str) -> Server:
        given = {"TVETL_DEVICE": "host", "TVETL_DECODERS": "12", "TVETL_BATCH": "8", **settings}
        return run_server("support.fake_device", **given)

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
