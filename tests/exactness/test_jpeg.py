"""The decoder in C beside Pillow: regions to the last bit, with AVX2 and without; or the file is left to Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support import jpegs

from tvetl_server.engine import decode
from tvetl_server.engine.pixels import Box

pytestmark = pytest.mark.skipif(decode.native is None, reason="tvetl_pixels has no code here: there was no compiler")


def region(data: bytes, size: tuple[int, int], box: Box, channels: int = 3) -> npt.NDArray[np.uint8] | None:
    assert decode.native is not None
    out = np.empty((box[3] - box[1], box[2] - box[0], channels), np.uint8)
    return out if decode.native.decode(data, size, 1, box, out) else None


def boxes(chance: Random, size: tuple[int, int], count: int) -> Iterator[Box]:
    """All, two corners, then any: a third of them small."""
    width, height = size
    yield 0, 0, width, height
    yield 0, 0, 1, 1
    yield width - 1, height - 1, width, height
    for number in range(count):
        most = 20 if number % 3 == 0 else 65535
        w, h = chance.randint(1, min(most, width)), chance.randint(1, min(most, height))
        left, top = chance.randint(0, width - w), chance.randint(0, height - h)
        yield left, top, left + w, top + h


def compare(data: bytes, chance: Random, count: int) -> bool:
    """False where the file is left to Pillow, for whichever region that needs what it cannot do; else all are equal."""
    assert decode.native is not None
    image = Image.open(io.BytesIO(data))
    whole = np.asarray(image.convert("RGB"))
    if region(data, image.size, (0, 0, *image.size)) is None:
        return False
    try:
        for box in boxes(chance, image.size, count):
            left, top, right, bottom = box
            for fast in (True, False):
                decode.native.use_avx2(fast)
                ours = region(data, image.size, box)
                assert ours is not None, (box, fast)
                assert np.array_equal(ours, whole[top:bottom, left:right]), (box, fast)
    finally:
        decode.native.use_avx2(True)
    return True


def saved(image: Image.Image, **options: object) -> bytes:
    image.save(file := io.BytesIO(), "JPEG", **options)
    return file.getvalue()


def test_photographs(sample: list[bytes]) -> None:
    for number, data in enumerate(sample):
        if not data.startswith(b"\xff\xd8"):
            data = saved(Image.open(io.BytesIO(data)).convert("RGB"), quality=95)
        assert compare(data, Random(number), 8), number


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_every_quality(subsampling: str, sample: list[bytes]) -> None:
    for quality in range(1, 101):
        with Image.open(io.BytesIO(sample[quality % len(sample)])) as image:
            part = image.convert("L" if quality % 9 == 0 else "RGB").crop((0, 0, 101 + quality, 240 - quality))
        optimize = quality % 2 == 0
        assert compare(saved(part, quality=quality, subsampling=subsampling, optimize=optimize), Random(quality), 3)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_noise_and_what_is_as_black_and_white_as_can_be_and_tiny_pictures(subsampling: str) -> None:
    number = 0
    sides = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 71]
    for width in sides:
        for height in (1, 3, 8, 16, 17, 53):
            number += 1
            noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
            for pixels in (noise, (noise > 127).astype(np.uint8) * 255, np.full_like(noise, number)):
                data = saved(Image.fromarray(pixels), quality=(1, 30, 75, 100)[number % 4], subsampling=subsampling)
                assert compare(data, Random(number), 3), (width, height)


def coefficients(kind: str, shape: tuple[int, int, int], dice: np.random.Generator) -> npt.NDArray[np.int16]:
    most, often = {"few": (200, 0.06), "many": (60, 0.9), "large": (1023, 0.01), "none": (0, 0)}[kind]
    blocks = dice.integers(-most, most + 1, shape) * (dice.random(shape) < often)
    blocks[..., 0] = dice.integers(-900, 900, shape[:2])
    return blocks.astype(np.int16)


def synthetic(kind: str, number: int, divisors: tuple[int, ...]) -> bytes:
    """Coefficients that no picture has, in a picture of any size and sampling."""
    chance, dice = Random(number), np.random.default_rng(number)
    luma = chance.choice([(1, 1), (2, 1), (1, 2), (2, 2)])
    sampling = [luma, (1, 1), (1, 1)][: chance.choice((1, 3, 3))]
    width, height = chance.randint(1, 70), chance.randint(1, 70)
    h, v = luma if len(sampling) == 3 else (1, 1)
    down, across = -(-height // (8 * v)), -(-width // (8 * h))
    shapes = [(down * y, across * x, 64) for x, y in ([(h, v), (1, 1), (1, 1)][: len(sampling)])]
    blocks = [coefficients(kind, shape, dice) for shape in shapes]
    quantization = [[chance.choice(divisors) for _ in range(64)] for _ in sampling]
    return jpegs.write(blocks, sampling, quantization, (width, height), chance)


@pytest.mark.parametrize("kind", ["few", "many", "large", "none"])
def test_random_coefficients_and_codes(kind: str) -> None:
    for number in range(60):
        assert compare(synthetic(kind, number, (1, 1, 2, 3)), Random(number), 4), number


@pytest.mark.parametrize("divisors", [(1, 255), (1, 2, 4, 8, 16), (65535, 1), (1023,)], ids=str)
def test_what_needs_more_than_16_bits_is_pillows_and_all_else_is_equal(divisors: tuple[int, ...]) -> None:
    kinds = ["few", "many", "large"]
    done = [compare(synthetic(kinds[number % 3], number, divisors), Random(number), 3) for number in range(60)]
    assert not all(done)
    assert any(done) or max(divisors) > 16


def test_up_to_where_16_bits_end() -> None:
    """Single frequencies and sums of two, from what any picture has to what none has."""
    done = []
    for number in range(200):
        chance = Random(number)
        blocks = np.zeros((2, 2, 64), np.int16)
        for block in blocks.reshape(-1, 64):
            for k in chance.sample(range(64), chance.choice((1, 2, 3, 8))):
                block[k] = chance.choice((-1, 1)) * chance.randint(300, 1000)
        data = jpegs.write([blocks], [(1, 1)], [[chance.choice((1, 2, 4, 6))] * 64], (16, 16), chance)
        done.append(compare(data, chance, 2))
    assert any(done) and not all(done)


def test_with_a_fourth_channel_the_pixels_are_the_same(sample: list[bytes]) -> None:
    assert decode.native is not None
    for number, data in enumerate(sample[:6]):
        data = saved(Image.open(io.BytesIO(data)).convert("L" if number == 0 else "RGB"), quality=90)
        size = Image.open(io.BytesIO(data)).size
        for box in boxes(Random(number), size, 4):
            for fast in (True, False):
                decode.native.use_avx2(fast)
                three, four = region(data, size, box), region(data, size, box, 4)
                decode.native.use_avx2(True)
                assert three is not None and four is not None
                assert np.array_equal(three, four[..., :3])
                assert (four[..., 3] == 255).all()


def test_colours_are_libjpegs_for_every_cb_and_cr() -> None:
    """65,536 blocks of one colour each; where Y only adds, all of them in one picture."""
    cb, cr = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    blocks = [np.zeros((256, 256, 64), np.int16) for _ in range(3)]
    blocks[1][..., 0], blocks[2][..., 0] = cb, cr
    data = jpegs.write(blocks, [(1, 1)] * 3, [[8] * 64] * 3, (2048, 2048), Random(0))
    assert compare(data, Random(0), 0)
