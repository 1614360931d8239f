"""The device's process: how it forms batches, and how it treats decoders that die or send nonsense."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from support.device.scripted import Started, request, together
from support.forks import Fork, end
from support.waiting import PATIENCE, until

from tvetl_server.engine import DeviceRequest

Result = Any


def batches(found: Sequence[str | list[Result]]) -> list[int]:
    """Requests in each batch, in the order of the batches."""
    by_number = {json.loads(each[0])[1]: json.loads(each[0])[2] for each in found if not isinstance(each, str)}
    return [len(by_number[number]) for number in sorted(by_number)]


def test_a_batch_has_at_most_so_many_images(start: Callable[..., Started]) -> None:
    assert batches(together(start(batch=4), [request("who") for _ in range(10)])) == [4, 4, 2]


def test_each_view_counts_as_an_image_and_too_many_are_a_batch_of_their_own(start: Callable[..., Started]) -> None:
    views = [2, 3, 9, 1, 1]
    assert batches(together(start(batch=4), [request("who", views=count) for count in views])) == [1, 1, 1, 2]


def test_the_pixels_of_a_batch_are_limited(start: Callable[..., Started]) -> None:
    """1,000 here. A request that has more is refused, and harms no other of its batch."""
    sizes = [(10, 40), (10, 60), (1, 1), (50, 20), (40, 26), (1, 1)]
    found = together(start(), [request("who", size=size) for size in sizes])
    assert found[4] == "refused"
    assert batches(found) == [2, 1, 1, 1]
    assert together(start(), [request("who", size=(10, 40), views=3)]) == ["refused"], "each view is decoded by itself"


def test_the_result_of_a_dead_decoder_is_not_written_into_anothers_memory(
    start: Callable[..., Started], fork: Fork
) -> None:
    """The next decoder would get the same numbers of descriptors while the request still runs."""
    started = start()
    long = {"do": "sleep", "seconds": 1.0, "text": "x" * 5000}
    running = fork(lambda: started.link().transform(DeviceRequest(json.dumps(long).encode(), (1, 1), [[]], None, None)))
    time.sleep(0.3)
    waits = fork(lambda: started.link().transform(request("echo", text="y" * 5000)))
    time.sleep(0.2)
    end(running)
    end(waits)
    time.sleep(0.1)
    links = [started.link() for _ in range(4)]
    threads = [threading.Thread(target=link.transform, args=(request("echo"),)) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [os.fstat(link._outbox).st_size for link in links] == [len(request("echo").data)] * 4
    assert started.number("tvetl_device_deaths_total") == 0
    images = 1 + 4  # the waiting request of the second was removed
    until(lambda: started.number("tvetl_device_batch_sum") == images)


def test_a_message_that_is_no_request_ends_its_connection_alone(start: Callable[..., Started]) -> None:
    started = start()
    good, bad = started.link(), started.link()
    messages = [b"\0\0\0\1{", b"\0\0\0\2[]", b"\0\0\0\x12[99, [1, 1], [], 0]"[:20], b"\0\0\0\1"]
    messages += [b"\0\0\0\4null", b"\0\0\0\x1e[null, [1, 1], [], null, null]"]
    for message in messages:
        connection = bad._connect()
        connection.settimeout(PATIENCE)
        connection.sendall(message)
        connection.shutdown(1)  # SHUT_WR
        assert connection.recv(1) == b""
        bad._disconnect()
        assert good.transform(request("echo"))
    assert started.number("tvetl_device_deaths_total") == 0
