"""Contact sheets: originals beside what became of them, on one picture, to look at before a job and after it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

#: Pixels. A transformed image is shown at most this large, 224 being what most pipelines make; its original is
#: fitted beside it.
_SIDE = 224
_WIDE = 300
_GAP = 10
_MARGIN = 28
_TEXT = 34
_PAPER, _FRAME, _INK, _FAINT = (250, 250, 248), (233, 233, 229), (34, 34, 34), (134, 134, 128)

Row = tuple[str, Image.Image, Image.Image]


def contact_sheet(rows: Sequence[Row], *, columns: int = 2) -> Image.Image:
    """An RGB picture with a card for each ``(label, original, transformed)``, ``columns`` cards side by side.

    Images of any mode and size; none is enlarged. Raises ValueError where there are no rows.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    columns = min(columns, len(rows))
    width, height = _WIDE + _GAP + _SIDE, _TEXT + _SIDE
    lines = -(-len(rows) // columns)
    size = (_MARGIN + columns * (width + _MARGIN), _MARGIN + lines * (height + _MARGIN))
    sheet = Image.new("RGB", size, _PAPER)
    for at, row in enumerate(rows):
        left = _MARGIN + at % columns * (width + _MARGIN)
        top = _MARGIN + at // columns * (height + _MARGIN)
        _card(sheet, (left, top), row)
    return sheet


def _card(sheet: Image.Image, corner: tuple[int, int], row: Row) -> None:
    label, original, transformed = row
    left, top = corner
    right = left + _WIDE + _GAP
    draw = ImageDraw.Draw(sheet)
    draw.text((left, top + 6), _short(label, 34), _INK, ImageFont.load_default(15))
    small = ImageFont.load_default(12)
    draw.text((left + _WIDE, top + 9), "{} x {}".format(*original.size), _FAINT, small, anchor="ra")
    draw.text((right + _SIDE, top + 9), "{} x {}".format(*transformed.size), _FAINT, small, anchor="ra")
    _fit(sheet, original, (left, top + _TEXT), (_WIDE, _SIDE))
    _fit(sheet, transformed, (right, top + _TEXT), (_SIDE, _SIDE))


def _fit(sheet: Image.Image, image: Image.Image, corner: tuple[int, int], box: tuple[int, int]) -> None:
    """Paste the image into the middle of a box, made smaller where it must be."""
    shown = image.convert("RGB")
    shown.thumbnail(box, Image.Resampling.LANCZOS)
    ImageDraw.Draw(sheet).rectangle((*corner, corner[0] + box[0] - 1, corner[1] + box[1] - 1), fill=_FRAME)
    sheet.paste(shown, (corner[0] + (box[0] - shown.width) // 2, corner[1] + (box[1] - shown.height) // 2))


def _short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most // 2 - 1] + "…" + label[-(most // 2) :]
