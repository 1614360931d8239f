"""The views that an ETL makes of one object, saved as a contact sheet and made again from it.

A saved sheet carries a record (a text chunk of the PNG), from which each of its views can be made again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from tvetl.answers import Array, is_tar, read_answer, read_mask, read_sample
from tvetl.cluster import Cluster, Json
from tvetl.errors import UsageError
from tvetl.files import write_whole
from tvetl.preview.marks import Marks
from tvetl.preview.moved import Moved, digest
from tvetl.preview.sheet import Source, View, views_sheet
from tvetl.spec import IMAGE_FORMATS, Pipeline, canonical, parse, templates
from tvetl.spec.arguments import needs_boxes
from tvetl.spec.limits import VIEWS
from tvetl.spec.opening import open_rgb
from tvetl.spec.seed import arrival, drawn_as

if TYPE_CHECKING:
    from tvetl.preview.replay import Replayed

_RECORD = "tvetl"

Way = Literal["etl", "torchvision"]


@dataclass(frozen=True)
class Preview:
    """Some views of one object. A notebook shows the sheet by itself."""

    source: Source
    original: Image.Image
    views: tuple[View, ...]
    #: The boxes and the mask of the original, where they were asked for.
    marks: Marks | None = None

    def image(self) -> Image.Image:
        """The contact sheet, RGB."""
        return views_sheet(self.source, self.original, self.views, self.marks)

    def save(self, path: Path | str) -> None:
        """Write the sheet as a PNG with the record that ``tvetl replay`` reads."""
        write_whole(Path(path), self._repr_png_())

    def _repr_png_(self) -> bytes:
        source = self.source
        record = {
            **{name: getattr(source, name) for name in ("bucket", "object", "etl", "seed", "epoch")},
            "pipeline": json.loads(canonical(source.pipeline)),
            "views": {view.view: view.sha256 for view in self.views},
        }
        if source.boxes is not None:
            record["boxes"] = source.boxes
        text = PngInfo()
        text.add_itxt(_RECORD, json.dumps(record, ensure_ascii=False))
        written = io.BytesIO()
        self.image().save(written, "PNG", pnginfo=text, optimize=True)
        return written.getvalue()


def preview(
    cluster: Cluster,
    bucket: str,
    name: str,
    etl: str,
    *,
    views: int = 8,
    seed: int | None = None,
    epoch: int = 0,
    boxes: Sequence[Sequence[float]] | None = None,
    labels: Sequence[str] = (),
    masks: str = "",
) -> Preview:
    """``views`` draws of one object by the ETL, with the given seed, else the pipeline's, else 0.

    Images are shown as they are before JPEG or WebP, tensors with ``Normalize`` undone. ``boxes``, [x1, y1, x2, y2] in
    pixels of the original, are drawn as outlines, with as many ``labels``; ``masks`` says as which object of the bucket
    the mask is stored, as a dataset's does ("masks/{stem}.png"): its numbers are coloured, 0 is not.
    Raises NotFound, ObjectFailed, and UsageError where the ETL is not one of ours or the mask is of another size.
    """
    if not 1 <= views <= VIEWS:
        raise UsageError(f"{views} views: expected 1 to {VIEWS}")
    container = cluster.show(etl)
    pipeline = container.pipeline if container else None
    if pipeline is None:
        raise UsageError(f"the ETL {etl!r} was not registered with a pipeline, so its draws cannot be asked for")
    if pipeline.role == "mask":
        hint = "Name the ETL of its images, and this object as their mask: --masks."
        raise UsageError(
            f"the ETL {etl!r} takes every object for a mask, which is not shown without its image", hint=hint
        )
    if boxes is None and (op := needs_boxes(pipeline, is_mask=False)):
        hint = "Name the file or folder that has the object's: --boxes."
        raise UsageError(f"the ETL's {op} acts on boxes, and there are none", hint=hint)
    base = seed if seed is not None else pipeline.seed if pipeline.seed is not None else 0
    float_boxes = None if boxes is None else tuple(tuple(float(edge) for edge in box) for box in boxes)
    if labels and len(labels) != len(float_boxes or ()):
        raise UsageError(f"there are {len(labels)} labels of {len(float_boxes or ())} boxes")
    source = Source(bucket, name, etl, pipeline, base, epoch, float_boxes, _mask_of(bucket, name, masks))
    data = cluster.get(bucket, name)
    try:
        original = open_rgb(data, pipeline)
    except Exception as error:  # by what is broken, Pillow raises any class
        # Pillow's sentence would show an object's place in memory.
        why = "not of a kind that Pillow reads" if isinstance(error, UnidentifiedImageError) else error
        hint = "A preview is of one image, and this may be a shard of many." if is_tar(data) else ""
        raise UsageError(f"{bucket}/{name} is no image that can be opened: {why}", hint=hint) from error
    mask = _stored_mask(cluster, source, original) if source.mask else None
    pictures = tuple(_view(cluster, source, view, data, mask, labels) for view in range(views))
    return Preview(source, original, pictures, _marks(float_boxes, labels, mask))


def _mask_of(bucket: str, name: str, masks: str) -> str:
    if not masks:
        return ""
    try:
        return templates.expand(masks, drawn_as(bucket, "").removesuffix("/"), name)
    except ValueError as error:
        raise UsageError(f"masks is {masks!r}: {error}") from error


def _stored_mask(cluster: Cluster, source: Source, original: Image.Image) -> Array:
    try:
        mask = read_mask(cluster.get(source.bucket, source.mask))
    except UsageError as error:
        raise UsageError(f"{source.bucket}/{source.mask}: {error.message}", hint=error.hint) from error
    if mask.shape != (original.height, original.width):
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, and its image {original.width} x {original.height}"
        raise UsageError(f"the mask {source.bucket}/{source.mask} has {sizes}")
    return mask


def _marks(boxes: Sequence[Sequence[float]] | None, labels: Sequence[str], mask: Array | None) -> Marks | None:
    if boxes is None and mask is None:
        return None
    return Marks(boxes or (), labels or [""] * len(boxes or ()), mask)


def _view(cluster: Cluster, source: Source, view: int, data: bytes, mask: Array | None, labels: Sequence[str]) -> View:
    moved = _by_etl(cluster, source, view)
    kept = () if moved.kept is None else tuple(moved.kept.tolist())
    boxes = None if moved.boxes is None else moved.boxes.tolist()
    marks = _marks(boxes, [labels[place] for place in kept] if labels else (), moved.mask)
    picture = _picture(moved.outcome, source.pipeline)
    made = View(view, source.torch_seed(view), picture, digest(moved.outcome), marks=marks, kept=kept)
    again = _by_torchvision(source, view, data, mask)
    if again is None:
        return made
    return replace(made, box=again.box, drawn=again.drawn, equal=again.equals(moved))


def _by_etl(cluster: Cluster, source: Source, view: int) -> Moved:
    """The view as the ETL makes it, in a lossless format, with what became of boxes and mask."""
    drawn: dict[str, Json] = {"seed": source.seed, "epoch": source.epoch, "view": view}
    if arrival(source.object) == "changed":
        drawn["like"] = source.like
    boxes: dict[str, Json] = {} if source.boxes is None else {"boxes": [[*box] for box in source.boxes]}
    mask = None
    if source.mask:
        # The boxes serve the draws that depend on them.
        arguments = {**drawn, **boxes, "as": "mask", "like": source.like, "format": "npy"}
        answer = read_answer(cluster.get(source.bucket, source.mask, source.etl, arguments))
        assert isinstance(answer, np.ndarray)
        mask = answer
    is_image = source.pipeline.output.format in IMAGE_FORMATS
    if not boxes:
        arguments = {**drawn, "format": "png" if is_image else "npy"}
        outcome = read_answer(cluster.get(source.bucket, source.object, source.etl, arguments))
        assert not isinstance(outcome, list)  # a list is for `views`
        return Moved(outcome, mask=mask)
    tensors, _ = read_sample(cluster.get(source.bucket, source.object, source.etl, {**drawn, **boxes}))
    pixels = tensors["image"]
    outcome = _image_of(pixels) if is_image else pixels
    return Moved(outcome, tensors["boxes"], tensors["kept"], mask)


def _image_of(pixels: Array) -> Image.Image:
    """uint8 (C, H, W) as an image, gray or RGB."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _by_torchvision(source: Source, view: int, data: bytes, mask: Array | None = None) -> Replayed | None:
    """The view by torchvision alone; None where torch is not installed."""
    try:
        from tvetl.preview.replay import replay
    except ImportError:
        return None
    return replay(source.pipeline, data, source.torch_seed(view), boxes=source.boxes, mask=mask)


