"""Objects on a disk that the kit and the server both see, laid out as AIStore lays out a mount path."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from tvetl.errors import UsageError
from tvetl.notation import path_escape


class Disk:
    """One bucket below a root: ``<root>/ais/mp1/@ais/<bucket>/%ob/<object>``."""

    def __init__(self, root: Path, seen_as: PurePosixPath, bucket: str, outside: Path) -> None:
        self.bucket = bucket
        below = PurePosixPath("ais/mp1/@ais", bucket, "%ob")
        self._folder = root / below
        self._seen = seen_as / below
        self._outside = outside / "outside.jpg"

    def add(self, name: str, data: bytes) -> str:
        """Write an object; returns its file name as the server sees it."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._open()
        return self.name(name)

    def folder(self, name: str) -> str:
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._open()
        return self.name(name)

    def name(self, name: str) -> str:
        """The file name of an object that may not be there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return f"{self._seen}/{name}"

    def outside(self, data: bytes) -> str:
        """A file that is not below the root."""
        self._outside.write_bytes(data)
        self._outside.chmod(0o644)
        return str(self._outside)

    def parents(self, data: bytes) -> str:
        """The same, through the bucket."""
        up = "/".join([".."] * (len(self._seen.parts) - 1))
        return f"{self._seen}/{up}{self.outside(data)}"

    def _open(self) -> None:
        """Let every user read it, whatever our umask: the server may run as another."""
        for path in (self._folder.parent, *self._folder.parent.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def laid_out(root: Path, seen_as: str) -> Iterator[Disk]:
    """A bucket of its own below ``root``, gone at the end. Raises UsageError where nothing can be written."""
    bucket = f"conformance-{secrets.token_hex(3)}"
    folder = root.resolve() / "ais" / "mp1" / "@ais" / bucket
    outside = Path(tempfile.mkdtemp(prefix="tvetl-outside-"))
    outside.chmod(0o755)
    made = [path for path in folder.parents if not path.exists()]
    try:
        if not root.is_dir():
            raise UsageError(f"{str(root)!r} is no folder", hint="--root names one that the server may read.")
        try:
            folder.mkdir(parents=True)
            for path in made:
                path.chmod(0o755)
        except OSError as error:
            raise UsageError(f"cannot write below {str(root)!r}: {error.strerror}") from error
        if outside.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"{str(root)!r} holds all temporary files", hint="Name a folder of its own with --root.")
        yield Disk(root.resolve(), PurePosixPath(seen_as or root.absolute()), bucket, outside)
    finally:
        shutil.rmtree(outside, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def query_of(fqn: str) -> str:
    """``etl_fqn`` as a target writes it: Go's PathEscape, then its QueryEscape."""
    return f"etl_fqn={quote(path_escape(fqn), safe='')}"
