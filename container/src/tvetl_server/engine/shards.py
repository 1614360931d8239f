"""Shards: a tar in, a tar out. Images move with their masks and boxes, other members pass through, in order."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol, cast

from tvetl.errors import ArgumentsError
from tvetl.spec import Arguments, Pipeline, parse_arguments
from tvetl.spec.shards import split_name
from tvetl.spec.text import BadText, load_json
from tvetl_server.engine.annotations import Annotations
from tvetl_server.engine.members import Kind, Member, Names, kind_of, new_names
from tvetl_server.engine.pixels import Size
from tvetl_server.engine.spool import Spool
from tvetl_server.errors import (
    BadAnnotations,
    BadArguments,
    DamagedImage,
    ObjectError,
    TooManyBytes,
    TooManyMembers,
    first_line,
)
from tvetl_server.limits import Limits

_BLOCK = 512
#: Bytes of a member that tell whether it is an image.
_HEAD = 512
#: Bytes of a member with boxes.
_BOXES = 2**20
#: What a member is, in messages.
_NOUNS: Mapping[Kind, str] = {"image": "an image", "mask": "a mask by the pipeline's mask_members or role"}
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


@dataclass(frozen=True)
class Transformed:
    """An image or a mask of a shard, transformed."""

    body: bytes
    size: Size
    """Width and height before."""
    annotations: Annotations | None = None
    """Where boxes or keypoints were given with it."""


class Transform(Protocol):
    """Transforms one image or mask of the sample ``key``; an image with the boxes and keypoints of ``annotated``."""

    def __call__(self, content: bytes, key: str, *, is_mask: bool, annotated: Arguments | None) -> Transformed: ...


def transform_shard(file: IO[bytes], pipeline: Pipeline, limits: Limits, transform: Transform) -> Spool:
    """The archive with what ``transform`` makes in place of each image and mask, and boxes moved alike.

    It holds one image in memory, and the start of the result. It raises

    - TooManyMembers;
    - TooManyBytes where members claim more than the limits (a sparse file may), or the result has no room;
    - DamagedImage where the archive is cut short or broken;
    - BadShard where a member would be called as another one is, or two are one extension of one sample;
    - BadAnnotations where a mask is not as large as the image of its sample, or boxes are not those of one image;
    - NotAnImage for an image of a kind that is not read: passed on, it would look as if it had been transformed;
    - what ``transform`` raises, with the member's name. One image that fails fails the shard: nobody would notice that
      they train on half of one.
    """
    result = Spool(limits)
    try:
        _transform(file, result, pipeline, limits, transform)
    except BaseException:
        result.close()
        raise
    return result


def _transform(file: IO[bytes], result: Spool, pipeline: Pipeline, limits: Limits, transform: Transform) -> None:
    with _as_damaged_image():
        source = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  the next line closes it
    with source, tarfile.TarFile(fileobj=cast("IO[bytes]", result), mode="w", format=tarfile.PAX_FORMAT) as target:
        names = Names()
        for sample in _samples(_members(source, pipeline, limits)):
            contents = _Sample(sample, source, limits, transform)
            for member, name in zip(sample, new_names(sample, pipeline), strict=True):
                names.add(member.info.name, name)
                content = contents.content(member)
                info = member.info
                info.name, info.pax_headers = name, {}  # the source's own, a length among them, would be written too
                if info.type == tarfile.LNKTYPE:
                    info.linkname = names.of(info.linkname)
                info.size = len(content) if isinstance(content, bytes) else info.size if content else 0
                info.type = tarfile.REGTYPE if content is not None else info.type  # a sparse file comes out whole
                target.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else content)
                _forget(target)
            contents.check_sizes()
        # tarfile ends without a word where a header is cut off; the end mark is a block of zeros.
        file.seek(source.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise DamagedImage("The shard is damaged: it ends without its end mark.")


def _members(source: tarfile.TarFile, pipeline: Pipeline, limits: Limits) -> Iterator[Member]:
    """Each member as its header and its first bytes show it."""
    total = 0
    with _as_damaged_image():
        for count, info in enumerate(source, start=1):
            _forget(source)
            if count > limits.max_members:
                raise TooManyMembers(f"The shard has more than the {limits.max_members:,} members allowed.")
            if info.size < 0:
                raise DamagedImage(f"The shard is damaged: {info.name!r} has less than nothing.")
            total += info.size
            if total > limits.max_shard_bytes:
                raise TooManyBytes(f"The shard's members have more bytes than the limit of {limits.max_shard_bytes}.")
            parts = split_name(info.name)
            file = source.extractfile(info) if info.isfile() and parts else None
            if parts and file:
                yield Member(info, parts[0], kind_of(info.name, parts[1], file.read(_HEAD), pipeline))
            else:
                yield Member(info)


def _samples(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Members of one key that follow one another, and what is part of no sample between them."""
    sample: list[Member] = []
    key = ""
    for member in members:
        if (key and member.key and member.key != key) or len(sample) >= _TOGETHER:
            yield sample
            sample, key = [], ""
        sample.append(member)
        key = member.key or key
    yield sample


