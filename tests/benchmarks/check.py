"""Whether outputs are those of torchvision, and how far off those are that are not meant to be."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError


def equal(outputs: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> dict[str, int]:
    """How many objects have the bytes or at least the pixels that are wanted: ``{"equal": 124, "of": 125}``.

    Where the pixels are equal and the bytes not, one has the source's resolution, comment or profile, which we drop.
    """
    return {"equal": sum(_same(outputs.get(name, b""), content) for name, content in wanted.items()), "of": len(wanted)}


def _same(output: bytes, wanted: bytes) -> bool:
    if output == wanted:
        return True
    try:
        one, other = (Image.open(io.BytesIO(data)) for data in (output, wanted))
    except UnidentifiedImageError:
        return False
    return (one.format, one.mode, one.size) == (
        other.format,
        other.mode,
        other.size,
    ) and one.tobytes() == other.tobytes()


def distance(outputs: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> dict[str, float]:
    """Of images without loss: the lowest and the median PSNR in dB, and the largest difference, of 255."""
    found = [_distance(outputs[name], content) for name, content in wanted.items()]
    return {
        "lowest": round(min(psnr for psnr, _ in found), 1),
        "median": round(statistics.median(psnr for psnr, _ in found), 1),
        "largest": max(largest for _, largest in found),
    }


def _distance(output: bytes, wanted: bytes) -> tuple[float, int]:
    one, other = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16) for data in (output, wanted))
    if one.shape != other.shape:
        return 0.0, 255
    apart = np.abs(one - other)
    mean = float((apart.astype(np.float64) ** 2).mean())
    return (99.0 if mean == 0 else min(99.0, 10 * math.log10(255**2 / mean))), int(apart.max())


def good(found: Mapping[str, float], lowest: float | None = None) -> bool:
    """Whether a figure counts: all equal; or, for what is not meant to be, no image below ``lowest`` dB."""
    return found["equal"] == found["of"] if "of" in found else lowest is None or found["lowest"] >= lowest


def in_turns(sides: Sequence[str], round_: int) -> list[str]:
    """The order of a round: each begins with another side, so that none is always behind the same one."""
    at = round_ % len(sides)
    return [*sides[at:], *sides[:at]]
