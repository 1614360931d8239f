"""Pascal VOC's XML files, also those of Oxford-IIIT Pet: boxes and names. The files are not trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from tvetl.datasets.annotation_files import Files, Objects, named_files, number, numbered, read_bytes
from tvetl.datasets.annotations import FARTHEST, AnnotationTable, Empty, check_empty
from tvetl.errors import UsageError

#: Levels of elements; VOC has five.
_NESTING = 32
_EDGES = ("xmin", "ymin", "xmax", "ymax")
#: What is looked at: of an object, and of the image.
_TEXTS = {
    ("annotation", "object", "name"),
    ("annotation", "object", "difficult"),
    *(("annotation", "object", "bndbox", edge) for edge in _EDGES),
    ("annotation", "size", "height"),
    ("annotation", "size", "width"),
}


def read_voc(
    source: Files,
    *,
    classes: Iterable[str] | None = None,
    raw: bool = False,
    difficult: bool = True,
    empty: Empty = "refuse",
) -> AnnotationTable:
    """Read VOC's XML files: a folder with those in its folders, one file, or files.

    An image's name is that of its XML file, without ``.xml``, as in VOC's own folders; ``<filename>`` is not looked
    at. VOC counts pixels from 1, and its last pixel belongs to the box: a box of the first pixel alone, [1, 1, 1, 1],
    becomes [0, 0, 1, 1]. With ``raw`` the numbers stay as they are, as torchvision's ``VOCDetection`` gives them; use
    it for files of tools that count from 0. An edge less than a pixel beyond 0 is moved to 0.

    Labels are names, or with ``classes`` their places in this list, from 0. Difficult objects are marked by
    ``ignore``; with ``difficult=False`` they are left out. Boxes without area: ``empty`` "refuse", "drop" or "keep".
    Boxes of an object's parts (``<part>``) are not read.

    Raises UsageError with the file and the line: no XML, a DOCTYPE (with which files can be made to grow without
    bounds, or to name other files), an object without a name or an edge or with two, what is no number, names that
    are not in ``classes``, and boxes more than a pixel beyond their image.
    """
    check_empty(empty)
    numbers = numbered(classes)
    files = named_files(source, ".xml")
    objects, sizes = Objects(files), []
    for file, path in enumerate(files.values()):
        read = _File(path, raw)
        sizes.append(read.size)
        for each in read.objects:
            if classes is not None and each.name not in numbers:
                read.refuse(f"{each.name!r} is none of the classes", each.line, f"They are {', '.join(numbers)}.")
            label = numbers.setdefault(each.name, len(numbers))
            if difficult or not each.difficult:
                objects.add(file, each.line, each.box, label, each.difficult)
    names = {number: name for name, number in numbers.items()}
    return objects.table(sizes, empty, names, named=classes is None, ignore=True)


@dataclass(frozen=True)
class _Object:
    """One object of a file, and the line where it begins."""

    line: int
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class _File:
    """One file's objects, and the (height, width) of its image, 0 where it does not tell."""

    def __init__(self, path: Path, raw: bool) -> None:
        self._path, self._raw = path, raw
        self.objects: list[_Object] = []
        #: The elements that are open, and the text of the last where it is looked at.
        self._open: list[str] = []
        self._text: list[str] | None = None
        #: Texts by their element: of the image, and of the object that is open, which begins on this line.
        self._of_image: dict[str, str] = {}
        self._of_object: dict[str, str] = {}
        self._line = 0
        parser = self._parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(read_bytes(path), True)
        except (expat.ExpatError, LookupError, ValueError) as error:  # the last two for encodings that are none
            self.refuse(f"it is no XML: {str(error).partition(': line')[0]}", hint="Is all of the file there?")
        self.size = self._size()

    def refuse(self, why: str, line: int = 0, hint: str = "") -> NoReturn:
        raise UsageError(f"{self._path}, line {line or self._parser.CurrentLineNumber}: {why}", hint=hint)

    def _doctype(self, *_: object) -> None:
        self.refuse("it has a DOCTYPE, which annotations do not need", hint="Remove it, if you trust the file.")

    def _start(self, name: str, _: object) -> None:
        if not self._open and name != "annotation":
            self.refuse(f"it begins with <{name[:60]}>: expected <annotation>")
        if len(self._open) == _NESTING:
            self.refuse(f"it is nested deeper than {_NESTING} levels")
        if self._text is not None:
            self.refuse(f"<{self._open[-1]}> holds <{name[:60]}>: expected a text")
        self._open.append(name)
        if self._open == ["annotation", "object"]:
            self._of_object, self._line = {}, self._parser.CurrentLineNumber
        if tuple(self._open) in _TEXTS:
            self._text = []

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if self._text is not None:
            texts = self._of_object if self._open[1] == "object" else self._of_image
            if name in texts:
                self.refuse(f"<{name}> is there twice")
            texts[name] = "".join(self._text).strip()
            self._text = None
        self._open.pop()
        if self._open == ["annotation"] and name == "object":
            self._add_object(self._of_object, self._line)

    def _add_object(self, texts: Mapping[str, str], line: int) -> None:
        if missing := [key for key in ("name", *_EDGES) if not texts.get(key)]:
            hint = "An object has <name> and <bndbox> with <xmin>, <ymin>, <xmax> and <ymax>."
            self.refuse(f"the object has no <{missing[0]}>", line, hint)
        edges = []
        for key in _EDGES:
            if (edge := number(texts[key])) is None:
                self.refuse(f"<{key}> is {texts[key][:60]!r}: expected a number", line)
            edges.append(edge)
        if (difficult := texts.get("difficult", "0")) not in ("0", "1"):
            self.refuse(f"<difficult> is {difficult[:60]!r}: expected 0 or 1", line)
        x1, y1, x2, y2 = edges
        first = 0 if self._raw else 1
        self.objects.append(_Object(line, texts["name"], (x1 - first, y1 - first, x2, y2), difficult == "1"))

    def _size(self) -> tuple[int, int]:
        sizes = []
        for key in ("height", "width"):
            pixels = number(text) if (text := self._of_image.get(key, "")) else 0
            if pixels is None or not 0 <= pixels <= FARTHEST or pixels != int(pixels):
                self.refuse(f"<{key}> of the image is {text[:60]!r}: expected pixels")
            sizes.append(int(pixels))
        return sizes[0], sizes[1]
