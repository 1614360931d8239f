"""Shards: a tar in, a tar out. Images are transformed, other members pass through, in order."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, cast

from tvetl.spec import Output
from tvetl_server.engine.decode import format_of
from tvetl_server.engine.spool import Spool
from tvetl_server.errors import (
    DamagedImage,
    ObjectError,
    TooManyBytes,
    TooManyMembers,
    TransformFailed,
    first_line,
)
from tvetl_server.limits import Limits

#: What a member is called that is meant to be an image; one that is none is an error, not something to pass on.
_ENDINGS = frozenset(("jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"))
#: What a result is called: an image that is one of the same kind keeps its ending.
_KINDS = {"jpeg": ("jpg", "jpeg", "jpe"), "png": ("png",), "webp": ("webp",)}
_BLOCK = 512
#: Bytes of a member that tell whether it is an image.
_HEAD = 64


def is_shard(head: bytes) -> bool:
    """Whether it is a tar archive: ustar, GNU or pax, not compressed. ``head`` is 512 bytes of it, or all."""
    return head[257:262] == b"ustar"


def transform_shard(file: IO[bytes], output: Output, limits: Limits, transform: Callable[[bytes, str], bytes]) -> Spool:
    """The archive with ``transform(content, name of the member)`` in place of each image.

    It holds one image in memory, and the start of the result. It raises

    - TooManyMembers;
    - TooManyBytes where members claim more than the limits (a sparse file may), or the result has no room;
    - DamagedImage where the archive is cut short or broken;
    - what ``transform`` raises, with the member's name. One image that fails fails the shard: nobody would notice that
      they train on half of one.
    """
    result = Spool(limits)
    try:
        _transform(file, result, output, limits, transform)
    except BaseException:
        result.close()
        raise
    return result


def _transform(
    file: IO[bytes], result: Spool, output: Output, limits: Limits, transform: Callable[[bytes, str], bytes]
) -> None:
    with _damage():
        source = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  the next line closes it
    with source, tarfile.TarFile(fileobj=cast("IO[bytes]", result), mode="w", format=tarfile.PAX_FORMAT) as target:
        names: set[str] = set()
        for member, content in _members(source, limits):
            member.pax_headers = {}  # the source's own, a length among them, would be written as they were
            given: _Careful | io.BytesIO | None
            if isinstance(content, bytes):
                done = _transformed(transform, content, member.name)
                member.name = _named(member.name, output.format)
                if member.name in names:
                    raise TransformFailed(f"Two images of the shard would both be called {member.name!r}.")
                names.add(member.name)
                member.size, given = len(done), io.BytesIO(done)
            else:
                given, member.size = content, member.size if content else 0
            member.type = tarfile.REGTYPE if given else member.type  # a sparse file comes out whole
            target.addfile(member, given)
            _forget(target)
        # tarfile ends without a word where a header is cut off; the end mark is a block of zeros.
        file.seek(source.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise DamagedImage("The shard is damaged: it ends without its end mark.")


def _members(source: tarfile.TarFile, limits: Limits) -> Iterator[tuple[tarfile.TarInfo, bytes | _Careful | None]]:
    """Each member, and of an image its bytes, of another file what it can be read from."""
    said = 0
    with _damage():
        for count, member in enumerate(source, start=1):
            _forget(source)
            if count > limits.max_members:
                raise TooManyMembers(f"The shard has more than the {limits.max_members:,} members allowed.")
            if member.size < 0:
                raise DamagedImage(f"The shard is damaged: {member.name!r} has less than nothing.")
            said += member.size
            if said > limits.max_shard_bytes:
                raise TooManyBytes(f"The shard's members have more bytes than the limit of {limits.max_shard_bytes}.")
            file = source.extractfile(member) if member.isfile() else None
            if file is None:
                yield member, None
            elif _is_image(member.name, file.read(_HEAD)):
                if member.size > limits.max_bytes:
                    raise TooManyBytes(f"{member.name!r} has more bytes than the limit of {limits.max_bytes}.")
                file.seek(0)
                yield member, file.read()
            else:
                file.seek(0)
                yield member, _Careful(file)


def _forget(archive: tarfile.TarFile) -> None:
    """It would remember all its members, a kilobyte each."""
    archive.members.clear()  # type: ignore[attr-defined]


class _Careful(io.RawIOBase):
    """A member, of which what cannot be read is the archive's damage, and what cannot be written is not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        with _damage():
            return self._file.read(size)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """What is thrown while the archive is read is its damage."""
    try:
        yield
    except ObjectError:
        raise
    except Exception as error:  # by what is broken, tarfile lets ValueError, EOFError, OverflowError, ... through
        raise DamagedImage(f"The shard is damaged: {first_line(error)}.") from error


def _is_image(name: str, head: bytes) -> bool:
    return name.rpartition(".")[2].lower() in _ENDINGS or format_of(head) is not None


def _transformed(transform: Callable[[bytes, str], bytes], content: bytes, name: str) -> bytes:
    try:
        return transform(content, name)
    except ObjectError as error:
        raise type(error)(f"In {name!r}: {error}") from error


def _named(name: str, format: str) -> str:
    stem, _, ending = name.rpartition(".")
    same = ending.lower() in _KINDS.get(format, ())
    return name if same else f"{stem or name}.{_KINDS[format][0] if format in _KINDS else format}"
