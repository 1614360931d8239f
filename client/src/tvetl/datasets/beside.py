"""What belongs to an image: its boxes, its keypoints and what is told of them, as they are given, sent, and come back.

What comes back are torchvision's ``tv_tensors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

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


class Given:
    """What is known of an image before it is read. Raises ObjectFailed where it is nothing that can be sent."""

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

    def add_boxes(self, found: object) -> None:
        """The boxes of an Annotation, with all that it tells of them; or an array of boxes."""
        if not isinstance(found, Annotation):
            self.boxes = _within("boxes", found, 4, BOXES)
            return
        self.boxes, self.size = _within("boxes", found.boxes, 4, BOXES), found.size
        self.of_boxes = _told(found)
        if found.keypoints is not None:
            self.keypoints, self.by_box = _within("keypoints", found.keypoints, 2, KEYPOINTS), True

    def add_keypoints(self, found: object) -> None:
        """The keypoints of an Annotation, or an array of them; of no box that there is."""
        told: dict[str, Rows] = {}
        if isinstance(found, Annotation):
            self.size, told, found = self.size or found.size, _told(found), found.keypoints
            if found is None:
                raise ObjectFailed("its annotation has no keypoints", code="bad_annotations")
        self.keypoints, self.by_box = _within("keypoints", found, 2, KEYPOINTS), False
        self.of_boxes.pop("visible", None)  # it was of the keypoints
        self.others = {name: told[name] for name in told if name == "visible" or self.boxes is None}

    def asked(self) -> dict[str, Json]:
        """The ``etl_args`` of it: ``boxes``, ``keypoints``."""
        both = {"boxes": self.boxes, "keypoints": self.keypoints}
        return {name: _sent(rows) for name, rows in both.items() if rows is not None}

    def moved(self, answer: Mapping[str, Array], canvas: Size) -> dict[str, object]:
        """What it became in an image of size ``canvas``: by the answer's ``boxes``, ``kept`` of these, ``keypoints``.

        All boxes are kept where it does not say. Raises LookupError, ValueError where it is not what was asked for.
        """
        found: dict[str, object] = {}
        kept = answer.get("kept")
        if self.boxes is not None:
            found["boxes"] = as_boxes(answer["boxes"].copy(), canvas)  # a view would keep the whole answer
            found |= {name: _taken(rows, kept) for name, rows in self.of_boxes.items()}
        if self.keypoints is not None:
            points = answer["keypoints"].reshape(self.keypoints.shape)
            points = points.copy() if kept is None or not self.by_box else points[kept.tolist()]
            found["keypoints"] = as_keypoints(points, canvas)
        return found | {name: _taken(rows, None) for name, rows in self.others.items()}


def _told(annotation: Annotation) -> dict[str, Rows]:
    told = {"labels": annotation.labels, "visible": annotation.visible, "ignore": annotation.ignore}
    return {name: value for name, value in told.items() if value is not None}


def _taken(rows: Rows, kept: Array | None) -> torch.Tensor | list[object]:
    """A copy of these rows; of names a list."""
    places = range(len(rows)) if kept is None else kept.tolist()
    return torch.from_numpy(rows[[*places]]) if isinstance(rows, np.ndarray) else [rows[place] for place in places]


def _within(what: str, given: object, width: int, most: int) -> Floats:
    """The same as :func:`floats`, as many as a request takes. Raises ObjectFailed where they are not."""
    try:
        rows = floats(what, given, width)
        if (count := rows.size // width) > most:
            raise ValueError(f"it has {count:,} {what}, and a request takes {most:,}")
    except ValueError as error:
        raise ObjectFailed(str(error), code="bad_annotations") from error
    return rows


def floats(what: str, given: object, width: int) -> Floats:
    """Coordinates as float32 (N, width), of keypoints (..., width). Raises ValueError where they are none."""
    try:
        rows: Floats = np.asarray(given, np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"its {what} are no numbers: {error}") from error
    rows = rows.reshape(0, width) if rows.shape == (0,) else rows  # []
    if rows.ndim < 2 or rows.shape[-1] != width or (what == "boxes" and rows.ndim > 2):
        raise ValueError(f"its {what} are of shape {rows.shape}: expected (N, {width})")
    if not np.isfinite(rows).all():
        raise ValueError(f"some of its {what} are not finite")
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


def as_boxes(rows: Array, canvas: Size) -> torch.Tensor:
    from torchvision import tv_tensors

    boxes: torch.Tensor = tv_tensors.BoundingBoxes(torch.from_numpy(rows), format="XYXY", canvas_size=canvas)
    return boxes


def as_keypoints(rows: Array, canvas: Size) -> torch.Tensor:
    from torchvision import tv_tensors

    keypoints: torch.Tensor = tv_tensors.KeyPoints(torch.from_numpy(rows), canvas_size=canvas)
    return keypoints


def _sent(rows: Floats) -> Json:
    """Coordinates for ``etl_args``: the shortest numbers that are the same in float32."""
    return [[float(f"{value:.9g}") for value in row] for row in rows.reshape(-1, rows.shape[-1]).tolist()]
