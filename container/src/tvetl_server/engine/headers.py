"""Checks a file's structure against the limits before a decoder spends memory or time on it.

Pillow checks a size only after opening. By then libwebp has allocated its canvas (8 bytes a pixel), and a GIF's first
frame may be decoded. Pillow counts the frames of a GIF or TIFF by opening each of them. libjpeg goes over the whole
image for each scan of a JPEG. So each format is walked here, as far as needed and no further than its limit. A walk
ends silently at anything unexpected: the decoder reports what is damaged.

Sources: ITU-T T.81 annex B (JPEG), the PNG specification (third edition, with APNG), GIF89a, TIFF 6.0 and BigTIFF,
RFC 9649 (WebP), ISO/IEC 14496-12 (the boxes of AVIF), netpbm's ppm(5), pgm(5) and pbm(5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping

from tvetl_server.engine.native import native
from tvetl_server.errors import DamagedImage, TooManyFrames, TooManyPixels
from tvetl_server.limits import Limits

#: Scans of a JPEG. Encoders write 10, optimisers some more. A scan costs up to 30 ms for the largest image allowed, and
#: can be as short as ten bytes.
MAX_SCANS = 100
#: Segments before the first scan of a JPEG. A colour profile may take 255, XMP with a depth map some hundreds.
MAX_SEGMENTS = 4096
#: EXIF segments of a JPEG. The standard has one; Pillow concatenates them in quadratic time.
MAX_EXIF_SEGMENTS = 16
#: Bytes between the segments before the first scan of a JPEG, and before the pixels of a PPM. Pillow skips them one by
#: one.
MAX_JUNK = 64 * 1024
#: Chunks of a PNG. The usual 8 KiB of data in each make 32,768 of the largest file allowed.
MAX_CHUNKS = 100_000
#: Compressed texts and colour profiles of a PNG, of which Pillow inflates up to 1 MiB each.
MAX_COMPRESSED = 64
#: Entries of a TIFF's directory. Baseline TIFF and its extensions define some 200 tags.
MAX_TAGS = 4096
#: Numbers in one entry of a TIFF's directory, each of which becomes a Python object. Enough for 262,144 strips.
MAX_VALUES = 2**18


def check(data: bytes, kind: str, limits: Limits) -> tuple[int, int] | None:
    """Refuse a file whose structure exceeds the limits. ``kind`` is Pillow's name of its format, by its first bytes.

    Returns where the coded pixels of a JPEG begin and end, if it is one scan without markers. Raises TooManyPixels and
    TooManyFrames beyond ``limits``, and DamagedImage where the file has more parts than any image of its kind needs.
    """
    walk = _WALKS.get(kind)
    try:
        return walk(data, limits) if walk else None
    except (struct.error, IndexError, OverflowError):  # it ends in the middle, or points beyond all ends
        return None


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raises TooManyPixels where an image of this size is too large."""
    if width * height > limits.max_pixels:
        raise TooManyPixels(f"{width} x {height} pixels, more than the {limits.max_pixels:,} allowed.")


def check_frames(frames: int, limits: Limits, *, counting: bool = False) -> None:
    """Raises TooManyFrames. ``counting``: the number is that of frames so far."""
    if frames > limits.max_frames:
        raise TooManyFrames(
            f"{frames:,} frames{' or more' if counting else ''}, more than the {limits.max_frames:,} allowed."
        )


def _too_many(parts: str, limit: int) -> DamagedImage:
    return DamagedImage(f"The image is damaged: more than {limit:,} {parts}.")


# --- JPEG -----------------------------------------------------------------------------------------------------

_SCAN = 0xDA
_END = 0xD9
#: Markers with no length behind them: RST0..7, SOI, EOI, JPG and JPG0..13, as Pillow has it.
_BARE = frozenset([0x00, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)])
_SEGMENTS = frozenset(range(0xC0, 0xFF)) - _BARE - {_SCAN}
#: In a scan 0xff is written as 0xff 0x00 (T.81, B.1.1.5) and restarts are 0xff 0xd0..0xd7; anything else behind it
#: ends the scan, but for 0xff itself, which may fill the room before a marker.
_MARKER = re.compile(rb"\xff[^\0]", re.DOTALL)
_ENDS_SCAN = re.compile(rb"\xff[^\0\xd0-\xd7\xff]", re.DOTALL)
_u16 = struct.Struct(">H").unpack_from
_segment = struct.Struct(">BBH").unpack_from
_length_and_kind = struct.Struct(">I4s").unpack_from  # of a PNG's chunk and an AVIF's box


def _marker(data: bytes, start: int) -> int:
    """Where the next marker is, from ``start`` on; -1 where there is none."""
    if native is not None:
        return int(native.marker(data, start))
    match = _MARKER.search(data, start)
    return match.start() if match else -1


