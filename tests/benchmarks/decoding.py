"""What the drawn region of a photograph costs, by each decoder: the table in docs/performance.md.

``PYTHONPATH=tests python -m benchmarks.decoding [FOLDER OF JPEGS]`` takes the decoders in turns, and compares their
pixels before it measures. Milliseconds of CPU time.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
from benchmarks import inputs, loops
from PIL import Image

from tvetl_server.engine import decode

Object = tuple[str, Path]
Decoder = Callable[[str, Path], object]


def pillow(name: str, path: Path) -> object:
    with Image.open(io.BytesIO(_read(path))) as image:
        return np.asarray(image.convert("RGB").crop(loops._drawn(name, image.size)[0]))


def ours(fast: bool) -> Decoder:
    ready: dict[str, tuple[bytes, tuple[int, int], decode.Box]] = {}

    def region(name: str, path: Path) -> object:
        assert decode.native is not None, "there was no compiler"
        if name not in ready:
            size = Image.open(path).size
            ready[name] = _read(path), size, loops._drawn(name, size)[0]
        decode.native.use_avx2(fast)
        data, size, box = ready[name]
        return decode._decode(decode.Coded(data, size, 1, box))

    return region


def nvimagecodec() -> Decoder:
    """As the benchmark's limit."""
    side = loops.limit("crop")
    return lambda name, path: next(iter(side([(name, path)])))[0]


@cache
def _read(path: Path) -> bytes:
    return path.read_bytes()


def measure(objects: list[Object], decoders: dict[str, Decoder], rounds: int = 7) -> dict[str, float]:
    """Milliseconds an object, by decoder: of each round's mean the median."""
    for name, path in objects:
        first, *rest = (np.asarray(decoder(name, path)) for decoder in decoders.values())
        assert all(np.array_equal(first, each) for each in rest), name
    times: dict[str, list[float]] = {key: [] for key in decoders}
    for _ in range(rounds):
        spent = dict.fromkeys(decoders, 0.0)
        for name, path in objects:
            for key, decoder in decoders.items():
                start = time.process_time()
                decoder(name, path)
                spent[key] += time.process_time() - start
        for key, seconds in spent.items():
            times[key].append(1000 * seconds / len(objects))
    return {key: median(values) for key, values in times.items()}


def main() -> None:
    decoders = {
        "Pillow, all of it": pillow,
        "nvImageCodec": nvimagecodec(),
        "AVX2": ours(True),
        "plain C": ours(False),
    }
    print("| |", " | ".join(decoders), "| AVX2 of nvImageCodec's |\n|", " --- |" * (len(decoders) + 2))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = inputs.photographs(Path(sys.argv[1])) if sys.argv[1:] else inputs.own_sample(folder / "sample")
        for kind, made in inputs.make(files, folder / "made").items():
            if kind != "progressive":
                found = measure([*made.files.items()], decoders)
                row = [f"{value:.3g}" for value in found.values()]
                print(
                    "|", " | ".join([made.label, *row, f"{found['AVX2'] / found['nvImageCodec']:.2f}"]), "|", flush=True
                )


if __name__ == "__main__":
    main()
