"""COCO's instances and keypoints JSON, read as a stream: the memory is that of the boxes, not of the polygons."""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeAlias

import ijson
import numpy as np
import numpy.typing as npt

from tvetl.datasets.annotations import FARTHEST, AnnotationTable, Columns, Empty, check_empty, checked
from tvetl.errors import UsageError
from tvetl.spec.limits import KEYPOINTS

#: What ijson's ``basic_parse`` gives: an event's kind and its value.
_Event: TypeAlias = "tuple[str, object]"
_Record: TypeAlias = "dict[str, object]"

#: The keys of each list's records that are looked at.
_LISTS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "keypoints", "iscrowd"),
    "categories": ("id", "name"),
}
#: Keys whose value is a list of numbers, and how many these are at most.
_NUMBERS = {"bbox": 4, "keypoints": 3 * KEYPOINTS}
_NONE = -(2**63)  # an annotation without an id
#: Bytes parsed at once.
_CHUNK = 1 << 16
#: Bytes of one string or number. The parser keeps it whole, and looks at its beginning again with each chunk.
_TOKEN = 1 << 22
#: Levels of nesting below a value that is not looked at; COCO has four.
_NESTING = 100


def read_coco(path: Path | str, *, crowd: bool = False, empty: Empty = "refuse") -> AnnotationTable:
    """Read a COCO file of instances or keypoints; names are its images' ``file_name``.

    COCO's boxes [x, y, width, height] become [x1, y1, x2, y2], added in float32 as torchvision adds them. Labels are
    the categories' numbers as they are in the file, ``classes`` their names. Of images without annotations there
    are 0 boxes. Where one annotation has keypoints, one without any has K that are not labelled, at [0, 0].

    Crowd regions (``iscrowd`` 1) are left out, as torchvision's references leave them out of training; with ``crowd``
    they are kept, and marked by ``ignore``. Boxes without area: ``empty`` "refuse", "drop" or "keep". An edge less
    than a pixel beyond 0 is moved to 0.

    The file is read as a stream. Memory is that of the annotations, about 100 bytes each, and of the images, about 400
    each; polygons take none. Raises UsageError with
    the file and the place (``$.annotations[3].bbox``): no JSON, keys that are missing or there twice, ids that are
    there twice or nowhere, numbers that are not finite, and boxes or keypoints more than a pixel beyond their image.
    """
    check_empty(empty)
    return _Reader(Path(path)).read(crowd, empty)


