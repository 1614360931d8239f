"""Processes that a test starts by itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

Fork = Callable[[Callable[[], object]], int]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Processes that do something, by their ids; none outlives the test."""
    processes: list[int] = []

    def run(do: Callable[[], object]) -> int:
        process = os.fork()
        if process == 0:
            with contextlib.suppress(BaseException):
                do()
                os._exit(0)
            os._exit(1)
        processes.append(process)
        return process

    yield run
    for process in processes:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
