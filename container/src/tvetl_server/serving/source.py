"""Where an object's bytes come from: the body, or a file name kept inside the target's mounts.

Nothing here trusts the file name: each folder of it is opened in turn, no symbolic link is followed, and
what was opened is what is read. See PROTOCOL.md, section 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NoReturn, Protocol
from urllib.parse import parse_qsl, unquote

from tvetl_server.engine.shards import is_shard
from tvetl_server.errors import FileGone, NoSource, OutOfTime, OutsideRoots, TooManyBytes, TruncatedBody, UnreadableFile
from tvetl_server.processes.ipc import Buffer

__all__ = ["Files", "Request", "Socket", "TooSlow", "discard", "mounts", "parse_target", "read_body"]

_log = logging.getLogger(__name__)

#: Read at most so much at once: short enough to look at the clock, long enough to cost nothing.
_STEP = 1 << 20

#: Seconds to wait for the next bytes of a body. The target reads from its disk and sends; more is a dead peer.
_STALL = 10.0


class TooSlow(TimeoutError):
    """A body of which far too little has come: raised by the connection's reader, where there is one that looks."""


class Socket(Protocol):
    """What is needed of the connection: to end a wait."""

    def settimeout(self, seconds: float | None, /) -> None: ...


@dataclass(frozen=True)
class Request:
    """The request line, taken apart from its raw form (a framework would merge and unquote too much)."""

    path: str
    """As it came, with its percent escapes: what a next stage must get."""

    name: str
    """``<bucket>/<object>``: the path unquoted once. Seeds depend on it, so it must be the same by file
    name and by body: it is the path's, although the target does not escape that. Of ``hash#q?x.jpg`` only
    ``hash`` comes, and ``pct%41.jpg`` reads ``pctA.jpg``, either way. Bytes that are no UTF-8 become U+FFFD."""

    fqn: str | None
    """The file name, unquoted twice (the target quotes it once itself); undecodable bytes as surrogates."""

    etl_args: str | None
    """The arguments as text; None where none came."""


def parse_target(target: str) -> Request:
    """Take ``/<bucket>/<object>?etl_fqn=...&etl_args=...`` apart. Raises NoSource where it names no object."""
    path, _, query = target.partition("?")
    name = unquote(path, errors="replace")[1:]
    bucket, _, rest = name.partition("/")
    if not path.startswith("/") or not bucket or not rest:
        raise NoSource("The request's path is not /<bucket>/<object>.")
    fields = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    fqn = fields.get("etl_fqn", "")
    arguments = fields.get("etl_args", "").strip()
    # Lone surrogates could not be written into an answer or a log.
    text = arguments.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Request(path, name, unquote(fqn, errors="surrogateescape") if fqn else None, text or None)


def read_body(
    stream: BinaryIO,
    into: Buffer,
    length: int | None,
    limit: int,
    deadline: float,
    connection: Socket | None = None,
) -> None:
    """The whole body: ``length`` bytes, or all chunks where it is None.

    Where ``stream`` has a ``readinto``, a body of known length is not copied on the way. ``deadline`` is in
    time.monotonic() seconds; ``connection`` gets a time-out while we read.
    Raises TooManyBytes (before reading, where the length says so), TruncatedBody or OutOfTime.
    """
    if length is not None and length > limit:
        raise TooManyBytes(f"The object has {length} bytes, more than the limit of {limit}.")
    readinto = getattr(stream, "readinto", None)
    whole = into.room(length) if length and readinto else None
    got = 0
    if connection is not None:
        connection.settimeout(_STALL)
    try:
        while length is None or got < length:
            if time.monotonic() > deadline:
                raise OutOfTime("The object's bytes came too slowly.")
            step = _STEP if length is None else min(_STEP, length - got)
            if whole is not None and readinto is not None:
                came = readinto(whole[got : got + step])
            else:
                part = stream.read(step)
                came = len(part)
                if got + came > limit:
                    raise TooManyBytes(f"The object has more bytes than the limit of {limit}.")
                into.room(got + came)[got:] = part
            if not came:
                break
            got += came
    except TooSlow as error:
        raise OutOfTime("The object's bytes came too slowly.") from error
    except (OSError, ValueError) as error:  # the server's word for chunks that end early, and a reset or a stall
        raise TruncatedBody(f"The object's body broke off after {got} bytes.") from error
    finally:
        if connection is not None:
            connection.settimeout(None)
    if length is not None and got < length:
        raise TruncatedBody(f"The object's body broke off after {got} of {length} bytes.")
    if time.monotonic() > deadline:
        raise OutOfTime("The object's bytes came too slowly.")
    into.length = got


def discard(stream: BinaryIO, deadline: float, connection: Socket | None = None) -> None:
    """Read the rest of a body that was refused, and forget it, until ``deadline``.

    Closing a connection while its sender writes resets it: the target would lose the answer and its reason,
    and repeat the object ten times.
    """
    if connection is not None:
        connection.settimeout(_STALL)
    with contextlib.suppress(OSError, ValueError):
        while time.monotonic() < deadline and stream.read(_STEP):
            pass
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.settimeout(None)


#: <mount>/**/@<provider>/<bucket, perhaps with @<uuid>#<namespace> before it>/%ob/<object>
_PROVIDER = re.compile(r"@[a-z]+")
_OBJECTS = "%ob"

#: Mounts that hold no target's disk. "/" is the container's own, and would allow everything.
_NOT_DISKS = re.compile(r"/|/(proc|sys|dev|etc|run|var/run)(/.*)?")


