"""Attempts to read objects, many in flight, their results in order; and what ``on_error`` makes of a failure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

from tvetl.errors import NotFound, ObjectFailed, TvetlError
from tvetl.fetch import Fetch, Fetcher

OnError = Literal["raise", "skip", "substitute"]
Body: TypeAlias = "bytearray | bytes | None"


class Source(Protocol):
    """What a flight asks of a reader."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def on_error(self) -> OnError: ...
    def named(self, name: str, error: TvetlError) -> TvetlError: ...
    def etl_is_there(self) -> None: ...


class Attempt:
    """An object that is read: the one at ``index`` of the names, or where that failed, the next that can be read."""

    __slots__ = ("done", "error", "failed", "index", "samples", "where")

    def __init__(self, index: int) -> None:
        self.index = index
        #: Where what is made of it goes: the caller's.
        self.where: object = None
        self.done = False
        #: None of them where it was skipped.
        self.samples: list[object] = []
        #: What failed on the way, a sentence an object.
        self.failed: list[str] = []
        #: Raised when its turn comes.
        self.error: TvetlError | None = None


#: Makes samples of an object: of its name and what was answered, which is None where it was received in place.
Make: TypeAlias = "Callable[[str, Body, Attempt], list[object]]"


class Flight:
    """Attempts in flight, given back in the order in which they began; a failure is what ``on_error`` makes of it.

    A substitute is the next name of the list that can be read: the same one in every worker and run.
    """

    def __init__(self, reader: Source, fetcher: Fetcher, make: Make) -> None:
        self._reader, self._fetcher, self._make = reader, fetcher, make
        self._attempts: deque[Attempt] = deque()

    def __len__(self) -> int:
        return len(self._attempts)

    def begin(self, attempt: Attempt, home: int, into: memoryview | None = None, prefix: bytes = b"") -> None:
        """Read its object, into memory where that is given (see :class:`Fetch`)."""
        self._attempts.append(attempt)
        self._fetcher.start(Fetch(self._reader.names[attempt.index], attempt, into, prefix), home)

    def advance(self, *, idle: bool = False) -> None:
        """Wait until something was answered; with ``idle`` also for :meth:`Fetcher.wake` alone."""
        for fetch in self._fetcher.wait(idle=idle):
            assert isinstance(fetch.tag, Attempt)
            self._settle(fetch, fetch.tag)

    def finished(self) -> Iterator[Attempt]:
        """The first attempts, as far as they are done. Raises what one of them is to raise."""
        while self._attempts and self._attempts[0].done:
            attempt = self._attempts.popleft()
            if attempt.error:
                raise attempt.error
            yield attempt

    def _settle(self, fetch: Fetch, attempt: Attempt) -> None:
        try:
            if fetch.error:
                raise self._reader.named(fetch.name, fetch.error)
            attempt.samples = self._make(fetch.name, fetch.data, attempt)
        except (ObjectFailed, NotFound) as error:
            self._failed(fetch, attempt, error)
        except TvetlError as error:
            attempt.error = error
        else:
            attempt.done = True
        attempt.done |= attempt.error is not None

    def _failed(self, fetch: Fetch, attempt: Attempt, error: TvetlError) -> None:
        names = self._reader.names
        tries = len(names) if self._reader.on_error == "substitute" else 1
        last = len(attempt.failed) == tries - 1
        all_alike = isinstance(error, ObjectFailed) and error.code == "bad_arguments"  # no object's own fault
        if all_alike or self._reader.on_error == "raise" or (self._reader.on_error == "substitute" and last):
            attempt.error = error
            return
        try:
            if isinstance(error, NotFound):
                self._reader.etl_is_there()
        except TvetlError as raised:
            attempt.error = raised
            return
        attempt.failed.append(error.message)
        if last:
            attempt.done = True
        else:
            name = names[(attempt.index + len(attempt.failed)) % len(names)]
            self._fetcher.start(Fetch(name, attempt, fetch.into, fetch.prefix))
