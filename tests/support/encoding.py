"""The JPEG encoder in C beside Pillow's, on random pictures with random options; also run alone, under sanitizers.

``PYTHONPATH=tests python -m support.encoding --times FOLDER`` takes the time of both, in turns, on its photographs.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import time
from pathlib import Path
from random import Random
from statistics import median
from types import ModuleType

import numpy as np
import numpy.typing as npt
from PIL import Image

from tvetl.spec import Value
from tvetl_server.engine.encode import _jpeg_head
from tvetl_server.engine.pixels import image_on

Pixels = npt.NDArray[np.uint8]


def waves() -> Pixels:
    """(8, 8, 64), black and white: each pattern of the DCT at its largest coefficient."""
    angles = np.cos((2 * np.arange(8)[:, None] + 1) * np.arange(8) * np.pi / 16)
    return np.where(np.einsum("yv,xu->yxvu", angles, angles) >= 0, 255, 0).reshape(8, 8, 64).astype(np.uint8)


def pixels(kind: str, size: tuple[int, int], bands: int, values: np.random.Generator) -> Pixels:
    """(H, W, 4), of which the fourth is anything, or (H, W)."""
    width, height = size
    shape = (height, width, 4) if bands == 3 else (height, width)
    noise: Pixels = values.integers(0, 256, shape, dtype=np.uint8)
    if kind == "noise":
        return noise
    if kind == "black and white":
        return (noise >> 7) * np.uint8(255)
    if kind == "flat":
        return np.broadcast_to(noise[:1, :1], shape).copy()
    if kind == "waves":
        tiles = waves()[..., values.integers(0, 64, (-(-height // 8), -(-width // 8)))]
        gray = tiles.transpose(2, 0, 3, 1).reshape(tiles.shape[2] * 8, -1)[:height, :width]
        return np.stack([gray, gray, gray, gray], -1) if bands == 3 else gray.copy()
    assert kind == "soft"  # as photographs are: most of the coefficients are zero
    x, y = np.arange(width), np.arange(height)[:, None]
    slow = 128 + 90 * np.sin(x / values.uniform(5, 60)) * np.cos(y / values.uniform(5, 60))
    soft = slow if bands == 1 else slow[..., None] * values.uniform(0.3, 1, 4)
    return np.clip(soft + values.normal(0, 3, shape), 0, 255).astype(np.uint8)


KINDS = ("noise", "black and white", "flat", "waves", "soft")


def by_c(native: ModuleType, given: Pixels, options: dict[str, Value]) -> bytes | None:
    before, behind = _jpeg_head("RGB" if given.ndim == 3 else "L", tuple(options.items()))
    height, width = given.shape[:2]
    made: bytes | None = native.encode(before + bytes([*divmod(height, 256), *divmod(width, 256)]) + behind, given)
    return made


def by_pillow(given: Pixels, options: dict[str, Value]) -> bytes:
    image_on(given).copy().save(file := io.BytesIO(), "JPEG", **options)
    return file.getvalue()


def compare(native: ModuleType, chance: Random) -> bool:
    """One random case: bytes must be equal. False where it is less than 32 pixels wide, and so Pillow's."""
    width = chance.randint(chance.choice((1, 32)), chance.choice((33, 80, 300)))
    size = width, chance.randint(1, chance.choice((9, 80, 300)))
    options: dict[str, Value] = {"quality": chance.choice((1, 75, 95, 100, chance.randint(1, 100)))}
    if subsampling := chance.choice((None, "4:4:4", "4:2:2", "4:2:0")):
        options["subsampling"] = subsampling
    kind, bands = chance.choice(KINDS), chance.choice((1, 3, 3))
    given = pixels(kind, size, bands, np.random.default_rng(chance.randrange(2**32)))
    made = by_c(native, given, options)
    if made is None:
        assert width < 32, size
        return False
    assert made == by_pillow(given, options), (kind, size, bands, options)
    return True


def _times(native: ModuleType, folder: Path) -> None:
    options: dict[str, Value] = {"quality": 75}
    for side in (224, 1024):
        some = [Image.open(path).convert("RGB").resize((side, side)) for path in sorted(folder.iterdir())[:60]]
        given = [np.dstack([np.asarray(image), np.full((side, side), 255, np.uint8)]) for image in some]
        assert all(by_c(native, each, options) == by_pillow(each, options) for each in given)
        found: dict[str, list[float]] = {"Pillow": [], "C": []}
        for _ in range(9):
            start = time.process_time()
            for each in given:
                image_on(each).save(io.BytesIO(), "JPEG", **options)
            then = time.process_time()
            for each in given:
                by_c(native, each, options)
            found["Pillow"].append(then - start)
            found["C"].append(time.process_time() - then)
        milliseconds = {name: median(times) / len(given) * 1e3 for name, times in found.items()}
        print(f"{side} x {side}: Pillow {milliseconds['Pillow']:.3f} ms, C {milliseconds['C']:.3f} ms")


def main() -> None:
    """Takes an extension's file and a number of cases, or --times and a folder."""
    if sys.argv[1] == "--times":
        from tvetl_pixels import _native

        _times(_native, Path(sys.argv[2]))
        return
    spec = importlib.util.spec_from_file_location("_native", sys.argv[1])
    assert spec and spec.loader
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    done = sum(compare(native, Random(number)) for number in range(int(sys.argv[2])))
    print("equal, some of them too narrow" if done > int(sys.argv[2]) / 2 else f"only {done}")


if __name__ == "__main__":
    main()
