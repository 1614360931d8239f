"""An object's bytes: from the request's body, or from a file inside the target's mounts.

The file name is not trusted. Each folder of it is opened in turn, no symbolic link is followed, and the checks are made
on the opened file. See docs/protocol.md, section 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn
from urllib.parse import parse_qsl, quote, unquote

from tvetl_server.engine.shards import is_shard
from tvetl_server.errors import FileGone, NoSource, OutOfTime, OutsideRoots, TooManyBytes, TruncatedBody, UnreadableFile
from tvetl_server.processes.ipc import Buffer
from tvetl_server.serving.environ import ServerRequest, TooSlow

__all__ = ["Files", "ObjectTarget", "discard", "mounts", "parse_target", "read_body"]

_log = logging.getLogger(__name__)

#: Bytes of one read. Between two reads the deadline is checked; larger ones would be no faster.
_STEP = 1 << 20

#: Seconds to wait for the next bytes of a body. A target reads them from its disk; one that takes longer is dead.
_STALL = 10.0

#: The folder of a bucket's objects, in AIStore's layout of a disk.
_OBJECTS = "%ob"

#: The characters that a request line may have.
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

_SLOW_BODY = "The object's bytes came too slowly."


@dataclass(frozen=True)
class ObjectTarget:
    """The request target, taken apart from its raw form: a framework would merge slashes and unquote too much."""

    path: str
    """The path as it came, percent escapes and a ``?`` of the name's included: a next stage must get the same."""

    name: str
    """``<bucket>/<object>``, on which draws depend; bytes that are not UTF-8 become U+FFFD.

    Targets do not escape the path: of ``hash#q?x.jpg`` only ``hash`` arrives, and ``pct%41.jpg`` reads ``pctA.jpg``.
    So the name is that of the file, where AIStore makes this path of it; else it is the path unquoted once."""

    fqn: str | None
    """The file name, unquoted twice, as the target quotes it itself once. Undecodable bytes become surrogates."""

    etl_args: str | None
    """The arguments as text; None where none came."""


def parse_target(target: str) -> ObjectTarget:
    """Take ``/<bucket>/<object>?etl_fqn=...&etl_args=...`` apart. Raises NoSource where it names no object."""
    path, query = _split(target)
    name = unquote(path, errors="replace")[1:]
    bucket, _, rest = name.partition("/")
    if not path.startswith("/") or not bucket or not rest:
        raise NoSource("The request's path is not /<bucket>/<object>.")
    fields = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    fqn = unquote(fields.get("etl_fqn", ""), errors="surrogateescape") or None
    arguments = fields.get("etl_args", "").strip()
    # Lone surrogates could not be written into a response or a log.
    text = _utf8(arguments)
    return ObjectTarget(path, _named_by_file(fqn, bucket, rest) if fqn else name, fqn, text or None)


#: How a target's own query begins. It escapes the values in it, so that a ``?`` before it is the name's.
_OWN_QUERY = ("etl_args=", "etl_fqn=")


def _split(target: str) -> tuple[str, str]:
    """The path and the target's own query. What an object's name has behind a ``?`` belongs to the path."""
    path, _, query = target.partition("?")
    before, mark, own = query.rpartition("?")
    if mark and own.startswith(_OWN_QUERY):
        name, query = before, own
    elif query and "=" not in query:
        name, query = query, ""
    else:
        return path, query
    # Go sends that part of the name as it is: in UTF-8, which the server reads as Latin-1.
    return f"{path}?{quote(name, safe=_PRINTABLE, encoding='latin-1', errors='replace')}", query


def _named_by_file(fqn: str, bucket: str, rest: str) -> str:
    """``<bucket>/<object>`` as its file has it, if unquoting that gives what arrived; else what arrived.

    A file lies at ``<mount>/@<provider>/<bucket>/%ob/<object>``, or at ``<root>/<bucket>/<object>`` where ``tvetl
    local`` stores it, which quotes ``%``. Others (a first chunk) have other names.
    """
    if "%" not in rest and fqn.endswith(f"/{rest}"):
        return f"{bucket}/{rest}"
    file = _utf8(fqn)
    for mark in (f"/{bucket}/{_OBJECTS}/", f"/{bucket}/"):
        for match in re.finditer(f"(?={re.escape(mark)})", file):
            tail = file[match.end() + len(mark) :]
            for name in (tail, "/".join("" if part == "%" else unquote(part) for part in tail.split("/"))):
                if unquote(name, errors="replace") == rest:
                    return f"{bucket}/{name}"
    return f"{bucket}/{rest}"


