"""Boxes, labels and keypoints of images, by the image's name: what every reader of annotation files gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename, splitext
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tvetl.errors import UsageError

#: What becomes of boxes without area, which torchvision's detectors refuse.
Empty: TypeAlias = Literal["refuse", "drop", "keep"]

#: Pixels that an edge may lie beyond its image: tools round, each in its own way. The server allows as many.
MARGIN = 1.0
#: No image is as wide: a coordinate beyond it is a mistake, also where a file does not tell its images' sizes.
FARTHEST = 2.0**20


@dataclass(frozen=True, eq=False)
class Annotation:
    """The N objects on one image. Coordinates are pixels of the original; the whole image is [0, 0, width, height]."""

    #: float32 (N, 4): [x1, y1, x2, y2] with 0 <= x1 <= x2 and 0 <= y1 <= y2.
    boxes: npt.NDArray[np.float32]
    #: int64 (N,): the file's own numbers; or N names, where it has names and nothing gave them numbers.
    labels: npt.NDArray[np.int64] | tuple[str, ...]
    #: float32 (N, K, 2): the [x, y] of each object's K points; None where the file has none.
    keypoints: npt.NDArray[np.float32] | None = None
    #: uint8 (N, K), as in COCO: 0 is not labelled, 1 labelled and hidden, 2 visible; None where there are no keypoints.
    visible: npt.NDArray[np.uint8] | None = None
    #: bool (N,): evaluation leaves these out (COCO's crowds, VOC's difficult objects); None where the file has none.
    ignore: npt.NDArray[np.bool_] | None = None
    #: (height, width) of the original as the file tells it, else None.
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Columns:
    """Objects of many images, as columns of T rows, in any order."""

    #: int64 (T,): which image each belongs to.
    owners: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    keypoints: npt.NDArray[np.float32] | None = None
    visible: npt.NDArray[np.uint8] | None = None
    ignore: npt.NDArray[np.bool_] | None = None

    def taken(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Columns:
        """A copy of these rows, or of those where a mask says so."""
        return Columns(**{name: column[rows] for name, column in vars(self).items() if column is not None})


class NameIndex:
    """Rows by the name of an image, of which a table has as much as its file tells.

    A name is looked up in this order:

    1. as it is, else as the longest last part of it that is in the table: of ``data/train/1.jpg`` also
       ``train/1.jpg`` and ``1.jpg``; each of them also without its extension;
    2. by file name: an image ``1.jpg`` in any folder of the table;
    3. by file name without extension: ``1.png``, or ``train/1``.

    Where 2 or 3 finds several, the look-up raises UsageError that names two of them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._rows = {name: row for row, name in enumerate(names)}
        self._parts: dict[Callable[[str], str], dict[str, int]] = {}

    def get(self, name: str) -> int | None:
        """The row of a name, None where nothing is found."""
        rest = name
        while rest:
            for key in (rest, splitext(rest)[0]):
                if (row := self._rows.get(key)) is not None:
                    return row
            rest = rest.partition("/")[2]
        for part in (basename, _stem):
            if (row := self._by(part).get(part(name))) is not None:
                if row >= 0:
                    return row
                first, second, *_ = (other for other in self._names if part(other) == part(name))
                raise UsageError(f"{name!r} may be {first!r} or {second!r} of the annotations")
        return None

    def _by(self, part: Callable[[str], str]) -> dict[str, int]:
        """Rows by a part of their name, -1 where several have it; made when first needed."""
        if part not in self._parts:
            index = self._parts[part] = {}
            for row, name in enumerate(self._names):
                key = part(name)
                index[key] = -1 if key in index else row
        return self._parts[part]


