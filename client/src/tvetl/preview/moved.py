"""An image as a pipeline makes it, with what became of its boxes and mask."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tvetl.answers import Array


@dataclass(frozen=True, eq=False)
class Moved:
    """An image or a tensor; boxes float32 (M, 4) in its pixels; which of the given ones these are; a mask (H, W)."""

    outcome: Image.Image | Array
    boxes: Array | None = None
    kept: Array | None = None
    mask: Array | None = None

    def equals(self, other: Moved) -> bool:
        """Whether every value is the same, and has the same type."""
        return self._digests() == other._digests()

    def _digests(self) -> list[str | None]:
        parts = (self.outcome, self.boxes, self.kept, self.mask)
        return [None if part is None else digest(part) for part in parts]


def digest(outcome: Image.Image | Array) -> str:
    """Over type, shape and every value: equal digests are equal pixels."""
    values = np.ascontiguousarray(outcome)
    return hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()).hexdigest()
