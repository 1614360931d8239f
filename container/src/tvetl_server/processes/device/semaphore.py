"""A semaphore over processes, of the kernel's file locks: the kernel releases a slot when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator

from tvetl_server.processes.ipc import memory

__all__ = ["Semaphore"]


class Semaphore:
    """At most ``count`` holders at a time, in all processes forked after it was made."""

    def __init__(self, count: int) -> None:
        self._file = memory()
        self._count = count
        #: A pipe: a byte comes with each slot that is released.
        self._released, self._release = os.pipe()
        os.set_blocking(self._released, False)
        os.set_blocking(self._release, False)
        #: The open ones.
        self.descriptors = [self._file, self._released, self._release]

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Wait for a slot, and hold it."""
        # One waiter at a time looks for a slot, and takes whichever is free first; the others queue behind its lock.
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._count)
        try:
            while (slot := self._free_slot()) is None:
                select.select([self._released], [], [], 0.05)  # a holder that is killed sends no byte
                with contextlib.suppress(BlockingIOError):
                    os.read(self._released, 2**16)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._count)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
            with contextlib.suppress(BlockingIOError):  # the pipe is full
                os.write(self._release, b".")

    def close(self) -> None:
        """Close its descriptors in this process, which can hold no slot any more; a second call does nothing."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def _free_slot(self) -> int | None:
        """A slot, which is then locked."""
        for slot in range(self._count):
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                return slot
        return None
