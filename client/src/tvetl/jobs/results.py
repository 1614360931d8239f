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
    codes = (text.encode("utf-8", "surrogatepass") for text in texts)
    return np.fromiter(map(xxh3_64_intdigest, codes), np.uint64, count)


def origins(source: str, names: Iterable[str], count: int = -1) -> npt.NDArray[np.uint32]:
    """32 bits of each object, of its bucket and its name: they tell apart the few objects that have one result."""
    start = url(source) + "/"
    codes = ((start + name).encode("utf-8", "surrogatepass") for name in names)
    return np.fromiter(map(xxh32_intdigest, codes), np.uint32, count)


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

    def find(self, wanted: Digests) -> tuple[npt.NDArray[np.bool_], Places]:
        """Which of these digests are those of results, and the places of their objects."""
        at = find(self.sorted, wanted)
        known = at >= 0
        return known, self.places[at[known]].astype(np.int64)

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
