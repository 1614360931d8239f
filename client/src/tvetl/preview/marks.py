"""Boxes and masks, drawn over a picture so that it can be seen through them. Only Pillow and numpy are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tvetl.answers import Array

#: Colours that are told apart on most photographs and by most eyes (Okabe and Ito, 2008).
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (190, 190, 190),
)  # fmt: skip
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
#: Of 255: how much of a mask's colour covers the picture.
_COVER = 128
_FONT = 12


@dataclass(frozen=True, eq=False)
class Marks:
    """Boxes [x1, y1, x2, y2] in a picture's pixels, a text for each, and a mask (H, W) of the picture's size."""

    boxes: Sequence[Sequence[float]] = ()
    texts: Sequence[str] = ()
    mask: Array | None = None


def colour_of(value: int) -> tuple[int, int, int]:
    """The colour of a mask's number, which is not 0: that is the background, and is not coloured."""
    return COLOURS[(value - 1) % len(COLOURS)]


def marked(picture: Image.Image, marks: Marks, scale: float) -> Image.Image:
    """The picture (RGB) with the marks on it, where ``scale`` is its size divided by that of which they are."""
    if marks.mask is not None:
        picture = _tinted(picture, marks.mask)
    draw = ImageDraw.Draw(picture)
    for box, text in zip(marks.boxes, marks.texts, strict=True):
        if box[0] < box[2] and box[1] < box[3]:
            _draw_box(draw, [edge * scale for edge in box], text)
    return picture


def _tinted(picture: Image.Image, mask: Array) -> Image.Image:
    numbers = mask.astype(np.int64)
    places = np.where(numbers == 0, 0, (numbers - 1) % len(COLOURS) + 1).astype(np.uint8)
    shown = Image.fromarray(places).resize(picture.size, Image.Resampling.NEAREST)
    cover = shown.point([0] + [_COVER] * 255)
    shown.putpalette([*_BLACK, *(part for colour in COLOURS for part in colour)])
    return Image.composite(shown.convert("RGB"), picture, cover)


def _draw_box(draw: ImageDraw.ImageDraw, box: Sequence[float], text: str) -> None:
    """White between two black lines, which is seen on every ground; its text where there is room."""
    left, top, right, bottom = box[0], box[1], max(box[2] - 1, box[0]), max(box[3] - 1, box[1])
    draw.rectangle((left, top, right, bottom), outline=_BLACK, width=4)
    if right - left > 3 and bottom - top > 3:
        draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=_WHITE, width=2)
    font = ImageFont.load_default(_FONT)
    width = font.getlength(text)
    if text and width + 8 < right - left:
        above = top - 16 if top >= 16 else top + 3
        draw.rectangle((left, above, left + width + 6, above + 15), fill=_WHITE)
        draw.text((left + 3, above + 1), text, _BLACK, font)
