"""The body of a result: bytes, or an open file where it is too large for memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["Body", "FileBody"]

#: Bytes that are read at once.
_PIECE = 1 << 20


class FileBody:
    """The first ``length`` bytes of a file, for any number of readings. It owns the descriptor."""

    def __init__(self, descriptor: int, length: int) -> None:
        self._descriptor = descriptor
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        at = 0
        while at < self._length:
            piece = os.pread(self._descriptor, min(_PIECE, self._length - at), at)
            if not piece:
                raise OSError("a result is shorter than it was")
            at += len(piece)
            yield piece

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


Body = bytes | FileBody