def _utf8(text: str) -> str:
    """The text with U+FFFD for bytes that were no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def read_body(request: ServerRequest, into: Buffer, limit: int, deadline: float) -> None:
    """Read the whole body: ``request.length`` bytes, or all chunks of a chunked one.

    A body of known length is not copied on the way, where the server has ``readinto``. ``deadline`` is on
    time.monotonic(). Raises TooManyBytes (before reading, if the length is too large), TruncatedBody or OutOfTime.
    """
    length = None if request.chunked else request.length
    if length is not None and length > limit:
        raise TooManyBytes(f"The object has {length} bytes, more than the limit of {limit}.")
    whole = into.room(length) if length and request.readinto else None
    got = 0
    request.set_timeout(_STALL)
    try:
        while length is None or got < length:
            if time.monotonic() > deadline:
                raise OutOfTime(_SLOW_BODY)
            step = _STEP if length is None else min(_STEP, length - got)
            if whole is not None and request.readinto is not None:
                came = request.readinto(whole[got : got + step])
            else:
                part = request.read(step)
                came = len(part)
                if got + came > limit:
                    raise TooManyBytes(f"The object has more bytes than the limit of {limit}.")
                into.room(got + came)[got:] = part
            if not came:
                break
            got += came
    except TooSlow as error:
        raise OutOfTime(_SLOW_BODY) from error
    except (OSError, ValueError) as error:  # chunks that end early, a reset or a stall
        raise TruncatedBody(f"The object's body ended early, after {got} bytes.") from error
    finally:
        request.set_timeout(None)
    if length is not None and got < length:
        raise TruncatedBody(f"The object's body ended after {got} of {length} bytes.")
    if time.monotonic() > deadline:
        raise OutOfTime(_SLOW_BODY)
    into.length = got


def discard(request: ServerRequest, deadline: float) -> None:
    """Read the rest of a refused body until ``deadline``, and drop it.

    Closing a connection while its client sends would reset it. The target would lose the response with its reason, and
    repeat the object ten times.
    """
    request.set_timeout(_STALL)
    with contextlib.suppress(OSError, ValueError):
        while time.monotonic() < deadline and request.read(_STEP):
            pass
    with contextlib.suppress(OSError):
        request.set_timeout(None)


#: <mount>/**/@<provider>/<bucket, perhaps with @<uuid>#<namespace> before it>/%ob/<object>
_PROVIDER = re.compile(r"@[a-z]+")

#: Mounts that are never a target's disk. "/" is the container's own, and would allow every file.
_NOT_DISKS = re.compile(r"/|/(proc|sys|dev|etc|run|var/run)(/.*)?")


def mounts(table: Path = Path("/proc/self/mountinfo")) -> tuple[Path, ...]:
    """Folders mounted into this container that may be a target's disks; none where ``table`` is missing."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()
    # The fifth field is the mount point; blanks and similar characters are \040 (proc_pid_mountinfo(5)).
    points = {re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in lines if line}
    disks = (Path(point) for point in sorted(points) if not _NOT_DISKS.fullmatch(point))
    return tuple(disk for disk in disks if disk.is_dir())


#: To reach what is in it, and not to list it.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
#: O_NONBLOCK: opening a FIFO would wait for its writer. It changes nothing for a regular file.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_OPENAT2 = 437  # the system call's number on all architectures that the image is built for
_NO_SYMLINKS, _BENEATH = 0x04, 0x08
#: struct open_how of openat2(2): flags, mode, resolve.
_OPEN_HOW = struct.pack("=QQQ", _FILE, 0, _NO_SYMLINKS | _BENEATH)
_LONG, _BYTES = ctypes.c_long, ctypes.c_char_p
_syscall = (
    ctypes.CFUNCTYPE(_LONG, _LONG, _LONG, _BYTES, _BYTES, ctypes.c_size_t)(("syscall", ctypes.CDLL(None)))
    if sys.platform == "linux"
    else None
)


