"""The files of this machine that become objects, and their names; no cluster is asked.

A name is a path with ``/``, relative to the folder. A file that cannot become an object is refused, with its reason,
before anything is sent.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tvetl.errors import UsageError
from tvetl.spec.seed import arrival

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class LocalFile:
    """A file, the object's name that it gets, and its size in bytes."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True)
class FileError:
    """A file or an object that was not copied: ``code`` for programs, ``message`` a sentence.

    ``object`` is empty where a file has no name yet.
    """

    file: str
    object: str
    code: str
    message: str


@dataclass(frozen=True)
class Found:
    """The files to send in order of name, those refused, and the number of hidden files and folders left out."""

    files: tuple[LocalFile, ...]
    refused: tuple[FileError, ...] = ()
    hidden: int = 0


def find_files(
    sources: Sequence[str | Path],
    *,
    prefix: str = "",
    names: Sequence[str] | None = None,
    hidden: bool = False,
    any_name: bool = False,
) -> Found:
    """The files that ``sources`` name: folders with all below them, files, or patterns like ``photos/*.jpg``.

    A file's name is its path in the one folder (of several sources each folder's own name comes first; of a pattern its
    path below the part without wildcards; else its file name), with ``prefix`` before it. ``names`` chooses files of
    the one folder by their paths in it. Links are followed. Left out and counted are files and folders of a folder
    that begin with a dot, unless ``hidden``. Refused are names that AIStore cannot send to an ETL, unless ``any_name``
    (:func:`tvetl.spec.seed.arrival`).

    Raises UsageError where there is no such source, or nothing in it.
    """
    _check_prefix(prefix)
    walk = _Walk(hidden)
    if names is not None:
        walk.listed(_one_folder(sources), names)
    else:
        for source in map(Path, sources):
            walk.source(source, alone=len(sources) == 1)
    refused = walk.refused
    by_name: defaultdict[str, list[LocalFile]] = defaultdict(list)
    for path, relative in walk.found:
        name = prefix + relative
        size = _wrong_name(name, any_name=any_name) or _size(path)
        if isinstance(size, tuple):
            refused.append(FileError(shown(path), shown(Path(name)), *size))
        elif not any(path.samefile(other.path) for other in by_name[name]):  # else it is named twice
            by_name[name].append(LocalFile(path, name, size))
    clashes = _clashes(by_name)
    for name, message in clashes.items():
        refused += [FileError(shown(file.path), name, "same_name", message) for file in by_name[name]]
    files = tuple(file for name, (file, *_) in sorted(by_name.items()) if name not in clashes)
    if not files and not refused:
        left_out = f": {walk.hidden} are hidden, which --hidden sends" if walk.hidden else ""
        raise UsageError(f"there is no file to send in {', '.join(map(shown, map(Path, sources)))}{left_out}")
    return Found(files, tuple(sorted(refused, key=lambda error: error.file)), walk.hidden)


