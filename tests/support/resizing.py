"""The resize in C beside Pillow's own steps, on random images of random sizes; also run alone, under sanitizers.

``PYTHONPATH=tests python -m support.resizing --times`` takes the time of both, in turns.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from random import Random
from types import ModuleType

import numpy as np
from PIL import Image

from tvetl_server.engine import resize

_KINDS = (np.uint8, np.float16, np.float32)


def _side(chance: Random) -> int:
    return chance.randint(1, chance.choice((4, 20, 70, 300)))


def compare(native: ModuleType, chance: Random) -> None:
    """One random case: bytes must be equal."""
    old, new = (_side(chance), _side(chance)), (_side(chance), _side(chance))
    if chance.random() < 0.1:  # a ratio that no photograph has
        old, new = chance.choice((((2000, 3), (5, 700)), ((3, 900), (900, 2)), ((1, 1), (999, 2)), ((4000, 1), (1, 1))))
    bands = chance.choice((1, 3, 3))
    shape = (old[1], old[0], 3) if bands == 3 else (old[1], old[0])
    values = np.random.default_rng(chance.randrange(2**32))
    pixels = values.integers(0, 256, shape, dtype=np.uint8)
    if chance.random() < 0.4:  # nothing but black and white overshoots most
        pixels = (pixels // 128) * np.uint8(255)
    left, top = chance.randrange(new[0]), chance.randrange(new[1])
    window = (left, top, chance.randint(left + 1, new[0]), chance.randint(top + 1, new[1]))
    mirror, planes = chance.random() < 0.5, chance.random() < 0.3
    kind = chance.choice(_KINDS) if planes else np.uint8
    table = values.integers(0, 256, (bands, 256)).astype(kind) if planes or chance.random() < 0.5 else None
    filters = [kind for kind in Image.Resampling if 1 <= kind <= 5]
    resample = chance.choice(filters)
    size = (window[3] - window[1], window[2] - window[0])
    padded = bands == 3 and not planes
    out = np.zeros((bands, *size) if planes else (*size, 4) if padded else size, kind)

    image = Image.fromarray(pixels)
    if old == new:  # Pillow copies; a filter leaves every pixel as it is
        expected = image
    else:
        expected = image.resize(new, resample)
    expected = expected.crop(window)
    if mirror:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    wanted = np.asarray(expected).reshape(*size, bands)
    if table is not None:
        wanted = np.stack([row[wanted[..., band]] for band, row in enumerate(table)], axis=-1)
    if padded:
        wanted = np.concatenate([wanted, np.full((*size, 1), 255, np.uint8)], axis=-1)
    wanted = np.moveaxis(wanted, -1, 0) if planes else wanted.reshape(out.shape)

    if chance.random() < 0.3:  # a region of a larger array, with other pixels around it
        around = values.integers(0, 256, (shape[0] + 2, shape[1] + 3, *shape[2:]), dtype=np.uint8)
        around[1:-1, 2:-1] = pixels
        pixels = around[1:-1, 2:-1]
    first = resize._down_first(old, new) if resize._down_first else False
    native.resize(pixels, new, resample, first, window, mirror, table, planes, out)
    case = (old, new, resample.name, bands, window, mirror, planes, kind.__name__, table is not None)
    assert np.array_equal(out, wanted), case


#: From, to, filter: what training and evaluation do to photographs of 0.2, 2 and 12 megapixels.
_TIMED = [
    ((300, 250), (224, 224), Image.Resampling.BILINEAR),
    ((300, 250), (224, 224), Image.Resampling.BICUBIC),
    ((300, 250), (224, 224), Image.Resampling.LANCZOS),
    ((100, 90), (224, 224), Image.Resampling.BILINEAR),
    ((500, 375), (341, 256), Image.Resampling.BILINEAR),
    ((1600, 1200), (224, 224), Image.Resampling.BILINEAR),
    ((4000, 3000), (224, 224), Image.Resampling.BILINEAR),
]


def times() -> None:
    """Milliseconds of CPU of one resize: Pillow's, ours with AVX2 and without; medians of 15 rounds, and all equal."""
    native = resize.native
    assert native is not None
    for old, new, resample in _TIMED:
        pixels = np.random.default_rng(0).integers(0, 256, (old[1], old[0], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        step = resize.Resize.to(new, resample)
        sides = {"Pillow": lambda i=image, n=new, r=resample: i.resize(n, r)}
        sides |= dict.fromkeys(("AVX2", "plain C"), lambda s=step, p=pixels: s(p))
        took: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(15):
            for side, do in sides.items():
                native.use_avx2(side == "AVX2")
                count = max(1, 2_000_000 // (old[0] * old[1]))
                began = time.process_time()
                for _ in range(count):
                    done = do()
                took[side].append((time.process_time() - began) / count * 1e3)
                assert np.array_equal(done, image.resize(new, resample))
        said = ", ".join(f"{side} {np.median(of):.3f}" for side, of in took.items())
        ratio = np.median(np.divide(took["AVX2"], took["Pillow"]))
        case = f"{old[0]} x {old[1]} to {new[0]} x {new[1]}, {resample.name.lower()}"
        print(f"{case}: {said} ms; AVX2 {ratio:.2f} of Pillow")


def main() -> None:
    """``resizing.py <the extension's file> <number of cases>``"""
    if sys.argv[1:] == ["--times"]:
        times()
        return
    spec = importlib.util.spec_from_file_location("tvetl_pixels._native", sys.argv[1])
    assert spec and spec.loader
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    chance = Random(7)
    for number in range(int(sys.argv[2])):
        native.use_avx2(number % 2 == 0)
        compare(native, chance)
    print(sys.argv[2], "cases equal")


if __name__ == "__main__":
    main()