class _Sample:
    """Members of one key: what belongs to an image moves with it."""

    def __init__(
        self, members: Sequence[Member], source: tarfile.TarFile, limits: Limits, transform: Transform
    ) -> None:
        self._source = source
        self._limits = limits
        self._transform = transform
        self._images = [member for member in members if member.kind == "image"]
        self._boxes = [member for member in members if member.kind == "boxes"]
        #: The JSON object in the member with boxes, and the boxes and keypoints of it, once it is read.
        self._given: tuple[dict[str, object], Arguments] | None = None
        #: By name: the size of each image or mask before, in pixels.
        self._sizes: dict[str, tuple[Kind, Size]] = {}
        #: The image and its boxes, made together, until each is written; by the id of the member.
        self._made: dict[int, bytes] = {}

    def content(self, member: Member) -> bytes | _MemberFile | None:
        """A member's content in the result: bytes if it is transformed, else a file to copy, or None if it has none."""
        if not member.kind:
            with _as_damaged_image():
                file = self._source.extractfile(member.info) if member.info.isfile() else None
            return _MemberFile(file) if file else None
        if not self._boxes:
            return self._transformed(member, None).body
        data, annotated = self._given = self._given or self._annotated()
        if member.kind == "mask":  # what its image draws may depend on the boxes
            return self._transformed(member, annotated).body
        if not self._made:
            made = self._transformed(self._images[0], annotated)
            assert made.annotations is not None
            self._made = {
                id(self._images[0]): made.body,
                id(self._boxes[0]): json.dumps(_moved(data, made.annotations)).encode(),
            }
        return self._made.pop(id(member))

    def check_sizes(self) -> None:
        """Raises BadAnnotations where a mask was not as large as the one image of its sample."""
        images = [(name, size) for name, (kind, size) in self._sizes.items() if kind == "image"]
        for name, (kind, size) in self._sizes.items():
            if kind == "mask" and len(images) == 1 and size != images[0][1]:
                (image, of), width_height = images[0], "{0[0]} x {0[1]} pixels"
                raise BadAnnotations(
                    f"The mask {name!r} has {width_height.format(size)}, and its image {image!r} "
                    f"{width_height.format(of)} (width x height)."
                )

    def _annotated(self) -> tuple[dict[str, object], Arguments]:
        """What the member with boxes holds. Raises BadAnnotations."""
        boxes, *others = self._boxes
        name = boxes.info.name
        if others:
            raise BadAnnotations(f"The sample {boxes.key!r} has boxes twice, in {name!r} and {others[0].info.name!r}.")
        if len(self._images) != 1:
            raise BadAnnotations(
                f"{name!r} has the boxes of one image, but its sample {boxes.key!r} has {len(self._images)} images."
            )
        data = _json(name, self._read(boxes, _BOXES))
        try:
            return data, parse_arguments({each: data[each] for each in ("boxes", "keypoints") if each in data})
        except ArgumentsError as error:
            raise BadAnnotations(f"In {name!r}: {error}.") from error

    def _transformed(self, member: Member, annotated: Arguments | None) -> Transformed:
        content = self._read(member, self._limits.max_bytes)
        try:
            made = self._transform(content, member.key, is_mask=member.kind == "mask", annotated=annotated)
        except ObjectError as error:
            raise type(error)(f"In {member.info.name!r}: {error}") from error
        except ArgumentsError as error:  # of what this member is, as the pipeline says
            raise BadArguments(f"In {member.info.name!r}, which is {_NOUNS[member.kind]}: {error}.") from error
        self._sizes[member.info.name] = member.kind, made.size
        return made

    def _read(self, member: Member, most: int) -> bytes:
        info = member.info
        if info.size > most:
            raise TooManyBytes(f"{info.name!r} has more bytes than the limit of {most}.")
        with _as_damaged_image():
            file = self._source.extractfile(info)
            return file.read() if file else b""


def _json(name: str, content: bytes) -> dict[str, object]:
    """The object in a member with boxes. Raises BadAnnotations."""
    try:
        data = load_json(content.decode(), _BOXES)
    except (BadText, UnicodeDecodeError) as error:
        raise BadAnnotations(f"{name!r} is not valid: {first_line(error)}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("boxes"), list):
        raise BadAnnotations(f'{name!r} is no JSON object with "boxes", a list of [x1, y1, x2, y2].')
    return data


def _moved(data: dict[str, object], moved: Annotations) -> dict[str, object]:
    """The same object with the moved coordinates, ``kept``, and of its list ``labels`` those of the remaining boxes."""
    assert moved.boxes is not None and moved.kept is not None
    kept = moved.kept.tolist()
    result = {**data, "boxes": moved.boxes.tolist(), "kept": kept}
    if moved.keypoints is not None:
        result["keypoints"] = moved.keypoints.tolist()
    labels, before = data.get("labels"), data["boxes"]
    if isinstance(labels, list) and isinstance(before, list) and len(labels) == len(before):
        result["labels"] = [labels[place] for place in kept]
    return result


def _forget(archive: tarfile.TarFile) -> None:
    """Clear the archive's list of members, which grows by a kilobyte for each."""
    archive.members.clear()  # type: ignore[attr-defined]


class _MemberFile(io.RawIOBase):
    """A member as a file to copy: an error while it is read is DamagedImage, one while the copy is written is not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        with _as_damaged_image():
            return self._file.read(size)


@contextlib.contextmanager
def _as_damaged_image() -> Iterator[None]:
    """Whatever is raised while the archive is read becomes DamagedImage."""
    try:
        yield
    except ObjectError:
        raise
    except Exception as error:  # by what is broken, tarfile lets ValueError, EOFError, OverflowError, ... through
        raise DamagedImage(f"The shard is damaged: {first_line(error)}.") from error
