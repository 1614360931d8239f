"""Names of results as digests: millions are found in a listing, and two sources of one result, in little memory.

Two names have the same digest by chance in one of 300,000 jobs over ten million objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest, xxh32_intdigest

from tvetl.jobs.request import Rename, url

Digests = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


def digests(texts: Iterable[str], count: int = -1) -> Digests:
    """64 bits of each text."""
    return np.fromiter((xxh3_64_intdigest(_code(text)) for text in texts), np.uint64, count)


def origins(source: str, names: Iterable[str], count: int = -1) -> npt.NDArray[np.uint32]:
    """32 bits of each object, of its bucket and its name: they tell apart the few objects that have one result."""
    start = url(source) + "/"
    return np.fromiter((xxh32_intdigest(_code(start + name)) for name in names), np.uint32, count)


def find(known: Digests, wanted: Digests) -> Places:
    """Where each digest is among the known, which are sorted; -1 for those that are not."""
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    at = known.searchsorted(wanted)
    at[at == len(known)] = 0
    return np.where(known[at] == wanted, at, -1)


class Results:
    """The results of some objects, 12 bytes each. A place is an object's, among ``names``."""

    def __init__(self, names: Sequence[str], rename: Rename) -> None:
        self._names, self._rename = names, rename
        self.sorted = digests(map(rename, names), len(names))
        self.places = self.sorted.argsort().astype(np.uint32)
        self.sorted.sort()

    def find(self, wanted: Digests) -> Places:
        """The place of the object that has a result of this digest; -1 where none has."""
        at = find(self.sorted, wanted)
        return np.where(at < 0, at, self.places[at]) if len(self.places) else at

    def shared(self) -> Iterator[tuple[str, str, str]]:
        """Pairs of objects that would have the same result, and the result."""
        at = np.flatnonzero(self.sorted[1:] == self.sorted[:-1])
        at = at[self.places[at].argsort()]
        for first, second in zip(self.places[at], self.places[at + 1], strict=True):
            one, other = sorted((self._names[int(first)], self._names[int(second)]))
            if self._rename(one) == self._rename(other):
                yield one, other, self._rename(one)


class Chosen(Sequence[str]):
    """Some of the names, by their places."""

    def __init__(self, names: Sequence[str], places: npt.NDArray[np.uint32]) -> None:
        self._names, self._places = names, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return Chosen(self._names, self._places[at])
        return self._names[int(self._places[at])]


def _code(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
