"""Peers that do as a target does (docs/protocol.md, section 2), and say what became of each object."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import BadStatusLine, HTTPConnection, HTTPException

from support.serving import PATIENCE, Reply, Server, ask

#: How often a target repeats a connection that was refused or reset.
REPEATS = 10


@dataclass
class Outcome:
    """One object."""

    name: str
    #: ``answered``, ``wrong``, a status, or ``end of file``, ``refused ten times``.
    what: str
    #: When it was asked for and done, on time.monotonic().
    began: float
    ended: float
    repeats: int = 0

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Peers:
    """Some connections that are kept; each sends one object after the other, until told to stop."""

    server: Server
    count: int
    source: Callable[[int], bytes]
    #: Whether an answer is right for the object of that number.
    right: Callable[[int, bytes], bool]
    pause: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(self.count)]

    def __enter__(self) -> Peers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each have its last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), "a peer waits for ever"

    def counts(self) -> Counter[str]:
        return Counter(outcome.what for outcome in self.outcomes)

    def lost(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.what != "answered"]

    def _run(self, place: int) -> None:
        line = self._line()
        for number in range(place, 10**9, self.count):
            if self._stop.is_set():
                break
            began = time.monotonic()
            what, repeats = self._send(line, number)
            self.outcomes.append(Outcome(f"src/{number}.png", what, began, time.monotonic(), repeats))
            if self.pause:
                time.sleep(self.pause)
        next(line).close()

    def _line(self) -> Iterator[HTTPConnection]:
        """The connection, kept as long as it lives."""
        connection = self.server.connect()
        while True:
            yield connection
            if connection.sock is None:
                connection = self.server.connect()

    def _send(self, line: Iterator[HTTPConnection], number: int) -> tuple[str, int]:
        for repeat in range(REPEATS + 1):
            connection = next(line)
            try:
                reply = self._ask(connection, number)
            except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError) as error:
                connection.close()
                if isinstance(error, BadStatusLine):  # RemoteDisconnected is both: an end of file is final
                    return "end of file", repeat
                time.sleep(0.1)
                continue
            except (HTTPException, OSError) as error:
                connection.close()
                return type(error).__name__, repeat
            if reply.headers.get("Connection") == "close":
                connection.close()
            if reply.status != 200:
                return f"{reply.status} {reply.body[:60]!r}", repeat
            return ("answered" if self.right(number, reply.body) else "wrong"), repeat
        return "refused ten times", REPEATS

    def _ask(self, connection: HTTPConnection, number: int) -> Reply:
        return ask(connection, "PUT", f"/src/{number}.png", self.source(number), keep=True)


def percentile(values: list[float], part: float) -> float:
    """The value below which ``part`` of them lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
