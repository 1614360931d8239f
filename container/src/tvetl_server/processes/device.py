"""One process that owns the device, for all decoders of all workers; and what there is to say about it.

A decoder that has an image for the device lays it in shared memory and waits; the device's process gathers such
images into batches, runs them, and lays the results back. Nothing is lost with it: whatever it does not answer the
decoder does itself, on the CPU, whose errors are the only ones. A keeper, forked before all workers, forks that process
again where it died.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import mmap
import os
import queue
import select
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from tvetl_server.engine import NotByDevice, Order
from tvetl_server.engine.driver import DeviceError
from tvetl_server.engine.encode import Array, Encoded
from tvetl_server.metrics import Metrics
from tvetl_server.processes.batching import Gathering
from tvetl_server.processes.ipc import memory, pack, read_into, receive, send, take, unpack, write

__all__ = ["DeviceProcess", "Link", "Runner"]

_log = logging.getLogger(__name__)

#: Seconds that the device may take to be ready: torch and CUDA take 3 to 10, more on nodes of many GPUs.
_START = 180.0
#: Seconds of one batch after which the device's process is thought to hang.
HANG = 10.0
#: Deaths within so many seconds that are thought to be no accident any more.
_DEATHS, _WITHIN = 5, 60.0
#: Seconds until a device that is missing is looked for again.
AGAIN = 30.0
#: Bytes of a file that a decoder's place in the device's process keeps memory for.
_KEPT = 2**20
#: Seconds between looks at whether the parent is still there.
_LOOK = 1.0


class Runner(Protocol):
    """What runs batches; :class:`tvetl_server.engine.cuda.Gpu` is the one."""

    about: str
    pixels: int

    def run(self, orders: Sequence[Order]) -> Sequence[Sequence[Array | Encoded] | None]: ...


class _Board:
    """What all processes know of the device: whether it works, in words what it is or why not, and how long it is busy.

    One process writes at a time: the device's while it lives, and then the keeper.
    """

    _SIZE = 2048
    _DOWN, _UP, _LOST = range(3)

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._SIZE)
        self._seconds = memoryview(self._memory)[8:16].cast("d")

    def write(self, *, up: bool, words: str, lost: bool = False) -> None:
        """``lost``: it will not come back, or not soon."""
        text = words.encode("utf-8", "replace")[: self._SIZE - 16]
        self._memory[0] = self._DOWN
        self._memory[16:] = text.ljust(self._SIZE - 16, b"\0")
        self._memory[0] = self._UP if up else self._LOST if lost else self._DOWN

    @property
    def up(self) -> bool:
        return self._memory[0] == self._UP

    @property
    def lost(self) -> bool:
        return self._memory[0] == self._LOST

    @property
    def words(self) -> str:
        return self._memory[16:].rstrip(b"\0").decode("utf-8", "replace")

    @property
    def since(self) -> float:
        """When it began what it does now, on time.monotonic(); 0 where it waits for work."""
        return self._seconds[0]

    @since.setter
    def since(self, now: float) -> None:
        self._seconds[0] = now


class _Turns:
    """So many processes at a time: locks of the kernel's, which end with whoever holds one."""

    def __init__(self, count: int) -> None:
        self._file = memory()
        self._count = count
        self._bell, self._rings = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._rings, False)
        self._open = [self._file, self._bell, self._rings]

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        # One at a time looks for a place, and takes whichever is free first; the others wait for that one.
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._count)
        try:
            while (place := self._free()) is None:
                select.select([self._bell], [], [], 0.05)  # who is killed rings no bell
                with contextlib.suppress(BlockingIOError):
                    os.read(self._bell, 2**16)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._count)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
            with contextlib.suppress(BlockingIOError):  # it rings already
                os.write(self._rings, b".")

    def close(self) -> None:
        """Close its descriptors in this process, which takes no turn any more; calling it again does nothing."""
        while self._open:
            os.close(self._open.pop())

    def _free(self) -> int | None:
        """A place that is ours now."""
        for place in range(self._count):
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                return place
        return None


