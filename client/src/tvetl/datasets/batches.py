"""Finished batches: objects received into the rows of a batch, by a thread that reads ahead of the consumer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import default_collate, get_worker_info

from tvetl.answers import npy_header
from tvetl.cluster import Cluster
from tvetl.datasets.lookup import look_up, look_up_on_device
from tvetl.datasets.memory import Kind, Layout, Memory
from tvetl.datasets.reader import (
    Attempt,
    Body,
    Flight,
    LabelsBy,
    OnError,
    Reader,
    Wire,
    choose,
    labelled,
    pixels_of,
    to_tensor,
)
from tvetl.datasets.stream import Stream
from tvetl.errors import UsageError
from tvetl.fetch import Fetcher

#: Seconds to wait for the thread's end.
_JOIN = 5.0
#: One batch as it is given: the images, and their labels as torch collates them.
Batch = tuple[torch.Tensor, object]


class TransformedBatches(Stream):
    """The objects of a bucket, read inline through an ETL, as batches ``(images, labels)`` of ``batch`` samples.

    What a DataLoader makes of :class:`TransformedStream`, sample for sample, without a DataLoader: images (B, C, H, W),
    or with ``views`` (B, N, C, H, W); labels as torch's ``default_collate`` gives them. Objects are received into the
    rows of batches by one thread, ``reads`` of them in flight, at most ``ahead`` finished batches before the consumer.
    A batch is yours for as long as you hold it; its memory is used again once nothing refers to it. All images must be
    of one size. ``drop_last`` leaves out the last batch where it is smaller.

    ``dtype`` (torch.bfloat16, say) is what the values are converted to; ``channels_last`` their memory format;
    ``device`` where they go. ``pin_memory`` makes ``images.to(device, non_blocking=True)`` a copy in the background.
    Where the pipeline ends in steps that look at each value alone (ToTensor, Normalize), pixels are read and these
    steps are done here, by the table that the server has: the same values for a quarter of the bytes. ``wire`` says
    which way it is ("pixels" or "values"); ``wire="values"`` reads them as the pipeline gives them.

    In a DataLoader: ``DataLoader(feed, batch_size=None, num_workers=4)``. All else is as in
    :class:`TransformedStream`; with ``on_error="skip"`` the next samples fill the batch.
    """

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str = "",
        *,
        batch: int,
        prefix: str = "",
        names: Sequence[str] | None = None,
        template: str = "",
        labels: LabelsBy = None,
        seed: int | None = None,
        views: int | None = None,
        on_error: OnError = "raise",
        reads: int = 16,
        ahead: int = 2,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        even: bool = False,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        wire: Wire = "auto",
    ) -> None:
        if ahead < 1:
            raise UsageError(f"ahead is {ahead}: at least one batch is read ahead")
        if pin_memory and not torch.cuda.is_available():
            raise UsageError("pin_memory is for copies to a GPU, and torch sees none here")
        chosen = choose(cluster, bucket, prefix, names, template)
        reader = Reader(
            cluster, bucket, etl, chosen, seed=seed, views=views, on_error=on_error, reads=reads, wire=wire
        )  # fmt: skip
        super().__init__(reader, shuffle=shuffle, batch=batch, rank=rank, world=world, even=even)
        self._label = labelled(labels, self.names)
        self._ahead, self._drop_last, self._pin = ahead, drop_last, pin_memory
        self._device = torch.device(device) if device is not None else None
        #: (C, 256), in the dtype that is wanted; None where values are read.
        self._table = None if reader.table is None else torch.from_numpy(reader.table)
        if self._table is not None and dtype is not None:
            self._table = self._table.to(dtype)
        self._dtype, self._channels_last = dtype, channels_last
        self._memory: dict[Kind, Memory] = {}
        #: What answers and rows look like, known after the first answer.
        self._form: Form | None = None

    @property
    def wire(self) -> str:
        """What is read: "pixels", whose values are looked up here, or "values" as the pipeline gives them."""
        return "values" if self._table is None else "pixels"

    def __len__(self) -> int:
        """Batches of this rank in an epoch, if no sample is skipped."""
        count = len(range(self._rank, len(self.names) - len(self.names) % self._world * self._even, self._world))
        return count // self._batch if self._drop_last else -(-count // self._batch)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memory": {}}

    def _samples(self, epoch: int, share: list[int], units: int, within: int) -> Iterator[Batch]:
        """The batches of what is left of a share: see :meth:`Stream.__iter__`."""
        if get_worker_info() and self._device is not None and self._device.type != "cpu":
            hint = "Leave it out with workers: values are looked up there, on the CPU."
            raise UsageError("device is for a feed in the training process itself", hint=hint)
        filler = _Filler(self, epoch, share[units:])
        filler.start()
        try:
            while filled := filler.take():
                self._reader.tally(filled.attempts)
                self._done = (units + filled.units, 0)
                images, labels = filled.images, filled.labels
                del filled
                if images is not None:
                    given = self._delivered(images), labels
                    del images
                    yield given
                    del given
            self._done = (len(share), 0)
        finally:
            filler.stop()

    def _delivered(self, images: torch.Tensor) -> torch.Tensor:
        """On the device where one was named, where also the values are looked up."""
        if self._device is None:
            return images
        images = images.to(self._device, non_blocking=self._pin)
        if self._table is not None:
            images = look_up_on_device(images, self._table.to(self._device))
        if self._dtype is not None:
            images = images.to(self._dtype)
        return _channels_last(images) if self._channels_last else images

    # For the thread that reads

    def _form_of(self, data: bytearray | bytes, made: torch.Tensor) -> Form:
        """Of the first answer and what it was decoded to: what all others are to be."""
        size = made.numel() * made.dtype.itemsize
        prefix = bytes(data[:-size]) if data[:6] == b"\x93NUMPY" else b""
        if prefix and npy_header(prefix)[1] != "C":
            prefix = b""
        shape, dtype = tuple(made.shape), made.dtype
        if self._device is not None:  # all else is done there
            return Form(shape, dtype, prefix, Layout(shape, dtype), None)
        wanted = self._dtype or (dtype if self._table is None else self._table.dtype)
        return Form(shape, dtype, prefix, Layout(shape, wanted, self._channels_last), self._table)

    def _rows(self, count: int) -> torch.Tensor:
        """Memory for ``count`` samples, as (count, ...)."""
        assert self._form is not None
        kind: Kind = "shared" if get_worker_info() else "pinned" if self._pin else "pageable"
        memory, layout = self._memory.setdefault(kind, Memory(kind)), self._form.row
        return layout.tensor(memory.take(count * layout.row_bytes))


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    return images.movedim(-3, -1).contiguous().movedim(-1, -3)


@dataclass(frozen=True, eq=False)
class Form:
    """An answer is ``prefix`` and a tensor of ``shape`` and ``dtype``; a row is what ``table`` makes of it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    #: An npy's header, the same for all; empty where answers must be decoded one by one.
    prefix: bytes
    row: Layout
    table: torch.Tensor | None

    @property
    def as_it_is(self) -> bool:
        """Whether a row is the very bytes of an answer."""
        return self.table is None and self.row == Layout(self.shape, self.dtype)

    def empty(self) -> torch.Tensor:
        """Memory for one answer."""
        return torch.empty(self.shape, dtype=self.dtype)

    def convert(self, answer: torch.Tensor, row: torch.Tensor) -> None:
        """Make a row of an answer."""
        if self.table is None:
            row.copy_(answer)
        elif row.is_contiguous():
            look_up(answer.numpy(), _bits(self.table), _bits(row))
        else:
            values = torch.empty(self.shape, dtype=self.table.dtype)
            look_up(answer.numpy(), _bits(self.table), _bits(values))
            row.copy_(values)


