"""JPEGs of each kind that the device takes, as fixtures, and what makes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tvetl.spec import Arguments


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


@pytest.fixture(scope="module")
def images(photographs: list[Path]) -> list[Image.Image]:
    """Of odd and even sizes."""
    found = []
    for place, path in enumerate(photographs):
        image = Image.open(path).convert("RGB")
        image.thumbnail((230 + 13 * place, 400))
        found.append(image)
    return found


@pytest.fixture(scope="module")
def taken(images: list[Image.Image]) -> dict[str, bytes]:
    """JPEGs of each kind that the device takes."""
    found = {f"{place}.jpg": jpeg(image) for place, image in enumerate(images)}
    first, second, *_ = images
    found |= {f"{kind}.jpg": jpeg(first, subsampling=kind) for kind in ("4:4:4", "4:2:2", "4:2:0")}
    found |= {f"q{quality}.jpg": jpeg(second, quality=quality, optimize=True) for quality in (10, 75, 100)}
    found["gray.jpg"] = jpeg(first.convert("L"))
    found["colours.jpg"] = jpeg(second, keep_rgb=True)
    found["exif.jpg"] = jpeg(second, exif=turned(6))
    found["comment.jpg"] = jpeg(first, comment=b"x" * 3000, icc_profile=b"y" * 500)
    return found


def seeded(seed: int) -> Arguments:
    return Arguments(given=frozenset(["seed"]), seed=seed)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
