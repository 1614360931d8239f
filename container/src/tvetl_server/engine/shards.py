"""Shards: a tar in, a tar out. Images are transformed, other members pass through, in order."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from tvetl.spec import Output
from tvetl.spec.shards import IMAGES, split_name
from tvetl_server.engine.decode import format_of
from tvetl_server.engine.spool import Spool
from tvetl_server.errors import (
    BadShard,
    DamagedImage,
    NotAnImage,
    ObjectError,
    TooManyBytes,
    TooManyMembers,
    first_line,
)
from tvetl_server.limits import Limits

#: What images are called that are not read. Camera raws are here, as what a TIFF reader finds in most is a thumbnail.
_UNREAD = frozenset(
    (  # noqa: SIM905  as a list it would be a screen
        "tga jp2 j2k j2c jpc jpf jpx jxl jxr wdp hdp heic heif hif psd psb ico cur icns pcx dds exr pfm pam qoi "
        "sgi xpm xbm svg svgz eps fits dcm dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef "
        "srw x3f 3fr erf kdc mrw rwl iiq"
    ).split()
)
#: How the files of such images begin. Short beginnings, which other data may have, are left to the name.
_UNREAD_MAGIC: tuple[tuple[int, bytes], ...] = (
    (0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    (0, b"\xff\x4f\xff\x51"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n"),
    *((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"crx ")),
    (0, b"8BPS\0"),
    (0, b"v/1\x01"),
    (0, b"DDS \x7c\0\0\0"),
    (0, b"#?RADIANCE\n"),
    (0, b"FUJIFILMCCD-RAW"),
    (0, b"IIRO\x08\0"),
    (0, b"IIU\0"),
)
#: Formats that no such image begins like, whatever it is called: most raws begin as a TIFF.
_READ = ("JPEG", "PNG", "WEBP", "GIF")
#: A BMP begins with two letters, as a caption may, then its size and zeros.
_BMP = re.compile(rb"BM.{4}\0{4}", re.DOTALL)
#: What a result is called: an image that is one of the same kind keeps its ending.
_KINDS = {"jpeg": ("jpg", "jpeg", "jpe", "jfif"), "png": ("png",), "webp": ("webp",)}
_BLOCK = 512
#: Bytes of a member that tell whether it is an image.
_HEAD = 512
#: Members of one sample whose headers are held, a kilobyte each.
_TOGETHER = 1000


def is_shard(head: bytes, name: str) -> bool:
    """Whether it is a tar archive, not compressed. ``head`` is 512 bytes of it, or all.

    ustar, GNU and pax show it themselves. Only under a ``name`` that ends in .tar are the others known: the oldest
    format (v7), by its checksum, and an archive without members. That is zeros, as a photograph that a disk lost is.
    """
    if head[257:262] == b"ustar" or not name.endswith(".tar"):
        return head[257:262] == b"ustar"
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return head[:_BLOCK] == bytes(_BLOCK)
    return True


def transform_shard(file: IO[bytes], output: Output, limits: Limits, transform: Callable[[bytes, str], bytes]) -> Spool:
    """The archive with ``transform(content, key of the sample)`` in place of each image.

    It holds one image in memory, and the start of the result. It raises

    - TooManyMembers;
    - TooManyBytes where members claim more than the limits (a sparse file may), or the result has no room;
    - DamagedImage where the archive is cut short or broken;
    - BadShard where a member would be called as another one is, or two are one extension of one sample;
    - NotAnImage for an image of a kind that is not read: passed on, it would look as if it had been transformed;
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


@dataclass
class _Member:
    """A member, its key (empty for what is part of no sample), and whether it is an image to transform."""

    info: tarfile.TarInfo
    key: str = ""
    is_image: bool = False


