"""A device that does what each request says, in its real process, with its supervisor and links.

No torch, no GPU and no HTTP: the processes, sockets, shared memory and the kernel's locks are real.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from support.metrics import counted
from support.processes import children
from support.waiting import PATIENCE, until

from tvetl_server.engine import DeviceRequest, NotByDevice
from tvetl_server.metrics import Metrics
from tvetl_server.processes.device import DeviceProcess, Link

Result = Any


class Scripted:
    """A device that does what the bytes of each request say, as JSON."""

    about = "a device that does what it is told"
    pixels = 1000

    def __init__(self) -> None:
        self._batches = 0

    def run(self, requests: Sequence[DeviceRequest]) -> list[list[Result] | None]:
        self._batches += 1
        return [self._one(json.loads(bytes(request.data)), request, requests) for request in requests]

    def _one(self, told: dict[str, Any], request: DeviceRequest, batch: Sequence[DeviceRequest]) -> list[Result] | None:
        do = told["do"]
        if do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "raise":
            raise RuntimeError("the device is lost")
        if do == "sleep":
            time.sleep(told["seconds"])
        if do == "hang":  # PyDLL holds the interpreter lock
            ctypes.PyDLL(None).sleep(1000)
        if do == "refuse":
            return None
        if do == "who":
            return [json.dumps([os.getpid(), self._batches, [len(other.steps) for other in batch]]).encode()]
        if do == "request":
            return [
                json.dumps([request.size, request.jpeg, request.resized, steps]).encode() for steps in request.steps
            ]
        if do == "array":
            return [self._array(told, view) for view in range(len(request.steps))]
        return [bytes(request.data)[::-1] for _ in request.steps]

    @staticmethod
    def _array(told: dict[str, Any], view: int) -> Result:
        return made(told, view).transpose(told.get("turned", range(len(told["shape"]))))


def made(told: dict[str, Any], view: int = 0) -> np.ndarray[Any, Any]:
    """Random numbers, different for each request and view."""
    seed = int.from_bytes(sha256(json.dumps([told, view]).encode()).digest()[:4], "big")
    numbers = np.random.default_rng(seed).integers(0, 256, told["shape"], np.uint8)
    return numbers.astype(told["kind"])


def request(
    do: str = "", views: int = 1, size: tuple[int, int] = (1, 1), left: float | None = None, **more: Any
) -> DeviceRequest:
    data = json.dumps({"do": do, **more}).encode()
    return DeviceRequest(data, size, [[["view", view]] for view in range(views)], None, None, _deadline(left))


def _deadline(left: float | None) -> float | None:
    return None if left is None else time.monotonic() + left


class Started:
    """A device's process with its supervisor, and what can be seen of them."""

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
            metrics=self.counts,
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
        """Wait for the process that owns the device; its id."""
        until(lambda: children(self.supervisor))
        return children(self.supervisor)[0]

    def number(self, name: str) -> float:
        return counted(self.counts.text(), name)

    @property
    def up(self) -> bool:
        return bool(self.number("tvetl_device_up"))

    def is_back(self, deaths: int) -> None:
        """Wait until it has died so many times and is up again."""
        until(lambda: self.number("tvetl_device_deaths_total") == deaths and self.up)

    def ask(self, **told: Any) -> Result:
        return self.link().transform(request(**told))


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    with ExitStack() as stack:

        def run(make: Callable[[], Any] = Scripted, **how: Any) -> Started:
            started = Started(make, **how)
            stack.callback(started.close)
            return started

        yield run


def reason(link: Link, what: DeviceRequest) -> str:
    """Why the device does not do it."""
    with pytest.raises(NotByDevice) as error:
        link.transform(what)
    return str(error.value)


def together(started: Started, requests: Sequence[DeviceRequest]) -> list[str | list[Result]]:
    """Their results or reasons. All are sent while the device is busy, so that they wait when it is free."""
    found: list[str | list[Result]] = [""] * len(requests)
    busy = threading.Thread(target=lambda: started.ask(do="sleep", seconds=0.4))
    busy.start()
    time.sleep(0.2)

    def ask(place: int) -> None:
        try:
            found[place] = started.link().transform(requests[place])
        except NotByDevice as error:
            found[place] = str(error)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(requests))]
    for thread in threads:
        thread.start()
        time.sleep(0.01)  # in this order
    for thread in [busy, *threads]:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return found
