"""Drawing contact sheets: originals beside results, or one original with the views of it. Only Pillow is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tvetl.preview.marks import COLOURS, Marks, colour_of, marked
from tvetl.spec import Pipeline, derive_seed, templates
from tvetl.spec.seed import drawn_as

#: Pixels. A transformed image is shown at most this large, 224 being what most pipelines make; its original is
#: fitted beside it.
_SIDE = 224
_WIDE = 300
_GAP = 10
_MARGIN = 28
_TEXT = 34
_PAPER, _FRAME, _INK, _FAINT = (250, 250, 248), (233, 233, 229), (34, 34, 34), (134, 134, 128)
#: The note below a sheet: the font's size and a line's height.
_NOTE, _NOTE_LINE = 15, 21
#: A sheet of views: pixels for its original, and for the lines below each view.
_ORIGINAL = 2 * _SIDE
_LINES = 82
_NO_BOXES = "no boxes, as torch is not installed here"

Row = tuple[str, Image.Image, Image.Image]


@dataclass(frozen=True)
class View:
    """One view: its number, torch's seed for it, its picture, and a digest of its pixels or values.

    With torch installed also ``box`` (left, top, right, bottom in the original), the ``drawn`` parameters, and whether
    torchvision alone gives the same values (``equal``). ``marks`` are the object's boxes and mask as they lie on the
    picture, and ``kept`` which of the boxes these are, counted from 0.
    """

    view: int
    seed: int
    picture: Image.Image
    sha256: str
    box: tuple[float, float, float, float] | None = None
    drawn: tuple[str, ...] = ()
    equal: bool | None = None
    marks: Marks | None = None
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class Source:
    """The origin of a sheet: an object, the ETL and its pipeline, the seed and epoch of the draws.

    ``boxes`` are those that the ETL is asked to move, None for none; ``mask`` is the object with the mask, "" for none.
    """

    bucket: str
    object: str
    etl: str
    pipeline: Pipeline
    seed: int
    epoch: int
    boxes: tuple[tuple[float, ...], ...] | None = None
    mask: str = ""

    @property
    def like(self) -> str:
        """``<bucket>/<object>`` as which it is drawn."""
        drawn, like = drawn_as(self.bucket, self.object), self.pipeline.like
        return drawn if like is None else templates.expand(like, *drawn.split("/", 1))

    def torch_seed(self, view: int) -> int:
        return derive_seed(self.seed, self.epoch, view, self.like)


def contact_sheet(rows: Sequence[Row], *, columns: int = 2, note: str = "") -> Image.Image:
    """An RGB picture with a card for each ``(label, original, transformed)``, ``columns`` cards side by side.

    Images of any mode and size; none is enlarged. ``note`` stands below the last row, in as many lines as it needs.
    Raises ValueError where there are no rows.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    columns = min(columns, len(rows))
    width, height = _WIDE + _GAP + _SIDE, _TEXT + _SIDE
    lines = -(-len(rows) // columns)
    wide, end = _MARGIN + columns * (width + _MARGIN), _MARGIN + lines * (height + _MARGIN)
    below = _wrapped(note, wide - 2 * _MARGIN, _NOTE)
    sheet = Image.new("RGB", (wide, end + (len(below) * _NOTE_LINE + _GAP if below else 0)), _PAPER)
    for at, line in enumerate(below):
        ImageDraw.Draw(sheet).text((_MARGIN, end - _GAP + at * _NOTE_LINE), line, _INK, ImageFont.load_default(_NOTE))
    for at, row in enumerate(rows):
        left = _MARGIN + at % columns * (width + _MARGIN)
        top = _MARGIN + at // columns * (height + _MARGIN)
        _draw_row(sheet, (left, top), row)
    return sheet


def _draw_row(sheet: Image.Image, corner: tuple[int, int], row: Row) -> None:
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


def views_sheet(
    source: Source, original: Image.Image, views: Sequence[View], marks: Marks | None = None
) -> Image.Image:
    """The original with its marks and the crops at the left, the views in columns of four beside it, RGB."""
    columns = min(4, len(views))
    lines = -(-len(views) // columns)
    left = _MARGIN + _ORIGINAL + _MARGIN
    width = left + columns * (_SIDE + _GAP) - _GAP + _MARGIN
    height = _MARGIN + max(_TEXT + _ORIGINAL + _LINES, lines * (_TEXT + _SIDE + _LINES)) + _MARGIN // 2
    sheet = Image.new("RGB", (width, height), _PAPER)
    _draw_original(sheet, source, original, views, marks)
    for at, view in enumerate(views):
        corner = left + at % columns * (_SIDE + _GAP), _MARGIN + at // columns * (_TEXT + _SIDE + _LINES)
        _draw_view(sheet, corner, view)
    return sheet


def _draw_original(
    sheet: Image.Image, source: Source, original: Image.Image, views: Sequence[View], marks: Marks | None
) -> None:
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_MARGIN, _MARGIN + 6), _short(f"{source.bucket}/{source.object}", 44), _INK, ImageFont.load_default(15))
    size = "{} x {}".format(*original.size)
    draw.text((_MARGIN + _ORIGINAL, _MARGIN + 9), size, _FAINT, small, anchor="ra")
    corner = (_MARGIN, _MARGIN + _TEXT)
    sheet.paste(_frame(original, views, marks), corner)
    boxes = "" if any(view.box for view in views) else f"; {_NO_BOXES}"
    steps = " > ".join(step.op for step in source.pipeline.steps)
    below = [
        *_shortened(_wrapped(f"{source.etl}: {steps}", _ORIGINAL), 3),
        f"seed {source.seed}, epoch {source.epoch}{boxes}",
    ]
    for at, line in enumerate(below):
        draw.text((_MARGIN, corner[1] + _ORIGINAL + 8 + 16 * at), line, _FAINT, small)
    if marks is not None and marks.mask is not None:
        _draw_legend(draw, (_MARGIN, corner[1] + _ORIGINAL + 8 + 16 * len(below)), np.unique(marks.mask).tolist())