class Files:
    """Reads objects by file name, inside ``roots`` only.

    Where ``roots`` is None, the roots are the container's mounts, and a name must have the shape of an object's.
    """

    def __init__(self, roots: Sequence[Path] | None, limit: int, shard_limit: int = 0) -> None:
        """``limit`` is in bytes; ``shard_limit`` is that of tar archives, where it is larger."""
        self._limit = limit
        self._shard_limit = max(limit, shard_limit)
        self._any_shape = roots is not None
        roots = mounts() if roots is None else roots
        # Resolved once: a root may be reached by a link, a file below it may not.
        resolved = [Path(os.path.realpath(root)) for root in roots]
        # The longest first: a mount within a mount is found before the outer one.
        self.roots = sorted({*resolved, *roots}, key=lambda root: len(root.parts), reverse=True)
        self._warned = False

    def open(self, fqn: str) -> tuple[int, int]:
        """A descriptor of the named file, to be closed by the caller, and the file's size in bytes.

        The opened file itself is checked: a regular file below a root, reached over no link, within the limit.
        Raises OutsideRoots, UnreadableFile, TooManyBytes, or FileGone (the bucket's folder exists, the file does not).
        """
        root, parts, bucket = self._place(fqn)
        descriptor = self._open(root, parts, bucket)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFile("The named file is not a regular file.")
            if status.st_size > self._limit:
                limit = self._shard_limit if _is_tar(descriptor, fqn) else self._limit
                if status.st_size > limit:
                    raise TooManyBytes(f"The object has {status.st_size} bytes, more than the limit of {limit}.")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status.st_size

    def read(self, fqn: str) -> bytes | IO[bytes]:
        """The file's bytes; or a tar archive as an open file, for the caller to close.

        Raises the errors of :meth:`open`, also for a file that grew or became unreadable since.
        """
        descriptor, size = self.open(fqn)
        if _is_tar(descriptor, fqn):
            return os.fdopen(descriptor, "rb")
        try:
            return _read_all(descriptor, size, self._limit)
        except OSError as error:
            raise UnreadableFile(f"The object's file could not be read: {error.strerror}.") from error
        finally:
            os.close(descriptor)

    def _place(self, fqn: str) -> tuple[Path, list[str], int]:
        """The file's root, the names below it, and how many of these lead to the bucket's folder."""
        if not fqn.startswith("/") or "\0" in fqn:
            raise OutsideRoots("The file name is not a path from the root.")
        names = [name for name in fqn.split("/") if name not in ("", ".")]
        if ".." in names:
            raise OutsideRoots("The file name has .. in it.")
        if names[:1] in (["proc"], ["sys"]):  # were / a root: the secret stands in /proc/<id>/environ
            raise OutsideRoots("The file name is one of the kernel's own.")
        for root in self.roots:
            depth = len(root.parts) - 1
            if tuple(names[:depth]) == root.parts[1:] and len(names) > depth:
                return root, names[depth:], max(1, self._bucket_depth(names, depth) - depth)
        raise OutsideRoots("The file name is outside of the folders that may be read (TVETL_ROOTS).")

    def _bucket_depth(self, names: list[str], depth: int) -> int:
        """How many of ``names`` lead to the bucket's folder; the first ``depth`` lead to the root."""
        if _OBJECTS in names[:-1]:
            objects = names.index(_OBJECTS)
            if any(_PROVIDER.fullmatch(name) for name in names[: objects - 1]):
                return objects
        if self._any_shape:
            return depth + 1  # <root>/<bucket>/..., as the stand-in cluster lays folders out
        raise OutsideRoots("The file name is not that of an object in one of the target's mounts.")

    def _open(self, root: Path, parts: list[str], bucket: int) -> int:
        """A descriptor of the file that ``parts`` name below ``root``, without following a link and without a race.

        One system call does it. Where that fails or is missing (Linux before 5.6, some sandboxes), each name is opened
        in the folder opened before it, which shows the reason.
        """
        path = os.fsencode("/".join(parts))
        try:
            folder = os.open(root, _FOLDER)
        except OSError as error:
            self._fail(error, bucket_is_there=False)
        if _syscall is not None:
            descriptor: int = _syscall(_OPENAT2, folder, path, _OPEN_HOW, len(_OPEN_HOW))
            if descriptor >= 0:
                os.close(folder)
                return descriptor
        for depth, name in enumerate(parts):
            last = depth == len(parts) - 1
            try:
                opened = os.open(name, (_FILE if last else _FOLDER) | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                self._fail(error, bucket_is_there=depth >= bucket)
            finally:
                os.close(folder)
            folder = opened
        return folder

    def _fail(self, error: OSError, *, bucket_is_there: bool) -> NoReturn:
        if error.errno == errno.ENOENT and bucket_is_there:
            raise FileGone("The object's file is gone.") from error
        if error.errno == errno.ENOENT:
            raise UnreadableFile(self._not_mounted()) from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OutsideRoots("The file name leads over a symbolic link or through a file.") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UnreadableFile(
                "The object's file may not be read: it is 0640, so the container must run with the target's group, 0."
            ) from error
        raise UnreadableFile(f"The object's file cannot be opened: {error.strerror}.") from error

    def _not_mounted(self) -> str:
        message = (
            "The folder of the object's bucket is not in this pod; where the cluster mounts its disks by subPathExpr, "
            "set its feature Do-not-Allow-Passing-FQN-to-ETL, so that objects come in the request."
        )
        if not self._warned:  # once: every object of every job would repeat it
            self._warned = True
            _log.error("NO FILE CAN BE READ BY NAME. %s", message)
        return message


def _is_tar(descriptor: int, name: str) -> bool:
    with contextlib.suppress(OSError):  # reading the file will fail too, with its reason
        return is_shard(os.pread(descriptor, 512, 0), name)
    return False


def _read_all(descriptor: int, size: int, limit: int) -> bytes:
    """All bytes, in one read of ``size``. More reads follow, as the file may grow meanwhile."""
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        data = file.read(size)
        while more := file.read(_STEP):
            data += more
            if len(data) > limit:
                raise TooManyBytes(f"The object has more bytes than the limit of {limit}.")
    return data