class _Walk:
    """Collects (path, name) of files, and folders that cannot be read."""

    def __init__(self, hidden: bool) -> None:
        self._with_hidden = hidden
        self.found: list[tuple[Path, str]] = []
        self.refused: list[FileError] = []
        self.hidden = 0

    def source(self, source: Path, *, alone: bool) -> None:
        if _is_folder(source):
            self.folder(source, "" if alone else f"{source.resolve().name}/")
        elif source.is_symlink() or source.exists():
            self.found.append((source, source.name))
        elif _WILDCARD.search(str(source)):
            parts = source.parts
            fixed = next(at for at, part in enumerate(parts) if _WILDCARD.search(part))
            before = len(self.found), len(self.refused)
            self.pattern(Path(*parts[:fixed]), parts[fixed:], "")
            if before == (len(self.found), len(self.refused)):
                raise UsageError(f"no file matches {shown(source)!r}")
        else:
            raise UsageError(f"there is no file or folder {shown(source)!r}")

    def pattern(self, folder: Path, parts: Sequence[str], prefix: str) -> None:
        """The files that match, and all below the folders that do; ``**`` stands for any number of folders."""
        first, rest = parts[0], parts[1:]
        if first == "**":
            before = len(self.found)
            self.folder(folder, prefix)
            below = self.found[before:]
            self.found[before:] = [each for each in below if _matches(each[1][len(prefix) :].split("/"), parts)]
            return
        for entry in self._entries(folder, keep=first.startswith(".")):
            path, name = folder / entry, prefix + entry
            if not fnmatchcase(entry, first):
                continue
            if not _is_folder(path):
                self.found += [] if rest else [(path, name)]
            elif rest:
                self.pattern(path, rest, f"{name}/")
            else:
                self.folder(path, f"{name}/")

    def listed(self, folder: Path, names: Sequence[str]) -> None:
        """Files by their paths in the folder; absolute ones below it are taken, too."""
        root = folder.absolute()
        for line in dict.fromkeys(names):
            path = root / line
            if ".." in path.parts or not path.is_relative_to(root):
                self._refuse(Path(line), "not_below", f"it is not below {shown(folder)}")
            else:
                self.found.append((folder / path.relative_to(root), path.relative_to(root).as_posix()))

    def folder(self, folder: Path, prefix: str) -> None:
        """All files below a folder. A link that leads back to a folder above is refused, and not followed."""
        waiting: list[tuple[Path, str, tuple[tuple[int, int], ...]]] = [(folder, prefix, ())]
        while waiting:
            path, before, above = waiting.pop()
            here = path.stat()
            if (here.st_dev, here.st_ino) in above:
                self._refuse(path, "loop", "it is a link that leads back to a folder above it")
                continue
            for name in self._entries(path):
                if _is_folder(path / name):
                    waiting.append((path / name, f"{before}{name}/", (*above, (here.st_dev, here.st_ino))))
                else:
                    self.found.append((path / name, before + name))

    def _entries(self, folder: Path, *, keep: bool = False) -> list[str]:
        """The names in a folder, sorted, without the hidden ones, which are counted."""
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError as error:
            self._refuse(folder, "unreadable", f"the folder cannot be read: {error.strerror}")
            return []
        if self._with_hidden or keep:
            return names
        visible = [name for name in names if not name.startswith(".")]
        self.hidden += len(names) - len(visible)
        return visible

    def _refuse(self, path: Path, code: str, message: str) -> None:
        self.refused.append(FileError(shown(path), "", code, message))


def _clashes(by_name: Mapping[str, Sequence[LocalFile]]) -> dict[str, str]:
    """The names that no file can have, with the reason: several files would, or it is a folder of other objects."""
    folders = {parent for name in by_name for parent in parents(name)}
    clashes = {}
    for name, files in sorted(by_name.items()):
        if len(files) > 1:
            paths = " and ".join(shown(file.path) for file in files)
            clashes[name] = f"{paths} would both become {name!r}: send them with a --prefix each"
        elif name in folders:
            clashes[name] = f"{name!r} is also the folder of other objects"
    return clashes


def _wrong_name(name: str, *, any_name: bool) -> tuple[str, str] | None:
    """Why no object can have this name, a code and a sentence; None where one can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "not_utf8", "its name is not UTF-8, as names of objects must be: rename it"
    if not any_name and arrival(name) == "never":
        return "not_for_etls", (
            "AIStore cannot send a name to an ETL that has '#', a control character, a blank behind '?', or a '%' "
            "without two hexadecimal digits behind it: rename it, or send it all the same with --any-name"
        )
    return None


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder that it lies in, matches the parts of a pattern."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[at:], pattern[1:]) for at in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _size(path: Path) -> int | tuple[str, str]:
    """The file's size in bytes, or why it cannot be sent: a code and a sentence."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ("dangling", "it is a link to nothing") if path.is_symlink() else ("not_found", "there is no such file")
    except OSError as error:
        return "unreadable", f"it cannot be read: {error.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return "not_a_file", "it is a folder; a list names files"
    if not stat.S_ISREG(status.st_mode):
        return "not_a_file", "it is no file but a pipe, a socket or a device"
    if not os.access(path, os.R_OK):
        return "unreadable", "it cannot be read: Permission denied"
    return status.st_size


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no right to look into the folder above
        return False


def _one_folder(sources: Sequence[str | Path]) -> Path:
    if len(sources) != 1 or not _is_folder(Path(sources[0])):
        raise UsageError("a list names files of one folder", hint="tvetl put photos BUCKET --list names.txt")
    return Path(sources[0])


def _check_prefix(prefix: str) -> None:
    """A prefix must make names that AIStore lists again, and that can be files."""
    parts = prefix.split("/")
    if {"", ".", ".."} & set(parts[:-1]) or parts[-1] in (".", ".."):
        raise UsageError(f"{prefix!r} cannot begin a name", hint="It looks like train/ or train/2023-.")


def parents(name: str) -> Iterator[str]:
    """``a/b`` and ``a`` of ``a/b/c``."""
    while (cut := name.rfind("/")) > 0:
        name = name[:cut]
        yield name


def shown(path: Path) -> str:
    """A path as text, with ``\\xNN`` for each byte that is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")
