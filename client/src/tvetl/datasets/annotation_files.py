"""Files that each hold the annotations of one image: which there are, what is in them, and the table of all."""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tvetl.datasets.annotations import AnnotationTable, Columns, Empty, checked
from tvetl.errors import UsageError

#: A folder, one file, or files.
Files: TypeAlias = "Path | str | Iterable[Path | str]"

#: Bytes of a file. As many boxes as one image may have take 300 kB of XML.
_BYTES = 1 << 22
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def named_files(source: Files, suffix: str) -> dict[str, Path]:
    """Files by the name of their image, without extension: of a folder with the folders in it, else the file's own.

    Files of which the names begin with a dot are left out: some systems leave one beside each file. Raises UsageError
    where there is no file, or two of one name.
    """
    paths = [Path(source)] if isinstance(source, (Path, str)) else [Path(path) for path in source]
    if isinstance(source, (Path, str)) and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(path for path in folder.rglob(f"*{suffix}") if not path.name.startswith(".") and path.is_file())
        files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    else:
        files = {}
        for path in paths:
            if files.setdefault(path.stem, path) != path:
                raise UsageError(f"{files[path.stem]} and {path} are both of an image {path.stem!r}")
    if not files:
        raise UsageError(f"there is no {suffix} file in {source}")
    return files


def read_bytes(path: Path, *, one_image: bool = True) -> bytes:
    """The bytes of a file. Raises UsageError where it cannot be read, or is far too long for ``one_image``."""
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES + 1 if one_image else -1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if one_image and len(data) > _BYTES:
        raise UsageError(f"{path} has more than {_BYTES >> 20} MiB: expected the annotations of one image")
    return data


def read_text(path: Path, *, one_image: bool = True) -> str:
    """The text of a file in UTF-8, without a byte order mark. Raises UsageError as :func:`read_bytes`."""
    data = read_bytes(path, one_image=one_image).removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: it is not UTF-8", hint="Save the file as UTF-8.") from error


def number(text: str) -> float | None:
    """A decimal number, also one too large for a float (which is then infinite); None where it is none."""
    return float(text) if _NUMBER.fullmatch(text) else None


class Objects:
    """The objects of many files, in order: of each its file, line, box, label and whether evaluation leaves it out."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._names, self._paths = [*files], [*files.values()]
        self._owners, self._lines, self._labels = array("q"), array("q"), array("q")
        self._boxes, self._ignored = array("d"), array("b")

    def add(self, file: int, line: int, box: Sequence[float], label: int, ignore: bool = False) -> None:
        self._owners.append(file)
        self._lines.append(line)
        self._boxes.extend(box)
        self._labels.append(label)
        self._ignored.append(ignore)

    def table(
        self, sizes: Sequence[tuple[int, int]], empty: Empty, classes: Mapping[int, str], *, named: bool, ignore: bool
    ) -> AnnotationTable:
        """The table, checked; ``sizes`` and ``empty`` as :func:`checked` takes them, with ``ignore`` as a column."""
        columns = Columns(
            np.array(self._owners, np.int64),
            np.array(self._boxes, np.float64).reshape(-1, 4).astype(np.float32),
            np.array(self._labels, np.int64),
            ignore=np.array(self._ignored, np.bool_) if ignore else None,
        )
        of_images = np.array(sizes, np.int64).reshape(-1, 2)
        columns = checked(columns, of_images, empty, self._place)
        return AnnotationTable(self._names, columns, of_images, classes, named=named)

    def _place(self, row: int) -> str:
        return f"{self._paths[self._owners[row]]}, line {self._lines[row]}"


def numbered(classes: Iterable[str] | None) -> dict[str, int]:
    """The places of names in a list, from 0. Raises UsageError where it is no list of names, or has one twice."""
    names: list[object] = [*(classes or ())]
    if isinstance(classes, str) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"classes is {classes!r}: expected a list of names")
    places = {str(name): at for at, name in enumerate(names)}
    if twice := [name for at, name in enumerate(names) if places[str(name)] != at]:
        raise UsageError(f"{twice[0]!r} is twice in the classes")
    return places