class _Reader:
    """One file, from its first event to its table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events = _events(path)
        #: Where in the file the next event is.
        self._place = "$"
        self._names: list[str] = []
        self._image_ids, self._sizes = array("q"), array("q")
        self._ids, self._image_of, self._labels = array("q"), array("q"), array("q")
        self._boxes, self._crowds = array("f"), array("b")
        #: Of the annotations up to the last that has any: [x, y] and whether it is visible.
        self._points, self._visible, self._point_count = array("f"), array("B"), 0
        self.classes: dict[int, str] = {}

    def read(self, crowd: bool, empty: Empty) -> AnnotationTable:
        try:
            self._read_lists()
        except _NotJSON as error:
            hint = "Is it COCO's instances or keypoints JSON, and all of it?"
            raise UsageError(f"{self._path}: at {self._place}: it is no JSON: {error}", hint=hint) from error
        except OverflowError:  # a number of more than 64 bits, which ijson's parser in C does not take for JSON
            self._refuse("expected a number of at most 64 bits")
        columns, sizes = self._columns()
        columns = checked(columns, sizes, empty, lambda at: f"{self._path}: $.annotations[{at}]")
        if columns.ignore is not None and not crowd:
            columns = columns.taken(~columns.ignore)
        return AnnotationTable(self._names, columns, sizes, self.classes)

    def _read_lists(self) -> None:
        self._expect("start_map", "an object with images and annotations")
        present = set()
        for key in self._keys():
            self._place = f"$.{key[:60]}"
            if key in present:
                self._refuse("it is there twice")
            if key not in _LISTS:
                _skip(self._events, next(self._events)[0])
                continue
            present.add(key)
            self._expect("start_array", "a list")
            add = {"images": self._image, "annotations": self._annotation, "categories": self._category}[key]
            for record in self._records(key):
                add(record)
        self._place = "$"
        if missing := [key for key in ("images", "annotations") if key not in present]:
            self._refuse(f"it has no {' and no '.join(missing)}", "Is it COCO's instances or keypoints JSON?")
        for _ in self._events:  # what follows the end is an error
            pass

    def _records(self, name: str) -> Iterator[_Record]:
        for at, (event, value) in enumerate(self._elements()):
            self._place = f"$.{name}[{at}]"
            if event != "start_map":
                self._refuse(f"expected an object, got {_described(event, value)}")
            yield self._record(_LISTS[name])

    def _record(self, keys: tuple[str, ...]) -> _Record:
        record: _Record = {}
        place = self._place
        for key in self._keys():
            self._place = f"{place}.{key[:60]}"
            event, value = next(self._events)
            if key not in keys:
                _skip(self._events, event)
                continue
            if key in record:
                self._refuse("it is there twice")
            if key in _NUMBERS and event == "start_array":
                value = self._numbers(_NUMBERS[key])
            elif event in ("start_map", "start_array"):
                self._refuse("expected a list of numbers" if key in _NUMBERS else "expected a number or a text")
            record[key] = value
        self._place = place
        return record

    def _numbers(self, most: int) -> list[float]:
        numbers: list[float] = []
        for event, value in self._elements():
            if event != "number":
                self._refuse(f"expected numbers, got {_described(event, value)} as number {len(numbers)}")
            if len(numbers) == most:
                self._refuse(f"expected at most {most} numbers")
            assert isinstance(value, (int, float))
            numbers.append(value)
        return numbers

    def _elements(self) -> Iterator[_Event]:
        """The first event of each element of a list; who gets one takes the others of it."""
        for event in self._events:
            if event[0] == "end_array":
                return
            yield event

    def _keys(self) -> Iterator[str]:
        for event, value in self._events:
            if event == "end_map":
                return
            yield str(value)

    def _expect(self, kind: str, expected: str) -> None:
        event, value = next(self._events)
        if event != kind:
            self._refuse(f"expected {expected}, got {_described(event, value)}")

    def _image(self, record: _Record) -> None:
        self._image_ids.append(self._whole(record, "id"))
        name = record.get("file_name")
        if not (isinstance(name, str) and name):
            self._refuse("expected the image's name", key="file_name")
        self._names.append(name)
        for key in ("height", "width"):
            # 0 and null are how tools say that they do not know.
            size = self._whole(record, key) if record.get(key) is not None else 0
            if not 0 <= size <= FARTHEST:
                self._refuse(f"expected 0 to {FARTHEST:.0f} pixels, got {size}", key=key)
            self._sizes.append(size)

    def _annotation(self, record: _Record) -> None:
        self._ids.append(self._whole(record, "id") if "id" in record else _NONE)
        self._image_of.append(self._whole(record, "image_id"))
        self._labels.append(self._whole(record, "category_id"))
        if (crowd := record.get("iscrowd", 0)) not in (0, 1):
            self._refuse(f"expected 0 or 1, got {crowd!r}", key="iscrowd")
        self._crowds.append(bool(crowd))  # 1.0, too
        box = record.get("bbox")
        if not (isinstance(box, list) and len(box) == 4):
            self._refuse(f"expected [x, y, width, height], got {box}", key="bbox")
        self._boxes.extend(box)
        if record.get("keypoints") is not None:
            self._keypoints(record["keypoints"])

    def _keypoints(self, values: object) -> None:
        count, rest = divmod(len(values), 3) if isinstance(values, list) else (0, 1)
        if rest or not (isinstance(values, list) and set(values[2::3]) <= {0, 1, 2}):
            self._refuse("expected [x, y, v, x, y, v, ...] with v of 0, 1 or 2", key="keypoints")
        if not count:
            return
        if self._point_count not in (0, count):
            self._refuse(f"it has {count} points, and the first that has any has {self._point_count}", key="keypoints")
        self._point_count = count
        self._fill_points(len(self._labels) - 1)
        for at in range(0, 3 * count, 3):
            x, y, visible = values[at : at + 3]
            self._points.extend((x, y) if visible else (0, 0))
            self._visible.append(int(visible))

    def _fill_points(self, annotations: int) -> None:
        """Points that are not labelled for each of so many annotations that has none yet."""
        blank = annotations * self._point_count - len(self._visible)
        self._visible.frombytes(bytes(blank))
        self._points.frombytes(bytes(8 * blank))

    def _category(self, record: _Record) -> None:
        number = self._whole(record, "id")
        if number in self.classes:
            self._refuse(f"another category has the id {number} too")
        if not isinstance(name := record.get("name"), str):
            self._refuse("expected the category's name", key="name")
        self.classes[number] = name

    def _whole(self, record: _Record, key: str) -> int:
        value = record.get(key)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse("it is missing" if key not in record else f"expected a whole number, got {value!r}", key=key)
        return value

    def _columns(self) -> tuple[Columns, npt.NDArray[np.int64]]:
        """Each annotation with the row of its image, in the file's order, and the images' sizes."""
        self._fill_points(len(self._labels))
        image_ids, ids, image_of, labels = (
            np.frombuffer(column, np.int64) for column in (self._image_ids, self._ids, self._image_of, self._labels)
        )
        self._unique(image_ids, "images", "id")
        self._unique(ids, "annotations", "id")
        self._unique(np.array(self._names, object), "images", "file_name")
        owners = self._rows_of(image_ids, image_of, "image_id", "no image has this id")
        if self.classes:
            self._rows_of(np.array([*self.classes]), labels, "category_id", "no category has this id")
        boxes = np.frombuffer(self._boxes, np.float32).reshape(-1, 4)
        if (negative := (boxes[:, 2:] < 0).any(axis=1)).any():
            at = int(negative.argmax())
            self._place = f"$.annotations[{at}].bbox"
            self._refuse(f"expected [x, y, width, height], got {boxes[at].tolist()}")
        boxes[:, 2:] += boxes[:, :2]
        points, shape = self._point_count, (len(labels), self._point_count)
        columns = Columns(
            owners,
            boxes,
            labels,
            np.frombuffer(self._points, np.float32).reshape(*shape, 2) if points else None,
            np.frombuffer(self._visible, np.uint8).reshape(shape) if points else None,
            np.frombuffer(self._crowds, np.bool_),
        )
        return columns, np.frombuffer(self._sizes, np.int64).reshape(-1, 2)

    def _unique(self, values: npt.NDArray[np.generic], name: str, key: str) -> None:
        """Refuse what is there twice; of ids that are missing there may be many."""
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        twice = ordered[1:] == ordered[:-1]
        if values.dtype != object:
            twice &= ordered[1:] != _NONE
        if twice.any():
            first, second = order[twice.argmax() :][:2]
            self._place = f"$.{name}[{second}].{key}"
            self._refuse(f"{values[[second]].tolist()[0]!r} is that of $.{name}[{first}] too")

    def _rows_of(
        self, known: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], key: str, otherwise: str
    ) -> npt.NDArray[np.int64]:
        """Where each of the annotations' numbers is among those that are known."""
        absent = ~np.isin(wanted, known)
        if absent.any():
            at = int(absent.argmax())
            self._place = f"$.annotations[{at}].{key}"
            self._refuse(f"{otherwise}: {wanted[at]}")
        order = np.argsort(known)
        return order[np.searchsorted(known, wanted, sorter=order)]

    def _refuse(self, why: str, hint: str = "", key: str = "") -> NoReturn:
        raise UsageError(f"{self._path}: {self._place}{'.' if key else ''}{key}: {why}", hint=hint)