def _jpeg(data: bytes, limits: Limits) -> tuple[int, int] | None:
    """Pillow's own walk to the first scan; then the scans, counted."""
    at, segments, exif, junk = 2, 0, 0, 0
    while True:
        first, marker, length = _segment(data, at)
        if first == 0xFF and marker in _SEGMENTS:  # in the order of how often they come
            segments += 1
            if segments > MAX_SEGMENTS:
                raise _too_many("segments before its pixels", MAX_SEGMENTS)
            if marker == 0xE1 and data.startswith(b"Exif", at + 4):
                exif += 1
                if exif > MAX_EXIF_SEGMENTS:
                    raise _too_many("segments of EXIF", MAX_EXIF_SEGMENTS)
            at += 2 + max(2, length)
            continue
        if first == 0xFF and marker == _SCAN:
            break
        begin = at
        if first != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                at = len(data)
        elif marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        else:  # no marker at all; Pillow says so
            return None
        junk += at - begin
        if junk > MAX_JUNK:
            raise _too_many("bytes that belong to nothing", MAX_JUNK)
    begin = at + 2 + max(2, _u16(data, at + 2)[0])
    end = _marker(data, begin)
    if end >= 0 and data[end + 1] == _END:
        return begin, end
    # Counting is quick, and an upper bound: what follows the image, a film maybe, may hold these two bytes too.
    if data.count(b"\xff\xda", at) > MAX_SCANS:
        _count_scans(data, at)
    return None


def _count_scans(data: bytes, at: int) -> None:
    """Walk from the first scan to the end of the image."""
    scans = 0
    while True:
        marker = data[at + 1]
        if marker == _END:
            return
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise _too_many("scans", MAX_SCANS)
        # The search steps over a scan's data, and over what lies between two segments.
        match = _ENDS_SCAN.search(data, at + 2 if marker in _BARE else at + 2 + max(2, _u16(data, at + 2)[0]))
        if match is None:
            return
        at = match.start()


# --- PNG ------------------------------------------------------------------------------------------------------

_COMPRESSED = frozenset([b"zTXt", b"iTXt", b"iCCP"])


def _png(data: bytes, limits: Limits) -> None:
    at, chunks, compressed, end = 8, 0, 0, len(data)
    while at + 8 <= end:
        length, kind = _length_and_kind(data, at)
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise _too_many("chunks", MAX_CHUNKS)
        if kind in _COMPRESSED:
            compressed += 1
            if compressed > MAX_COMPRESSED:
                raise _too_many("compressed texts and profiles", MAX_COMPRESSED)
        elif kind == b"IHDR":  # of several, Pillow takes the last
            width, height = struct.unpack_from(">II", data, at + 8)
            check_pixels(width, height, limits)
        elif kind == b"acTL":
            frames: int = struct.unpack_from(">I", data, at + 8)[0]
            check_frames(frames if frames <= 2**31 else 1, limits)  # more is no APNG, for Pillow
        elif kind == b"IEND":
            return
        at += 12 + length


# --- GIF ------------------------------------------------------------------------------------------------------


#: An extension, an image, or the end.
_GIF_BLOCK = re.compile(rb"[!,;]")


def _gif(data: bytes, limits: Limits) -> None:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check_pixels(width, height, limits)
    at, frames = 13 + _palette(flags), 0
    while match := _GIF_BLOCK.search(data, at):  # bytes between blocks are skipped, as Pillow does
        at = match.start()
        block = data[at]
        if block == 0x21:  # an extension: its label, then its blocks
            at = _blocks(data, at + 2)
        elif block == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            if not frames:  # the first may go beyond the canvas, which then grows
                check_pixels(left + width, top + height, limits)
            frames += 1
            check_frames(frames, limits, counting=True)
            at = _blocks(data, at + 11 + _palette(flags))
        else:
            return


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _blocks(data: bytes, at: int) -> int:
    """Behind the blocks that begin here: a length and so many bytes, until the length is 0."""
    while length := data[at]:
        at += length + 1
    return at + 1


# --- TIFF -----------------------------------------------------------------------------------------------------

#: Types whose values stay bytes: BYTE, ASCII, UNDEFINED.
_PLAIN = frozenset([1, 2, 7])
_WIDTH, _HEIGHT = 256, 257
_TILE_WIDTH, _TILE_HEIGHT = 322, 323


def _tiff(data: bytes, limits: Limits) -> None:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    head, entry, size, word = ("Q", "HHQQ", 20, "Q") if big else ("H", "HHII", 12, "I")
    offset: int = struct.unpack_from(order + word, data, 8 if big else 4)[0]
    seen: set[int] = set()
    while offset and offset not in seen:  # a directory that was seen ends the file, for Pillow too
        seen.add(offset)
        check_frames(len(seen), limits, counting=True)
        count: int = struct.unpack_from(order + head, data, offset)[0]
        if count > MAX_TAGS:
            raise _too_many("tags", MAX_TAGS)
        at = offset + struct.calcsize(order + head)
        if len(seen) == 1:
            _tiff_tags(data, limits, order, entry, [at + size * i for i in range(count)])
        offset = struct.unpack_from(order + word, data, at + size * count)[0]


