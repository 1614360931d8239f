"""The process that owns the device, its supervisor, and the hand-over: with a device that does what it is told.

No torch, no GPU and no HTTP: what is real are the processes, the sockets, the shared memory and the kernel's locks.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import resource
import signal
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alone import alone, descriptors
from device.forks import Fork, end
from device.looking import PATIENCE, children, counted, runs, until
from PIL import Image

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine, NotByDevice, Order
from tvetl_server.engine.driver import DeviceError
from tvetl_server.limits import Limits
from tvetl_server.metrics import Metrics
from tvetl_server.processes.device import DeviceProcess, Link, timing

Result = Any


class Told:
    """A device that does what the bytes of each order say, as JSON."""

    about = "a device that does what it is told"
    pixels = 1000

    def __init__(self) -> None:
        self._batches = 0

    def run(self, orders: Sequence[Order]) -> list[list[Result] | None]:
        self._batches += 1
        return [self._one(json.loads(bytes(order.data)), order, orders) for order in orders]

    def _one(self, told: dict[str, Any], order: Order, batch: Sequence[Order]) -> list[Result] | None:
        do = told["do"]
        if do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "raise":
            raise RuntimeError("the device is lost")
        if do == "sleep":
            time.sleep(told["seconds"])
        if do == "hang":  # PyDLL keeps the interpreter's lock
            ctypes.PyDLL(None).sleep(1000)
        if do == "refuse":
            return None
        if do == "who":
            return [json.dumps([os.getpid(), self._batches, [len(other.programs) for other in batch]]).encode()]
        if do == "order":
            return [json.dumps([order.size, order.jpeg, order.resized, program]).encode() for program in order.programs]
        if do == "array":
            return [self._array(told, view) for view in range(len(order.programs))]
        return [bytes(order.data)[::-1] for _ in order.programs]

    @staticmethod
    def _array(told: dict[str, Any], view: int) -> Result:
        return made(told, view).transpose(told.get("turned", range(len(told["shape"]))))


def made(told: dict[str, Any], view: int = 0) -> np.ndarray[Any, Any]:
    """Other numbers for each order and view."""
    seed = int.from_bytes(sha256(json.dumps([told, view]).encode()).digest()[:4], "big")
    numbers = np.random.default_rng(seed).integers(0, 256, told["shape"], np.uint8)
    return numbers.astype(told["kind"])


def order(
    do: str = "", views: int = 1, size: tuple[int, int] = (1, 1), left: float | None = None, **more: Any
) -> Order:
    data = json.dumps({"do": do, **more}).encode()
    return Order(data, size, [[["view", view]] for view in range(views)], None, None, _deadline(left))


def _deadline(left: float | None) -> float | None:
    return None if left is None else time.monotonic() + left


class Started:
    """A device's process, and what there is to see of it."""

    def __init__(
        self,
        make: Callable[[], Any],
        batch: int = 8,
        needed: bool = False,
        stops: bool = False,
    ) -> None:
        self.counts = Metrics(rows=2, device=True)
        self.device = DeviceProcess(
            make,
            batch=batch,
            processors=2,
            counts=self.counts,
            row=1,
            needed=needed,
            stops=stops,
        )
        self.supervisor = self.device._supervisor
        self._links: list[Link] = []

    def link(self) -> Link:
        """A decoder's way to the device. A decoder ends with its descriptors; this process has to close them."""
        self._links.append(self.device.link())
        return self._links[-1]

    def close(self) -> None:
        self.device.close()
        for link in self._links:
            link._disconnect()

    @property
    def process(self) -> int:
        """The id of the process that owns the device, when it is there."""
        until(lambda: children(self.supervisor))
        return children(self.supervisor)[0]

    def number(self, name: str) -> float:
        return counted(self.counts.text(), name)

    @property
    def up(self) -> bool:
        return bool(self.number("tvetl_device_up"))

    def is_back(self, deaths: int) -> None:
        """Wait until it has died so often and is there again."""
        until(lambda: self.number("tvetl_device_deaths_total") == deaths and self.up)

    def ask(self, **told: Any) -> Result:
        return self.link().transform(order(**told))


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    with ExitStack() as stack:

        def run(make: Callable[[], Any] = Told, **how: Any) -> Started:
            started = Started(make, **how)
            stack.callback(started.close)
            return started

        yield run


def reason(link: Link, what: Order) -> str:
    """Why it is not done by the device."""
    with pytest.raises(NotByDevice) as error:
        link.transform(what)
    return str(error.value)


# --- what is handed over ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (1, 40, 3)])
def test_tensors_arrive_as_they_were(start: Callable[..., Started], kind: str, shape: tuple[int, ...]) -> None:
    link = start().link()
    for views in (1, 3):
        told = {"do": "array", "shape": list(shape), "kind": kind}
        found = link.transform(order(views=views, **told))
        assert len(found) == views
        for view, tensor in enumerate(found):
            assert isinstance(tensor, np.ndarray)
            assert (tensor.dtype, tensor.shape) == (np.dtype(kind), shape)
            assert np.array_equal(tensor, made(told, view))


