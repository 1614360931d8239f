"""Attempts to read objects, many in flight, their results in order; and what ``on_error`` makes of a failure.

``on_error`` is for failures of one object. A failure of the whole (no connection, no permission, no bucket or ETL, no
answer in time) is always raised. Some failures may be either; see :data:`_IN_DOUBT`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias

from tvetl.datasets.reader import Attempt, Body, Reader
from tvetl.errors import BrokenOff, ClusterFault, NotFound, ObjectFailed, TvetlError
from tvetl.fetch import Fetch, Fetcher

#: Failures that may be of one object or of all: errors of these classes, and an ETL's errors with one of these codes.
#: They are taken for the object's as long as others are read from the same target; the third in a row is raised.
_IN_DOUBT = (ClusterFault, BrokenOff)
_CODES_IN_DOUBT = ("unreadable_file", "outside_roots")
_IN_A_ROW = 3

#: Makes samples of an object: of its name and what was answered, which is None where it was received in place.
Make: TypeAlias = "Callable[[str, Body, Attempt], list[object]]"


class Flight:
    """Attempts in flight, given back in the order in which they began; a failure is what ``on_error`` makes of it.

    A substitute is the next name of the list that can be read: the same one in every worker and run.
    """

    def __init__(self, reader: Reader, fetcher: Fetcher, make: Make) -> None:
        self._reader, self._fetcher, self._make = reader, fetcher, make
        self._attempts: deque[Attempt] = deque()
        #: For each target its failures in doubt since the last object that was read from it.
        self._doubts: dict[int | None, int] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def begin(self, attempt: Attempt, home: int, into: memoryview | None = None, prefix: bytes = b"") -> None:
        """Read its object, into memory where that is given (see :class:`Fetch`)."""
        self._attempts.append(attempt)
        self._start(self._reader.names[attempt.index], attempt, home, into, prefix)

    def _start(self, name: str, attempt: Attempt, home: int | None, into: memoryview | None, prefix: bytes) -> None:
        try:
            attempt.fetches = self._reader.fetches(name, attempt, home)
        except TvetlError as error:
            attempt.fetches = [Fetch(name, attempt, home, error=error)]
        attempt.fetches[0].into, attempt.fetches[0].prefix = into, prefix
        attempt.missing = len(attempt.fetches)
        for fetch in attempt.fetches:
            self._fetcher.start(fetch)

    def advance(self, *, idle: bool = False) -> None:
        """Wait until something was answered; with ``idle`` also for :meth:`Fetcher.wake` alone."""
        for fetch in self._fetcher.wait(idle=idle):
            assert isinstance(fetch.tag, Attempt)
            fetch.tag.missing -= 1
            if not fetch.tag.missing:
                self._settle(fetch.tag)

    def finished(self) -> Iterator[Attempt]:
        """The first attempts, as far as they are done. Raises what one of them is to raise."""
        while self._attempts and self._attempts[0].done:
            attempt = self._attempts.popleft()
            if attempt.error:
                raise attempt.error
            yield attempt

    def _settle(self, attempt: Attempt) -> None:
        fetch = attempt.fetches[0]
        try:
            for fetch in attempt.fetches:
                if fetch.error:
                    raise self._reader.named(fetch, fetch.error)
                self._doubts.pop(fetch.home, None)
            fetch = attempt.fetches[0]
            attempt.samples = self._make(fetch.name, fetch.data, attempt)
        except (ObjectFailed, NotFound, *_IN_DOUBT) as error:
            self._failed(fetch, attempt, error)
        except TvetlError as error:
            attempt.error = error
        else:
            attempt.done = True
        attempt.done |= attempt.error is not None
        if attempt.done:
            attempt.fetches = ()  # which refer to the attempt: together they would wait for the garbage collector

    def _failed(self, fetch: Fetch, attempt: Attempt, error: TvetlError) -> None:
        names = self._reader.names
        tries = len(names) if self._reader.on_error == "substitute" else 1
        last = len(attempt.failed) == tries - 1
        if self._reader.on_error == "raise" or (self._reader.on_error == "substitute" and last):
            attempt.error = error
            return
        try:
            self._check(fetch, error)
        except TvetlError as raised:
            attempt.error = raised
            return
        attempt.failed.append(error.message)
        if last:
            attempt.done = True
        else:
            name = names[(attempt.index + len(attempt.failed)) % len(names)]
            self._start(name, attempt, None, attempt.fetches[0].into, attempt.fetches[0].prefix)

    def _check(self, fetch: Fetch, error: TvetlError) -> None:
        """Raises what is no one object's failure."""
        code = error.code if isinstance(error, ObjectFailed) else ""
        if code == "bad_arguments":
            raise error
        in_doubt = isinstance(error, _IN_DOUBT) or code in _CODES_IN_DOUBT
        if in_doubt:
            self._doubts[fetch.home] = self._doubts.get(fetch.home, 0) + 1
            if self._doubts[fetch.home] >= _IN_A_ROW:
                raise error
        else:
            self._doubts.pop(fetch.home, None)
        # AIStore names the object that is gone; of a bucket or an ETL it names that.
        if in_doubt or (isinstance(error, NotFound) and f"/{fetch.name} does" not in error.message):
            self._reader.check_existence(error)


def in_order(reader: Reader, indices: Iterable[int], epoch: int, make: Make) -> Iterator[Attempt]:
    """Read these of the reader's names, ``reads`` of them in flight, and give what became of them in order.

    Reads on while it is consumed. Raises what an attempt raised, when its turn comes.
    """
    with reader.fetcher(epoch) as fetcher:
        flight = Flight(reader, fetcher, make)
        todo = reader.with_targets(fetcher, indices)
        for index, home in islice(todo, reader.reads):
            flight.begin(Attempt(index), home)
        while flight:
            for attempt in flight.finished():
                for index, home in islice(todo, 1):
                    flight.begin(Attempt(index), home)
                yield attempt
            flight.advance()