def _tiff_tags(data: bytes, limits: Limits, order: str, entry: str, places: list[int]) -> None:
    """The first directory: how large its image is, and its tiles, which are decoded whole."""
    values = {}
    for at in places:
        tag, kind, count, value = struct.unpack_from(order + entry, data, at)
        if count > MAX_VALUES and kind not in _PLAIN:
            raise _too_many("numbers in one tag", MAX_VALUES)
        # A short stands in the first bytes of its field, whatever the byte order, and so does a long in BigTIFF's 8.
        short = {3: "H", 4: "I"}.get(kind)
        values[tag] = (
            struct.unpack_from(order + short, data, at + struct.calcsize(order + entry[:3]))[0] if short else value
        )
    for width, height in ((_WIDTH, _HEIGHT), (_TILE_WIDTH, _TILE_HEIGHT)):
        check_pixels(values.get(width, 0), values.get(height, 0), limits)


# --- WebP -----------------------------------------------------------------------------------------------------


def _webp(data: bytes, limits: Limits) -> None:
    at, frames = 12, 0
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"VP8X":
            width, height = (int.from_bytes(data[at + place : at + place + 3], "little") + 1 for place in (12, 15))
            check_pixels(width, height, limits)
        elif kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, at + 14)
            check_pixels(width & 0x3FFF, height & 0x3FFF, limits)
        elif kind == b"VP8L":
            bits: int = struct.unpack_from("<I", data, at + 9)[0]
            check_pixels((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, limits)
        elif kind == b"ANMF":
            frames += 1
            check_frames(frames, limits, counting=True)
        at += 8 + length + (length & 1)


# --- AVIF -----------------------------------------------------------------------------------------------------

#: The boxes on the way to the table of frames.
_HOLDS = frozenset([b"moov", b"trak", b"mdia", b"minf", b"stbl"])


def _avif(data: bytes, limits: Limits) -> None:
    """The frames alone: libavif keeps 140 bytes of each. It takes no memory for pixels before it is asked for them."""
    at, boxes, end = 0, 0, len(data)
    while at + 8 <= end:
        size, kind = _length_and_kind(data, at)
        boxes += 1
        if boxes > MAX_CHUNKS:
            raise _too_many("boxes", MAX_CHUNKS)
        if kind in (b"stsz", b"stz2"):
            check_frames(struct.unpack_from(">I", data, at + 16)[0], limits)
        if kind in _HOLDS:
            at += 16 if size == 1 else 8  # go on inside it
        elif size == 1:  # the size follows in 64 bits
            at += max(16, struct.unpack_from(">Q", data, at + 8)[0])
        elif size == 0:  # to the end of the file
            return
        else:
            at += max(8, size)


# --- PPM, PGM, PBM --------------------------------------------------------------------------------------------

_COMMENT = re.compile(rb"#[^\r\n]*(?:[\r\n]|\Z)")
_PPM = re.compile(rb"P[1-6]\s")
#: By the digit behind P: numbers before the pixels. PBM has no greatest value.
_NUMBERS = {b"1": 2, b"4": 2}


def is_ppm(data: bytes) -> bool:
    """Whether these bytes begin as a PPM, PGM or PBM, binary or as text, and not as other text that begins with P6.

    Two or three numbers must follow; in a comment that goes on beyond 512 bytes, they are believed to.
    """
    if not _PPM.match(data):
        return False
    head, needed = data[:512], _NUMBERS.get(data[1:2], 3)
    words = _COMMENT.sub(b" ", head[2:]).split()
    numbers = words[:needed]
    if data[1] in b"123":  # pixels are numbers, too; the last may be cut
        numbers = words[:-1] if len(words) > needed else words
    cut = len(words) < needed and len(head) == 512 and b"#" in head
    return all(map(bytes.isdigit, numbers)) and (len(words) >= needed or cut)


def _ppm(data: bytes, limits: Limits) -> None:
    """Bytes before the pixels; the sizes are Pillow's to read, which allocates nothing by that."""
    needed = _NUMBERS.get(data[1:2], 3)
    if len(data) > MAX_JUNK and len(_COMMENT.sub(b" ", data[2:MAX_JUNK]).split(maxsplit=needed)) < needed:
        raise _too_many("bytes before its pixels", MAX_JUNK)


_WALKS: Mapping[str, Callable[[bytes, Limits], tuple[int, int] | None]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "TIFF": _tiff,
    "WEBP": _webp,
    "AVIF": _avif,
    "PPM": _ppm,
}
