"""Labels from a file: a line an image, its name first. Oxford-IIIT Pet's ``annotations/list.txt`` is read as it is."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NoReturn, TypeAlias

from tvetl.datasets.annotation_files import number, read_text
from tvetl.errors import UsageError

Label: TypeAlias = "int | float | str"
#: The number of a row's first line, from 1, and its fields.
_Row: TypeAlias = "tuple[int, list[str]]"

#: Digits of a whole number, a sign before them; Python converts no more than 4,300.
_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")
#: A quoted field, or the beginning of one that goes on on the next line.
_QUOTED = re.compile(r'(?<![^\t, ])"(?:[^"]|"")*(?:"|$)')
_SEPARATORS = {"\t": "tabs", ",": "commas", " ": "blanks"}


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


def read_labels(
    source: Path | str | Iterable[str],
    column: int | str | None = None,
    *,
    header: bool = False,
    separator: str | None = None,
) -> Labels:
    """Read a file in UTF-8 (or its lines): a line an image, its name and then its labels, on each line as many.

    The first line says what separates fields: a tab if it has one, else a comma, else blanks; or say it:
    ``separator=";"``. Fields are as in CSV: with quotes around them they may hold the separator, quotes (doubled) and
    line ends; an empty field is the label "". Between blanks there are no empty fields. ``#`` begins a comment line.
    Whole numbers become int, real ones float, all else is str.

    With one column of labels an image's label is its value, with several a tuple (``Bengal_171 6 1 2`` is class 6,
    species 1, breed 2), or with ``column`` one of these, counted from 0. With ``header`` the first line has the names
    of the columns, and ``column`` may be one; without it, the first line is an image.

    Raises UsageError with the file's name and the line's number: for a line with more or fewer fields than the first or
    with another separator, two different labels of one name, a column that is not there, no name, a quote that is
    not closed, or bytes that are no UTF-8.
    """
    table = _Table(source, separator)
    rows = iter(table)
    if header:
        column = _column_of(next(rows, None), column, table)
    elif isinstance(column, str):
        raise UsageError(f"column is {column!r}, and the file's columns have no names", hint="Say header=True.")
    labels: dict[str, object] = {}
    lines: dict[str, int] = {}
    for line, (name, *fields) in rows:
        if not name:
            table.refuse(line, "it has no name")
        if not fields or (column is not None and not -len(fields) <= column < len(fields)):
            wanted = "" if column is None else f", and the one asked for is {column}, counted from 0"
            table.refuse(line, f"it has {len(fields)} labels{wanted}", "A line is a name and its labels.")
        values = tuple(map(_label, fields))
        label = values[column] if column is not None else values[0] if len(values) == 1 else values
        if labels.setdefault(name, label) != label:
            table.refuse(line, f"{name!r} is {label!r}, and {labels[name]!r} on line {lines[name]}")
        lines.setdefault(name, line)
    return Labels(labels)


class _Table:
    """The rows of a file or of its lines, all of one length, without comments and empty lines."""

    def __init__(self, source: Path | str | Iterable[str], separator: str | None) -> None:
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            raise UsageError(f"separator is {separator!r}: expected one character, like ';'")
        self._source = "the labels"
        if isinstance(source, (Path, str)):
            self._source, source = str(source), io.StringIO(read_text(Path(source), one_image=False), newline="")
        self._lines = self._checked(source)
        #: Of all rows; where it was not given, it is that of the first.
        self._separator, self._is_given = separator, separator is not None
        #: Of the last line that was read, from 1.
        self._number = 0
        #: Of the fields of each row.
        self._count = 0

    def refuse(self, line: int, why: str, hint: str = "") -> NoReturn:
        raise UsageError(f"{self._source}, line {line}: {why}", hint=hint)

    def __iter__(self) -> Iterator[_Row]:
        for line in self._lines:
            if not line.strip() or line.startswith("#"):
                continue
            begun, fields = self._number, self._fields(line)
            quoted = line.lstrip().startswith('"')
            if not (self._is_given or quoted) and (mark := next((mark for mark in ";|" if mark in fields[0]), "")):
                # It may separate the fields, and a comma or a blank be in one of them: never guessed.
                hint = f"Say what separates fields: separator={mark!r}, or else separator={self._separator!r}."
                self.refuse(begun, f"the name {fields[0]!r} has a {mark!r} in it", hint)
            self._count = self._count or len(fields)
            if len(fields) != self._count:
                hint = "A field with the separator in it needs quotes around it."
                self.refuse(begun, f"it has {len(fields)} fields, the first has {self._count}", hint)
            yield begun, fields

    def _checked(self, lines: Iterable[str]) -> Iterator[str]:
        for self._number, line in enumerate(lines, 1):
            if "\0" in line:
                self.refuse(self._number, "it has a byte 0 in it", "Is it a text file, in UTF-8?")
            yield line.removeprefix("\ufeff") if self._number == 1 else line

    def _fields(self, line: str) -> list[str]:
        """The fields of the row that begins with this line, and goes on as long as a quote is open."""
        separator, begun = self._separator_of(line), self._number
        plain = '"' not in line
        if separator == " ":
            line = " ".join(line.split()) if plain else line.lstrip()
        reader = csv.reader(chain([line], self._lines), delimiter=separator, strict=True, skipinitialspace=True)
        try:
            fields = next(reader)
        except csv.Error as error:
            unclosed = "unexpected end of data" in str(error)
            self.refuse(begun, "it opens a quote that is never closed" if unclosed else f"it is no CSV: {error}")
        if separator == " ":
            return [field for field in fields if field] or [""]
        # Blanks around a field are layout; where there are quotes they may be its own.
        return [field.strip() for field in fields] if plain else fields

    def _separator_of(self, line: str) -> str:
        """What separates the fields of this line, as of the first; refused where it is another."""
        if self._is_given:
            return self._separator or ""
        bare = _QUOTED.sub("", line.rstrip("\r\n"))
        own = next((mark for mark in "\t," if mark in bare), " ")
        self._separator = self._separator or own
        if own != self._separator:
            this, first = _SEPARATORS[own], _SEPARATORS[self._separator]
            hint = "Put a field with these in it into quotes, or say which it is: separator=..."
            self.refuse(self._number, f"its fields are separated by {this}, those of the first by {first}", hint)
        return self._separator


def _column_of(row: _Row | None, column: int | str | None, table: _Table) -> int | None:
    """The column's number, from 0 for the first label, where the header has its name."""
    if row is None:
        table.refuse(1, "there is no header")
    line, (_, *names) = row
    if not isinstance(column, str):
        return column
    if names.count(column) != 1:
        table.refuse(line, f"{names.count(column)} columns are called {column!r}", f"There are: {', '.join(names)}.")
    return names.index(column)


def _label(text: str) -> Label:
    bare = text.strip()
    if _WHOLE.fullmatch(bare):
        return int(bare)
    real = number(bare)
    return real if real is not None and math.isfinite(real) else text
