"""Images changed by chance, the same for the same seed: bytes anywhere, and the parts that each format is made of.

Parts are taken apart and put together again with their lengths and checksums made right, so that what was changed is
looked at and not only the checksum.
"""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from itertools import pairwise

from support.hostile.inputs import KINDS, chunk, good, riff, segment, shard

Parts = list[tuple[bytes, bytes]]
"""What a file is made of, in order: the kind of a part, and what is in it."""

#: Numbers at which something often happens.
_EDGES = (
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    257,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
_LONGEST = 400_000
_JPEG_BARE = frozenset([0x01, *range(0xD0, 0xDA)])


class Mutants:
    """All of them: ``mutants(seed, number)`` gives its name and its bytes."""

    def __init__(self) -> None:
        images = good() | {"shard": shard()}
        self._files = [(name, images[name]) for name in sorted({*KINDS, *images}) if len(images[name]) <= _LONGEST]

    def __call__(self, seed: int, number: int) -> tuple[str, bytes]:
        dice = random.Random(f"{seed} {number}")
        name, data = dice.choice(self._files)
        for _ in range(dice.choice((1, 1, 1, 2, 3, 5))):
            parts = take_apart(data) if dice.random() < 0.6 else None
            if parts:
                other = dice.choice(self._files)[1]
                data = put_together(data, _mixed(parts, take_apart(other) if other[:4] == data[:4] else None, dice))
            else:
                data = _anywhere(data, dice)
            data = data[:_LONGEST]
        return f"{number} of seed {seed}: {name}", data


def _anywhere(data: bytes, dice: random.Random) -> bytes:
    """Something somewhere: more often where the structure is, at the beginning."""
    at = int(len(data) * dice.random() ** dice.choice((1, 3)))
    length = dice.choice((1, 1, 2, 4, 8, 64, 1000))
    what = dice.randrange(7)
    if what == 0:
        return data[:at] + dice.randbytes(length) + data[at + length :]
    if what == 1:
        return data[:at] + data[at + length :]
    if what == 2:
        return data[:at] + data[at : at + length] * dice.choice((2, 3, 50)) + data[at + length :]
    if what == 3:
        return data[:at]
    if what == 4 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
    if what == 5:
        return data[:at] + dice.randbytes(length) + data[at:]
    form = dice.choice(("B", "<H", ">H", "<I", ">I"))
    number = struct.pack(form, dice.choice(_EDGES) & (1 << 8 * struct.calcsize(form)) - 1)
    return data[:at] + number + data[at + len(number) :]


def _mixed(parts: Parts, others: Parts | None, dice: random.Random) -> Parts:
    """One part changed, taken out, put somewhere else, repeated, or taken from another file of the kind."""
    at, to = dice.randrange(len(parts)), dice.randrange(len(parts) + 1)
    kind, inside = parts[at]

    def replaced(*new: tuple[bytes, bytes]) -> Parts:
        return [*parts[:at], *new, *parts[at + 1 :]]

    what = dice.randrange(8)
    if what == 0:
        return replaced()
    if what == 1:
        return [*parts[:to], parts[at], *parts[to:]]
    if what == 2:
        return replaced(*[parts[at]] * dice.choice((2, 3, 20, 300)))
    if what == 3:
        parts = parts.copy()
        parts[at], parts[to - 1] = parts[to - 1], parts[at]
        return parts
    if what == 4 and others:
        return [*parts[:to], dice.choice(others), *parts[to:]]
    if what == 5:
        return replaced((dice.choice(parts)[0], inside))
    if kind == b"IDAT":  # the pixels themselves, and not their compression
        with contextlib.suppress(zlib.error):
            return replaced((kind, zlib.compress(_anywhere(zlib.decompress(inside), dice))))
    return replaced((kind, _anywhere(inside, dice)))


# --- taking apart, and putting together again -----------------------------------------------------------------


def take_apart(data: bytes) -> Parts | None:
    """The parts of a file, or None where it has none that are known here, or is too damaged."""
    found = _FORMATS.get(data[:2])
    try:
        return found[0](data) if found else None
    except (struct.error, IndexError):
        return None


def put_together(data: bytes, parts: Parts) -> bytes:
    """A file of these parts, of the kind that ``data`` is."""
    return _FORMATS[data[:2]][1](parts)


def _segments(data: bytes) -> Parts:
    """Of JPEG: what is between two segments (the data of a scan) has no kind."""
    parts, at = [], 0
    while at < len(data):
        if data[at] != 0xFF or data[at + 1] in (0, 0xFF):
            end = at + 1
            while end < len(data) and (data[end] != 0xFF or data[end + 1 : end + 2] in (b"\0", b"\xff")):
                end += 1
            parts.append((b"", data[at:end]))
            at = end
        elif data[at + 1] in _JPEG_BARE:
            parts.append((data[at : at + 2], b""))
            at += 2
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            parts.append((data[at + 1 : at + 2], data[at + 4 : at + 2 + length]))
            at += 2 + max(2, length)
    return parts


def _jpeg(parts: Parts) -> bytes:
    return b"".join(segment(kind[0], inside[:65533]) if len(kind) == 1 else kind + inside for kind, inside in parts)


def _chunks(data: bytes) -> Parts:
    """Of PNG."""
    parts, at = [], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        parts.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def _png(parts: Parts) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, inside) for kind, inside in parts)


def _riff_chunks(data: bytes) -> Parts:
    """Of WebP."""
    parts, at = [], 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        parts.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return parts


def _webp(parts: Parts) -> bytes:
    return riff(*parts)


def _gif_blocks(data: bytes) -> Parts:
    """Of GIF: the head with its palette, then extensions and images, each with its blocks."""

    def palette(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    at = 13 + palette(data[10])
    parts = [(b"", data[:at])]
    while at < len(data):
        begin = at
        if data[at] not in b"!,":
            parts.append((b"", data[at:]))
            return parts
        at += 2 if data[at] == 0x21 else 11 + palette(data[at + 9])
        while data[at]:
            at += data[at] + 1
        at += 1
        parts.append((b"", data[begin:at]))
    return parts


def _joined(parts: Parts) -> bytes:
    return b"".join(kind + inside for kind, inside in parts)


def _tiff_parts(data: bytes) -> Parts:
    """Of TIFF: what is before the first directory, its entries one by one, and what is behind."""
    order = "<" if data[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, offset)
    at = offset + 2
    entries = [(b"", data[at + 12 * i : at + 12 * (i + 1)]) for i in range(count)]
    return [(b"", data[:at]), *entries, (b"", data[at + 12 * count :])]


def _members(data: bytes) -> Parts:
    """Of a tar: each header with what follows it."""
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    return [(b"ustar", data[at:end]) for at, end in pairwise([*heads, len(data)])]


def _tar(parts: Parts) -> bytes:
    whole = bytearray()
    for _, inside in parts:
        if len(inside) >= 512:
            blank = inside[:148] + b" " * 8 + inside[156:512]
            inside = blank[:148] + b"%06o\0 " % sum(blank) + inside[156:]
        whole += inside
    return bytes(whole)


_FORMATS: Mapping[bytes, tuple[Callable[[bytes], Parts], Callable[[Parts], bytes]]] = {
    b"\xff\xd8": (_segments, _jpeg),
    b"\x89P": (_chunks, _png),
    b"s/": (_members, _tar),
    b"RI": (_riff_chunks, _webp),
    b"GI": (_gif_blocks, _joined),
    b"II": (_tiff_parts, _joined),
    b"MM": (_tiff_parts, _joined),
}
