"""The device's process: how it forms batches, and what it makes of decoders that die."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from device.forks import Fork, end
from device.looking import PATIENCE, until
from device.scripted import Started, order, together

from tvetl_server.engine import Order

Result = Any


def batches(found: Sequence[str | list[Result]]) -> list[int]:
    """How many orders each batch had, in the order of the batches."""
    by_number = {json.loads(each[0])[1]: json.loads(each[0])[2] for each in found if not isinstance(each, str)}
    return [len(by_number[number]) for number in sorted(by_number)]


def test_a_batch_has_at_most_so_many_images(start: Callable[..., Started]) -> None:
    assert batches(together(start(batch=4), [order("who") for _ in range(10)])) == [4, 4, 2]


def test_views_are_images_of_a_batch_and_more_than_a_batch_are_one_of_their_own(start: Callable[..., Started]) -> None:
    views = [2, 3, 9, 1, 1]
    assert batches(together(start(batch=4), [order("who", views=count) for count in views])) == [1, 1, 1, 2]


def test_the_pixels_that_go_together_are_bounded(start: Callable[..., Started]) -> None:
    """1,000 here. What alone has more is not for the device, and the others of its batch are not harmed."""
    sizes = [(10, 40), (10, 60), (1, 1), (50, 20), (40, 26), (1, 1)]
    found = together(start(), [order("who", size=size) for size in sizes])
    assert found[4] == "refused"
    assert batches(found) == [2, 1, 1, 1]
    assert together(start(), [order("who", size=(10, 40), views=3)]) == ["refused"], "each view is decoded by itself"


def test_of_a_decoder_that_dies_nothing_is_written_into_anothers_memory(
    start: Callable[..., Started], fork: Fork
) -> None:
    """The numbers of its descriptors would be given to the next that comes, while its order still runs."""
    started = start()
    long = {"do": "sleep", "seconds": 1.0, "text": "x" * 5000}
    running = fork(lambda: started.link().transform(Order(json.dumps(long).encode(), (1, 1), [[]], None, None)))
    time.sleep(0.3)
    waits = fork(lambda: started.link().transform(order("echo", text="y" * 5000)))
    time.sleep(0.2)
    end(running)
    end(waits)
    time.sleep(0.1)
    links = [started.link() for _ in range(4)]
    threads = [threading.Thread(target=link.transform, args=(order("echo"),)) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [os.fstat(link._outbox).st_size for link in links] == [len(order("echo").data)] * 4
    assert started.number("tvetl_device_deaths_total") == 0
    images = 1 + 4  # that of the one that waited was taken out
    until(lambda: started.number("tvetl_device_batch_sum") == images)


def test_what_is_no_order_ends_the_connection_alone(start: Callable[..., Started]) -> None:
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
        assert good.transform(order("echo"))
    assert started.number("tvetl_device_deaths_total") == 0
