"""The device's process: one thread takes requests from decoders and forms batches of them, another runs the batches."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

from tvetl_server.engine import DeviceRequest
from tvetl_server.engine.driver import DeviceError
from tvetl_server.engine.pixels import Array, Encoded
from tvetl_server.metrics import Metrics
from tvetl_server.processes.device import timing
from tvetl_server.processes.device.batching import Batching
from tvetl_server.processes.device.messages import READY, Part, pack_error, pack_reply, unpack_request
from tvetl_server.processes.device.status import SharedStatus, State
from tvetl_server.processes.ipc import read_into, receive, send, take, write

__all__ = ["BatchServer", "Runner"]

_log = logging.getLogger(__name__)

#: Bytes of the largest file for which a client keeps memory.
_KEPT = 2**20


class Runner(Protocol):
    """Runs batches; :class:`tvetl_server.engine.cuda.Gpu` is the one."""

    about: str
    """What the device is, for people."""
    pixels: int
    """Pixels of a batch, at most."""

    def run(self, requests: Sequence[DeviceRequest]) -> Sequence[Sequence[Array | Encoded] | None]:
        """The results of each request, one a view; None where the device refuses it."""
        ...


class _Client:
    """A decoder, seen from the device's process."""

    def __init__(self, connection: int, inbox: int, outbox: int) -> None:
        self.connection = socket.socket(fileno=connection)
        self.connection.settimeout(timing.POLL)
        self._inbox = inbox
        self._outbox = outbox
        self._kept = bytearray()

    def receive(self) -> DeviceRequest:
        """Its next request, valid until the next call. Raises OSError, ValueError, TypeError or RuntimeError."""
        message, _ = receive(self.connection, alone=True)
        if message is None:
            raise ConnectionResetError("the decoder has ended")
        return unpack_request(message, self._file)

    def _file(self, length: int) -> bytes | memoryview:
        """Read from shared memory into memory that is reused, as allocating it costs as much as the copy."""
        if length > _KEPT:
            return take(self._inbox, length)
        if len(self._kept) < length:
            self._kept = bytearray(length)
        data = memoryview(self._kept)[:length]
        read_into(self._inbox, data)
        return data

    def answer(self, results: Sequence[Array | Encoded] | None) -> None:
        """The results, or None where the device refuses the request."""
        stored = [Part.of(result) for result in results or ()]
        with contextlib.suppress(OSError):  # the decoder has died, or its deadline has passed
            write(self._outbox, b"".join(data for _, data in stored))
            send(self.connection, pack_reply([part for part, _ in stored]))

    def close(self) -> None:
        self.connection.close()
        os.close(self._inbox)
        os.close(self._outbox)


@dataclass(eq=False)
class _Waiting:
    """A request that waits for its batch, or is in it."""

    client: _Client
    request: DeviceRequest
    arrived: float

    @property
    def pixels(self) -> int:
        """Each view is decoded by itself."""
        return self.request.size[0] * self.request.size[1] * self.images

    @property
    def images(self) -> int:
        return len(self.request.steps)


