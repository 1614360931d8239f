"""Millions of names in little memory, for listings of buckets."""

from __future__ import annotations

import heapq
import sys
from array import array
from bisect import bisect_left
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar, overload

import numpy as np
import xxhash

from tvetl.errors import UsageError

_Value = TypeVar("_Value")
#: Names that are sorted at once, where they come in no order.
_BLOCK = 1 << 16
#: Numbers of 4 bytes, as long as these reach into the buffer.
_SMALL = "I"
_digest = xxhash.xxh3_64_intdigest


class Names(Sequence[str]):
    """Names one after the other in one buffer: ten million of 36 characters take 400 MB, and in a list 930.

    Forked processes share the buffer, and a pickle is the buffer. Equal to a list or tuple of the same names. ``in``
    and :meth:`index` make a table of digests first, 12 bytes a name, and take microseconds then. Raises UsageError for
    a name that is no text.
    """

    __slots__ = ("_starts", "_table", "_text", "rising")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text, self._starts = bytearray(), array(_SMALL, [0])
        #: Whether each name is greater than the one before it, so that none comes twice.
        self.rising = True
        self.extend(names)

    def extend(self, names: Iterable[str]) -> None:
        """Add them at the end."""
        self._table: tuple[memoryview, memoryview] | None = None
        text, starts, rising = self._text, self._starts, self.rising
        last: bytes | bytearray | None = text[starts[-2] :] if len(self) else None
        for name in names:
            code = _code(name)
            rising = rising and (last is None or last < code)
            last = code
            text += code
            try:
                starts.append(len(text))
            except OverflowError:
                starts = self._starts = array("Q", starts)
                starts.append(len(text))
        self.rising = rising

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Names: ...
    def __getitem__(self, place: int | slice) -> str | Names:
        if isinstance(place, slice):
            return Names(self[each] for each in range(*place.indices(len(self))))
        at = place + len(self) if place < 0 else place
        if not 0 <= at < len(self):
            raise IndexError(place)
        return _text(self._text[self._starts[at] : self._starts[at + 1]])

    def __iter__(self) -> Iterator[str]:
        return map(_text, self._codes())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name) is not None

    def index(self, name: str, start: int = 0, stop: int = sys.maxsize) -> int:
        """The first place of a name. Raises ValueError where it is not among them."""
        if start or stop < len(self):
            return super().index(name, start, stop)
        if (place := self._place(name)) is None:
            raise ValueError(f"{name!r} is not among the {len(self)} names")
        return place

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return (self._text, self._starts) == (other._text, other._starts)
        if not isinstance(other, (list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} names: {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''}>"

    def __getstate__(self) -> tuple[bytearray, array[int], bool]:
        return self._text, self._starts, self.rising

    def __setstate__(self, state: tuple[bytearray, array[int], bool]) -> None:
        self._text, self._starts, self.rising = state
        self._table = None

    def places_in_order(self) -> Iterator[int]:
        """The places, in the order of their names by code point; a name that comes again is left out."""
        blocks = [
            array("Q", sorted(range(at, min(at + _BLOCK, len(self))), key=self.__getitem__))
            for at in range(0, len(self), _BLOCK)
        ]
        last = None
        for place in heapq.merge(*blocks, key=self.__getitem__):
            if (name := self[place]) != last:
                yield place
            last = name

    def in_order(self) -> Names:
        """The names by code point, each once."""
        return self if self.rising else Names(self[place] for place in self.places_in_order())

    def _codes(self) -> Iterator[bytearray]:
        start = 0
        for end in islice(self._starts, 1, None):
            yield self._text[start:end]
            start = end

    def _place(self, name: str) -> int | None:
        if self._table is None:
            digests = np.fromiter(map(_digest, self._codes()), np.uint64, len(self))
            order = digests.argsort(kind="stable")  # so that of equal names the first is found
            self._table = digests[order].data, order.astype(np.uint32).data
        digests_in_order, places = self._table
        digest = _digest(_code(name))
        at = bisect_left(digests_in_order, digest)
        while at < len(self) and digests_in_order[at] == digest:
            if self[places[at]] == name:
                return int(places[at])
            at += 1
        return None


class Table(Mapping[str, _Value]):
    """A value for each name, kept in the order of ``names``: numbers in an array, or texts in :class:`Names`."""

    def __init__(self, names: Names, values: Sequence[_Value]) -> None:
        self.names, self._values = names, values

    def __getitem__(self, name: str) -> _Value:
        try:
            return self._values[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> ItemsView[str, _Value]:
        return _Items(self)


class _Items(ItemsView[str, _Value]):
    """One after the other, without a look-up of each name."""

    _mapping: Table[_Value]

    def __iter__(self) -> Iterator[tuple[str, _Value]]:
        return zip(self._mapping.names, self._mapping._values, strict=True)


def _code(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogatepass")
    except AttributeError:
        raise UsageError(f"{name!r} is no name of an object", hint="A name is text.") from None


def _text(code: bytearray) -> str:
    return code.decode("utf-8", "surrogatepass")
