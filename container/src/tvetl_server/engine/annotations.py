"""The annotations of an image, which move with it: its mask, its boxes and its keypoints.

Each method moves them as torchvision's kernels do, bit for bit, without torch. Coordinates are float32, in pixels.
Sources: torchvision/transforms/v2/functional/_geometry.py, _meta.py and _misc.py of the pinned release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tvetl.spec import Arguments
from tvetl_server.engine.pixels import Box, Mask, Size
from tvetl_server.errors import BadAnnotations, TransformFailed

Floats = npt.NDArray[np.float32]

#: Pixels by which a box or keypoint may lie beyond its image: sums of rounded corners and sizes do.
_BEYOND = 1.0


@dataclass(frozen=True)
class Annotations:
    """All but ``size`` are None where an image has none."""

    size: Size
    """Width and height of the image, as it is now."""
    mask: Mask | None = None
    boxes: Floats | None = None
    """(N, 4): x1, y1, x2, y2."""
    kept: npt.NDArray[np.int64] | None = None
    """(N,): the index of each box among those of the request."""
    keypoints: Floats | None = None
    """(K, 2): x, y."""

    @classmethod
    def of(cls, size: Size, arguments: Arguments) -> Annotations:
        """A request's boxes and keypoints in an image of ``size``. Raises BadAnnotations where one lies outside."""
        boxes = _inside("boxes", arguments.boxes, 4, size)
        kept = None if boxes is None else np.arange(len(boxes))
        return cls(size, boxes=boxes, kept=kept, keypoints=_inside("keypoints", arguments.keypoints, 2, size))

    def cropped(self, box: Box) -> Annotations:
        """Keep ``box``, whose left and top may be negative for boxes and keypoints."""
        left, top, right, bottom = box
        moved = self._shifted(-float(left), -float(top), (right - left, bottom - top))  # -0.0, which keeps a -0.0
        return moved if self.mask is None else replace(moved, mask=self.mask[top:bottom, left:right])

    def padded(self, border: Sequence[int], fill: float, mode: str) -> Annotations:
        """Add a border: left, top, right, bottom. Raises TransformFailed where torchvision cannot."""
        left, top, right, bottom = border
        if mode != "constant" and (self.boxes is not None or self.keypoints is not None):
            raise TransformFailed(f"Boxes and keypoints cannot be padded by padding_mode {mode}; constant can.")
        moved = self._shifted(left, top, (self.size[0] + left + right, self.size[1] + top + bottom))
        return moved if self.mask is None else replace(moved, mask=_padded(self.mask, border, fill, mode))

    def resized(self, size: Size, *, exact: bool) -> Annotations:
        """Resize to width and height; of a mask by the nearest value, ``exact``: as "nearest-exact" takes it."""
        if size == self.size:
            return self
        ratio = [new / old for new, old in zip(size, self.size, strict=True)]
        mask = self.mask
        if mask is not None:
            rows, columns = (
                _nearest(new, old, exact=exact) for new, old in zip(size[::-1], self.size[::-1], strict=True)
            )
            mask = np.take(mask[rows], columns, axis=1)
        boxes = None if self.boxes is None else self.boxes * np.array(ratio * 2, np.float32)
        keypoints = None if self.keypoints is None else self.keypoints * np.array(ratio, np.float32)
        return Annotations(size, mask, boxes, self.kept, keypoints)

    def flipped(self, axis: int) -> Annotations:
        """Left becomes right (``axis`` 0), or top bottom (1)."""
        boxes, keypoints, side = self.boxes, self.keypoints, self.size[axis]
        if boxes is not None:
            first, last = boxes[:, axis], boxes[:, axis + 2]
            boxes = boxes.copy()
            boxes[:, axis], boxes[:, axis + 2] = -(last - np.float32(side)), -(first - np.float32(side))
        if keypoints is not None:
            keypoints = keypoints.copy()
            keypoints[:, axis] = -(keypoints[:, axis] - np.float32(side - 1))
        mask = None if self.mask is None else np.flip(self.mask, 1 - axis)
        return replace(self, mask=mask, boxes=boxes, keypoints=keypoints)

    def clamped(self) -> Annotations:
        """Boxes end at the edges of the image."""
        return self if self.boxes is None else replace(self, boxes=_clamped(self.boxes, self.size))

    def sanitized(self, min_size: float, min_area: float) -> Annotations:
        """Without boxes that are too small or not inside (v2.SanitizeBoundingBoxes)."""
        boxes, kept = self.boxes, self.kept
        if boxes is None or kept is None:
            return self
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        valid = (width >= min_size) & (height >= min_size) & (width * height >= min_area)
        valid &= (boxes >= 0).all(axis=1) & (boxes <= np.array(self.size * 2, np.float32)).all(axis=1)
        return replace(self, boxes=boxes[valid], kept=kept[valid])

    def _shifted(self, x: float, y: float, size: Size) -> Annotations:
        """All but the mask, in an image of ``size``."""
        boxes = None if self.boxes is None else _clamped(self.boxes + np.array([x, y, x, y], np.float32), size)
        keypoints = None if self.keypoints is None else self.keypoints + np.array([x, y], np.float32)
        return Annotations(size, self.mask, boxes, self.kept, keypoints)


