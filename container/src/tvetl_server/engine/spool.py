"""The growing result of a shard: in memory first, then in a temporary file where there is room for one."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from typing import IO

from tvetl_server.errors import TooManyBytes
from tvetl_server.limits import Limits

#: Bytes in memory while there is a disk.
MEMORY = 32 * 2**20


class Spool:
    """A file that is written once from start to end, within the limits, and then read by another."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._file = _memory()
        self._length = 0
        self._in_memory = True
        self._limit = MEMORY

    def tell(self) -> int:
        """Bytes so far."""
        return self._length

    def write(self, data: bytes) -> int:
        """Append ``data``; raises TooManyBytes where there is no room for it."""
        self._length += len(data)
        try:
            if self._length > self._limit:
                self._make_room()
            self._file.write(data)
        except OSError as error:
            raise _too_many(error) from error
        return len(data)

    def file(self) -> IO[bytes]:
        """What was written, from its start, for the caller to close."""
        try:
            self._file.seek(0)
        except OSError as error:
            raise _too_many(error) from error
        return self._file

    def close(self) -> None:
        """Free the memory or the disk."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _make_room(self) -> None:
        if self._in_memory:
            self._in_memory = False
            disk = make_file(self._limits.max_bytes)
            if disk is None:
                self._limit = max(MEMORY, self._limits.max_bytes)
            else:
                self._limit = self._limits.max_shard_bytes
                with self._file as memory:
                    memory.seek(0)
                    while part := memory.read(1 << 20):
                        disk.write(part)
                self._file = disk
        if self._length > self._limit:
            raise TooManyBytes(
                f"The shard's result has more than {self._limit} bytes; beyond TVETL_MAX_BYTES the container must have "
                "a folder with room for it, named by TMPDIR, up to TVETL_MAX_SHARD_BYTES."
            )


def _memory() -> IO[bytes]:
    """A file in memory, which other processes can be given."""
    if hasattr(os, "memfd_create"):  # Linux
        return os.fdopen(os.memfd_create("tvetl-shard"), "w+b")
    return tempfile.TemporaryFile()


def on_disk(least: int) -> IO[bytes] | None:
    """A file in the temporary folder; None where that has less than ``least`` bytes free, as a pod's /dev/shm."""
    with contextlib.suppress(OSError):
        folder = tempfile.gettempdir()
        status = os.statvfs(folder)
        if status.f_bavail * status.f_frsize >= least:
            return tempfile.TemporaryFile(dir=folder)
    return None


#: A process that may make no files replaces this function.
make_file: Callable[[int], IO[bytes] | None] = on_disk


def _too_many(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TooManyBytes("There is no room left for the shard's result in the folder for temporary files (TMPDIR).")
    return error
