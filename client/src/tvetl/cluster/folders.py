"""Folders of files into buckets, and buckets into folders: equal content is not copied again.

``find_files`` and ``find_objects`` choose what to copy and refuse the rest; ``put_files`` and ``get_files`` copy.
Nothing is overwritten without ``overwrite``; a file or an object is there whole or not at all.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tvetl import notation
from tvetl.cluster.client import Cluster
from tvetl.cluster.local_files import FileError, Found, LocalFile, find_files, parents, shown
from tvetl.cluster.transport import Interrupted, Transport
from tvetl.errors import NotFound, NotReachable, TvetlError, UsageError
from tvetl.spec.seed import arrival

__all__ = [
    "CopyProgress", "CopyReport", "FileError", "Found", "LocalFile", "find_files", "find_objects", "get_files",
    "put_files",
]  # fmt: skip

#: Seconds that threads get to end their copies after Ctrl-C.
_GRACE = 5.0
#: Failures in a row, for each thread, to reach the cluster, after which nothing more is tried.
_AWAY = 2

#: The result for one file: "kept" where the same is there, "kept by size" where no checksum could be compared.
Outcome = Literal["copied", "kept", "kept by size"]


@dataclass(frozen=True)
class CopyProgress:
    """How far a copy is: files done of ``total``, bytes copied, seconds since it began."""

    done: int
    total: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class CopyReport:
    """The result of a copy, or of a dry run, which copies nothing.

    Of ``wanted`` files ``copied`` were, with ``bytes``, and ``kept`` were there already; of these ``by_size`` were
    compared by their size alone. ``refused`` were never tried, ``failed`` were; ``hidden`` were left out.
    """

    wanted: int
    copied: int = 0
    kept: int = 0
    by_size: int = 0
    bytes: int = 0
    refused: tuple[FileError, ...] = ()
    failed: tuple[FileError, ...] = ()
    hidden: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.refused and not self.failed


OnProgress = Callable[[CopyProgress], None]


def put_files(
    cluster: Cluster,
    found: Found,
    bucket: str,
    *,
    overwrite: bool = False,
    content: bool = False,
    dry_run: bool = False,
    threads: int = 8,
    on_progress: OnProgress | None = None,
) -> CopyReport:
    """Store the files that :func:`find_files` found in a bucket, which is made where it is an ais bucket and missing.

    A file whose object is there with the same size and checksum is kept; one that differs fails ("differs") unless
    ``overwrite``. ``content`` compares byte for byte where a checksum cannot be computed (CRC-32C) or is missing.
    One that fails does not end the rest. Raises NotReachable where the cluster is gone, and what Ctrl-C raises; the
    same call again then goes on.
    """
    _check_threads(threads)
    try:
        if not dry_run:
            cluster.create_bucket(bucket)
        present = _listing(cluster, bucket, found)
    except NotFound:
        if not dry_run:
            raise
        present = {}
    other_cluster = notation.bucket(bucket).cluster

    def put(transport: Transport, file: LocalFile) -> Outcome:
        if other_cluster and arrival(file.name) != "whole":  # AIStore hands it on unescaped
            message = f"AIStore would name it otherwise in {other_cluster!r}, for its #, ? or %: rename it"
            raise _NotCopied("bad_name", message)
        if file.name in present:
            size, checksum = present[file.name]
            other = f"another object is there, of {size} bytes"
            if kept := _kept(transport, file, size, checksum, other, content=content, overwrite=overwrite):
                return kept
        if not dry_run:
            transport.send(file.path, file.name)
        return "copied"

    return _copy(cluster, bucket, found, put, threads, on_progress)


def get_files(
    cluster: Cluster,
    found: Found,
    bucket: str,
    *,
    overwrite: bool = False,
    content: bool = False,
    dry_run: bool = False,
    threads: int = 8,
    on_progress: OnProgress | None = None,
) -> CopyReport:
    """Write the objects that :func:`find_objects` found into their files; the options are those of :func:`put_files`.

    A file appears under its name when it is complete. It must have the size and the checksum of the listing.
    """
    _check_threads(threads)
    present = _listing(cluster, bucket, found)

    def get(transport: Transport, file: LocalFile) -> Outcome:
        if file.name not in present:
            raise NotFound("the object is gone")
        size, checksum = present[file.name]
        if file.path.exists() and not file.path.is_file():
            raise _NotCopied("differs", "a folder, a pipe or a device is there, which is not replaced by a file")
        if file.path.is_symlink() or file.path.exists():
            here = replace(file, size=file.path.stat().st_size if file.path.is_file() else -1)
            other = "another file is there" + (f", of {here.size} bytes" if here.size >= 0 else "")
            if kept := _kept(transport, here, size, checksum, other, content=content, overwrite=overwrite):
                return kept
        if not dry_run:
            transport.receive(file.name, file.path, size, checksum)
        return "copied"

    return _copy(cluster, bucket, found, get, threads, on_progress)


def find_objects(cluster: Cluster, bucket: str, folder: str | Path, *, prefix: str = "") -> Found:
    """The objects whose names begin with ``prefix``, and the files that they get: their names as paths in the folder.

    Refused are names that would leave the folder, and those of which two would be one file. Raises NotFound for the
    bucket, UsageError where nothing is in it, or the folder is a file.
    """
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{shown(root)!r} is a file, and not a folder to write into")
    sizes = cluster.sizes(bucket, prefix)
    if not sizes:
        under = f" under {prefix!r}" if prefix else ""
        raise UsageError(f"there is nothing in {bucket!r}{under}")
    key = _folded if _folds_names(root) else str
    folders = {parent for name in sizes for parent in parents(key(name))}
    first: dict[str, str] = {}
    clashing = {name for name in sizes if first.setdefault(key(name), name) != name}
    clashing |= {first[key(name)] for name in clashing}
    files, refused, real = [], [], root.resolve()
    for name, size in sizes.items():
        path = root / name.lstrip("/")
        why = _unsafe(name)
        if not why and name in clashing:
            why = "same_name", "on this disk, names that differ in upper and lower case alone are one file"
        elif not why and key(name) in folders:
            why = "same_name", "a file of its name would be the folder of other objects"
        elif not why and not path.resolve().is_relative_to(real):
            why = "leaves_folder", "a link in the folder leads its file out of it"
        if why:
            refused.append(FileError("", name, *why))
        else:
            files.append(LocalFile(path, name, size))
    return Found(tuple(files), tuple(refused))


def _unsafe(name: str) -> tuple[str, str] | None:
    """Why a name is not that of a file in a folder, or None."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        return "leaves_folder", "its file would lie outside of the folder"
    if "" in parts or "." in parts or "\0" in name:
        return "no_file_name", "no file can have this name"
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _folds_names(folder: Path) -> bool:
    """Whether upper and lower case are one on the disk of this folder, or of the first one above that exists."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".tvetl-a-", suffix=".part") as file:
            return Path(file.name.replace(".tvetl-a-", ".TVETL-A-")).exists()
    except OSError:  # nothing can be written here, which each file will say
        return False


def _listing(cluster: Cluster, bucket: str, found: Found) -> Mapping[str, tuple[int, str]]:
    """Size and checksum of each object whose name begins as those of the files."""
    if not found.files:
        return {}
    prefix = os.path.commonprefix([file.name for file in found.files])  # noqa: RUF071  names are no paths
    objects = {}
    for page in cluster.pages(bucket, prefix, "content"):
        for name, content in page:
            size, _, checksum = content.partition(":")
            objects[name] = int(size or 0), checksum
    return objects


def _kept(
    transport: Transport, file: LocalFile, size: int, checksum: str, other: str, *, content: bool, overwrite: bool
) -> Outcome | None:
    """The outcome where the copy that is there stays, "kept" or "kept by size"; None where it is to be replaced.

    Only ``overwrite`` replaces a copy, and not an equal one. Without it, one that differs raises _NotCopied, with
    ``other`` as its reason.
    """
    equal: bool | None = False
    if file.size == size:
        equal = transport.is_in(file.path, checksum)
        if equal is None and content:
            equal = transport.is_equal(file.name, file.path)
    if equal:
        return "kept"
    if overwrite:
        return None
    if equal is None:
        return "kept by size"
    raise _NotCopied("differs", f"{other}: --overwrite replaces it")


class _NotCopied(TvetlError):
    """Why a file is not copied, with the code of its :class:`FileError`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise UsageError(f"threads is {threads}: at least one copies files")


