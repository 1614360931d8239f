"""Files are written whole or left as they were."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import BinaryIO

from tvetl.errors import TvetlError


def write_whole(path: Path, data: bytes, *, folder: bool = False) -> None:
    """Replace a file atomically: whenever we are killed, it is the old or the new one. ``folder`` makes its folder.

    Raises TvetlError where it cannot be written.
    """
    with whole(path, folder=folder) as file:
        file.write(data)


@contextmanager
def whole(path: Path, *, folder: bool = False) -> Iterator[BinaryIO]:
    """The same, for what is written in blocks: the file is replaced at the end, and not after an exception."""
    try:
        if folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device or a pipe, which cannot be replaced
            with path.open("wb") as file:
                yield file
            return
        real = Path(os.path.realpath(path))  # of a link, what it leads to
        part = real.with_name(f".tvetl-{os.getpid()}-{get_ident()}.part")
        try:
            with part.open("wb") as file:
                yield file
            with suppress(FileNotFoundError):
                shutil.copymode(real, part)
            part.replace(real)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        hint = "What was there before is unchanged." if path.exists() else ""
        raise TvetlError(f"{str(path)!r} cannot be written: {error.strerror or error}", hint=hint) from error