def test_images_are_images_gray_ones_too_and_files_are_files(start: Callable[..., Started], image: bytes) -> None:
    link = start().link()

    class Linked:
        turn = staticmethod(contextlib.nullcontext)

        def transform(self, given: Order) -> Sequence[Any]:
            return link.transform(order(views=len(given.programs), **told))

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
    assert link.transform(order("echo", views=2)) == [order("echo").data[::-1]] * 2


def test_pixels_that_lie_in_another_order_arrive_in_theirs(start: Callable[..., Started]) -> None:
    told = {"do": "array", "shape": [4, 6, 3], "kind": "uint8", "turned": [2, 0, 1]}
    (found,) = start().link().transform(order(**told))
    assert np.array_equal(found, made(told).transpose(2, 0, 1))


def test_the_largest_are_handed_over_and_give_their_memory_back(start: Callable[..., Started]) -> None:
    """8 MiB are kept; 60 MB come and go."""
    link = start().link()
    told = {"do": "array", "shape": [3, 5000, 4000], "kind": "uint8"}
    (found,) = link.transform(order(**told))
    assert np.array_equal(found, made(told))
    large = "x" * 30_000_000
    (back,) = link.transform(order("echo", text=large))
    assert back == order("echo", text=large).data[::-1]
    assert os.fstat(link._inbox).st_size == os.fstat(link._outbox).st_size == 0
    (back,) = link.transform(order("echo"))
    assert back == order("echo").data[::-1]


@pytest.mark.parametrize("resized", [None, 5, (6, 7)])
def test_an_order_arrives_as_it_was(start: Callable[..., Started], resized: int | tuple[int, int] | None) -> None:
    programs = [[["crop", 1, 2, 3, 4], ["resize", (5, 6), "bilinear", (0, 0, 5, 6), True, -1]], [["pad", None, 0.25]]]
    given = Order(b'{"do": "order"}', (20, 10), programs, (75, "4:2:0"), resized)
    found = [json.loads(each) for each in start().link().transform(given)]
    expected = [[(20, 10), (75, "4:2:0"), resized, program] for program in programs]
    assert found == json.loads(json.dumps(expected))


def test_none_of_thousands_gets_what_is_anothers_and_batches_form(start: Callable[..., Started]) -> None:
    started = start()
    wrong: list[str] = []

    def decoder(place: int) -> None:
        link = started.link()
        for number in range(150):
            if number % 3:
                told = {"do": "array", "shape": [place + 1, number + 1, 3], "kind": "uint8", "n": [place, number]}
                for view, found in enumerate(link.transform(order(views=1 + number % 2, **told))):
                    if not np.array_equal(np.asarray(found), made(told, view)):
                        wrong.append(f"{place}: {number}")
            else:
                what = order("echo", n=[place, number])
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
    until(lambda: started.number("tvetl_device_batch_sum") == images)  # counted behind the answers
    batches = started.number("tvetl_device_batch_count")
    assert images / batches > 1.5
    assert started.number('tvetl_device_seconds_count{stage="gather"}') == 16 * 150
    until(lambda: started.number('tvetl_device_seconds_count{stage="run"}') == batches)


def test_nothing_is_left_of_decoders_that_come_and_go() -> None:
    alone(_come_and_go)


def _come_and_go() -> None:
    started = Started(Told)
    device, kept = started.process, started.link()

    def many(count: int) -> None:
        for number in range(count):
            link = started.device.link()
            link.transform(order("echo"))
            if number % 3 == 0:
                assert reason(link, order("sleep", seconds=0.05, left=0.02)) == "late"
            link._disconnect()
        kept.transform(order("echo"))

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


def test_where_descriptors_are_short_none_is_lost(start: Callable[..., Started]) -> None:
    """For a connection and one piece of memory there are enough, and not for the other."""
    started = start()

    def promise() -> None:
        link = started.device.link()
        highest = max(number for number, *_ in descriptors())
        while (last := os.dup(0)) <= highest:
            pass
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for _ in range(5):
            assert reason(link, order("echo")) == "lost"
        gc.collect()  # the errors hold the sockets
        assert descriptors() == before

    alone(promise)
    assert started.ask(do="echo") == [order("echo").data[::-1]]


# --- batches ------------------------------------------------------------------------------------------------------


