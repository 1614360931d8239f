"""Kinds of values: each reads plain data into one normal form, or refuses it, and describes itself as JSON Schema.

Two spellings get the same normal form only where torchvision itself makes them the same
(``degrees: 30`` and ``[-30, 30]``), and the normal form is what torchvision keeps in its instance.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tvetl.spec import limits
from tvetl.spec.model import Value
from tvetl.spec.templates import expand

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 40, 40


def show(value: object) -> str:
    """The value for an error message: short, whatever it is."""
    try:
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else _SHORT.repr(value)
    except ValueError:  # Python prints no int of thousands of digits
        return "a number with too many digits"


class Refused(Exception):
    """A value that is not of its kind; the text is for the user."""


@dataclass(frozen=True)
class Kind:
    """What a parameter may be: ``expected`` for people, ``schema`` for editors, ``accept`` for us."""

    expected: str
    schema: Mapping[str, object]
    #: Gives the normal form; raises Refused (its text is not used) where the value is of another kind.
    accept: Callable[[object], Value]
    #: The Python types it is written in, to name only the alternative that was meant.
    types: tuple[type, ...]
    alternatives: tuple[Kind, ...] = ()

    def read(self, value: object) -> Value:
        """The normal form of ``value``; raises Refused saying what was expected and what came."""
        try:
            return self.accept(value)
        except Refused:
            raise Refused(f"expected {self._expected_instead_of(value)}, got {show(value)}") from None

    def _expected_instead_of(self, value: object) -> str:
        meant = [kind for kind in self.alternatives if type(value) in kind.types]
        return " or ".join(kind._expected_instead_of(value) for kind in meant) if meant else self.expected


def _refuse_unless(good: bool) -> None:
    if not good:
        raise Refused


def integer(least: int, most: int, *, odd: bool = False) -> Kind:
    """An int in a range. ``3.0`` is 3, as JSON (which has one kind of number) has it; true is not 1."""

    def accept(value: object) -> Value:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        _refuse_unless(isinstance(value, int) and not isinstance(value, bool))
        assert isinstance(value, int)
        _refuse_unless(least <= value <= most and (not odd or value % 2 == 1))
        return value

    schema: dict[str, object] = {"type": "integer", "minimum": least, "maximum": most}
    if odd:
        schema["not"] = {"multipleOf": 2}
    said = f"{least}..{most}" if least < most else str(least)
    return Kind(f"an odd number {said}" if odd else said, schema, accept, (int, float))


def real(least: float = -limits.NUMBER, most: float = limits.NUMBER, *, whole_as_int: bool = False) -> Kind:
    """A finite number in a range, as a float (``whole_as_int``: 3.0 as 3); -0.0 becomes 0.0."""

    def accept(value: object) -> Value:
        _refuse_unless(isinstance(value, (int, float)) and not isinstance(value, bool))
        assert isinstance(value, (int, float))
        _refuse_unless(least <= value <= most)  # no NaN is, nor an infinity
        number = float(value) + 0.0
        return int(number) if whole_as_int and number.is_integer() else number

    schema = {"type": "number", "minimum": least, "maximum": most}
    return Kind(f"a number {least:g}..{most:g}", schema, accept, (int, float))


def choice(*names: str) -> Kind:
    """One of the given strings."""

    def accept(value: object) -> Value:
        _refuse_unless(isinstance(value, str) and value in names)
        assert isinstance(value, str)
        return value

    said = "one of " + ", ".join(names) if len(names) > 1 else repr(names[0])
    return Kind(said, {"enum": list(names)}, accept, (str,))


def _accept_flag(value: object) -> Value:
    _refuse_unless(isinstance(value, bool))
    assert isinstance(value, bool)
    return value


def _accept_null(value: object) -> Value:
    _refuse_unless(value is None)
    return None


def _accept_object(value: object) -> Value:
    _refuse_unless(isinstance(value, str))
    assert isinstance(value, str)
    bucket, _, name = value.partition("/")
    # Half of a surrogate pair becomes one byte here, and is no Unicode.
    encoded = value.encode("utf-8", "replace")
    _refuse_unless(bool(bucket and name) and not bucket.endswith(":") and len(encoded) <= limits.OBJECT_BYTES)
    _refuse_unless(encoded.decode() == value)
    return value


def _accept_extension(value: object) -> Value:
    _refuse_unless(isinstance(value, str) and len(value) <= limits.EXTENSION and not value.startswith("."))
    assert isinstance(value, str)
    _refuse_unless(bool(value) and "/" not in value and value == value.lower() and value.isprintable())
    return value


def _accept_like(value: object) -> Value:
    _refuse_unless(isinstance(value, str))
    assert isinstance(value, str)
    try:
        _accept_object(expand(value, "bucket", "name"))  # so it names a bucket, also of an object in no folder
    except ValueError:
        raise Refused from None
    return value


def _accept_digest(value: object) -> Value:
    _refuse_unless(isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None)
    assert isinstance(value, str)
    return value


DIGEST = Kind("16 hex digits", {"type": "string", "pattern": "^[0-9a-f]{16}$"}, _accept_digest, (str,))
FLAG = Kind("true or false", {"type": "boolean"}, _accept_flag, (bool,))
OBJECT = Kind("an object as bucket/name", {"type": "string", "pattern": "^[^/]*[^/:]/."}, _accept_object, (str,))
LIKE = Kind(
    "an object as bucket/name, with {bucket}, {name}, {folder} or {stem} in it and nothing else in braces",
    {
        "type": "string",
        "maxLength": limits.OBJECT_BYTES,
        "pattern": "^(?=[\\s\\S]*/)(?=[\\s\\S]*\\{(bucket|name|folder|stem)\\})",
    },
    _accept_like,
    (str,),
)
EXTENSION = Kind(
    "an extension in lower case as mask.png",
    {"type": "string", "maxLength": limits.EXTENSION, "pattern": "^[^./A-Z][^/A-Z]*$"},
    _accept_extension,
    (str,),
)
NULL = Kind("null", {"type": "null"}, _accept_null, (type(None),))


def _accept_plain(value: object) -> Value:
    """Finite numbers (whole ones of 64 bits), text, true, false, null, and lists of these."""
    if isinstance(value, (list, tuple)):
        return tuple(_accept_plain(each) for each in value)
    if isinstance(value, float):
        _refuse_unless(math.isfinite(value))
        return value + 0.0  # -0.0 becomes 0.0
    _refuse_unless(value is None or isinstance(value, (bool, int, str)))
    assert value is None or isinstance(value, (bool, int, str))
    _refuse_unless(not isinstance(value, int) or abs(value) <= limits.SEED)
    return value


PLAIN = Kind("numbers, text, true, false, null or lists of these", {}, _accept_plain, (object,))


def sequence(item: Kind, *lengths: int, ordered: bool = False) -> Kind:
    """A list of one of the given lengths; ``ordered``: each two values are a range (min, max) with min <= max."""

    def accept(value: object) -> Value:
        _refuse_unless(isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) in lengths)
        assert isinstance(value, Sequence)
        items = tuple(item.accept(each) for each in value)
        if ordered:
            numbers = [each for each in items if isinstance(each, (int, float))]
            _refuse_unless(all(low <= high for low, high in zip(numbers[::2], numbers[1::2], strict=False)))
        return items

    sizes = " or ".join(map(str, lengths))
    said = f"a list of {sizes} ({item.expected})" + (", min <= max" if ordered else "")
    lists = [{"type": "array", "items": item.schema, "minItems": n, "maxItems": n} for n in lengths]
    schema: Mapping[str, object] = lists[0] if len(lists) == 1 else {"anyOf": lists}
    return Kind(said, schema, accept, (list, tuple))


def several(item: Kind, least: int, most: int) -> Kind:
    """A list of ``least`` to ``most`` values."""

    def accept(value: object) -> Value:
        _refuse_unless(isinstance(value, (list, tuple)) and least <= len(value) <= most)
        assert isinstance(value, (list, tuple))
        return tuple(item.accept(each) for each in value)

    schema = {"type": "array", "items": item.schema, "minItems": least, "maxItems": most}
    return Kind(f"a list of {least}..{most} ({item.expected})", schema, accept, (list, tuple))


def rows(names: Sequence[str], most: int) -> Kind:
    """A list of at most ``most`` lists, one value for each of the names.

    The lists are taken as they are: :func:`read_row` reads each, so that a wrong one is named by its place.
    """

    def accept(value: object) -> Value:
        _refuse_unless(isinstance(value, (list, tuple)) and len(value) <= most)
        assert isinstance(value, (list, tuple))
        return tuple(value)

    length = len(names)
    row = {"type": "array", "minItems": length, "maxItems": length, "items": {"type": "number", "minimum": 0}}
    schema = {"type": "array", "maxItems": most, "items": row}
    return Kind(f"a list of 0..{most} lists [{', '.join(names)}]", schema, accept, (list, tuple))


def read_row(value: object, names: Sequence[str]) -> tuple[float, ...]:
    """Finite numbers from 0 on, one for each of the names; raises Refused."""
    if isinstance(value, (list, tuple)) and len(value) == len(names):
        for each in value:
            if (type(each) is not float and type(each) is not int) or not 0 <= each < math.inf:
                break
        else:
            return tuple(map(float, value))
    raise Refused(f"expected [{', '.join(names)}] in pixels of the image, from 0 on, got {show(value)}")


def either(*kinds: Kind) -> Kind:
    """The first of the kinds that takes the value."""

    def accept(value: object) -> Value:
        for kind in kinds:
            with suppress(Refused):
                return kind.accept(value)
        raise Refused

    said = " or ".join(kind.expected for kind in kinds)
    types = tuple(each for kind in kinds for each in kind.types)
    return Kind(said, {"anyOf": [kind.schema for kind in kinds]}, accept, types, kinds)


def optional(kind: Kind) -> Kind:
    """The kind, or null."""
    return either(kind, NULL)


def spelled(kind: Kind, normal: Callable[[Value], Value]) -> Kind:
    """Another spelling: what the kind takes, turned into the normal form."""
    return replace(kind, accept=lambda value: normal(kind.accept(value)))
