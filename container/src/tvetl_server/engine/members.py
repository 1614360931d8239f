"""The members of a shard: which of them are transformed as what, and what they are called in the result."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from tvetl.spec import Pipeline
from tvetl.spec.shards import IMAGES, split_name
from tvetl_server.engine.decode import format_of
from tvetl_server.errors import BadShard, NotAnImage

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

#: What a member is to be transformed as; "" for what passes through.
Kind = Literal["", "image", "mask", "boxes"]


@dataclass
class Member:
    """A member, its key (empty for what is part of no sample), and what it is to be transformed as."""

    info: tarfile.TarInfo
    key: str = ""
    kind: Kind = ""


def kind_of(name: str, extension: str, head: bytes, pipeline: Pipeline) -> Kind:
    """The kind that a member is transformed as. Raises NotAnImage where it is an image of a kind that is not read."""
    if extension in pipeline.box_members:
        return "boxes"
    ending, format = extension.rpartition(".")[2], format_of(head)
    unread = ending in _UNREAD and format not in _READ
    if ending not in IMAGES and (unread or any(head.startswith(magic, offset) for offset, magic in _UNREAD_MAGIC)):
        raise NotAnImage(
            f"{name!r} is an image of a kind that is not read. Store it as JPEG or PNG, or leave it out of the shard."
        )
    if extension in pipeline.mask_members:
        return "mask"
    if ending in IMAGES or (format is not None and (format != "BMP" or _BMP.match(head))):
        return pipeline.role
    return ""


def new_names(sample: list[Member], pipeline: Pipeline) -> list[str]:
    """The names of a sample's members in the result.

    An image is called by its new format, and its mask as the PNG that it becomes. Where another member is called so,
    the ending comes behind the name that it has: beside ``0001.npy``, ``0001.jpg`` becomes ``0001.jpg.npy``. Raises
    BadShard where WebDataset would find an extension twice.
    """
    old = [member.info.name for member in sample]
    _each_once(sample, old)
    by_kind: dict[Kind, str] = {"": "", "boxes": "", "mask": "png", pipeline.role: pipeline.output.format}
    formats = [by_kind[member.kind] for member in sample]
    new = [_renamed(name, its) if its else name for name, its in zip(old, formats, strict=True)]
    taken = Counter(name.lower() for name in new)
    for at, name in enumerate(old):
        if new[at] != name and taken[new[at].lower()] > 1:
            new[at] = f"{name}.{_ending(formats[at])}"
    _each_once(sample, new)
    return new


def _each_once(sample: list[Member], names: list[str]) -> None:
    """Raises BadShard where two of these names are one extension of one sample."""
    first: dict[tuple[str, str], int] = {}
    for at, (member, name) in enumerate(zip(sample, names, strict=True)):
        parts = split_name(name)
        if member.key and parts and (other := first.setdefault(parts, at)) != at:
            raise BadShard(
                f"The sample {member.key!r} has the extension {parts[1]!r} twice, by {sample[other].info.name!r} and "
                f"{member.info.name!r}. Give each member of a sample an extension of its own."
            )


def _ending(format: str) -> str:
    return _KINDS[format][0] if format in _KINDS else format


def _renamed(name: str, format: str) -> str:
    stem, _, old = name.rpartition(".")
    return name if old.lower() in _KINDS.get(format, ()) else f"{stem}.{_ending(format)}"


class Names:
    """The names in the result, each of one name in the source. By digests, as names may be long."""

    def __init__(self) -> None:
        self._source: dict[bytes, bytes] = {}
        #: How much of the old name is in the new one, and the ending behind it.
        self._kept: dict[bytes, tuple[int, str]] = {}

    def add(self, old: str, new: str) -> None:
        """Take ``new`` for the member ``old``; raises BadShard where a member of another name has it."""
        source = _digest(old)
        if self._source.setdefault(_digest(new), source) != source:
            raise BadShard(
                f"{old!r} would be called {new!r}, as another member of the shard is. "
                "Put the members of a sample one after the other, and call no two alike."
            )
        if new != old:
            stem, _, ending = new.rpartition(".")
            self._kept[source] = len(stem), ending

    def of(self, name: str) -> str:
        """What the member that had this name is called now."""
        kept = self._kept.get(_digest(name))
        return name if kept is None else f"{name[: kept[0]]}.{kept[1]}"


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
