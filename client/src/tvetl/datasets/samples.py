"""Samples with annotations: what a request sends of them, torchvision's ``tv_tensors`` of the answer, and batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import default_collate

from tvetl.answers import Array
from tvetl.cluster import Json
from tvetl.datasets.annotations import Annotation
from tvetl.errors import ObjectFailed
from tvetl.spec.limits import BOXES, KEYPOINTS

Floats: TypeAlias = "npt.NDArray[np.float32]"
#: An array, or a tuple where they are names.
Rows: TypeAlias = "Array | tuple[object, ...]"
#: Height and width.
Size: TypeAlias = tuple[int, int]
Kind = Literal["boxes", "keypoints"]

#: Numbers of a box or of a point, and how many of them a request takes.
_NUMBERS: dict[Kind, int] = {"boxes": 4, "keypoints": 2}
_MOST: dict[Kind, int] = {"boxes": BOXES, "keypoints": KEYPOINTS}


class Annotations:
    """Boxes and keypoints of one image before it is transformed. Raises ObjectFailed where they cannot be sent."""

    def __init__(self) -> None:
        #: (N, 4), and by name what there is of each box.
        self.boxes: Floats | None = None
        self.of_boxes: dict[str, Rows] = {}
        #: (..., 2); ``by_box`` where they are (N, K, 2), each box's own.
        self.keypoints: Floats | None = None
        self.by_box = False
        #: By name what comes as it is.
        self.others: dict[str, Rows] = {}
        #: Of the original, where the annotations tell it.
        self.size: Size | None = None

    def add_boxes(self, boxes: object) -> None:
        """The boxes of an Annotation, with all that it tells of them; or an array of boxes."""
        if not isinstance(boxes, Annotation):
            self.boxes = _sendable("boxes", boxes)
            return
        self.boxes, self.size = _sendable("boxes", boxes.boxes), boxes.size
        self.of_boxes = _properties(boxes)
        if boxes.keypoints is not None:
            self.keypoints, self.by_box = _sendable("keypoints", boxes.keypoints), True

    def add_keypoints(self, keypoints: object) -> None:
        """The keypoints of an Annotation, or an array of them; of no box that there is."""
        properties: dict[str, Rows] = {}
        if isinstance(keypoints, Annotation):
            self.size, properties, keypoints = self.size or keypoints.size, _properties(keypoints), keypoints.keypoints
            if keypoints is None:
                raise ObjectFailed("its annotation has no keypoints", code="bad_annotations")
        self.keypoints, self.by_box = _sendable("keypoints", keypoints), False
        self.of_boxes.pop("visible", None)  # it was of the keypoints
        self.others = {name: properties[name] for name in properties if name == "visible" or self.boxes is None}

    def arrays(self) -> dict[str, Floats]:
        """``boxes`` and ``keypoints``, as far as there are any."""
        both = {"boxes": self.boxes, "keypoints": self.keypoints}
        return {name: rows for name, rows in both.items() if rows is not None}

    def arguments(self) -> dict[str, Json]:
        """The same for ``etl_args``."""
        return {name: _sent(rows) for name, rows in self.arrays().items()}

    def moved(self, answer: Mapping[str, Array], canvas: Size) -> dict[str, object]:
        """What it became in an image of size ``canvas``: by the answer's ``boxes``, ``kept`` of these, ``keypoints``.

        All boxes are kept where it does not say. Raises LookupError, ValueError where it is not what was asked for.
        """
        moved: dict[str, object] = {}
        kept = answer.get("kept")
        if self.boxes is not None:
            boxes = answer["boxes"].copy()  # a view would keep the whole answer
            moved["boxes"] = as_coordinates("boxes", boxes, canvas)
            moved |= {name: _taken(rows, kept) for name, rows in self.of_boxes.items()}
        if self.keypoints is not None:
            points = answer["keypoints"].reshape(self.keypoints.shape)
            points = points.copy() if kept is None or not self.by_box else points[kept.tolist()]
            moved["keypoints"] = as_coordinates("keypoints", points, canvas)
        return moved | {name: _taken(rows, None) for name, rows in self.others.items()}


def _properties(annotation: Annotation) -> dict[str, Rows]:
    """The labels, visibility and ignore marks of an annotation, by name."""
    properties = {"labels": annotation.labels, "visible": annotation.visible, "ignore": annotation.ignore}
    return {name: rows for name, rows in properties.items() if rows is not None}


def _taken(rows: Rows, kept: Array | None) -> torch.Tensor | list[object]:
    """A copy of these rows; of names a list."""
    places = range(len(rows)) if kept is None else kept.tolist()
    return torch.from_numpy(rows[[*places]]) if isinstance(rows, np.ndarray) else [rows[place] for place in places]


def _sent(rows: Floats) -> Json:
    """Coordinates for ``etl_args``: the shortest numbers that are the same in float32."""
    return [[float(f"{value:.9g}") for value in row] for row in rows.reshape(-1, rows.shape[-1]).tolist()]


def _sendable(kind: Kind, given: object) -> Floats:
    """The same as :func:`floats`, as many as a request takes. Raises ObjectFailed where they are not."""
    try:
        rows = floats(kind, given)
        if (count := rows.size // _NUMBERS[kind]) > _MOST[kind]:
            raise ValueError(f"it has {count:,} {kind}, and a request takes {_MOST[kind]:,}")
    except ValueError as error:
        raise ObjectFailed(str(error), code="bad_annotations") from error
    return rows


def floats(kind: Kind, given: object) -> Floats:
    """Coordinates as float32: of boxes (N, 4), of keypoints (..., 2). Raises ValueError where they are none."""
    width = _NUMBERS[kind]
    try:
        rows: Floats = np.asarray(given, np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"its {kind} are no numbers: {error}") from error
    rows = rows.reshape(0, width) if rows.shape == (0,) else rows  # []
    if rows.ndim < 2 or rows.shape[-1] != width or (kind == "boxes" and rows.ndim > 2):
        raise ValueError(f"its {kind} are of shape {rows.shape}: expected (N, {width})")
    if not np.isfinite(rows).all():
        raise ValueError(f"some of its {kind} are not finite")
    return rows


def prepare() -> None:
    """Import torchvision, for a second: before workers are forked, and not in each of them. Raises ImportError."""
    import torchvision.tv_tensors  # noqa: F401


def as_image(decoded: object) -> object:
    """A tensor (C, H, W) as a tv_tensors.Image; anything else as it is."""
    from torchvision import tv_tensors

    is_image = isinstance(decoded, torch.Tensor) and decoded.ndim == 3
    return tv_tensors.Image(decoded) if is_image else decoded


def as_mask(numbers: Array) -> torch.Tensor:
    from torchvision import tv_tensors

    mask: torch.Tensor = tv_tensors.Mask(torch.from_numpy(numbers))
    return mask


def as_coordinates(kind: Kind, rows: Array, canvas: Size) -> torch.Tensor:
    """Boxes or keypoints in an image of this size."""
    from torchvision import tv_tensors

    make = partial(tv_tensors.BoundingBoxes, format="XYXY") if kind == "boxes" else tv_tensors.KeyPoints
    tensor: torch.Tensor = make(torch.from_numpy(rows), canvas_size=canvas)
    return tensor


def collate_annotated(samples: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """A DataLoader's ``collate_fn`` for samples with masks, boxes or keypoints, which torch's own cannot stack.

    Gives a dict with the samples' keys: ``image`` and ``mask`` as one tensor (B, ...), or as a list of B where the
    images of the batch are not of one shape; masks as int32 where one of them is. ``label``, that of the image, as
    ``default_collate`` gives it. Everything else is a list of B: ``boxes``, ``labels``, ``keypoints``, ``name``.
    Raises ValueError where there are no samples, or not the same keys in all of them.
    """
    if not samples or any(sample.keys() != samples[0].keys() for sample in samples):
        raise ValueError(f"expected samples with the same keys, got {[sorted(sample) for sample in samples][:2]}")
    batch: dict[str, object] = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key in {"image", "mask"} & batch.keys():
        batch[key] = _stacked([sample[key] for sample in samples])
    if "label" in batch:
        batch["label"] = default_collate([sample["label"] for sample in samples])
    return batch


def _stacked(images: Sequence[object]) -> torch.Tensor | list[object]:
    tensors = [image for image in images if isinstance(image, torch.Tensor)]
    if len(tensors) != len(images) or any(image.shape != tensors[0].shape for image in tensors):
        return [*images]
    dtype = torch.int32 if any(image.dtype == torch.int32 for image in tensors) else tensors[0].dtype
    return torch.stack([image.to(dtype) for image in tensors])
