"""The thread that reads a share into batches, ahead of the consumer."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt
import torch

from tvetl.datasets.flight import Flight
from tvetl.datasets.reader import Attempt, Body, Reader
from tvetl.datasets.rows import Rows
from tvetl.errors import UsageError
from tvetl.fetch import Fetcher

#: Seconds to wait for the thread's end.
_JOIN = 5.0
#: The threads at work, which must have ended before the interpreter does: torch's code cannot be left in the middle.
_running: weakref.WeakSet[Filler] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for filler in [*_running]:
        if filler.is_alive():  # not after a fork
            filler.stop()


@dataclass
class Filled:
    """A batch, or at the end of the share what failed after the last one: ``images`` is None then."""

    images: torch.Tensor | None
    #: Their labels; or by name all that belongs to them.
    rest: object = None
    #: In the order of the samples; with those that were skipped.
    attempts: list[Attempt] = field(default_factory=list)
    #: Units of the share that are done with it.
    units: int = 0


@dataclass(eq=False)
class _Row:
    """The row that a sample is meant for: its number, counted over all batches, if nothing before it is skipped."""

    number: int
    #: Whether another sample lies in that row: one was skipped, so numbers were given twice. Until its turn comes, this
    #: one then has memory of its own.
    displaced: bool
    memory: torch.Tensor | None = None
    #: The memory that its answer is received into: the row's own, where no value is converted.
    answer: torch.Tensor | None = None


class Filler(threading.Thread):
    """Reads a share into batches, at most ``ahead`` before the consumer."""

    def __init__(
        self, reader: Reader, rows: Rows, epoch: int, share: Iterable[int], *, batch: int, ahead: int, drop_last: bool
    ) -> None:  # fmt: skip
        super().__init__(name="tvetl-batches", daemon=True)
        self._reader, self._rows, self._epoch, self._share = reader, rows, epoch, share
        self._batch, self._ahead, self._drop_last = batch, ahead, drop_last
        self._ready: SimpleQueue[Filled | BaseException | None] = SimpleQueue()
        self._stopped = False
        self._taken = 0
        self._fetcher: Fetcher | None = None
        #: The batches that are being filled, by their number; and the rows that something lies in or is to lie in.
        self._open: dict[int, torch.Tensor] = {}
        self._used: set[int] = set()
        #: Memory for answers that are converted.
        self._spare: list[torch.Tensor] = []
        #: Samples that are in their place; the attempts since the last batch; units done.
        self._placed = 0
        self._attempts: list[Attempt] = []
        self._units = 0

    # For the consumer

    def take(self) -> Filled | None:
        """The next batch, None after the last. Raises what reading raised."""
        filled = self._ready.get()
        self._taken += 1
        self._wake()
        if isinstance(filled, BaseException):
            raise filled
        return filled

    def stop(self) -> None:
        """End the thread and what it reads; one that waits for the cluster map ends when that comes."""
        self._stopped = True
        self._wake()
        if threading.current_thread() is not self:  # where garbage is collected in the thread itself
            self.join(_JOIN)

    def _wake(self) -> None:
        if fetcher := self._fetcher:
            fetcher.wake()

    # In the thread

    def run(self) -> None:
        last: BaseException | None = None
        _running.add(self)
        try:
            with self._reader.fetcher(self._epoch) as self._fetcher:
                self._fill(self._fetcher)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - the consumer raises it
            last = error
        self._fetcher = None
        _running.discard(self)
        self._ready.put(last)

    def _fill(self, fetcher: Fetcher) -> None:
        flight = Flight(self._reader, fetcher, self._make)
        todo = self._reader.with_targets(fetcher, self._share)
        more = True
        while more or flight:
            while more and len(flight) < self._reader.reads and self._may_begin(len(flight)):
                begun = next(todo, None)
                more = begun is not None
                if begun is not None:
                    self._begin(flight, *begun)
            if more or flight:
                flight.advance(idle=True)
            if self._stopped:
                raise Stopped
            for attempt in flight.finished():
                self._collect(attempt)
        if self._placed % self._batch and not self._drop_last:
            self._deliver(self._placed % self._batch)
        elif self._attempts:
            for attempt in self._attempts:  # what is left out was not given
                attempt.samples = []
            self._ready.put(Filled(None, attempts=self._attempts, units=self._units))

    def _may_begin(self, flying: int) -> bool:
        """Whether the batch that the next sample goes into may be begun: it is one of ``ahead`` that are not taken."""
        return (self._placed + flying) // self._batch < self._taken + self._ahead

    def _begin(self, flight: Flight, index: int, home: int) -> None:
        """Read an object into the row where it is to lie if nothing before it is skipped."""
        attempt, number = Attempt(index), self._placed + len(flight)
        attempt.where = row = _Row(number, displaced=number in self._used)
        if not row.displaced:
            self._used.add(number)
        form = self._rows.form
        if form and form.prefix and self._reader.in_place:
            if form.as_it_is:
                row.answer = self._memory_of(row)
            else:
                row.answer = self._spare.pop() if self._spare else torch.empty(form.shape, dtype=form.dtype)
            received: npt.NDArray[np.uint8] = row.answer.view(-1).view(torch.uint8).numpy()
            flight.begin(attempt, home, received.data, form.prefix)
        else:
            flight.begin(attempt, home)

    def _memory_of(self, row: _Row) -> torch.Tensor:
        if row.memory is None:
            row.memory = self._rows.take(1)[0] if row.displaced else self._place(row.number)
        return row.memory

    def _place(self, number: int) -> torch.Tensor:
        """The row of that number, in its batch."""
        batch, within = divmod(number, self._batch)
        if batch not in self._open:
            self._open[batch] = self._rows.take(self._batch)
        return self._open[batch][within]

    def _make(self, name: str, data: Body, attempt: Attempt) -> list[object]:
        """What belongs to the image that was read, once the row is filled."""
        row = attempt.where
        assert isinstance(row, _Row)
        answer = row.answer
        if data is not None:
            decoded = self._reader.decoded(name, data, attempt, values=False)
            answer, form = self._rows.answer(decoded, data), self._rows.form
            assert form is not None
            if (form.shape, form.dtype) != (tuple(answer.shape), answer.dtype):
                this, others = _described(answer.shape, answer.dtype), _described(form.shape, form.dtype)
                message = f"{self._reader.bucket}/{name} is {this}, the others {others}: no batch can hold both"
                raise UsageError(message, hint="Resize or crop them to one size.")
        assert answer is not None
        assert self._rows.form is not None
        memory = self._memory_of(row)
        if answer is not memory:
            self._rows.form.convert(answer, memory)
        if row.answer is not None and row.answer is not memory:
            self._spare.append(row.answer)
        row.answer = None
        return [self._reader.rest(name, attempt)]

    def _collect(self, attempt: Attempt) -> None:
        """Its turn has come, as all before it are placed: move the sample to its final row, unless it lies there."""
        row = attempt.where
        assert isinstance(row, _Row)
        self._attempts.append(attempt)
        self._units += 1
        if not row.displaced:
            self._used.discard(row.number)
        if not attempt.samples:
            return
        if row.displaced or row.number != self._placed:
            self._place(self._placed).copy_(self._memory_of(row))
        row.memory = None
        self._placed += 1
        if self._placed % self._batch == 0:
            self._deliver(self._batch)

    def _deliver(self, count: int) -> None:
        """The batch that the last sample went into is finished, with so many samples."""
        images = self._open.pop((self._placed - 1) // self._batch)[:count]
        several = [each for attempt in self._attempts for each in attempt.samples]
        rest = self._reader.collated(several, self._rows.stack)
        self._ready.put(Filled(images, rest, self._attempts, self._units))
        self._attempts = []


class Stopped(Exception):
    """The consumer wants no more."""


def _described(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