class AnnotationTable(Mapping[str, Annotation]):
    """Annotations by the name of their image. All objects lie in a few arrays, 33 bytes each without keypoints.

    Names are looked up as :class:`NameIndex` says. ``classes`` has the names of the labels' numbers, where the file
    tells them.
    """

    def __init__(
        self,
        names: Sequence[str],
        columns: Columns,
        sizes: npt.NDArray[np.int64],
        classes: Mapping[int, str],
        *,
        named: bool = False,
    ) -> None:
        """``sizes`` are (height, width) of M images, [0, 0] where unknown; ``named`` gives labels as names."""
        self._names, self._sizes, self._named = names, sizes, named
        self.classes = dict(classes)
        self._columns = columns.taken(np.argsort(columns.owners, kind="stable"))
        self._starts = np.searchsorted(self._columns.owners, np.arange(len(names) + 1))
        self._index = NameIndex(names)

    def __getitem__(self, name: str) -> Annotation:
        if (row := self._index.get(name)) is None:
            raise KeyError(name)
        # Copies: what is given may be changed, the table stays as it is.
        own = self._columns.taken(np.arange(self._starts[row], self._starts[row + 1]))
        labels = tuple(self.classes[label] for label in own.labels.tolist()) if self._named else own.labels
        height, width = self._sizes[row].tolist()
        size = (height, width) if height and width else None
        return Annotation(own.boxes, labels, own.keypoints, own.visible, own.ignore, size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError where an image has no annotations here, or shares them with another that is called alike."""
        taken: dict[int, str] = {}
        for name in names:
            if (row := self._index.get(name)) is None:
                hint = f"There are {len(self)}, {self._names[0]!r} first." if self._names else "There are none at all."
                raise UsageError(f"there are no annotations of {name!r}", hint=hint)
            if taken.setdefault(row, name) != name:
                hint = "Read annotations of which the names tell the images' folders apart."
                raise UsageError(
                    f"{taken[row]!r} and {name!r} would both have the annotations of {self._names[row]!r}", hint=hint
                )


def checked(columns: Columns, sizes: npt.NDArray[np.int64], empty: Empty, place: Callable[[int], str]) -> Columns:
    """The same rows with an edge or point up to a pixel before 0 moved to 0, without those that ``empty`` drops.

    ``sizes`` are (height, width) of the images, [0, 0] where unknown; ``place`` says where row n stands. Raises
    UsageError for the first row with a box or point that is not finite or more than a pixel beyond its image, a box
    with its corners the wrong way round, or, with ``empty`` "refuse", one without area.
    """
    size = sizes[columns.owners]
    height, width = (np.where(size > 0, size + MARGIN, FARTHEST)).T

    def refuse(bad: npt.NDArray[np.bool_], values: npt.NDArray[np.float32], why: str, hint: str = "") -> None:
        if bad.any():
            at = int(bad.argmax())
            known = size[at].all()
            where = f"its image, {size[at, 1]} x {size[at, 0]} pixels" if known else f"{FARTHEST:.0f} pixels"
            numbers = f"[{', '.join(f'{value:.9g}' for value in values[at].flat)}]"
            raise UsageError(f"{place(at)}: {why.format(numbers[:60], where)}", hint=hint)

    boxes, points = columns.boxes, columns.keypoints
    x1, y1, x2, y2 = boxes.T
    # Written so that NaN is refused too.
    beyond = ~((x1 >= -MARGIN) & (y1 >= -MARGIN) & (x2 <= width) & (y2 <= height))
    refuse(beyond, boxes, "the box {} is beyond {}")
    refuse(
        ~((x1 <= x2) & (y1 <= y2)), boxes, "the box {} has its corners the wrong way round: expected x1 <= x2, y1 <= y2"
    )
    np.maximum(boxes, 0, out=boxes)
    if points is not None:
        inside = (points >= -MARGIN) & (points <= np.stack([width, height], axis=1)[:, None])
        refuse(~np.all(inside, axis=(1, 2)), points, "a point of {} is beyond {}")
        np.maximum(points, 0, out=points)
    flat = (x1 == x2) | (y1 == y2)
    if empty == "refuse":
        refuse(
            flat, boxes, "the box {} has no area", hint='empty="drop" leaves such boxes out, empty="keep" keeps them.'
        )
    return columns.taken(~flat) if empty == "drop" and flat.any() else columns


def check_empty(empty: str) -> None:
    if empty not in ("refuse", "drop", "keep"):
        raise UsageError(f"empty is {empty!r}: expected refuse, drop or keep")


def _stem(name: str) -> str:
    return splitext(basename(name))[0]
