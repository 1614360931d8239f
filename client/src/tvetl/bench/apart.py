"""Processes of their own: what runs in one is counted apart from all else. Knows nothing of images."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Concatenate, ParamSpec

from tvetl.errors import TvetlError

#: Forks of an interpreter that has only imported something: with none of the parent's threads, sockets and memory.
_FRESH = multiprocessing.get_context("forkserver")
#: What it imports, torch above all: that takes seconds, once.
_IMPORTED = ["tvetl.bench.compare"]
#: Seconds that a process may take to end once its connection is closed.
_END = 20.0
#: Whether another process' CPU time can be read while it runs.
LIVE_CLOCKS = sys.platform == "linux"

Arguments = ParamSpec("Arguments")


class Apart:
    """A running process: what it sends, and its process id."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection = connection
        self.pid = pid

    def send(self, request: object) -> None:
        """Send it a request."""
        with suppress(BrokenPipeError):  # its error is received next
            self._connection.send(request)

    def receive(self) -> object:
        """Its next answer. Raises what it raised."""
        try:
            answer = self._connection.recv()
        except EOFError:
            raise TvetlError(f"a process of the comparison ended before it answered (id {self.pid})") from None
        if isinstance(answer, TvetlError):
            raise answer
        return answer


@contextmanager
def apart(
    run: Callable[Concatenate[Connection, Arguments], None], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Iterator[Apart]:
    """Call ``run(connection, ...)`` in a fresh process, which is to end when its connection does: with the block."""
    _FRESH.set_forkserver_preload(_IMPORTED)
    ours, theirs = _FRESH.Pipe()
    process = _FRESH.Process(target=_answer, args=(run, theirs, arguments, named))
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        yield Apart(ours, process.pid)
    finally:
        ours.close()
        process.join(_END)
        if process.is_alive():
            process.kill()
            process.join()


def _answer(run: Callable[..., None], connection: Connection, arguments: tuple[object, ...], named: object) -> None:
    try:
        run(connection, *arguments, **named)  # type: ignore[arg-type]
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # nobody asks any more
    except TvetlError as error:  # not as it is: errors with arguments of their own do not survive pickling
        connection.send(TvetlError(error.message, hint=error.hint))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        connection.send(TvetlError(f"{type(error).__name__}: {error}", hint=traceback.format_exc()))


def cpu_seconds() -> float:
    """CPU seconds so far of this process and its own children (multiprocessing's), those that live included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ended = sum(one.ru_utime + one.ru_stime for one in used)
    # This call waits for children that have ended; so it comes second, and counts none of them twice.
    return ended + sum(clock(child.pid) for child in multiprocessing.active_children() if child.pid)


def clock(pid: int) -> float:
    """CPU seconds so far of a process that runs, of all its threads; 0 where the system does not tell.

    Linux's clockid of a process (what ``clock_getcpuclockid(3)`` gives); time.clock_gettime takes the number.
    """
    return time.clock_gettime((~pid << 3) | 2) if LIVE_CLOCKS else 0.0