def together(started: Started, orders: Sequence[Order]) -> list[str | list[Result]]:
    """Their results, all asked for while the device is busy, so that they are there at once when it is free."""
    found: list[str | list[Result]] = [""] * len(orders)
    busy = threading.Thread(target=lambda: started.ask(do="sleep", seconds=0.4))
    busy.start()
    time.sleep(0.2)

    def ask(place: int) -> None:
        try:
            found[place] = started.link().transform(orders[place])
        except NotByDevice as error:
            found[place] = str(error)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(orders))]
    for thread in threads:
        thread.start()
        time.sleep(0.01)  # in this order
    for thread in [busy, *threads]:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return found


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


# --- what fails ---------------------------------------------------------------------------------------------------


def test_what_it_refuses_alone_is_refused(start: Callable[..., Started]) -> None:
    started = start()
    found = together(started, [order("echo"), order("refuse"), order("echo")])
    assert found == [[order("echo").data[::-1]], "refused", [order("echo").data[::-1]]]
    link = started.link()
    for _ in range(3):
        assert reason(link, order("refuse")) == "refused"
        assert link.transform(order("echo")) == [order("echo").data[::-1]]


def test_who_gives_up_is_not_handed_the_late_answer(start: Callable[..., Started]) -> None:
    """Half of the time that an object has is the device's."""
    link = start().link()
    link.transform(order("echo"))
    began = time.monotonic()
    assert reason(link, order("sleep", seconds=1.5, left=1.0)) == "late"
    assert 0.4 < time.monotonic() - began < 1.4
    assert link.transform(order("echo", n=2)) == [order("echo", n=2).data[::-1]]


def test_who_has_no_time_left_does_not_ask(start: Callable[..., Started]) -> None:
    """However fast the answer would be."""
    started = start()
    link = started.link()
    for _ in range(100):
        assert reason(link, order("echo", left=-1.0)) == "late"
    assert link.transform(order("echo")) == [order("echo").data[::-1]]
    until(lambda: started.number("tvetl_device_batch_sum") > 0)  # counted behind the answer
    assert started.number("tvetl_device_batch_sum") == 1


@pytest.mark.parametrize("how", ["die", "raise"])
def test_its_death_costs_what_was_on_it_and_it_is_started_again(start: Callable[..., Started], how: str) -> None:
    started = start()
    assert started.up
    before = started.process
    found = together(started, [order("echo"), order(how), order("echo")])
    assert found == ["lost"] * 3
    started.is_back(deaths=1)
    assert not started.device.lost
    assert started.ask(do="echo") == [order("echo").data[::-1]]
    assert not runs(before)


