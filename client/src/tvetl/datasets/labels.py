"""Labels from a file: a line an image, its name first. Oxford-IIIT Pet's ``annotations/list.txt`` is read as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from tvetl.errors import UsageError

Label: TypeAlias = "int | str"


class Labels(Mapping[str, object]):
    """Labels by name; ``pets/Bengal_171.jpg`` finds ``Bengal_171.jpg`` and ``Bengal_171`` too."""

    def __init__(self, labels: Mapping[str, object]) -> None:
        self._labels = dict(labels)

    def __getitem__(self, name: str) -> object:
        base = name.rpartition("/")[2]
        for key in (name, base, base.rpartition(".")[0]):
            if key in self._labels:
                return self._labels[key]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)


def read_labels(source: Path | str | Iterable[str], column: int | None = None) -> Labels:
    """Read a file (or its lines): name and labels, parted by blanks, tabs or commas; ``#`` begins a comment line.

    Whole numbers become int. A line with one label gives it, one with several a tuple (``Bengal_171 6 1 2`` is
    class 6, species 1, breed 2), or with ``column`` one of these, counted from 0. Raises UsageError naming the line.
    """
    lines = Path(source).read_text(encoding="utf-8").splitlines() if isinstance(source, (Path, str)) else source
    labels: dict[str, object] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *values = [part for part in re.split(r"[\s,]+", line.strip()) if part]
        if not values or (column is not None and not -len(values) <= column < len(values)):
            raise UsageError(f"line {number} has no such label: {line.strip()!r}", hint="A line is a name and labels.")
        row = tuple(_label(value) for value in values)
        labels[name] = row[column] if column is not None else row[0] if len(row) == 1 else row
    return Labels(labels)


def _label(text: str) -> Label:
    return int(text) if re.fullmatch(r"-?\d+", text) else text