@dataclass(frozen=True)
class Again:
    """A view made again: its image or tensor, and whether it is equal to the one on the sheet."""

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
    """Make views of a sheet again (all of them by default), and compare every value with the sheet's record.

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
            outcome = _by_etl(cluster, source, view).outcome
        else:
            again = _by_torchvision(source, view, data)
            if again is None:
                raise UsageError("torchvision is not installed", hint="pip install 'tvetl[torch]'")
            outcome = again.outcome
        made.append(Again(view, digest(outcome) == recorded[view], outcome))
    return made


def read_record(sheet: Path) -> tuple[Source, Mapping[int, str]]:
    """The source in a saved sheet's record, and the digest of each view. Raises UsageError."""
    try:
        with Image.open(sheet) as image:
            record = json.loads(str(image.info[_RECORD]))
        pipeline, seed, epoch = parse(record["pipeline"]), int(record["seed"]), int(record["epoch"])
        boxes = record.get("boxes")
        source = Source(
            str(record["bucket"]), str(record["object"]), str(record["etl"]), pipeline, seed, epoch,
            None if boxes is None else tuple(tuple(map(float, box)) for box in boxes),
        )  # fmt: skip
        return source, {int(view): str(digest) for view, digest in record["views"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "`tvetl preview BUCKET/OBJECT --etl NAME --output sheet.png` makes one."
        raise UsageError(f"{sheet} is no contact sheet with a record", hint=hint) from error


def _picture(outcome: Image.Image | Array, pipeline: Pipeline) -> Image.Image:
    """A tensor (C, H, W) as an image to look at: its last Normalize undone, clamped to what can be shown."""
    if isinstance(outcome, Image.Image):
        return outcome
    values = outcome.astype(np.float64)
    last = next((step.params for step in reversed(pipeline.steps) if step.op == "Normalize"), None)
    if last:
        mean, std = (np.array(last[name], np.float64).reshape(-1, 1, 1) for name in ("mean", "std"))
        values = values * std + mean
    return _image_of(np.clip(values if outcome.dtype == np.uint8 else np.round(values * 255), 0, 255).astype(np.uint8))
