"""A picture of noise, where there are numpy and Pillow."""

from __future__ import annotations

from typing import Any

import pytest


def random_image(size: tuple[int, int] = (50, 40)) -> Any:
    numpy = pytest.importorskip("numpy")
    pixels = numpy.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=numpy.uint8)
    return pytest.importorskip("PIL.Image").fromarray(pixels)
