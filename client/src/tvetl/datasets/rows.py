"""The rows of batches: what an answer looks like, how a row is made of it, and the memory for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from tvetl.answers import npy_header
from tvetl.datasets.lookup import look_up
from tvetl.datasets.memory import Kind, Layout, Memory


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


class Rows:
    """What the rows of a feed's batches are, once the first answer was seen, and their memory.

    ``table`` (C, 256) is applied to pixels that are read; with ``later`` all but receiving is done afterwards, on a
    device. ``dtype`` None keeps the answers'.
    """

    def __init__(
        self, table: torch.Tensor | None, dtype: torch.dtype | None, *, channels_last: bool, later: bool, pin: bool
    ) -> None:
        self._table, self._dtype, self._channels_last = table, dtype, channels_last
        self._later, self._pin = later, pin
        self._memory: dict[Kind, Memory] = {}
        #: None before the first answer.
        self.form: Form | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memory": {}}

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
        kind: Kind = "shared" if get_worker_info() else "pinned" if self._pin else "pageable"
        memory = self._memory.setdefault(kind, Memory(kind))
        return layout.tensor(memory.take(count * layout.row_bytes), count)

    def _form_of(self, data: bytearray | bytes, made: torch.Tensor) -> Form:
        prefix = b""
        if data[:6] == b"\x93NUMPY":
            prefix = bytes(data[: len(data) - made.numel() * made.dtype.itemsize])
            prefix = prefix if npy_header(prefix)[1] == "C" else b""
        shape, dtype = tuple(made.shape), made.dtype
        if self._later:
            return Form(shape, dtype, prefix, Layout(shape, dtype), None)
        wanted = self._dtype or (dtype if self._table is None else self._table.dtype)
        return Form(shape, dtype, prefix, Layout(shape, wanted, self._channels_last), self._table)
