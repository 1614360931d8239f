"""Buckets as folders: ``<root>/<bucket>/<object>``, so that a person can look into them and copy images in.

Versions and access times survive no restart (a version begins at 1 again). Checksums are computed when first needed.
All targets share the folders. Not here: which target an object belongs to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, Protocol

import xxhash

from tvetl.local.http import BLOCK, ApiError
from tvetl.local.object_names import folder_of, from_file, shown, to_file

#: Our folder in the root, for unfinished files and the logs of transformers. No bucket can have this name.
OURS = ".tvetl"
#: An attribute of a bucket's folder: when the bucket was made, which no file system keeps.
_IDENTITY = "user.tvetl.made"
_COLLISION = 'cannot store "{}": here a bucket is a folder, where "a" and "a/b" cannot both be objects'


class Blocks(Protocol):
    """The source of a body: ``read(most)`` returns the next bytes, none at the end."""

    def read(self, most: int, /) -> bytes: ...


@dataclass(frozen=True)
class Stat:
    """An object: ``size`` in bytes, ``time`` in nanoseconds since 1970, ``version`` from 1.

    ``checksum`` is empty until it is computed, see :meth:`Store.checksum`.
    """

    path: Path
    size: int
    time: int
    version: int
    checksum: str = ""


@dataclass(frozen=True)
class Entry:
    """One line of a listing."""

    name: str
    size: int


class Store:
    """The buckets below a root, safe for many threads and for names of any kind; one process at a time."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._held = os.open(root, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._held)
            raise OSError("another cluster serves this folder") from None
        # Logs of the last time, and files half written when it was killed.
        shutil.rmtree(root / OURS, ignore_errors=True)
        (root / OURS / "tmp").mkdir(parents=True)
        self.root = root.resolve()
        self._versions: dict[Path, int] = {}
        self._checksums: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._lock = threading.Lock()  # making folders and taking empty ones away must not cross
        self._serial = 0

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._held)

    # -- buckets ------------------------------------------------------------------------------------------------

    def buckets(self) -> list[str]:
        self._still_there()
        return sorted(
            p.name
            for p in self.root.iterdir()
            if p.is_dir() and not p.is_symlink() and p.name[0] != "." and "@" not in p.name
        )

    def has(self, bucket: str) -> bool:
        with suppress(FileNotFoundError, NotADirectoryError):
            return S_ISDIR(os.lstat(f"{self.root}/{folder_of(bucket)}").st_mode)
        return False

    def bucket(self, bucket: str) -> Path:
        """The bucket's folder, or 404."""
        if not self.has(bucket):
            self._still_there()
            raise ApiError(404, f'bucket "{shown(bucket)}" does not exist', "ErrBckNotFound")
        return self.root / folder_of(bucket)

    def create(self, bucket: str) -> None:
        self._still_there()
        try:
            folder = self.root / folder_of(bucket)
            folder.parent.mkdir(exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            raise ApiError(409, f'bucket "{shown(bucket)}" already exists', "ErrBucketAlreadyExists") from None
        with suppress(AttributeError, OSError):  # a system or a disk without such attributes
            os.setxattr(folder, _IDENTITY, str(time.time_ns()).encode())

    def identity(self, bucket: str) -> int:
        """A number that a later bucket of the same name does not have; folders made by hand have their name's."""
        made = b""
        with suppress(AttributeError, OSError):
            made = os.getxattr(self.bucket(bucket), _IDENTITY)
        return xxhash.xxh64_intdigest(bucket.encode() + made) >> 1

    def destroy(self, bucket: str) -> None:
        """Rename, then delete: the bucket is gone at once for everybody."""
        folder = self.bucket(bucket)
        doomed = self._temporary()
        with self._lock:
            folder.rename(doomed)
            for known in (self._versions, self._checksums):
                for path in [p for p in known if folder in p.parents]:
                    del known[path]
        shutil.rmtree(doomed)

    def _still_there(self) -> None:
        """Raises 500 where the root is gone, or replaced by another folder, which is not locked by us."""
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._held), self.root.stat()):
                return
        raise ApiError(500, f"the folder of the buckets, {self.root}, is gone: put it back, or start the cluster anew")

    # -- objects ------------------------------------------------------------------------------------------------

    def path(self, bucket: str, name: str) -> Path:
        """Where an object's file is or would be: always below the bucket's folder."""
        if not name:
            raise ApiError(400, "an object name is missing")
        file = to_file(name)  # a name that no file can have is refused first
        return self.bucket(bucket) / file

    def stat(self, bucket: str, name: str, node: str = "") -> Stat:
        """The object, or 404. A link that leads out of the bucket is no object."""
        path = self.path(bucket, name)
        try:
            found = os.lstat(path)
            # Whether one of its folders is a link; the bucket's own is none, as :meth:`has` sees to.
            linked = "/" in name and os.path.realpath(path) != str(path)
            if linked or not S_ISREG(found.st_mode):
                raise FileNotFoundError
        except PermissionError:  # not the same as a missing object
            raise
        except OSError:
            raise ApiError(404, f"{node}{shown(bucket)}/{name} does not exist", "ErrNotFound") from None
        return Stat(path, found.st_size, found.st_mtime_ns, self._versions.get(path, 1))

    def open(self, bucket: str, name: str, node: str = "") -> tuple[Stat, BinaryIO]:
        """The object, the checksum of its bytes, and the open file of these bytes, which the caller closes.

        All three are of one moment, even while the object is written over.
        """
        stat = self.stat(bucket, name, node)
        try:
            file = stat.path.open("rb")
        except FileNotFoundError:  # deleted between the two looks
            raise ApiError(404, f"{node}{shown(bucket)}/{name} does not exist", "ErrNotFound") from None
        found = os.fstat(file.fileno())
        checksum = self.checksum(stat.path, file)
        return replace(stat, size=found.st_size, time=found.st_mtime_ns, checksum=checksum), file

    def put(self, bucket: str, name: str, body: Blocks) -> Stat:
        """Store a body: the object appears whole, or (where the body breaks off) stays as it was."""
        path = self.path(bucket, name)
        temporary = self._temporary()
        digest, size = xxhash.xxh64(), 0
        try:
            with temporary.open("wb") as file:
                while block := body.read(BLOCK):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
            written = temporary.stat()
            with self._lock:
                version = self._versions.get(path, 1) + 1 if os.path.lexists(path) else 1
                self._place(temporary, path, name)
                self._versions[path] = version
                self._checksums[path] = (_identity(written), digest.hexdigest())
        finally:
            with suppress(OSError):  # it must not hide the first error
                temporary.unlink()
        return Stat(path, size, written.st_mtime_ns, version, digest.hexdigest())

    def _place(self, temporary: Path, path: Path, name: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():  # empty folders that a failed write left
                for folder, _, _ in os.walk(path, topdown=False):
                    Path(folder).rmdir()
            temporary.replace(path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY):
                raise ApiError(409, _COLLISION.format(name)) from error
            if error.errno == errno.ENAMETOOLONG:
                raise ApiError(400, f'cannot store "{name}": {error.strerror}') from error
            raise

    def delete(self, bucket: str, name: str) -> int:
        """Delete the object and the folders that it leaves empty; its size. 404 where there is none."""
        stat = self.stat(bucket, name)
        with self._lock:
            stat.path.unlink(missing_ok=True)
            self._versions.pop(stat.path, None)
            self._checksums.pop(stat.path, None)
            for parent in stat.path.relative_to(self.root / folder_of(bucket)).parents[:-1]:
                try:
                    (self.root / folder_of(bucket) / parent).rmdir()
                except OSError:
                    break
        return stat.size

    def checksum(self, path: Path, file: BinaryIO) -> str:
        """The xxhash64 in hex (AIStore's ``xxhash2``) of an object's open file, read once after each write.

        It is of the file and not of the path, where another object may be by now. Leaves the file at its beginning.
        """
        identity = _identity(os.fstat(file.fileno()))
        known = self._checksums.get(path)
        if known and known[0] == identity:
            return known[1]
        digest = xxhash.xxh64()
        while block := file.read(BLOCK):
            digest.update(block)
        file.seek(0)
        self._checksums[path] = (identity, digest.hexdigest())
        return digest.hexdigest()

    def _temporary(self) -> Path:
        folder = self.root / OURS / "tmp"
        self._still_there()
        folder.mkdir(parents=True, exist_ok=True)  # someone tidied up
        with self._lock:
            self._serial += 1
            return folder / f"{os.getpid()}-{time.time_ns()}-{self._serial}"

    # -- listings -----------------------------------------------------------------------------------------------

    def entries(self, bucket: str, prefix: str = "") -> list[Entry]:
        """All objects that begin with ``prefix``, by name."""
        found = (entry for entry in self._walk(self.bucket(bucket), "") if entry.name.startswith(prefix))
        return sorted(found, key=lambda entry: entry.name)

    def _walk(self, folder: Path, relative: str) -> Iterator[Entry]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:  # deleted while we looked
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{relative}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                name = from_file(relative + entry.name)
                try:
                    if name is not None:
                        yield Entry(name, entry.stat().st_size)
                except FileNotFoundError:
                    pass


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    """Differs from write to write: of two within a tick of the clock, only the inode may."""
    return found.st_ino, found.st_mtime_ns, found.st_size