def test_one_that_died_is_said_to_be_down_until_it_is_ready(start: Callable[..., Started], tmp_path: Path) -> None:
    slow = tmp_path / "slow"

    def make() -> Told:
        while slow.exists():
            time.sleep(0.01)
        return Told()

    started = start(make)
    assert (started.up, started.device.state) == (True, Told.about)
    slow.touch()
    os.kill(started.process, signal.SIGKILL)
    until(lambda: not started.up)
    until(lambda: "started again" in started.device.state)
    assert not started.device.lost
    link = started.link()
    assert reason(link, order("echo")) == "lost"
    slow.unlink()
    until(lambda: started.up)
    assert link.transform(order("echo"))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times for a test; the processes get them as they are forked."""
    monkeypatch.setattr(timing, "HANG", 1.0)
    monkeypatch.setattr(timing, "RETRY", 0.5)
    monkeypatch.setattr(timing, "POLL", 0.1)
    monkeypatch.setattr(timing, "START", 2.0)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("how", [{"do": "sleep", "seconds": 1000}, {"do": "hang"}])
def test_one_that_hangs_is_ended_even_where_it_keeps_the_interpreter(
    start: Callable[..., Started], how: dict[str, Any]
) -> None:
    started = start()
    before = started.process
    began = time.monotonic()
    assert reason(started.link(), Order(json.dumps(how).encode(), (1, 1), [[]], None, None)) == "lost"
    assert 0.9 < time.monotonic() - began < 10
    until(lambda: not runs(before))
    started.is_back(deaths=1)
    assert started.ask(do="echo")


@pytest.mark.usefixtures("brief")
def test_a_batch_after_a_long_silence_does_not_hang(start: Callable[..., Started]) -> None:
    started = start()
    before = started.process
    assert started.ask(do="echo")
    time.sleep(1.5)
    assert started.ask(do="sleep", seconds=0.5)
    assert started.process == before


@pytest.mark.usefixtures("brief")
def test_a_start_that_hangs_is_no_start(start: Callable[..., Started]) -> None:
    started = start(lambda: time.sleep(1000))
    assert not started.up
    before = started.process
    until(lambda: not runs(before))
    with pytest.raises(NotByDevice, match="lost"):
        started.ask(do="echo")


@pytest.mark.usefixtures("brief")
def test_five_deaths_in_a_minute_are_no_accident_and_it_is_looked_for_again(start: Callable[..., Started]) -> None:
    started = start()
    for deaths in range(5):
        until(lambda: started.up)
        assert not started.device.lost
        link = started.link()
        assert reason(link, order("die")) == "lost"
        until(lambda deaths=deaths: started.number("tvetl_device_deaths_total") == deaths + 1)
    assert "died 5 times" in started.device.state
    assert started.device.lost
    assert not started.up
    began = time.monotonic()
    assert reason(link, order("echo")) == "lost"
    assert time.monotonic() - began < 0.4, "nobody waits for what is not there"
    until(lambda: started.up)
    assert time.monotonic() - began > 0.3
    assert started.device.state == Told.about
    assert link.transform(order("echo"))


def killed() -> Told:
    os.kill(os.getpid(), signal.SIGKILL)
    return Told()


def absent() -> Told:
    raise DeviceError("there is none", hint="Buy one.")


def broken() -> Told:
    raise ImportError("no module named so\nand more")


@pytest.mark.parametrize(
    ("make", "words"),
    [(killed, "its process died 5 times"), (absent, "there is none"), (broken, "ImportError: no module named so")],
)
def test_where_there_is_none_at_start_it_is_said_why_and_nothing_is_left(make: Callable[[], Any], words: str) -> None:
    before = set(children(os.getpid()))
    with pytest.raises(DeviceError) as error:
        Started(make, needed=True)
    assert words in str(error.value)
    assert error.value.hint == ("Buy one." if make is absent else "")
    assert set(children(os.getpid())) == before


@pytest.mark.usefixtures("brief")
def test_one_that_was_needed_at_the_start_and_is_lost_later_is_done_without(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    taken = tmp_path / "taken"

    def make() -> Told:
        return absent() if taken.exists() else Told()

    started = start(make, needed=True)
    taken.touch()
    os.kill(started.process, signal.SIGKILL)
    until(lambda: "there is none" in started.device.state)
    assert reason(started.link(), order("echo")) == "lost"
    taken.unlink()
    until(lambda: started.up)


@pytest.mark.usefixtures("brief")
def test_or_it_is_done_without_until_it_comes(start: Callable[..., Started], tmp_path: Path) -> None:
    there = tmp_path / "there"

    def make() -> Told:
        return Told() if there.exists() else absent()

    started = start(make)
    assert "there is none" in started.device.state
    assert not started.up
    link = started.link()
    assert reason(link, order("echo")) == "lost"
    there.touch()
    until(lambda: started.up)
    assert link.transform(order("echo"))
    assert started.number("tvetl_device_deaths_total") == 0


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("both", [False, True])
def test_without_its_supervisor_it_ends_and_nobody_waits_for_it(start: Callable[..., Started], both: bool) -> None:
    started = start()
    link, process = started.link(), started.process
    assert link.transform(order("echo"))
    if both:
        os.kill(started.supervisor, signal.SIGSTOP)  # it shall not see the other's end
        os.kill(process, signal.SIGKILL)
    os.kill(started.supervisor, signal.SIGKILL)
    until(lambda: not runs(started.supervisor) and not runs(process))
    began = time.monotonic()
    for _ in range(3):
        assert reason(link, order("echo")) == "lost"
    assert time.monotonic() - began < 1
    assert "not there" in started.device.state
    if not both:
        assert not started.up
        assert started.device.lost


def test_at_the_end_both_processes_are_gone(start: Callable[..., Started]) -> None:
    started = start()
    process = started.process
    started.device.close()
    until(lambda: not runs(started.supervisor) and not runs(process))
    assert not started.device.lost, "an end is no loss"


def test_killed_again_and_again_under_load_nothing_is_wrong_and_nobody_waits(
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
            what = order("echo", left=20.0, n=[place, number])
            began = time.monotonic()
            try:
                outcomes["right" if link.transform(what) == [what.data[::-1]] else "wrong"] += 1
            except NotByDevice as error:
                outcomes[str(error)] += 1
                time.sleep(0.005)  # as the CPU takes its time
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


# --- decoders that die ----------------------------------------------------------------------------------------------


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
    for message in (b"\0\0\0\1{", b"\0\0\0\2[]", b"\0\0\0\x12[99, [1, 1], [], 0]"[:20], b"\0\0\0\1"):
        connection = bad._connect()
        connection.settimeout(PATIENCE)
        connection.sendall(message)
        connection.shutdown(1)  # SHUT_WR
        assert connection.recv(1) == b""
        bad._disconnect()
        assert good.transform(order("echo"))
    assert started.number("tvetl_device_deaths_total") == 0


# --- what is said of it ---------------------------------------------------------------------------------------------


def test_words_of_any_length_are_kept(start: Callable[..., Started]) -> None:
    class Long(Told):
        about = "Gerät " * 1000

    state = start(Long).device.state
    assert Long.about.startswith(state[:-1])
    assert len(state) > 500