def _copy(
    cluster: Cluster,
    bucket: str,
    found: Found,
    work: Callable[[Transport, LocalFile], Outcome],
    threads: int,
    on_progress: OnProgress | None,
) -> CopyReport:
    """Copy all files in some threads, and count what became of each."""
    began, stop = time.monotonic(), threading.Event()
    outcomes: dict[Outcome, int] = {"copied": 0, "kept": 0, "kept by size": 0}
    failed: list[FileError] = []
    copied = away = 0
    transport = Transport(cluster, bucket, threads, stop)
    try:
        for done, (file, outcome) in enumerate(
            _each(found.files, lambda file: work(transport, file), threads, stop), start=1
        ):
            away = away + 1 if isinstance(outcome, NotReachable) else 0
            if isinstance(outcome, NotReachable) and away >= min(_AWAY * threads, len(found.files)):
                outcome.hint = f"{outcome.hint} What was copied is there; the same again goes on."
                raise outcome
            if isinstance(outcome, Exception):
                failed.append(_file_error(file, outcome))
            else:
                outcomes[outcome] += 1
                copied += file.size if outcome == "copied" else 0
            if on_progress:
                on_progress(CopyProgress(done, len(found.files), copied, time.monotonic() - began))
    finally:
        transport.close()
    return CopyReport(
        wanted=len(found.files) + len(found.refused),
        copied=outcomes["copied"],
        kept=outcomes["kept"] + outcomes["kept by size"],
        by_size=outcomes["kept by size"],
        bytes=copied,
        refused=found.refused,
        failed=tuple(sorted(failed, key=lambda error: error.object)),
        hidden=found.hidden,
        seconds=time.monotonic() - began,
    )