def mounts(table: Path = Path("/proc/self/mountinfo")) -> tuple[Path, ...]:
    """Folders mounted into this container that may be a target's disks; none where there is no such table."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()
    # The fifth field is the mount point, blanks and the like as \040 (proc_pid_mountinfo(5)).
    points = {re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in lines if line}
    disks = (Path(point) for point in sorted(points) if not _NOT_DISKS.fullmatch(point))
    return tuple(disk for disk in disks if disk.is_dir())


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: O_NONBLOCK: a FIFO would wait for a writer for ever. It changes nothing for a regular file.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _How(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_NUMBER = 437  # of openat2, on all architectures that have a container of ours
_NO_SYMLINKS, _BENEATH = 0x04, 0x08
_HOW = _How(_FILE, 0, _NO_SYMLINKS | _BENEATH)
_LONG, _POINTER = ctypes.c_long, ctypes.POINTER(_How)
_syscall = (
    ctypes.CFUNCTYPE(_LONG, _LONG, _LONG, ctypes.c_char_p, _POINTER, ctypes.c_size_t)(("syscall", ctypes.CDLL(None)))
    if sys.platform == "linux"
    else None
)


def _open_beneath(folder: int, name: bytes) -> int | None:
    """A descriptor of the file ``name`` leads to without leaving ``folder`` or following a link; None: it failed."""
    if _syscall is None:
        return None
    descriptor: int = _syscall(_NUMBER, folder, name, ctypes.byref(_HOW), ctypes.sizeof(_HOW))
    return descriptor if descriptor >= 0 else None


class Files:
    """Reads objects by file name, inside ``roots`` only.

    With ``roots`` None the roots are the mounts found, and a name must have the shape of an object's.
    """

    def __init__(self, roots: Sequence[Path] | None, limit: int, shards: int = 0) -> None:
        """``limit`` is in bytes; ``shards`` is that of tar archives, where it is larger."""
        self._limit = limit
        self._shards = max(limit, shards)
        self._any_shape = roots is not None
        # Resolved once: a root may be reached by a link, what is below it may not.
        found = [Path(os.path.realpath(root)) for root in (mounts() if roots is None else roots)]
        given = list(roots or ())
        # The longest first, so that a mount within a mount is found before the outer one.
        self._roots = sorted({*found, *given}, key=lambda root: len(root.parts), reverse=True)
        self._warned = False

    def open(self, fqn: str) -> tuple[int, int]:
        """A descriptor of the named file, to be closed by the caller, and the file's size in bytes.

        What was opened is what was checked: a regular file below a root, reached over no link, within the limit.
        Raises OutsideRoots, UnreadableFile, TooManyBytes, and FileGone where the file is not there and the
        folder of its bucket is.
        """
        root, parts, bucket = self._place(fqn)
        descriptor = self._open(root, parts, bucket)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFile("The named file is not a regular file.")
            if status.st_size > self._limit:
                limit = self._shards if _is_tar(descriptor) else self._limit
                if status.st_size > limit:
                    raise TooManyBytes(f"The object has {status.st_size} bytes, more than the limit of {limit}.")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status.st_size

    def read(self, fqn: str) -> bytes | IO[bytes]:
        """The file's bytes, or where it is a tar archive the file, opened, for the caller to close.

        Raises what :meth:`open` raises; also where the file grew or broke since.
        """
        descriptor, size = self.open(fqn)
        if _is_tar(descriptor):
            return os.fdopen(descriptor, "rb")
        try:
            return _read_all(descriptor, size, self._limit)
        except OSError as error:
            raise UnreadableFile(f"The object's file could not be read: {error.strerror}.") from error
        finally:
            os.close(descriptor)

    def _place(self, fqn: str) -> tuple[Path, list[str], int]:
        """The root, the names below it, and how many of these make the bucket's folder."""
        if not fqn.startswith("/") or "\0" in fqn:
            raise OutsideRoots("The file name is not a path from the root.")
        names = [name for name in fqn.split("/") if name not in ("", ".")]
        if ".." in names:
            raise OutsideRoots("The file name has .. in it.")
        if names[:1] in (["proc"], ["sys"]):  # were / a root: the secret stands in /proc/<id>/environ
            raise OutsideRoots("The file name is one of the kernel's own.")
        for root in self._roots:
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
        """Open what ``parts`` lead to below ``root``: no link, no race. Gives a descriptor.

        The kernel does it in one call. Where that fails, or there is no such call (Linux before 5.6, some sandboxes),
        each name is opened in the folder opened before, which tells why.
        """
        whole = os.fsencode("/".join(parts))
        try:
            folder = os.open(root, _FOLDER)
        except OSError as error:
            self._fail(error, bucket_is_there=False)
        descriptor = _open_beneath(folder, whole)
        if descriptor is not None:
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
        if not self._warned:  # once: every object of every job would say it again
            self._warned = True
            _log.error("NO FILE CAN BE READ BY NAME. %s", message)
        return message


def _is_tar(descriptor: int) -> bool:
    with contextlib.suppress(OSError):  # whoever reads it will say so
        return is_shard(os.pread(descriptor, 512, 0))
    return False


def _read_all(descriptor: int, size: int, limit: int) -> bytes:
    """All bytes: one read of ``size`` where the file is as large as it says; it may grow while it is read."""
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        data = file.read(size)
        while more := file.read(_STEP):
            data += more
            if len(data) > limit:
                raise TooManyBytes(f"The object has more bytes than the limit of {limit}.")
    return data
