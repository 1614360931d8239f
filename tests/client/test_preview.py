"""A contact sheet shows each original beside what became of it, unharmed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from tvetl.preview import contact_sheet


def test_a_transformed_image_is_on_the_sheet_pixel_for_pixel(photographs: list[Path]) -> None:
    original = Image.open(photographs[0]).convert("RGB")
    transformed = original.crop((10, 20, 234, 244))
    sheet = contact_sheet([("one", original, transformed)])
    shown = sheet.crop((sheet.width - 28 - 224, sheet.height - 28 - 224, sheet.width - 28, sheet.height - 28))
    assert ImageChops.difference(shown, transformed).getbbox() is None


def test_cards_stand_in_columns_and_every_mode_and_shape_fits() -> None:
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 256, (40, 900, 3), dtype=np.uint8))
    tiny = Image.fromarray(rng.integers(0, 256, (3, 2), dtype=np.uint8)).convert("1")
    tall = Image.fromarray(rng.integers(0, 256, (900, 40, 4), dtype=np.uint8), "RGBA")
    one = contact_sheet([("a" * 200, wide, tiny)])
    four = contact_sheet([("ü 猫", wide, tiny), ("b", tall, wide), ("c", tiny, tall), ("d", tiny, tiny)])
    assert one.mode == four.mode == "RGB"
    assert four.width > 1.9 * one.width
    assert four.height > 1.9 * one.height - 28


def test_no_rows_are_no_sheet() -> None:
    with pytest.raises(ValueError, match="row"):
        contact_sheet([])