@dataclass
class BatchServer:
    """Serves the requests of all decoders, in batches."""

    registrations: socket.socket
    """Each decoder sends a connection here, and shared memory for files and for results."""
    make: Callable[[], Runner]
    batch: int
    """Images, at most."""
    metrics: Metrics
    status: SharedStatus
    first: int | None
    """The process to end where the supervisor was killed."""

    def __post_init__(self) -> None:
        self._clients: set[_Client] = set()
        self._waiting: list[_Waiting] = []
        self._batching = Batching(self.batch)
        self._work: queue.SimpleQueue[list[_Waiting]] = queue.SimpleQueue()
        #: The batch that runs, and clients in it that have ended meanwhile.
        self._running: list[_Waiting] = []
        self._ended: list[_Client] = []

    def run(self, pipe: int) -> NoReturn:
        """Report READY or an error to ``pipe``, then serve until the supervisor ends."""
        supervisor = os.getppid()
        runner = self._start(pipe)
        done, wake = socket.socketpair()
        threading.Thread(target=self._run_batches, args=(runner, wake), name="the device", daemon=True).start()
        self._pixels = runner.pixels
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.registrations, selectors.EVENT_READ, self._accept)
        self._selector.register(done, selectors.EVENT_READ, partial(self._batch_done, done))
        self.status.busy_since = 0.0
        self.status.set(State.UP, runner.about)
        _log.info("The device is ready: %s", runner.about)
        os.write(pipe, READY)
        while os.getppid() == supervisor:
            self._step()
        # The supervisor was killed: one that ends by itself kills this process first. Nothing would restart this one.
        self.metrics.device_is(up=False)
        self.status.set(State.LOST, "the device is not there: its supervisor was killed")
        _log.error("The supervisor of the device's process was killed, so this ends, too")
        if self.first:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.first, signal.SIGTERM)
        os._exit(1)

    def _start(self, pipe: int) -> Runner:
        try:
            return self.make()
        except DeviceError as error:
            os.write(pipe, pack_error(error))
        except Exception as error:  # noqa: BLE001  a library that is missing, or broken
            _log.exception("The device could not be opened")
            reason = f"it could not be opened: {type(error).__name__}: {error}".split("\n")[0]
            os.write(pipe, pack_error(DeviceError(reason)))
        os._exit(1)

    def _step(self) -> None:
        """Start the next batch, or wait until it begins, or for an event."""
        now = time.monotonic()
        begins = math.inf
        if not self._running:
            begins = self._batching.begins(len(self._clients) - len(self._waiting))
            if begins <= now:
                self._start_batch(now)
                return
        for key, _ in self._selector.select(max(0.0, min(begins - now, timing.POLL))):
            key.data()

    def _accept(self) -> None:
        """A decoder registers."""
        _, descriptors, _, _ = socket.recv_fds(self.registrations, 1, 3)
        if len(descriptors) == 3:
            client = _Client(*descriptors)
            self._clients.add(client)
            self._selector.register(client.connection, selectors.EVENT_READ, partial(self._take, client))

    def _take(self, client: _Client) -> None:
        """A request, or the end of its decoder."""
        try:
            request = client.receive()
        except (OSError, ValueError, TypeError, RuntimeError):
            self._forget(client)
            return
        now = time.monotonic()
        self._waiting.append(_Waiting(client, request, now))
        self._batching.arrived(now, len(request.steps))

    def _forget(self, client: _Client) -> None:
        """A decoder has ended. It is closed when no running batch can write to it any more."""
        self._clients.remove(client)
        self._selector.unregister(client.connection)
        for waiting in [waiting for waiting in self._waiting if waiting.client is client]:
            self._waiting.remove(waiting)
            self._batching.removed(waiting.images)
        if any(waiting.client is client for waiting in self._running):
            self._ended.append(client)
        else:
            client.close()

    def _start_batch(self, now: float) -> None:
        """Of as many requests as fit, in the order of their arrival."""
        batch: list[_Waiting] = []
        images = pixels = 0
        while self._waiting and images < self.batch:
            waiting = self._waiting[0]
            if batch and (images + waiting.images > self.batch or pixels + waiting.pixels > self._pixels):
                break
            batch.append(self._waiting.pop(0))
            images += waiting.images
            pixels += waiting.pixels
            self.metrics.spent("gather", now - waiting.arrived)
        self._batching.removed(images)
        self._running, self.status.busy_since = batch, now
        self._work.put(batch)

    def _batch_done(self, done: socket.socket) -> None:
        done.recv(1)
        self._running = []
        self.status.busy_since = 0.0
        self._batching.finished(time.monotonic())
        for client in self._ended:
            client.close()
        self._ended = []

    def _run_batches(self, runner: Runner, wake: socket.socket) -> NoReturn:
        """The device's thread."""
        try:
            while True:
                self._run_batch(runner, self._work.get())
                wake.send(b".")
        except BaseException:  # noqa: BLE001  a new process may be able to use the device again, or reports why not
            _log.exception("The device is lost to this process")
            os._exit(1)

    def _run_batch(self, runner: Runner, batch: Sequence[_Waiting]) -> None:
        start = time.perf_counter()
        able = [waiting for waiting in batch if waiting.pixels <= runner.pixels]
        done = dict(zip(able, runner.run([waiting.request for waiting in able]), strict=True)) if able else {}
        seconds = time.perf_counter() - start
        for waiting in batch:
            waiting.client.answer(done.get(waiting))  # one too large was not run: the device refuses it
        images = sum(waiting.images for waiting in batch)
        self._batching.measured(images, seconds)
        self.metrics.batch(images, seconds)
