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
from typing import TypeVar

from tvetl.spec import limits
from tvetl.spec.model import Value
from tvetl.spec.templates import expand

Scalar = TypeVar("Scalar", bool, str, None)

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


def integer(least: int, most: int, *, odd: bool = False) -> Kind:
    """An int in a range. ``3.0`` is 3, as JSON (which has one kind of number) has it; true is not 1."""

    def accept(value: object) -> Value:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Refused
        if odd and value % 2 == 0:
            raise Refused
        return value

    schema: dict[str, object] = {"type": "integer", "minimum": least, "maximum": most}
    if odd:
        schema["not"] = {"multipleOf": 2}
    expected = f"{least}..{most}" if least < most else str(least)
    return Kind(f"an odd number {expected}" if odd else expected, schema, accept, (int, float))


def real(least: float = -limits.NUMBER, most: float = limits.NUMBER, *, whole_as_int: bool = False) -> Kind:
    """A finite number in a range, as a float (``whole_as_int``: 3.0 as 3); -0.0 becomes 0.0."""

    def accept(value: object) -> Value:
        # No range has a NaN or an infinity in it.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            raise Refused
        number = float(value) + 0.0
        return int(number) if whole_as_int and number.is_integer() else number

    schema = {"type": "number", "minimum": least, "maximum": most}
    return Kind(f"a number {least:g}..{most:g}", schema, accept, (int, float))


def _unchanged(
    expected: str, schema: Mapping[str, object], type_: type[Scalar], is_valid: Callable[[Scalar], object] | None = None
) -> Kind:
    """A value of one Python type whose normal form is the value itself."""

    def accept(value: object) -> Value:
        if not isinstance(value, type_) or (is_valid and not is_valid(value)):
            raise Refused
        return value

    return Kind(expected, schema, accept, (type_,))


def choice(*names: str) -> Kind:
    """One of the given strings."""
    expected = "one of " + ", ".join(names) if len(names) > 1 else repr(names[0])
    return _unchanged(expected, {"enum": list(names)}, str, names.__contains__)


def _is_object(text: str) -> bool:
    bucket, _, name = text.partition("/")
    # Half of a surrogate pair becomes one byte here, and is no Unicode.
    encoded = text.encode("utf-8", "replace")
    if not bucket or not name or bucket.endswith(":") or len(encoded) > limits.OBJECT_BYTES:
        return False
    return encoded.decode() == text


def _is_extension(text: str) -> bool:
    if not 1 <= len(text) <= limits.EXTENSION or text.startswith(".") or "/" in text:
        return False
    return text == text.lower() and text.isprintable()


def _is_like(text: str) -> bool:
    try:
        return _is_object(expand(text, "bucket", "name"))  # so it names a bucket, also of an object in no folder
    except ValueError:
        return False


NULL = _unchanged("null", {"type": "null"}, type(None))
FLAG = _unchanged("true or false", {"type": "boolean"}, bool)
DIGEST = _unchanged(
    "16 hex digits", {"type": "string", "pattern": "^[0-9a-f]{16}$"}, str, re.compile("[0-9a-f]{16}").fullmatch
)
OBJECT = _unchanged("an object as bucket/name", {"type": "string", "pattern": "^[^/]*[^/:]/."}, str, _is_object)
LIKE = _unchanged(
    "an object as bucket/name, with {bucket}, {name}, {folder} or {stem} in it and nothing else in braces",
    {
        "type": "string",
        "maxLength": limits.OBJECT_BYTES,
        "pattern": "^(?=[\\s\\S]*/)(?=[\\s\\S]*\\{(bucket|name|folder|stem)\\})",
    },
    str,
    _is_like,
)
EXTENSION = _unchanged(
    "an extension in lower case as mask.png",
    {"type": "string", "maxLength": limits.EXTENSION, "pattern": "^[^./A-Z][^/A-Z]*$"},
    str,
    _is_extension,
)


def _accept_plain(value: object) -> Value:
    """Finite numbers (whole ones of 64 bits), text, true, false, null, and lists of these."""
    if isinstance(value, (list, tuple)):
        return tuple(_accept_plain(each) for each in value)
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # -0.0 becomes 0.0
    if value is None or isinstance(value, (bool, str)) or (isinstance(value, int) and abs(value) <= limits.SEED):
        return value
    raise Refused


PLAIN = Kind("numbers, text, true, false, null or lists of these", {}, _accept_plain, (object,))


def sequence(item: Kind, *lengths: int, ordered: bool = False) -> Kind:
    """A list of one of the given lengths; ``ordered``: each two values are a range (min, max) with min <= max."""

    def accept(value: object) -> Value:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) not in lengths:
            raise Refused
        items = tuple(item.accept(each) for each in value)
        if ordered:
            numbers = [each for each in items if isinstance(each, (int, float))]
            if any(low > high for low, high in zip(numbers[::2], numbers[1::2], strict=False)):
                raise Refused
        return items

    sizes = " or ".join(map(str, lengths))
    expected = f"a list of {sizes} ({item.expected})" + (", min <= max" if ordered else "")
    lists = [{"type": "array", "items": item.schema, "minItems": n, "maxItems": n} for n in lengths]
    schema: Mapping[str, object] = lists[0] if len(lists) == 1 else {"anyOf": lists}
    return Kind(expected, schema, accept, (list, tuple))


def several(item: Kind, least: int, most: int) -> Kind:
    """A list of ``least`` to ``most`` values."""

    def accept(value: object) -> Value:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            raise Refused
        return tuple(item.accept(each) for each in value)

    schema = {"type": "array", "items": item.schema, "minItems": least, "maxItems": most}
    return Kind(f"a list of {least}..{most} ({item.expected})", schema, accept, (list, tuple))


def rows(names: Sequence[str], most: int) -> Kind:
    """A list of at most ``most`` lists, one value for each of the names.

    The lists are taken as they are: :func:`read_row` reads each, so that a wrong one is named by its place.
    """

    def accept(value: object) -> Value:
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise Refused
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

    expected = " or ".join(kind.expected for kind in kinds)
    types = tuple(each for kind in kinds for each in kind.types)
    return Kind(expected, {"anyOf": [kind.schema for kind in kinds]}, accept, types, kinds)


def optional(kind: Kind) -> Kind:
    """The kind, or null."""
    return either(kind, NULL)


def spelled(kind: Kind, normal: Callable[[Value], Value]) -> Kind:
    """Another spelling: what the kind takes, turned into the normal form."""
    return replace(kind, accept=lambda value: normal(kind.accept(value)))