class Link:
    """A decoder's way to the device (:class:`tvetl_server.engine.Device`); it is made once, and works in every fork."""

    def __init__(self, door: socket.socket, life: socket.socket, board: _Board, turns: _Turns) -> None:
        """``life`` is a connection that ends with the keeper."""
        self._door = door
        self._life = life
        self._board = board
        self._turns = turns
        self._connection: socket.socket | None = None
        self._inbox = self._outbox = -1

    def turn(self) -> contextlib.AbstractContextManager[None]:
        return self._turns.take()

    def transform(self, order: Order) -> list[Array | Encoded]:
        if not self._board.up or _has_ended(self._life):
            raise NotByDevice("lost")
        # Half of the time that is left; the other half is the CPU's, should it have to.
        patience = 2 * HANG if order.deadline is None else (order.deadline - time.monotonic()) / 2
        if patience <= 0:
            raise NotByDevice("late")
        try:
            if self._connection and _has_ended(self._connection):  # it was to one that has died meanwhile
                self._disconnect()
            connection = self._connection or self._connect()
            connection.settimeout(patience)
            write(self._inbox, order.data)
            send(connection, pack([len(order.data), order.size, order.programs, order.jpeg, order.resized]))
            reply, _ = receive(connection, alone=True)
        except OSError as error:
            self._disconnect()
            raise NotByDevice("late" if isinstance(error, TimeoutError) else "lost") from error
        if reply is None:
            self._disconnect()
            raise NotByDevice("lost")
        results = unpack(reply)
        if results is None:
            raise NotByDevice("refused")
        data = memoryview(take(self._outbox, sum(length for length, *_ in results)))
        outcomes: list[Array | Encoded] = []
        for length, *shape in results:
            outcomes.append(_outcome(data[:length], *shape))
            data = data[length:]
        return outcomes

    def _connect(self) -> socket.socket:
        """A connection and two pieces of memory of this process's own."""
        ours, theirs = socket.socketpair()
        self._inbox = memory()
        self._outbox = memory()
        self._connection = ours
        with theirs:
            socket.send_fds(self._door, [b"."], [theirs.fileno(), self._inbox, self._outbox])
        return ours

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None
        for descriptor in (self._inbox, self._outbox):
            if descriptor >= 0:  # no descriptor may have been left for the second
                os.close(descriptor)
        self._inbox = self._outbox = -1


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other end is gone, and not ours."""
    if connection.fileno() < 0:
        return False
    watched = select.poll()
    watched.register(connection, 0)  # its end is told unasked
    return bool(watched.poll(0))


def _outcome(data: memoryview, kind: str = "", shape: Sequence[int] = ()) -> Array | Encoded:
    return np.frombuffer(data, kind).reshape(shape) if kind else bytes(data)


class DeviceProcess:
    """The device's process and its keeper, from the first process of the server."""

    def __init__(
        self,
        make: Callable[[], Runner],
        *,
        batch: int,
        processors: int,
        counts: Metrics,
        row: int,
        needed: bool,
        stops: bool,
    ) -> None:
        """Forks, and waits until the device is there: call it before this process has threads.

        ``make`` is called in the device's process, and may raise DeviceError. ``row`` of ``counts`` is its own. Where
        the device is ``needed``, raises DeviceError if there is none now; else the words of the board say why. Where it
        ``stops``, a device that is lost later ends this process, by SIGTERM.
        """
        self._board = _Board()
        # Datagrams, so that any number of processes may knock at once.
        self._door, self._knocks = socket.socketpair(type=socket.SOCK_DGRAM)
        self._door.settimeout(_LOOK)
        self._turns = _Turns(processors)
        serving = _Serving(self._knocks, make, batch, counts, row, self._board, stops=stops)
        self._life, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self._keeper = os.fork()
        if self._keeper == 0:
            self._life.close()
            try:
                _Keeper(theirs, serving, counts, row, self._board, needed=needed, stops=stops).run()
            except BaseException:  # noqa: BLE001
                _log.exception("The keeper of the device's process ended by itself")
            os._exit(1)
        theirs.close()
        self._life.settimeout(_START)
        try:
            word, _ = receive(self._life)
            problem = unpack(word) if word else ["its process could not be started", ""]
        except TimeoutError:
            problem = [f"it is not ready after {_START:g} seconds", ""]
        if problem and needed:
            self.close()
            raise DeviceError(problem[0], hint=problem[1])

    def link(self) -> Link:
        """For an engine."""
        return Link(self._door, self._life, self._board, self._turns)

    @property
    def state(self) -> str:
        """What the device is, or why there is none, in words."""
        return "the device is not there: its processes were killed" if _has_ended(self._life) else self._board.words

    @property
    def lost(self) -> bool:
        """Whether there is none, and not only for the moment."""
        return self._board.lost

    def close(self) -> None:
        """End both processes, and close all descriptors that lead to them; calling it again does nothing."""
        for connection in (self._life, self._door, self._knocks):
            connection.close()
        self._turns.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._keeper, 0)


