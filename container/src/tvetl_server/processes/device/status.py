"""Shared status of the device: up, down or lost, with a message, and since when it is busy."""

from __future__ import annotations

import mmap
from enum import IntEnum

__all__ = ["SharedStatus", "State"]

_SIZE = 2048
_MESSAGE = 16
"""Where the message begins; before it are the state, and from byte 8 the time."""


class State(IntEnum):
    """What the device is."""

    DOWN = 0
    """For the moment: it is being started."""
    UP = 1
    LOST = 2
    """It will not come back, or not soon."""


class SharedStatus:
    """Memory of all processes, made before they are forked.

    One process writes at a time: the device's while it lives, and then the supervisor.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self._seconds = memoryview(self._memory)[8:_MESSAGE].cast("d")

    def set(self, state: State, message: str) -> None:
        """``message`` describes the device, or the reason why there is none."""
        text = message.encode("utf-8", "replace")[: _SIZE - _MESSAGE]
        self._memory[0] = State.DOWN
        self._memory[_MESSAGE:] = text.ljust(_SIZE - _MESSAGE, b"\0")
        self._memory[0] = state

    @property
    def state(self) -> State:
        return State(self._memory[0])

    @property
    def message(self) -> str:
        return self._memory[_MESSAGE:].rstrip(b"\0").decode("utf-8", "replace")

    @property
    def busy_since(self) -> float:
        """When it began its batch, or its start, on time.monotonic(); 0 where it is idle."""
        return self._seconds[0]

    @busy_since.setter
    def busy_since(self, now: float) -> None:
        self._seconds[0] = now
