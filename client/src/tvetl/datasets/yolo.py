"""YOLO's text files: a line a box, in parts of the image's size. The sizes come from the images, or from the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tvetl.datasets.annotation_files import Files, Objects, named_files, number, read_text
from tvetl.datasets.annotations import FARTHEST, AnnotationTable, Empty, NameIndex, check_empty
from tvetl.errors import UsageError

#: Of ``classes.txt``, which tools write among the files of a folder.
_CLASSES = "classes"
#: Parts that tools write beyond 0 and 1, where they round.
_ROUNDING = 1e-3
#: EXIF orientations with which an image is shown with its sides exchanged.
_TURNED = (5, 6, 7, 8)


def read_yolo(
    source: Files, sizes: Mapping[str, tuple[int, int]] | Path | str, *, empty: Empty = "refuse"
) -> AnnotationTable:
    """Read YOLO's text files of boxes: a folder with those in its folders, one file, or files.

    A line is a box: class, centre x, centre y, width and height, the last four in parts of the image's size. An
    image's name is that of its file, without ``.txt``; of an empty file there are 0 boxes. Labels are the files' own
    numbers; where a ``classes.txt`` lies in the folder, a name a line, ``classes`` has these.

    The files do not tell their images' sizes. ``sizes`` does: (height, width) by the image's name, in pixels as the
    boxes were drawn on it; or a folder of the images, of which only the headers are read. Both are matched with the
    files as :class:`AnnotationTable` looks up names. Corners are computed in float64 and rounded to float32; an edge
    less than a pixel beyond 0 is moved to 0. Boxes without area: ``empty`` "refuse", "drop" or "keep".

    Raises UsageError with the file and the line: other than five numbers (polygons and poses have more), a class
    that is no whole number or not in ``classes.txt``, parts beyond 0 and 1. With the file: where no size is known, or
    two; and for an image that EXIF turns by 90 degrees, as its size could be meant either way.
    """
    check_empty(empty)
    files = named_files(source, ".txt")
    named = files.pop(_CLASSES, None)
    classes = {line - 1: text.strip() for line, text in _lines(named)} if named else {}
    of_images = _sizes_of(files, sizes)
    objects = Objects(files)
    for file, (path, (height, width)) in enumerate(zip(files.values(), of_images, strict=True)):
        for line, text in _lines(path):
            place = f"{path}, line {line}"
            label, x, y, wide, high = _box(text, place)
            if classes and label not in classes:
                raise UsageError(f"{place}: {named} has no class {label}, counted from 0")
            corners = (x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height
            objects.add(file, line, corners, label)
    return objects.table(of_images, empty, classes, named=False, ignore=False)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    return ((at, line) for at, line in enumerate(read_text(path).split("\n"), 1) if line.strip())


def _box(text: str, place: str) -> tuple[int, float, float, float, float]:
    fields = text.split()
    if len(fields) != 5:
        hint = "Polygons, poses, turned boxes and predictions have more numbers, and are not read."
        raise UsageError(f"{place}: it has {len(fields)} fields: expected class, x, y, width, height", hint=hint)
    numbers = [number(field) for field in fields]
    label, *parts = (float("nan") if value is None else value for value in numbers)
    if not 0 <= label < 2**53 or label != int(label):
        raise UsageError(f"{place}: the class is {fields[0][:60]!r}: expected a whole number from 0")
    for field, part in zip(fields[1:], parts, strict=True):
        if not -_ROUNDING <= part <= 1 + _ROUNDING:
            hint = "Numbers are parts of the image's width or height, and not pixels."
            raise UsageError(f"{place}: {field[:60]!r}: expected a number from 0 to 1", hint=hint)
    x, y, wide, high = parts
    return int(label), x, y, wide, high


def _sizes_of(files: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]] | Path | str) -> list[tuple[int, int]]:
    """(height, width) of the image of each file."""
    index, paths = NameIndex([*files]), [*files.values()]
    known: dict[int, tuple[int, int]] = {}
    images = sizes.items() if isinstance(sizes, Mapping) else _images(Path(sizes), index)
    for name, size in images:
        if (row := index.get(name)) is None:
            continue
        if not _is_size(size):
            raise UsageError(f"the size of {name!r} is {size!r}: expected (height, width) in pixels")
        height, width = size
        if known.setdefault(row, (int(height), int(width))) != (height, width):
            raise UsageError(f"{paths[row]}: its image is {known[row]} and, as {name!r}, {(height, width)}")
    if missing := [path for row, path in enumerate(paths) if row not in known]:
        hint = "sizes has (height, width) by the image's name, or is the folder of the images."
        raise UsageError(f"{missing[0]}: the size of its image is not known ({len(missing)} in all)", hint=hint)
    return [known[row] for row in range(len(paths))]


def _is_size(size: object) -> bool:
    if not isinstance(size, (tuple, list)) or len(size) != 2 or any(isinstance(edge, bool) for edge in size):
        return False
    return all(isinstance(edge, (int, np.integer)) and 1 <= edge <= FARTHEST for edge in size)


def _images(folder: Path, index: NameIndex) -> Iterator[tuple[str, tuple[int, int]]]:
    """The sizes of the images in a folder that belong to files."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="sizes may be the folder of the images.")
    extensions = Image.registered_extensions()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in extensions or path.name.startswith(".") or index.get(name) is None:
            continue
        try:
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        except Exception as error:  # by what is broken, Pillow raises any class
            raise UsageError(f"{path} is no image that can be opened: {error}") from error
        if turned:
            hint = "Say in sizes which is its height and which its width."
            raise UsageError(f"{path} is {width} x {height}, and turned by its EXIF orientation", hint=hint)
        yield name, (height, width)
