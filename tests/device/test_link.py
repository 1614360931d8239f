"""The link of a decoder to the device: requests and results arrive, and a missing result has a reason."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.alone import alone, descriptors
from support.device.scripted import Scripted, Started, made, reason, request, together
from support.waiting import PATIENCE, until

from tvetl.spec import Arguments, parse
from tvetl_server.engine import DeviceRequest, Engine
from tvetl_server.limits import Limits


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (1, 40, 3)])
def test_tensors_arrive_as_they_were(start: Callable[..., Started], kind: str, shape: tuple[int, ...]) -> None:
    link = start().link()
    for views in (1, 3):
        told = {"do": "array", "shape": list(shape), "kind": kind}
        found = link.transform(request(views=views, **told))
        assert len(found) == views
        for view, tensor in enumerate(found):
            assert isinstance(tensor, np.ndarray)
            assert (tensor.dtype, tensor.shape) == (np.dtype(kind), shape)
            assert np.array_equal(tensor, made(told, view))


def test_images_gray_images_and_files_arrive_as_what_they_are(start: Callable[..., Started], image: bytes) -> None:
    link = start().link()

    class Linked:
        turn = staticmethod(contextlib.nullcontext)

        def transform(self, given: DeviceRequest) -> Sequence[Any]:
            return link.transform(request(views=len(given.steps), **told))

    pipeline = parse({"steps": [{"op": "CenterCrop", "size": 5}], "output": {"format": "png"}})
    engine = Engine(pipeline, Limits(), device=Linked())
    for shape, mode in (((5, 7, 3), "RGB"), ((5, 7), "L")):
        told = {"do": "array", "shape": list(shape), "kind": "uint8"}
        body = engine.transform(image, "a/b", Arguments(views=2, given=frozenset(["views"]))).body
        assert isinstance(body, bytes)
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            files = [file for member in tar if (file := tar.extractfile(member))]
            images = [Image.open(io.BytesIO(file.read())) for file in files]
        assert len(images) == 2
        for view, found in enumerate(images):
            assert (found.mode, found.size) == (mode, (7, 5))
            assert np.array_equal(np.asarray(found), made(told, view))
    assert link.transform(request("echo", views=2)) == [request("echo").data[::-1]] * 2


def test_a_transposed_array_arrives_in_its_own_order(start: Callable[..., Started]) -> None:
    told = {"do": "array", "shape": [4, 6, 3], "kind": "uint8", "turned": [2, 0, 1]}
    (found,) = start().link().transform(request(**told))
    assert np.array_equal(found, made(told).transpose(2, 0, 1))


def test_the_largest_objects_arrive_and_their_memory_is_freed(start: Callable[..., Started]) -> None:
    """8 MiB of shared memory are kept; 60 MB are freed."""
    link = start().link()
    told = {"do": "array", "shape": [3, 5000, 4000], "kind": "uint8"}
    (found,) = link.transform(request(**told))
    assert np.array_equal(found, made(told))
    large = "x" * 30_000_000
    (back,) = link.transform(request("echo", text=large))
    assert back == request("echo", text=large).data[::-1]
    assert os.fstat(link._inbox).st_size == os.fstat(link._outbox).st_size == 0
    (back,) = link.transform(request("echo"))
    assert back == request("echo").data[::-1]


@pytest.mark.parametrize("resized", [None, 5, (6, 7)])
def test_a_request_arrives_as_it_was(start: Callable[..., Started], resized: int | tuple[int, int] | None) -> None:
    programs = [[["crop", 1, 2, 3, 4], ["resize", (5, 6), "bilinear", (0, 0, 5, 6), True, -1]], [["pad", None, 0.25]]]
    given = DeviceRequest(b'{"do": "request"}', (20, 10), programs, (75, "4:2:0"), resized)
    found = [json.loads(each) for each in start().link().transform(given)]
    expected = [[(20, 10), (75, "4:2:0"), resized, program] for program in programs]
    assert found == json.loads(json.dumps(expected))


def test_each_of_thousands_gets_its_own_result_and_batches_form(start: Callable[..., Started]) -> None:
    started = start()
    wrong: list[str] = []

    def decoder(place: int) -> None:
        link = started.link()
        for number in range(150):
            if number % 3:
                told = {"do": "array", "shape": [place + 1, number + 1, 3], "kind": "uint8", "n": [place, number]}
                for view, found in enumerate(link.transform(request(views=1 + number % 2, **told))):
                    if not np.array_equal(np.asarray(found), made(told, view)):
                        wrong.append(f"{place}: {number}")
            else:
                what = request("echo", n=[place, number])
                if link.transform(what) != [what.data[::-1]]:
                    wrong.append(f"{place}: {number}")

    threads = [threading.Thread(target=decoder, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []
    images = 16 * (50 + 50 + 2 * 50)
    until(lambda: started.number("tvetl_device_batch_sum") == images)  # counted after the answers
    batches = started.number("tvetl_device_batch_count")
    assert images / batches > 1.5
    assert started.number('tvetl_device_seconds_count{stage="gather"}') == 16 * 150
    until(lambda: started.number('tvetl_device_seconds_count{stage="run"}') == batches)


def test_no_descriptor_is_leaked_by_decoders_that_come_and_go() -> None:
    alone(_come_and_go)


def _come_and_go() -> None:
    started = Started(Scripted)
    device, kept = started.process, started.link()

    def many(count: int) -> None:
        for number in range(count):
            link = started.device.link()
            link.transform(request("echo"))
            if number % 3 == 0:
                assert reason(link, request("sleep", seconds=0.05, left=0.02)) == "late"
            link._disconnect()
        kept.transform(request("echo"))

    many(3)
    until(lambda: _settled(device))
    here, there = descriptors(), descriptors(device)
    many(30)
    assert descriptors() == here
    until(lambda: descriptors(device) == there)
    started.close()


def _settled(process: int) -> bool:
    first = descriptors(process)
    time.sleep(0.3)
    return descriptors(process) == first


def test_no_descriptor_is_leaked_where_they_run_out(start: Callable[..., Started]) -> None:
    """Enough for a connection and one piece of memory, not for the second."""
    started = start()

    def promise() -> None:
        link = started.device.link()
        highest = max(number for number, *_ in descriptors())
        while (last := os.dup(0)) <= highest:
            pass
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for _ in range(5):
            assert reason(link, request("echo")) == "lost"
        gc.collect()  # the errors hold the sockets
        assert descriptors() == before

    alone(promise)
    assert started.ask(do="echo") == [request("echo").data[::-1]]


def test_a_refused_request_harms_no_other(start: Callable[..., Started]) -> None:
    started = start()
    found = together(started, [request("echo"), request("refuse"), request("echo")])
    assert found == [[request("echo").data[::-1]], "refused", [request("echo").data[::-1]]]
    link = started.link()
    for _ in range(3):
        assert reason(link, request("refuse")) == "refused"
        assert link.transform(request("echo")) == [request("echo").data[::-1]]


def test_an_answer_that_comes_after_the_deadline_is_dropped(start: Callable[..., Started]) -> None:
    """The device gets half of an object's time."""
    link = start().link()
    link.transform(request("echo"))
    began = time.monotonic()
    assert reason(link, request("sleep", seconds=1.5, left=1.0)) == "late"
    assert 0.4 < time.monotonic() - began < 1.4
    assert link.transform(request("echo", n=2)) == [request("echo", n=2).data[::-1]]


def test_a_request_without_time_left_is_not_sent(start: Callable[..., Started]) -> None:
    """Even if the answer would come at once."""
    started = start()
    link = started.link()
    for _ in range(100):
        assert reason(link, request("echo", left=-1.0)) == "late"
    assert link.transform(request("echo")) == [request("echo").data[::-1]]
    until(lambda: started.number("tvetl_device_batch_sum") > 0)  # counted after the answer
    assert started.number("tvetl_device_batch_sum") == 1
