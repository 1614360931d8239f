"""Memory for batches, used again once nothing refers to a batch any more: a fresh 154 MB costs its page faults."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

#: pageable: of this process. pinned: page-locked, for copies to a GPU. shared: what a DataLoader's worker hands on.
Kind = Literal["pageable", "pinned", "shared"]


@dataclass(frozen=True)
class Layout:
    """What the rows of a batch are: tensors of this shape ((C, H, W), or (N, C, H, W) with views) and dtype."""

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

    So whoever has a batch may hold it for as long as they like. Pinned memory is torch's own allocator's, which also
    waits for copies to a GPU; shared memory is not used again, as another process has it.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    def take(self, size: int) -> torch.Tensor:
        """``size`` bytes, as uint8 (size,)."""
        if self.kind == "pinned":
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        if self.kind == "shared":
            shared: torch.Tensor = torch.empty(size, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
            return shared
        free = self._free.setdefault(size, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        lent = memory[:]  # an object of its own, which the tensor's storage keeps
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent)