class _Keeper:
    """Forks the device's process, and again when it has died. It loads no library of the device's own."""

    def __init__(
        self,
        life: socket.socket,
        serving: _Serving,
        counts: Metrics,
        row: int,
        board: _Board,
        *,
        needed: bool,
        stops: bool,
    ) -> None:
        self._life = life
        self._serving = serving
        self._counts = counts
        self._board = board
        self._needed = needed
        self._stops = stops
        self._parent = os.getppid()
        self._told = False
        counts.use_row(row)

    def run(self) -> NoReturn:
        # Ctrl-C and a group's SIGTERM are for the first process, which lets requests finish; we end with it.
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(ignored, signal.SIG_IGN)
        deaths: list[float] = []
        while True:
            end = self._one()
            self._counts.device_is(up=False)
            now = time.monotonic()
            deaths = [*(death for death in deaths if death > now - _WITHIN), now]
            if isinstance(end, _Died):
                self._counts.device_died()
            if isinstance(end, _Died) and len(deaths) < _DEATHS:
                self._board.write(up=False, words="the device's process has died and is started again")
                _log.error("The device's process has died (%s) and is started again", end.words)
            else:
                self._without(end if isinstance(end, _Gone) else _Gone(f"its process died {_DEATHS} times", ""))
                deaths.clear()

    def _without(self, why: _Gone) -> None:
        """As is set: end the server, or do without for a while."""
        self._board.write(up=False, lost=True, words=f"the device is not there: {why.words}")
        at_start = not self._told
        self._tell([why.words, why.hint])
        if self._needed if at_start else self._stops:
            if not at_start:
                _log.error("The device is lost: %s", why.words)
                os.kill(self._parent, signal.SIGTERM)
            self._wait(math.inf)
        _log.warning("There is no device: %s. The CPU does all; looked for again in %g s", why.words, AGAIN)
        self._wait(AGAIN)

    def _tell(self, problem: list[str] | None) -> None:
        """The first process, once, what became of the start."""
        if not self._told:
            send(self._life, pack(problem))
            self._told = True

    def _one(self) -> _Died | _Gone:
        """The life of one process."""
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read_end)
                self._life.close()
                self._serving.run(write_end)
            except BaseException:  # noqa: BLE001
                _log.exception("The device's process ended by itself")
            os._exit(1)
        os.close(write_end)
        words = b""
        longest = _START
        self._board.since = time.monotonic()
        with os.fdopen(read_end, "rb", 0) as pipe:
            while True:
                while not self._wait(_LOOK, pipe.fileno(), child):
                    if (since := self._board.since) and time.monotonic() - since > longest:
                        _log.error("The device's process hangs: it has been busy for %g s, and is ended", longest)
                        os.kill(child, signal.SIGKILL)
                word = pipe.read(4096)
                if not word:
                    break
                words += word
                if words == _READY:
                    longest = HANG
                    self._counts.device_is(up=True)
                    self._tell(None)
        _, status = os.waitpid(child, 0)
        if words and words != _READY:
            return _Gone(*unpack(words))
        return _Died(f"signal {-code}" if (code := os.waitstatus_to_exitcode(status)) < 0 else f"status {code}")

    def _wait(self, seconds: float, other: int | None = None, child: int = 0) -> bool:
        """Until ``other`` has something to say; whether it has. The end where the server's first process is gone."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            watched = [self._life.fileno()] if other is None else [self._life.fileno(), other]
            ready, _, _ = select.select(watched, [], [], min(left, _LOOK))
            if self._life.fileno() in ready or os.getppid() != self._parent:
                if child:
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            if ready:
                return True
        return False


_READY = b"."


@dataclass(frozen=True)
class _Died:
    """The process is gone, and may be started again."""

    words: str


@dataclass(frozen=True)
class _Gone:
    """There is no device."""

    words: str
    hint: str


class _Slot:
    """A decoder, seen from the device's process."""

    def __init__(self, connection: int, inbox: int, outbox: int) -> None:
        self.connection = socket.socket(fileno=connection)
        self.connection.settimeout(_LOOK)
        self.inbox = inbox
        self.outbox = outbox
        self._kept = bytearray()

    def file(self, length: int) -> bytes | memoryview:
        """What its decoder has laid there, good until the next time: getting memory anew costs as much as the copy."""
        if length > _KEPT:
            return take(self.inbox, length)
        if len(self._kept) < length:
            self._kept = bytearray(length)
        data = memoryview(self._kept)[:length]
        read_into(self.inbox, data)
        return data

    def close(self) -> None:
        self.connection.close()
        os.close(self.inbox)
        os.close(self.outbox)


