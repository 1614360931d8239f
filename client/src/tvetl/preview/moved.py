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
        parts = ((self.boxes, other.boxes), (self.kept, other.kept), (self.mask, other.mask))
        return digest(self.outcome) == digest(other.outcome) and all(map(_same, *zip(*parts, strict=True)))


def digest(outcome: Image.Image | Array) -> str:
    """Over type, shape and every value: equal digests are equal pixels."""
    values = np.ascontiguousarray(outcome)
    return hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()).hexdigest()


def _same(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return digest(one) == digest(other)
