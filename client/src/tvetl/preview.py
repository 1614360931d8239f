"""Contact sheets, to look at before a job and after it: what an ETL makes of one object, or originals beside results.

A sheet of views carries its own record (a text in the PNG), so that each of its views can be made again later.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tvetl.answers import Array, read_answer
from tvetl.cluster import Cluster, Json
from tvetl.errors import UsageError
from tvetl.files import write_whole
from tvetl.pod import PIPELINE_VARIABLE
from tvetl.spec import IMAGE_FORMATS, Pipeline, canonical, derive_seed, parse
from tvetl.spec.limits import VIEWS

if TYPE_CHECKING:
    from tvetl.replay import Replayed

#: Pixels. A transformed image is shown at most this large, 224 being what most pipelines make; its original is
#: fitted beside it.
_SIDE = 224
_WIDE = 300
_GAP = 10
_MARGIN = 28
_TEXT = 34
_PAPER, _FRAME, _INK, _FAINT = (250, 250, 248), (233, 233, 229), (34, 34, 34), (134, 134, 128)
#: A sheet of views: pixels for its original, and for the lines below each view.
_ORIGINAL = 2 * _SIDE
_LINES = 82
#: Colours of boxes and their views, told apart on most photographs and by most eyes (Okabe and Ito, 2008).
_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (190, 190, 190),
)  # fmt: skip
_NO_BOXES = "no boxes, as torch is not installed here"
_RECORD = "tvetl"

Row = tuple[str, Image.Image, Image.Image]
Way = Literal["etl", "torchvision"]


@dataclass(frozen=True)
class View:
    """One view: its number, torch's seed for it, its picture, and a digest of its pixels or values.

    With torch installed also ``box`` (left, top, right, bottom in the original), what was ``drawn``, and whether
    torchvision alone gives the same values (``equal``).
    """

    view: int
    seed: int
    picture: Image.Image
    sha256: str
    box: tuple[float, float, float, float] | None = None
    drawn: tuple[str, ...] = ()
    equal: bool | None = None


@dataclass(frozen=True)
class Source:
    """What a sheet shows: an object, the ETL and its pipeline, and the seed and epoch of the draws."""

    bucket: str
    object: str
    etl: str
    pipeline: Pipeline
    seed: int
    epoch: int


@dataclass(frozen=True)
class Preview:
    """Some views of one object. A notebook shows the sheet by itself."""

    source: Source
    original: Image.Image
    views: tuple[View, ...]

    def image(self) -> Image.Image:
        """The contact sheet, RGB."""
        return _sheet(self)

    def save(self, path: Path | str) -> None:
        """Write the sheet as a PNG that says what it shows: ``tvetl replay`` reads that."""
        write_whole(Path(path), self._repr_png_())

    def _repr_png_(self) -> bytes:
        source = self.source
        record = {
            **{name: getattr(source, name) for name in ("bucket", "object", "etl", "seed", "epoch")},
            "pipeline": json.loads(canonical(source.pipeline)),
            "views": {view.view: view.sha256 for view in self.views},
        }
        told = PngInfo()
        told.add_itxt(_RECORD, json.dumps(record, ensure_ascii=False))
        written = io.BytesIO()
        self.image().save(written, "PNG", pnginfo=told, optimize=True)
        return written.getvalue()


def preview(
    cluster: Cluster, bucket: str, name: str, etl: str, *, views: int = 8, seed: int | None = None, epoch: int = 0
) -> Preview:
    """What the ETL makes of one object: ``views`` draws of it, of the given seed, else the pipeline's, else 0.

    Images are shown before they are written as JPEG or WebP, tensors with ``Normalize`` taken back. Raises NotFound,
    ObjectFailed, UsageError where the ETL is not one of ours.
    """
    if not 1 <= views <= VIEWS:
        raise UsageError(f"{views} views: expected 1 to {VIEWS}")
    container = cluster.show(etl)
    if container is None or PIPELINE_VARIABLE not in container.env:
        raise UsageError(f"the ETL {etl!r} was not registered with a pipeline, so its draws cannot be asked for")
    pipeline = parse(container.env[PIPELINE_VARIABLE])
    base = seed if seed is not None else pipeline.seed if pipeline.seed is not None else 0
    source = Source(bucket, name, etl, pipeline, base, epoch)
    data = cluster.get(bucket, name)
    original = read_answer(data)
    if not isinstance(original, Image.Image):
        raise UsageError(f"{bucket}/{name} is no image")
    return Preview(source, original, tuple(_view(cluster, source, view, data) for view in range(views)))


def _view(cluster: Cluster, source: Source, view: int, data: bytes) -> View:
    outcome = _asked(cluster, source, view)
    seed = derive_seed(source.seed, source.epoch, view, f"{source.bucket}/{source.object}")
    made = View(view, seed, _picture(outcome, source.pipeline), _digest(outcome))
    again = _replayed(source, view, data)
    if again is None:
        return made
    return replace(made, box=again.box, drawn=again.drawn, equal=_digest(again.outcome) == made.sha256)


def _asked(cluster: Cluster, source: Source, view: int) -> Image.Image | Array:
    """The view as the ETL makes it, in a format that loses nothing."""
    format = "png" if source.pipeline.output.format in IMAGE_FORMATS else "npy"
    asked: dict[str, Json] = {"seed": source.seed, "epoch": source.epoch, "view": view, "format": format}
    outcome = read_answer(cluster.get(source.bucket, source.object, source.etl, asked))
    assert not isinstance(outcome, list)  # a list is for `views`
    return outcome


def _replayed(source: Source, view: int, data: bytes) -> Replayed | None:
    """The view by torchvision alone; None where torch is not installed."""
    try:
        from tvetl.replay import replay
    except ImportError:
        return None
    seed = derive_seed(source.seed, source.epoch, view, f"{source.bucket}/{source.object}")
    return replay(source.pipeline, data, seed)


@dataclass(frozen=True)
class Again:
    """A view made again: equal to the one on the sheet or not, and what came now."""

    view: int
    equal: bool
    outcome: Image.Image | Array

    def save(self, folder: Path) -> Path:
        """Write it as ``view-<n>.png``, a tensor as ``view-<n>.npy``."""
        path = folder / f"view-{self.view}.{'png' if isinstance(self.outcome, Image.Image) else 'npy'}"
        written = io.BytesIO()
        if isinstance(self.outcome, Image.Image):
            self.outcome.save(written, "PNG")
        else:
            np.save(written, self.outcome)
        write_whole(path, written.getvalue(), folder=True)
        return path


def replay_sheet(
    cluster: Cluster, sheet: Path, views: Sequence[int] = (), *, way: Way = "etl", original: Path | None = None
) -> list[Again]:
    """Make views of a sheet again (all of them by default), and compare each value with what the sheet recorded.

    ``way`` "etl" asks the ETL once more; "torchvision" takes the ``original`` (a file, else read from the cluster)
    and torchvision alone, after ``torch.manual_seed``. Raises UsageError for a picture that is no sheet.
    """
    source, recorded = read_record(sheet)
    if unknown := [view for view in views if view not in recorded]:
        raise UsageError(f"there is no view {unknown[0]} on {sheet}", hint=f"It has 0 to {max(recorded)}.")
    data = b""
    if way == "torchvision":
        data = original.read_bytes() if original else cluster.get(source.bucket, source.object)
    made = []
    for view in views or recorded:
        if way == "etl":
            outcome = _asked(cluster, source, view)
        else:
            again = _replayed(source, view, data)
            if again is None:
                raise UsageError("torchvision is not installed", hint="pip install 'tvetl[torch]'")
            outcome = again.outcome
        made.append(Again(view, _digest(outcome) == recorded[view], outcome))
    return made


def read_record(sheet: Path) -> tuple[Source, Mapping[int, str]]:
    """What a saved sheet says it shows, and the digest of each view. Raises UsageError."""
    try:
        with Image.open(sheet) as image:
            record = json.loads(str(image.info[_RECORD]))
        pipeline, seed, epoch = parse(record["pipeline"]), int(record["seed"]), int(record["epoch"])
        source = Source(str(record["bucket"]), str(record["object"]), str(record["etl"]), pipeline, seed, epoch)
        return source, {int(view): str(digest) for view, digest in record["views"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "`tvetl preview BUCKET/OBJECT --etl NAME --output sheet.png` makes one."
        raise UsageError(f"{sheet} is no contact sheet with a record", hint=hint) from error


def _digest(outcome: Image.Image | Array) -> str:
    """Over type, shape and every value: equal digests are equal pixels."""
    values = np.ascontiguousarray(outcome)
    return hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()).hexdigest()


def _picture(outcome: Image.Image | Array, pipeline: Pipeline) -> Image.Image:
    """A tensor (C, H, W) as an image to look at: its last Normalize taken back, cut to what can be shown."""
    if isinstance(outcome, Image.Image):
        return outcome
    values = outcome.astype(np.float64)
    last = next((step.params for step in reversed(pipeline.steps) if step.op == "Normalize"), None)
    if last:
        mean, std = (np.array(last[name], np.float64).reshape(-1, 1, 1) for name in ("mean", "std"))
        values = values * std + mean
    shown = np.clip(values if outcome.dtype == np.uint8 else np.round(values * 255), 0, 255).astype(np.uint8)
    return Image.fromarray(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0))


# Drawing


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


def _sheet(preview: Preview) -> Image.Image:
    """The original with the boxes at the left, the views in columns of four beside it."""
    columns = min(4, len(preview.views))
    lines = -(-len(preview.views) // columns)
    left = _MARGIN + _ORIGINAL + _MARGIN
    width = left + columns * (_SIDE + _GAP) - _GAP + _MARGIN
    height = _MARGIN + max(_TEXT + _ORIGINAL + _LINES, lines * (_TEXT + _SIDE + _LINES)) + _MARGIN // 2
    sheet = Image.new("RGB", (width, height), _PAPER)
    _original(sheet, preview)
    for at, view in enumerate(preview.views):
        corner = left + at % columns * (_SIDE + _GAP), _MARGIN + at // columns * (_TEXT + _SIDE + _LINES)
        _view_card(sheet, corner, view)
    return sheet


def _original(sheet: Image.Image, preview: Preview) -> None:
    source, original = preview.source, preview.original
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_MARGIN, _MARGIN + 6), _short(f"{source.bucket}/{source.object}", 44), _INK, ImageFont.load_default(15))
    size = "{} x {}".format(*original.size)
    draw.text((_MARGIN + _ORIGINAL, _MARGIN + 9), size, _FAINT, small, anchor="ra")
    corner = (_MARGIN, _MARGIN + _TEXT)
    left, top, scale = _fit(sheet, original, corner, (_ORIGINAL, _ORIGINAL))
    for view in reversed(preview.views):  # so that the first lies on top
        if view.box is not None:
            x, y, right, bottom = (edge * scale for edge in view.box)
            box = (left + min(x, right), top + min(y, bottom), left + max(x, right) - 1, top + max(y, bottom) - 1)
            draw.rectangle(box, outline=_colour(view), width=2)
            _tag(draw, (box[0], box[1]), view)
    boxes = "" if any(view.box for view in preview.views) else f"; {_NO_BOXES}"
    steps = " > ".join(step.op for step in source.pipeline.steps)
    below = [*_wrapped(f"{source.etl}: {steps}", _ORIGINAL, 3), f"seed {source.seed}, epoch {source.epoch}{boxes}"]
    for at, line in enumerate(below):
        draw.text((_MARGIN, corner[1] + _ORIGINAL + 8 + 16 * at), line, _FAINT, small)


def _view_card(sheet: Image.Image, corner: tuple[int, int], view: View) -> None:
    left, top = corner
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    _tag(draw, (left, top + 7), view)
    draw.text((left + 24, top + 8), f"torch seed {view.seed}", _INK, small)
    draw.text((left + _SIDE, top + 8), "{} x {}".format(*view.picture.size), _FAINT, small, anchor="ra")
    _fit(sheet, view.picture, (left, top + _TEXT), (_SIDE, _SIDE))
    lines = _wrapped(", ".join(view.drawn), _SIDE, 3)
    if view.equal is not None:
        lines.append("torchvision: " + ("equal" if view.equal else "NOT EQUAL"))
    for at, line in enumerate(lines):
        draw.text((left, top + _TEXT + _SIDE + 6 + 16 * at), line, _FAINT, small)


def _tag(draw: ImageDraw.ImageDraw, corner: tuple[float, float], view: View) -> None:
    """The view's number on its colour."""
    x, y = corner
    draw.rectangle((x, y, x + 17, y + 15), fill=_colour(view))
    draw.text((x + 9, y + 8), str(view.view), (0, 0, 0), ImageFont.load_default(12), anchor="mm")


def _colour(view: View) -> tuple[int, int, int]:
    return _COLOURS[view.view % len(_COLOURS)]


def _wrapped(text: str, width: int, most: int) -> list[str]:
    """At most so many lines of so many pixels, in the small font; what does not fit ends in an ellipsis."""
    measure = ImageFont.load_default(12).getlength
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and measure(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    return [line for line in lines if line]


def _fit(
    sheet: Image.Image, image: Image.Image, corner: tuple[int, int], box: tuple[int, int]
) -> tuple[int, int, float]:
    """Paste the image into the middle of a box, made smaller where it must be; gives where, and how much."""
    shown = image.convert("RGB")
    shown.thumbnail(box, Image.Resampling.LANCZOS)
    ImageDraw.Draw(sheet).rectangle((*corner, corner[0] + box[0] - 1, corner[1] + box[1] - 1), fill=_FRAME)
    left, top = corner[0] + (box[0] - shown.width) // 2, corner[1] + (box[1] - shown.height) // 2
    sheet.paste(shown, (left, top))
    return left, top, shown.width / image.width


def _short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most // 2 - 1] + "…" + label[-(most // 2) :]