def _transform(
    file: IO[bytes], result: Spool, output: Output, limits: Limits, transform: Callable[[bytes, str], bytes]
) -> None:
    with _damage():
        source = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  the next line closes it
    with source, tarfile.TarFile(fileobj=cast("IO[bytes]", result), mode="w", format=tarfile.PAX_FORMAT) as target:
        names = _Names(output.format)
        for sample in _samples(_members(source, limits)):
            for member, name in zip(sample, _new_names(sample, output.format), strict=True):
                names.add(member.info.name, name)
                given = _content(source, member, limits, transform)
                info = member.info
                info.name, info.pax_headers = name, {}  # the source's own, a length among them, would be written too
                if info.type == tarfile.LNKTYPE:
                    info.linkname = names.of(info.linkname)
                info.size = len(given) if isinstance(given, bytes) else info.size if given else 0
                info.type = tarfile.REGTYPE if given is not None else info.type  # a sparse file comes out whole
                target.addfile(info, io.BytesIO(given) if isinstance(given, bytes) else given)
                _forget(target)
        # tarfile ends without a word where a header is cut off; the end mark is a block of zeros.
        file.seek(source.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise DamagedImage("The shard is damaged: it ends without its end mark.")


def _members(source: tarfile.TarFile, limits: Limits) -> Iterator[_Member]:
    """Each member as its header and its first bytes show it."""
    said = 0
    with _damage():
        for count, info in enumerate(source, start=1):
            _forget(source)
            if count > limits.max_members:
                raise TooManyMembers(f"The shard has more than the {limits.max_members:,} members allowed.")
            if info.size < 0:
                raise DamagedImage(f"The shard is damaged: {info.name!r} has less than nothing.")
            said += info.size
            if said > limits.max_shard_bytes:
                raise TooManyBytes(f"The shard's members have more bytes than the limit of {limits.max_shard_bytes}.")
            found = split_name(info.name)
            file = source.extractfile(info) if info.isfile() and found else None
            if found and file:
                yield _Member(info, found[0], _is_image(info.name, found[1], file.read(_HEAD)))
            else:
                yield _Member(info)


def _samples(members: Iterable[_Member]) -> Iterator[list[_Member]]:
    """Members of one key that follow one another, and what is part of no sample between them."""
    sample: list[_Member] = []
    key = ""
    for member in members:
        if (key and member.key and member.key != key) or len(sample) >= _TOGETHER:
            yield sample
            sample, key = [], ""
        sample.append(member)
        key = member.key or key
    yield sample


def _is_image(name: str, extension: str, head: bytes) -> bool:
    """Whether it is to be transformed. Raises NotAnImage where it is an image of a kind that is not read."""
    ending, format = extension.rpartition(".")[2], format_of(head)
    if ending in IMAGES:
        return True
    unread = ending in _UNREAD and format not in _READ
    if unread or any(head.startswith(magic, offset) for offset, magic in _UNREAD_MAGIC):
        raise NotAnImage(
            f"{name!r} is an image of a kind that is not read. Store it as JPEG or PNG, or leave it out of the shard."
        )
    return format is not None and (format != "BMP" or bool(_BMP.match(head)))


def _content(
    source: tarfile.TarFile, member: _Member, limits: Limits, transform: Callable[[bytes, str], bytes]
) -> bytes | _Careful | None:
    """What the result has of it: of an image its bytes, of another file what it can be read from."""
    info = member.info
    if not member.is_image:
        with _damage():
            file = source.extractfile(info) if info.isfile() else None
        return _Careful(file) if file else None
    if info.size > limits.max_bytes:
        raise TooManyBytes(f"{info.name!r} has more bytes than the limit of {limits.max_bytes}.")
    with _damage():
        file = source.extractfile(info)
        content = file.read() if file else b""
    try:
        return transform(content, member.key)
    except ObjectError as error:
        raise type(error)(f"In {info.name!r}: {error}") from error


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


def _new_names(sample: list[_Member], format: str) -> list[str]:
    """What the members of a sample are called in the result.

    An image is called by its new format. Where another member is called so, the ending comes behind the name that it
    has: beside ``0001.npy``, ``0001.jpg`` becomes ``0001.jpg.npy``. Raises BadShard where WebDataset would find an
    extension twice.
    """
    old, ending = [member.info.name for member in sample], _ending(format)
    _each_once(sample, old)
    new = [_renamed(name, format, ending) if m.is_image else name for m, name in zip(sample, old, strict=True)]
    taken = Counter(name.lower() for name in new)
    for at, name in enumerate(old):
        if new[at] != name and taken[new[at].lower()] > 1:
            new[at] = f"{name}.{ending}"
    _each_once(sample, new)
    return new


def _each_once(sample: list[_Member], names: list[str]) -> None:
    """Raises BadShard where two of these names are one extension of one sample."""
    first: dict[tuple[str, str], int] = {}
    for at, (member, name) in enumerate(zip(sample, names, strict=True)):
        found = split_name(name)
        if member.key and found and (other := first.setdefault(found, at)) != at:
            raise BadShard(
                f"The sample {member.key!r} has the extension {found[1]!r} twice, by {sample[other].info.name!r} and "
                f"{member.info.name!r}. Give each member of a sample an extension of its own."
            )


def _ending(format: str) -> str:
    return _KINDS[format][0] if format in _KINDS else format


def _renamed(name: str, format: str, ending: str) -> str:
    stem, _, old = name.rpartition(".")
    return name if old.lower() in _KINDS.get(format, ()) else f"{stem}.{ending}"


class _Names:
    """The names in the result, each of one name in the source. By digests, as names may be long."""

    def __init__(self, format: str) -> None:
        self._ending = _ending(format)
        self._source: dict[bytes, bytes] = {}
        #: How much of the old name is in the new one, before the ending.
        self._kept: dict[bytes, int] = {}

    def add(self, old: str, new: str) -> None:
        """Take ``new`` for the member ``old``; raises BadShard where a member of another name has it."""
        source = _digest(old)
        if self._source.setdefault(_digest(new), source) != source:
            raise BadShard(
                f"{old!r} would be called {new!r}, as another member of the shard is. "
                "Put the members of a sample one after the other, and call no two alike."
            )
        if new != old:
            self._kept[source] = len(new) - len(self._ending) - 1

    def of(self, name: str) -> str:
        """What the member that had this name is called now."""
        kept = self._kept.get(_digest(name))
        return name if kept is None else f"{name[:kept]}.{self._ending}"


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