@dataclass(eq=False)
class _Waiting:
    """An order that waits for its batch."""

    slot: _Slot
    order: Order
    came: float

    @property
    def pixels(self) -> int:
        """Each view is decoded by itself."""
        return self.order.size[0] * self.order.size[1] * self.images

    @property
    def images(self) -> int:
        return len(self.order.programs)


class _Serving:
    """The device's process: one thread takes orders and gathers them, one runs them."""

    def __init__(
        self,
        knocks: socket.socket,
        make: Callable[[], Runner],
        batch: int,
        counts: Metrics,
        row: int,
        board: _Board,
        *,
        stops: bool,
    ) -> None:
        self._first = os.getpid()
        self._stops = stops
        self._knocks = knocks
        self._make = make
        self._batch = batch
        self._counts = counts
        self._row = row
        self._board = board
        self._slots: dict[int, _Slot] = {}
        self._waiting: list[_Waiting] = []
        self._gathering = Gathering(batch)
        self._work: queue.SimpleQueue[list[_Waiting]] = queue.SimpleQueue()
        #: The batch that runs, and decoders in it that have gone meanwhile.
        self._running: list[_Waiting] = []
        self._gone: list[_Slot] = []

    def run(self, pipe: int) -> NoReturn:
        keeper = os.getppid()
        try:
            runner = self._make()
        except DeviceError as error:
            os.write(pipe, pack([str(error), error.hint or ""]))
            os._exit(1)
        except Exception as error:  # noqa: BLE001  a library that is not there, or breaks
            _log.exception("The device could not be opened")
            os.write(pipe, pack([f"it could not be opened: {type(error).__name__}: {error}".split("\n")[0], ""]))
            os._exit(1)
        self._counts.use_row(self._row)
        self._ended, wake = socket.socketpair()
        threading.Thread(target=self._run_batches, args=(runner, wake), name="the device", daemon=True).start()
        self._pixels = runner.pixels
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._knocks, selectors.EVENT_READ)
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._board.since = 0.0
        self._board.write(up=True, words=runner.about)
        _log.info("The device is ready: %s", runner.about)
        os.write(pipe, _READY)
        while os.getppid() == keeper:
            now = time.monotonic()
            closes = math.inf
            if not self._running:
                closes = self._gathering.closes(len(self._slots) - len(self._waiting))
                if closes <= now:
                    self._go(now)
                    continue
            for key, _ in self._selector.select(max(0.0, min(closes - now, _LOOK))):
                self._take(key.fd)
        # Killed, as it takes us along wherever it ends by itself. Nobody would start this process again.
        self._counts.device_is(up=False)
        self._board.write(up=False, lost=True, words="the device is not there: its keeper was killed")
        _log.error("The keeper of the device's process was killed, so this ends, too")
        if self._stops:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._first, signal.SIGTERM)
        os._exit(1)

    def _take(self, ready: int) -> None:
        """A knock, the end of a batch, or an order."""
        if ready == self._knocks.fileno():
            _, descriptors, _, _ = socket.recv_fds(self._knocks, 1, 3)
            if len(descriptors) == 3:
                slot = _Slot(*descriptors)
                self._slots[slot.connection.fileno()] = slot
                self._selector.register(slot.connection, selectors.EVENT_READ)
        elif ready == self._ended.fileno():
            self._ended.recv(1)
            self._running = []
            self._board.since = 0.0
            self._gathering.ended(time.monotonic())
            for slot in self._gone:
                slot.close()
            self._gone = []
        else:
            slot = self._slots[ready]
            try:
                message, _ = receive(slot.connection, alone=True)
                if message is None:
                    raise EOFError
                length, size, programs, jpeg, resized = unpack(message)
                order = Order(
                    slot.file(length),
                    tuple(size),
                    programs,
                    tuple(jpeg) if jpeg else None,
                    tuple(resized) if isinstance(resized, list) else resized,
                )
            except (OSError, EOFError, ValueError, RuntimeError):  # the decoder is gone
                self._forget(ready)
                return
            now = time.monotonic()
            self._waiting.append(_Waiting(slot, order, now))
            self._gathering.came(now, len(programs))

    def _forget(self, ready: int) -> None:
        """A decoder that is gone. What the device's thread may still write to is closed when that is done."""
        slot = self._slots.pop(ready)
        self._selector.unregister(slot.connection)
        for waiting in [waiting for waiting in self._waiting if waiting.slot is slot]:
            self._waiting.remove(waiting)
            self._gathering.went(waiting.images)
        if any(waiting.slot is slot for waiting in self._running):
            self._gone.append(slot)
        else:
            slot.close()

    def _go(self, now: float) -> None:
        """The next batch: who came first goes first, as many as there is room for."""
        batch: list[_Waiting] = []
        images = pixels = 0
        while self._waiting and images < self._batch:
            waiting = self._waiting[0]
            if batch and (images + waiting.images > self._batch or pixels + waiting.pixels > self._pixels):
                break
            batch.append(self._waiting.pop(0))
            images += waiting.images
            pixels += waiting.pixels
            self._counts.spent("gather", now - waiting.came)
        self._gathering.went(images)
        self._running, self._board.since = batch, now
        self._work.put(batch)

    def _run_batches(self, runner: Runner, wake: socket.socket) -> NoReturn:
        """The device's thread."""
        try:
            while True:
                self._run_batch(runner, self._work.get())
                wake.send(b".")
        except BaseException:  # noqa: BLE001  a fresh process may have the device again, or says why not
            _log.exception("The device is lost to this process")
            os._exit(1)

    def _run_batch(self, runner: Runner, batch: Sequence[_Waiting]) -> None:
        start = time.perf_counter()
        # One too large for the device is not for it.
        able = [waiting for waiting in batch if waiting.pixels <= self._pixels]
        done = dict(zip(map(id, able), runner.run([waiting.order for waiting in able]), strict=True)) if able else {}
        seconds = time.perf_counter() - start
        for waiting in batch:
            results = done.get(id(waiting))
            # A decoder may have died, or given up, and then nobody listens.
            with contextlib.suppress(OSError):
                send(waiting.slot.connection, pack(None if results is None else self._put(waiting.slot, results)))
        images = sum(waiting.images for waiting in batch)
        self._gathering.ran(images, seconds)
        self._counts.batch(images, seconds)

    def _put(self, slot: _Slot, results: Sequence[Array | Encoded]) -> list[list[object]]:
        """The results into shared memory, one behind the other; what they are."""
        told: list[list[object]] = []
        parts: list[bytes] = []
        for result in results:
            if isinstance(result, bytes):
                parts.append(result)
                told.append([len(result)])
            else:
                parts.append(np.ascontiguousarray(result).tobytes())
                told.append([len(parts[-1]), result.dtype.str, result.shape])
        write(slot.outbox, parts[0] if len(parts) == 1 else b"".join(parts))
        return told