def _frame(original: Image.Image, views: Sequence[View], marks: Marks | None) -> Image.Image:
    """The original with its marks and the crops, which end where the frame does: a border may be far outside."""
    frame = Image.new("RGB", (_ORIGINAL, _ORIGINAL))
    left, top, scale = _fit(frame, original, (0, 0), frame.size, marks)
    draw = ImageDraw.Draw(frame)
    for view in reversed(views):  # so that the first lies on top
        if view.box is not None:
            x, y, right, bottom = (edge * scale for edge in view.box)
            box = (left + min(x, right), top + min(y, bottom), left + max(x, right) - 1, top + max(y, bottom) - 1)
            draw.rectangle(box, outline=_colour(view), width=2)
            _draw_number(draw, (max(box[0], 0), max(box[1], 0)), view)
    return frame


def _draw_legend(draw: ImageDraw.ImageDraw, corner: tuple[int, int], values: Sequence[int]) -> None:
    """Each of a mask's numbers on its colour, as many as there is room for."""
    (x, y), small = corner, ImageFont.load_default(12)
    draw.text((x, y), "mask:", _FAINT, small)
    x += 42
    for value in filter(None, values):
        width = 12 + round(small.getlength(str(value)))
        if x + width > _MARGIN + _ORIGINAL - 16:
            draw.text((x, y), "…", _FAINT, small)
            return
        draw.rectangle((x, y, x + width - 4, y + 14), fill=colour_of(value))
        draw.text((x + 4, y), str(value), (0, 0, 0), small)
        x += width


def _draw_view(sheet: Image.Image, corner: tuple[int, int], view: View) -> None:
    left, top = corner
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    _draw_number(draw, (left, top + 7), view)
    draw.text((left + 24, top + 8), f"torch seed {view.seed}", _INK, small)
    draw.text((left + _SIDE, top + 8), "{} x {}".format(*view.picture.size), _FAINT, small, anchor="ra")
    _fit(sheet, view.picture, (left, top + _TEXT), (_SIDE, _SIDE), view.marks)
    lines = _shortened(_wrapped(", ".join(view.drawn), _SIDE), 3)
    if view.equal is not None:
        lines.append("torchvision: " + ("equal" if view.equal else "NOT EQUAL"))
    for at, line in enumerate(lines):
        draw.text((left, top + _TEXT + _SIDE + 6 + 16 * at), line, _FAINT, small)


def _draw_number(draw: ImageDraw.ImageDraw, corner: tuple[float, float], view: View) -> None:
    """The view's number on its colour."""
    x, y = corner
    draw.rectangle((x, y, x + 17, y + 15), fill=_colour(view))
    draw.text((x + 9, y + 8), str(view.view), (0, 0, 0), ImageFont.load_default(12), anchor="mm")


def _colour(view: View) -> tuple[int, int, int]:
    return COLOURS[view.view % len(COLOURS)]


def _wrapped(text: str, width: int, size: int = 12) -> list[str]:
    """Lines of at most ``width`` pixels, in the font of that size."""
    measure = ImageFont.load_default(size).getlength
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and measure(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line for line in lines if line]


def _shortened(lines: Sequence[str], most: int) -> list[str]:
    """At most so many lines; where there are more, the last one ends in an ellipsis."""
    return [*lines] if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]


def _fit(
    sheet: Image.Image,
    image: Image.Image,
    corner: tuple[int, int],
    box: tuple[int, int],
    marks: Marks | None = None,
) -> tuple[int, int, float]:
    """Paste the image into the middle of a box, smaller where it must be; returns its left, top and scale."""
    shown = image.convert("RGB")
    shown.thumbnail(box, Image.Resampling.LANCZOS)
    ImageDraw.Draw(sheet).rectangle((*corner, corner[0] + box[0] - 1, corner[1] + box[1] - 1), fill=_FRAME)
    left, top = corner[0] + (box[0] - shown.width) // 2, corner[1] + (box[1] - shown.height) // 2
    if marks is not None:
        shown = marked(shown, marks, shown.width / image.width)
    sheet.paste(shown, (left, top))
    return left, top, shown.width / image.width


def _short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most // 2 - 1] + "…" + label[-(most // 2) :]
