"""JPEGs that no encoder writes: of given coefficients, with codes of random lengths. Source: ITU-T T.81, B and F."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
import numpy.typing as npt

Codes = dict[int, str]
"""A symbol -> its bits."""

#: Symbols of a DC table: how many extra bits; of an AC table: run and extra bits.
_DC = list(range(12))
_AC = [run << 4 | size for run in range(16) for size in range(1, 11)] + [0x00, 0xF0]


def write(
    blocks: Sequence[npt.NDArray[np.int16]],
    sampling: Sequence[tuple[int, int]],
    quantization: Sequence[Sequence[int]],
    size: tuple[int, int],
    chance: Random,
) -> bytes:
    """A baseline JPEG of one scan.

    ``blocks`` is for each component (down, across, 64) in zigzag order, as many as its MCUs have; ``sampling`` its
    factors across and down, ``quantization`` its 64 divisors in that order, up to 65535. AC values have 10 bits.
    """
    tables = [_codes(_DC, chance), _codes(_AC, chance), _codes(_DC, chance), _codes(_AC, chance)]
    parts = [b"\xff\xd8"]
    for number, divisors in enumerate(quantization):
        parts.append(_segment(0xDB, bytes([0x10 | number]) + struct.pack(">64H", *divisors)))
    frame = b"".join(bytes([i + 1, h << 4 | v, i]) for i, (h, v) in enumerate(sampling))
    parts.append(_segment(0xC0, struct.pack(">BHHB", 8, size[1], size[0], len(blocks)) + frame))
    for kind, codes in zip((0x00, 0x10, 0x01, 0x11), tables, strict=True):
        ordered = sorted(codes, key=lambda symbol, codes=codes: (len(codes[symbol]), codes[symbol]))
        counts = [sum(len(code) == length for code in codes.values()) for length in range(1, 17)]
        parts.append(_segment(0xC4, bytes([kind, *counts, *ordered])))
    scan = b"".join(bytes([i + 1, 0x11 if i else 0x00]) for i in range(len(blocks)))
    parts.append(_segment(0xDA, bytes([len(blocks)]) + scan + b"\0\x3f\0"))
    bits = "".join(_scan(blocks, sampling, tables))
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"".join(parts) + data.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _codes(symbols: Sequence[int], chance: Random) -> Codes:
    """A Huffman code with a word to spare, as the word of ones is forbidden; from a tree split at random places."""
    leaves = [""]
    while len(leaves) <= len(symbols):
        code = leaves.pop(chance.randrange(len(leaves)))
        if len(code) < 16:
            leaves += [code + "0", code + "1"]
        else:
            leaves.append(code)
    lengths = sorted(map(len, leaves))[: len(symbols)]
    shuffled, codes, code = chance.sample(symbols, len(symbols)), {}, 0
    for at, length in enumerate(lengths):
        if at:
            code = (code + 1) << (length - lengths[at - 1])
        codes[shuffled[at]] = f"{code:0{length}b}"
    return codes


def _scan(
    blocks: Sequence[npt.NDArray[np.int16]], sampling: Sequence[tuple[int, int]], tables: Sequence[Codes]
) -> Iterator[str]:
    factors = [(1, 1)] if len(blocks) == 1 else sampling  # one component alone is not interleaved: A.2.2
    before = [0] * len(blocks)
    down, across = (side // factor for side, factor in zip(blocks[0].shape, factors[0][::-1], strict=False))
    for row in range(down):
        for column in range(across):
            for i, (h, v) in enumerate(factors):
                dc, ac = tables[2 * bool(i) : 2 * bool(i) + 2]
                for y in range(row * v, row * v + v):
                    for x in range(column * h, column * h + h):
                        block = blocks[i][y, x].tolist()
                        yield _number(dc, 0, block[0] - before[i])
                        before[i] = block[0]
                        yield from _block(ac, block)


def _block(codes: Codes, block: Sequence[int]) -> Iterator[str]:
    run = 0
    for value in block[1:]:
        if not value:
            run += 1
            continue
        yield codes[0xF0] * (run // 16)
        yield _number(codes, run % 16, value)
        run = 0
    if run:
        yield codes[0x00]


def _number(codes: Codes, run: int, value: int) -> str:
    size = abs(value).bit_length()
    extra = value if value > 0 else value + (1 << size) - 1
    return codes[run << 4 | size] + (f"{extra:0{size}b}" if size else "")
