"""The rows of batches: what an answer looks like, how a row is made of it, and the memory for them.

Memory is used again once nothing refers to a batch any more: a fresh 154 MB costs its page faults.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from tvetl.answers import npy_header
from tvetl.datasets.decoding import look_up


@dataclass(frozen=True)
class Layout:
    """The layout of a batch's rows: tensors of this shape ((C, H, W), or (N, C, H, W) with views) and dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def tensor(self, memory: torch.Tensor, count: int) -> torch.Tensor:
        """Memory (uint8) for ``count`` rows as (count, *shape), strided as ``channels_last`` says."""
        values = memory.view(self.dtype)
        if not self.channels_last:
            return values.view(count, *self.shape)
        *views, channels, height, width = self.shape
        return values.view(count, *views, height, width, channels).movedim(-1, -3)


class Memory:
    """Gives out memory, and takes it back when the last tensor that lies in it is gone.

    So whoever has a batch may hold it for as long as they like.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    def take(self, size: int) -> torch.Tensor:
        """``size`` bytes, as uint8 (size,)."""
        free = self._free.setdefault(size, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        lent = memory[:]  # an object of its own, which the tensor's storage keeps
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent)


@dataclass(frozen=True, eq=False)
class AnswerForm:
    """An answer is ``prefix`` and a tensor of ``shape`` and ``dtype``; a row is what ``table`` makes of it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    #: An npy's header, the same for all; empty where answers must be decoded one by one.
    prefix: bytes
    row: Layout
    table: torch.Tensor | None

    @cached_property
    def as_it_is(self) -> bool:
        """Whether a row is the very bytes of an answer."""
        return self.table is None and self.row == Layout(self.shape, self.dtype)

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


class Rows:
    """The rows of a feed's batches: their layout, by the first answer, and their memory.

    ``table`` (C, 256) is applied to pixels that are read; with ``later`` all but receiving is done afterwards, on a
    device. ``dtype`` None keeps the answers'.
    """

    def __init__(
        self, table: torch.Tensor | None, dtype: torch.dtype | None, *, channels_last: bool, later: bool, pin: bool
    ) -> None:
        self._table, self._dtype, self._channels_last = table, dtype, channels_last
        self._later, self._pin = later, pin
        self._memory = Memory()
        #: None before the first answer.
        self.form: AnswerForm | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memory": Memory()}

    def answer(self, made: object, data: bytearray | bytes) -> torch.Tensor:
        """A decoded answer, which was not received in place; the first one tells what all others are to be."""
        assert isinstance(made, torch.Tensor)
        if self.form is None:
            self.form = self._form_of(data, made)
        return made

    def take(self, count: int) -> torch.Tensor:
        """Memory for ``count`` samples, as (count, ...)."""
        assert self.form is not None
        return self._take(self.form.row, count)

    def stack(self, several: Sequence[torch.Tensor]) -> torch.Tensor:
        """Tensors of one shape as one, in memory as of :meth:`take`; of several dtypes as the widest of them."""
        dtype = reduce(torch.promote_types, (each.dtype for each in several))
        stacked = self._take(Layout(tuple(several[0].shape), dtype), len(several))
        for row, each in zip(stacked.numpy(), several, strict=True):
            np.copyto(row, each.numpy())  # torch would wake its threads for each, which costs more than the copy
        return stacked

    def _take(self, layout: Layout, count: int) -> torch.Tensor:
        size = count * layout.row_bytes
        if get_worker_info():  # shared with the training process, and therefore not used again
            memory = torch.empty(size, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        elif self._pin:  # torch's own allocator uses it again, and waits for copies to a GPU
            memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        else:
            memory = self._memory.take(size)
        return layout.tensor(memory, count)

    def _form_of(self, data: bytearray | bytes, made: torch.Tensor) -> AnswerForm:
        prefix = b""
        if data[:6] == b"\x93NUMPY":
            prefix = bytes(data[: len(data) - made.numel() * made.dtype.itemsize])
            prefix = prefix if npy_header(prefix)[1] == "C" else b""
        shape, dtype = tuple(made.shape), made.dtype
        if self._later:
            return AnswerForm(shape, dtype, prefix, Layout(shape, dtype), None)
        row_dtype = self._dtype or (dtype if self._table is None else self._table.dtype)
        return AnswerForm(shape, dtype, prefix, Layout(shape, row_dtype, self._channels_last), self._table)