def _described(event: str, value: object) -> str:
    return {"start_map": "an object", "start_array": "a list", "null": "null"}.get(event, repr(value)[:60])


class _NotJSON(Exception):
    """Not JSON, or no more of it: one sentence."""


def _events(path: Path) -> Iterator[_Event]:
    """All events of a file. Raises _NotJSON where it ends to be JSON, and UsageError where it cannot be read."""
    parsed = ijson.sendable_list()
    parser = ijson.basic_parse_coro(parsed, use_float=True)
    silent, first, more = 0, True, True
    try:
        with path.open("rb") as file:
            while more:
                data = file.read(_CHUNK)
                more, problem = bool(data), ""
                if first:
                    data, first = data.removeprefix(codecs.BOM_UTF8), False
                try:
                    if more:
                        parser.send(data)
                    else:
                        parser.close()
                except ijson.JSONError as error:
                    problem = _sentence(error)
                yield from parsed  # also those before a problem: they tell where it is
                if problem:
                    raise _NotJSON(problem)
                silent = 0 if parsed else silent + len(data)
                if silent > _TOKEN:
                    raise _NotJSON(f"one string or number of it has more than {_TOKEN >> 20} MiB")
                parsed.clear()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _skip(following: Iterator[_Event], event: str) -> None:
    """Go on behind a value of which the first event was this one."""
    depth = 0
    while True:
        if event in ("start_map", "start_array"):
            depth += 1
            if depth > _NESTING:
                raise _NotJSON(f"it is nested deeper than {_NESTING} levels")
        elif event in ("end_map", "end_array"):
            depth -= 1
        if not depth:
            return
        for event, _ in following:
            if event != "number":  # most of a COCO file are the numbers of its polygons
                break


def _sentence(error: Exception) -> str:
    text = error.args[0]
    lines = (text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)).splitlines()
    if "premature EOF" in lines[0]:
        return "it ends in the middle"
    place = f", at {lines[1].strip()[:60]!r}" if len(lines) > 1 and lines[1].strip() else ""
    return lines[0].removeprefix("parse error: ").removeprefix("lexical error: ").rstrip(".") + place