def _each(
    files: Sequence[LocalFile], work: Callable[[LocalFile], Outcome], threads: int, stop: threading.Event
) -> Iterator[tuple[LocalFile, Outcome | TvetlError | OSError]]:
    """Each file with the result or error of its work, as they end. Sets ``stop`` where it is left early."""
    waiting, lock = iter(files), threading.Lock()
    ended: queue.SimpleQueue[tuple[LocalFile, Outcome | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            with lock:
                file = next(waiting, None)
            if file is None:
                return
            try:
                ended.put((file, work(file)))
            except BaseException as error:  # noqa: BLE001  the caller's thread raises it
                ended.put((file, error))

    workers = [threading.Thread(target=run, name="tvetl-copy", daemon=True) for _ in range(threads)]
    for thread in workers:
        thread.start()
    try:
        for _ in files:
            file, outcome = ended.get()
            if isinstance(outcome, BaseException) and not isinstance(outcome, (TvetlError, OSError)):
                raise outcome
            yield file, outcome
    finally:
        stop.set()
        deadline = time.monotonic() + _GRACE
        for thread in workers:
            thread.join(max(0.0, deadline - time.monotonic()))


def _file_error(file: LocalFile, error: Exception) -> FileError:
    if isinstance(error, OSError):
        return FileError(shown(file.path), file.name, "unreadable", f"it cannot be read: {error.strerror or error}")
    code = "not_found" if isinstance(error, NotFound) else "interrupted" if isinstance(error, Interrupted) else "failed"
    if isinstance(error, _NotCopied):
        code = error.code
    return FileError(shown(file.path), file.name, code, str(error))
