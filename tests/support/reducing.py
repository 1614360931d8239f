"""Damaged JPEGs for the decoder in C, which may refuse them and do no harm; run alone, under sanitizers."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from random import Random
from types import ModuleType

import numpy as np
from PIL import Image
from support import jpegs


def small_jpegs() -> list[bytes]:
    """Small ones of all that the decoder knows, and of some that it does not."""
    pixels = np.random.default_rng(0).integers(0, 256, (53, 71, 3), dtype=np.uint8)
    noise, smooth = Image.fromarray(pixels), Image.fromarray(pixels[:6, :8]).resize((71, 53))
    made = []
    for image in (noise, smooth, noise.convert("L")):
        for options in (
            {"subsampling": 0},
            {"subsampling": 1},
            {"subsampling": 2},
            {"quality": 100},
            {"optimize": True},
        ):
            image.save(file := io.BytesIO(), "JPEG", **options)
            made.append(file.getvalue())
    noise.save(file := io.BytesIO(), "JPEG", restart_marker_blocks=3)
    smooth.save(other := io.BytesIO(), "JPEG", progressive=True)
    return [*made, tall(), file.getvalue(), other.getvalue()]


def tall() -> bytes:
    """Chroma at half the size down alone, which Pillow does not write; and codes of up to 16 bits."""
    dice = np.random.default_rng(1)
    shapes = [(8, 9, 64), (4, 9, 64), (4, 9, 64)]
    blocks = [(dice.integers(-60, 60, shape) * (dice.random(shape) < 0.2)).astype(np.int16) for shape in shapes]
    return jpegs.write(blocks, [(1, 2), (1, 1), (1, 1)], [[2] * 64] * 3, (71, 53), Random(1))


def broken(data: bytes, chance: Random) -> bytes:
    """One kind of damage, anywhere: bytes changed, left out, said twice, or an early end."""
    damaged, at = bytearray(data), chance.randrange(2, len(data))
    match chance.randrange(6):
        case 0:
            for _ in range(chance.randint(1, 30)):
                damaged[chance.randrange(2, len(data))] = chance.randrange(256)
        case 1:
            damaged[chance.randrange(2, 700)] = chance.choice((0, 1, 0x11, 0x22, 0x44, 0xFF))
        case 2:
            del damaged[at : at + chance.randrange(1, 100)]
        case 3:
            damaged[at:at] = damaged[at : at + 100]
        case 4:
            del damaged[at:]
        case _:
            damaged[at : at + 50] = chance.randbytes(50)
    return bytes(damaged)


def boxes(chance: Random, size: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """A factor, and a box of what is left, without end."""
    while True:
        factor = chance.choice((1, 1, 2, 4, 8))
        width, height = (-(-side // factor) for side in size)
        left, top = chance.randrange(width), chance.randrange(height)
        yield factor, (left, top, chance.randint(left + 1, width), chance.randint(top + 1, height))


Coded = tuple[bytes, tuple[int, int], int, tuple[int, int, int, int]]


def resize(native: ModuleType, coded: Coded, pixels: np.ndarray | None, chance: Random) -> None:
    """Resized on the way it is what its ``pixels`` are resized; None where there are none."""
    width, height = size = chance.randint(1, 90), chance.randint(1, 90)
    left, top = chance.randrange(width), chance.randrange(height)
    window = (left, top, chance.randint(left + 1, width), chance.randint(top + 1, height))
    shape = (window[3] - window[1], window[2] - window[0], 4)
    table = np.arange(768, dtype=np.uint8).reshape(3, 256)[:, ::-1].copy() if chance.random() < 0.5 else None
    asked = (size, chance.randint(1, 5), False, window, chance.random() < 0.5, table, False)
    ours, wanted = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    assert native.resize(coded, *asked, ours) == (pixels is not None)
    if pixels is not None:
        native.resize(pixels, *asked, wanted)
        assert np.array_equal(ours, wanted), (coded[1:], asked)


def run(native: ModuleType, cases: int) -> int:
    """How many of so many damaged files were decoded all the same; whole ones are, each time."""
    chance, decoded, size = Random(5), 0, (71, 53)
    made, places = small_jpegs(), boxes(Random(6), size)
    for number in range(cases):
        data = made[number % len(made)]
        factor, box = next(places)
        native.use_avx2(number % 3 > 0)
        channels = 4 if factor == 1 and number % 2 else 3
        out = np.empty((box[3] - box[1], box[2] - box[0], channels), np.uint8)
        assert native.decode(data, size, factor, box, out) == (number % len(made) < len(made) - 2)
        data = broken(data, chance)
        done = native.decode(data, size, factor, box, out)
        resize(native, (data, size, factor, box), out[..., :3].copy() if done else None, chance)
        decoded += done
    return decoded


def main() -> None:
    """``reducing.py <the extension's file> <number of cases>``"""
    spec = importlib.util.spec_from_file_location("tvetl_pixels._native", sys.argv[1])
    assert spec and spec.loader
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    decoded = run(native, int(sys.argv[2]))
    print("fine" if 0 < decoded < int(sys.argv[2]) else decoded)


if __name__ == "__main__":
    main()
