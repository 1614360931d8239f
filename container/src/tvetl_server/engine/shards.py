"""Shards: a tar in, a tar out; its images are transformed and all else passes through, in order."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterator

from tvetl.spec import Output
from tvetl_server.engine.decode import format_of
from tvetl_server.errors import (
    DamagedImage,
    ObjectError,
    TooManyBytes,
    TooManyMembers,
    TransformFailed,
    first_line,
)
from tvetl_server.settings import Limits

#: What a member is called that is meant to be an image; one that is none is an error, not something to pass on.
_ENDINGS = frozenset(("jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"))
#: What a result is called: an image that is one of the same kind keeps its ending.
_KINDS = {"jpeg": ("jpg", "jpeg", "jpe"), "png": ("png",), "webp": ("webp",)}
_BLOCK = 512


def is_shard(data: bytes) -> bool:
    """Whether it is a tar archive: ustar, GNU or pax, not compressed."""
    return data[257:262] == b"ustar"


def transform_shard(data: bytes, output: Output, limits: Limits, transform: Callable[[bytes, str], bytes]) -> bytes:
    """The archive with ``transform(content, name of the member)`` in place of each image.

    Raises TooManyMembers, TooManyBytes where members are said to be larger than an object may be (a sparse file may say
    anything), DamagedImage where the archive is cut short or broken, and whatever ``transform`` raises, naming the
    member: one image that fails is the whole shard's failure, for half a shard would be trained on without a word.
    """
    buffer = io.BytesIO()
    with _damage():
        source = tarfile.open(fileobj=io.BytesIO(data), mode="r:")  # noqa: SIM115  the next line closes it
    with source, tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as result:
        results: set[str] = set()
        for member, content in _members(source, limits):
            member.pax_headers = {}  # the source's own, a length among them, would be written as they were
            if content is not None and _is_image(member.name, content):
                content = _transformed(transform, content, member.name)
                member.name = _named(member.name, output.format)
                if member.name in results:
                    raise TransformFailed(f"Two images of the shard would both be called {member.name!r}.")
                results.add(member.name)
            member.type = member.type if content is None else tarfile.REGTYPE  # a sparse file comes out whole
            member.size = len(content or b"")
            result.addfile(member, io.BytesIO(content) if content is not None else None)
        # tarfile ends without a word where a header is cut off; the end mark is a block of zeros.
        if data[source.offset : source.offset + _BLOCK] != bytes(_BLOCK):
            raise DamagedImage("The shard is damaged: it ends without its end mark.")
    return buffer.getvalue()


def _members(source: tarfile.TarFile, limits: Limits) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Each member, and its content if it is a file."""
    said = 0
    with _damage():
        for count, member in enumerate(source, start=1):
            if count > limits.max_members:
                raise TooManyMembers(f"The shard has more than the {limits.max_members:,} members allowed.")
            said += max(0, member.size)
            if said > limits.max_bytes:
                raise TooManyBytes(f"The shard's members have more bytes than the limit of {limits.max_bytes}.")
            file = source.extractfile(member) if member.isfile() else None
            yield member, file.read() if file else None


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """What is thrown while the archive is read is its damage."""
    try:
        yield
    except ObjectError:
        raise
    except Exception as error:  # by what is broken, tarfile lets ValueError, EOFError, OverflowError, ... through
        raise DamagedImage(f"The shard is damaged: {first_line(error)}.") from error


def _is_image(name: str, content: bytes) -> bool:
    return name.rpartition(".")[2].lower() in _ENDINGS or format_of(content) is not None


def _transformed(transform: Callable[[bytes, str], bytes], content: bytes, name: str) -> bytes:
    try:
        return transform(content, name)
    except ObjectError as error:
        raise type(error)(f"In {name!r}: {error}") from error


def _named(name: str, format: str) -> str:
    stem, _, ending = name.rpartition(".")
    same = ending.lower() in _KINDS.get(format, ())
    return name if same else f"{stem or name}.{_KINDS[format][0] if format in _KINDS else format}"