def _bits(values: torch.Tensor) -> npt.NDArray[np.generic]:
    """The same memory as whole numbers: numpy has no bfloat16, and a look-up only moves them."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize]
    bits: npt.NDArray[np.generic] = values.view(whole).numpy()
    return bits


@dataclass
class _Filled:
    """A batch, or at the end of the share what failed after the last one: ``images`` is None then."""

    images: torch.Tensor | None
    labels: object = None
    #: In the order of the samples; with those that were skipped.
    attempts: list[Attempt] = field(default_factory=list)
    #: Units of the share that are done with it.
    units: int = 0


@dataclass(eq=False)
class _Row:
    """Where a sample goes: its number, counted over all batches, if nothing before it is skipped."""

    number: int
    #: Another sample lies there until it moves, for something before it was skipped: this one has memory of its own.
    displaced: bool
    memory: torch.Tensor | None = None
    #: Where its answer is received: in the row itself where that is as it is.
    answer: torch.Tensor | None = None


class _Filler(threading.Thread):
    """Reads a share into batches, at most ``ahead`` before the consumer."""

    def __init__(self, feed: TransformedBatches, epoch: int, share: Sequence[int]) -> None:
        super().__init__(name="tvetl-batches", daemon=True)
        self._feed, self._reader, self._epoch, self._share = feed, feed._reader, epoch, share
        self._turn = threading.Condition()
        self._ready: deque[_Filled | BaseException | None] = deque()
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

    def take(self) -> _Filled | None:
        """The next batch, None after the last. Raises what reading raised."""
        with self._turn:
            while not self._ready:
                self._turn.wait()
            filled = self._ready.popleft()
            self._taken += 1
        self._wake()
        if isinstance(filled, BaseException):
            raise filled
        return filled

    def stop(self) -> None:
        """End the thread and what it reads; one that waits for the cluster map ends when that comes."""
        self._stopped = True
        self._wake()
        self.join(_JOIN)

    def _wake(self) -> None:
        if fetcher := self._fetcher:
            fetcher.wake()

    # In the thread

    def run(self) -> None:
        last: BaseException | None = None
        try:
            with self._reader.fetcher(self._epoch) as self._fetcher:
                self._fill(self._fetcher)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - the consumer raises it
            last = error
        self._fetcher = None
        self._give(last)

    def _give(self, filled: _Filled | BaseException | None) -> None:
        with self._turn:
            self._ready.append(filled)
            self._turn.notify()

    def _fill(self, fetcher: Fetcher) -> None:
        flight = Flight(self._reader, fetcher, self._make)
        todo = self._reader.placed(fetcher, self._share)
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
                raise _Stopped
            for attempt in flight.finished():
                self._collect(attempt)
        if self._placed % self._feed._batch and not self._feed._drop_last:
            self._deliver(self._placed % self._feed._batch)
        elif self._attempts:
            self._give(_Filled(None, attempts=self._attempts, units=self._units))

    def _may_begin(self, flying: int) -> bool:
        """Whether the batch that the next sample goes into may be begun: it is one of ``ahead`` that are not taken."""
        return (self._placed + flying) // self._feed._batch < self._taken + self._feed._ahead

    def _begin(self, flight: Flight, index: int, home: int) -> None:
        """Read an object into the row where it is to lie if nothing before it is skipped."""
        attempt, number = Attempt(index), self._placed + len(flight)
        attempt.where = row = _Row(number, displaced=number in self._used)
        if not row.displaced:
            self._used.add(number)
        form = self._feed._form
        if form and form.prefix:
            row.answer = self._memory_of(row) if form.as_it_is else self._spare.pop() if self._spare else form.empty()
            received: npt.NDArray[np.uint8] = row.answer.view(-1).view(torch.uint8).numpy()
            flight.begin(attempt, home, received.data, form.prefix)
        else:
            flight.begin(attempt, home)

    def _memory_of(self, row: _Row) -> torch.Tensor:
        if row.memory is None:
            row.memory = self._feed._rows(1)[0] if row.displaced else self._place(row.number)
        return row.memory

    def _place(self, number: int) -> torch.Tensor:
        """The row of that number, in its batch."""
        batch, within = divmod(number, self._feed._batch)
        if batch not in self._open:
            self._open[batch] = self._feed._rows(self._feed._batch)
        return self._open[batch][within]

    def _make(self, name: str, data: Body, attempt: Attempt) -> list[object]:
        """The label of what was read, once the row is filled."""
        row, feed = attempt.where, self._feed
        assert isinstance(row, _Row)
        answer = row.answer
        if data is not None:
            answer = torch.from_numpy(pixels_of(data)) if feed._table is not None else to_tensor(data)
            form = feed._form = feed._form or feed._form_of(data, answer)
            if (form.shape, form.dtype) != (tuple(answer.shape), answer.dtype):
                said = f"{name} is {_said(answer.shape, answer.dtype)}, the others {_said(form.shape, form.dtype)}"
                raise UsageError(f"{said}: no batch can hold both", hint="Resize or crop them to one size.")
        assert answer is not None
        assert feed._form is not None
        memory = self._memory_of(row)
        if answer is not memory:
            feed._form.convert(answer, memory)
        if row.answer is not None and row.answer is not memory:
            self._spare.append(row.answer)
        row.answer = None
        return [feed._label(name)]

    def _collect(self, attempt: Attempt) -> None:
        """Its turn has come: move the sample to where it belongs, where something before it was skipped."""
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
        if self._placed % self._feed._batch == 0:
            self._deliver(self._feed._batch)

    def _deliver(self, count: int) -> None:
        """The batch that the last sample went into is finished, with so many samples."""
        images = self._open.pop((self._placed - 1) // self._feed._batch)[:count]
        labels = default_collate([label for attempt in self._attempts for label in attempt.samples])
        self._give(_Filled(images, labels, self._attempts, self._units))
        self._attempts = []


class _Stopped(Exception):
    """The consumer wants no more."""


def _said(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