def _clamped(boxes: Floats, size: Size) -> Floats:
    # Not by np.maximum, which may give 0.0 of -0.0: torch keeps that.
    return np.minimum(np.where(boxes < 0, np.float32(0), boxes), np.array(size * 2, np.float32))


def _inside(name: str, points: Sequence[Sequence[float]] | None, length: int, size: Size) -> Floats | None:
    """Rows of ``length`` coordinates. Raises BadAnnotations with the place of the first that lies outside."""
    if points is None:
        return None
    rows = np.array(points, np.float32).reshape(-1, length)
    outside = rows > np.array([size[0] + _BEYOND, size[1] + _BEYOND] * (length // 2), np.float32)
    if outside.any():
        place = int(outside.any(axis=1).argmax())
        point = ", ".join(f"{value:g}" for value in points[place])
        raise BadAnnotations(
            f"$.{name}[{place}]: [{point}] is not in the image, which is {size[0]} x {size[1]} pixels."
        )
    return rows


def _padded(mask: Mask, border: Sequence[int], fill: float, mode: str) -> Mask:
    left, top, right, bottom = border
    if mode == "constant":
        value, most = int(fill), 255 if mask.dtype == np.uint8 else 2**31 - 1
        if not 0 <= value <= most:
            raise TransformFailed(f"A mask of {mask.dtype} cannot be filled with {fill:g}.")
        return np.pad(mask, [(top, bottom), (left, right)], constant_values=value)
    # numpy would reflect again and again.
    most_rows, most_columns = (side - (mode == "reflect") for side in mask.shape)
    if mode != "edge" and (max(top, bottom) > most_rows or max(left, right) > most_columns):
        raise TransformFailed(f"A mask of {mask.shape[1]} x {mask.shape[0]} has not enough pixels for a {mode} border.")
    padded: Mask = np.pad(mask, [(top, bottom), (left, right)], mode=mode)  # type: ignore[call-overload]
    return padded


def _nearest(new: int, old: int, *, exact: bool) -> npt.NDArray[np.intp]:
    """The source index of each of ``new`` pixels, rounded as torch does (UpSample.h, nearest_idx)."""
    if exact:
        return _nearest_exact(new, old)
    positions = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
    nearest: npt.NDArray[np.intp] = np.minimum(np.floor(positions).astype(np.intp), old - 1)
    return nearest


def _nearest_exact(new: int, old: int) -> npt.NDArray[np.intp]:
    """The source indices of "nearest-exact", by torch itself: its rounding differs from processor to processor."""
    try:
        import torch
    except ImportError:
        raise TransformFailed(
            "A mask is resized by nearest-exact, which needs torch: the image's cpu variant has it. nearest needs none."
        ) from None
    positions = torch.arange(old, dtype=torch.float32)[None, None, None]
    nearest = torch.nn.functional.interpolate(positions, size=(1, new), mode="nearest-exact")
    return np.array(nearest.flatten().tolist(), np.intp)
