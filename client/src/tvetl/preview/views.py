"""The views that an ETL makes of one object, saved as a contact sheet and made again from it.

A saved sheet carries a record (a text chunk of the PNG), from which each of its views can be made again.
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
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from tvetl.answers import Array, is_tar, read_answer
from tvetl.cluster import Cluster, Json
from tvetl.errors import UsageError
from tvetl.files import write_whole
from tvetl.preview.sheet import Source, View, views_sheet
from tvetl.spec import IMAGE_FORMATS, Pipeline, canonical, parse
from tvetl.spec.limits import VIEWS
from tvetl.spec.opening import open_rgb

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

    def image(self) -> Image.Image:
        """The contact sheet, RGB."""
        return views_sheet(self.source, self.original, self.views)

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
        text = PngInfo()
        text.add_itxt(_RECORD, json.dumps(record, ensure_ascii=False))
        written = io.BytesIO()
        self.image().save(written, "PNG", pnginfo=text, optimize=True)
        return written.getvalue()


def preview(
    cluster: Cluster, bucket: str, name: str, etl: str, *, views: int = 8, seed: int | None = None, epoch: int = 0
) -> Preview:
    """``views`` draws of one object by the ETL, with the given seed, else the pipeline's, else 0.

    Images are shown as they are before JPEG or WebP, tensors with ``Normalize`` undone. Raises NotFound,
    ObjectFailed, and UsageError where the ETL is not one of ours.
    """
    if not 1 <= views <= VIEWS:
        raise UsageError(f"{views} views: expected 1 to {VIEWS}")
    container = cluster.show(etl)
    pipeline = container.pipeline if container else None
    if pipeline is None:
        raise UsageError(f"the ETL {etl!r} was not registered with a pipeline, so its draws cannot be asked for")
    base = seed if seed is not None else pipeline.seed if pipeline.seed is not None else 0
    source = Source(bucket, name, etl, pipeline, base, epoch)
    data = cluster.get(bucket, name)
    try:
        original = open_rgb(data, pipeline)
    except Exception as error:  # by what is broken, Pillow raises any class
        # Pillow's sentence would show an object's place in memory.
        why = "not of a kind that Pillow reads" if isinstance(error, UnidentifiedImageError) else error
        hint = "A preview is of one image, and this may be a shard of many." if is_tar(data) else ""
        raise UsageError(f"{bucket}/{name} is no image that can be opened: {why}", hint=hint) from error
    return Preview(source, original, tuple(_view(cluster, source, view, data) for view in range(views)))


def _view(cluster: Cluster, source: Source, view: int, data: bytes) -> View:
    outcome = _by_etl(cluster, source, view)
    made = View(view, source.torch_seed(view), _picture(outcome, source.pipeline), _digest(outcome))
    again = _by_torchvision(source, view, data)
    if again is None:
        return made
    return replace(made, box=again.box, drawn=again.drawn, equal=_digest(again.outcome) == made.sha256)


def _by_etl(cluster: Cluster, source: Source, view: int) -> Image.Image | Array:
    """The view as the ETL makes it, in a lossless format."""
    format = "png" if source.pipeline.output.format in IMAGE_FORMATS else "npy"
    arguments: dict[str, Json] = {"seed": source.seed, "epoch": source.epoch, "view": view, "format": format}
    outcome = read_answer(cluster.get(source.bucket, source.object, source.etl, arguments))
    assert not isinstance(outcome, list)  # a list is for `views`
    return outcome


def _by_torchvision(source: Source, view: int, data: bytes) -> Replayed | None:
    """The view by torchvision alone; None where torch is not installed."""
    try:
        from tvetl.preview.replay import replay
    except ImportError:
        return None
    return replay(source.pipeline, data, source.torch_seed(view))


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
            outcome = _by_etl(cluster, source, view)
        else:
            again = _by_torchvision(source, view, data)
            if again is None:
                raise UsageError("torchvision is not installed", hint="pip install 'tvetl[torch]'")
            outcome = again.outcome
        made.append(Again(view, _digest(outcome) == recorded[view], outcome))
    return made


def read_record(sheet: Path) -> tuple[Source, Mapping[int, str]]:
    """The source in a saved sheet's record, and the digest of each view. Raises UsageError."""
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
    """A tensor (C, H, W) as an image to look at: its last Normalize undone, clamped to what can be shown."""
    if isinstance(outcome, Image.Image):
        return outcome
    values = outcome.astype(np.float64)
    last = next((step.params for step in reversed(pipeline.steps) if step.op == "Normalize"), None)
    if last:
        mean, std = (np.array(last[name], np.float64).reshape(-1, 1, 1) for name in ("mean", "std"))
        values = values * std + mean
    shown = np.clip(values if outcome.dtype == np.uint8 else np.round(values * 255), 0, 255).astype(np.uint8)
    return Image.fromarray(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0))
