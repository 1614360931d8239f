"""The photographs: of ImageNet's size as they are, larger and other ones made of them, the same in every run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

#: Standard deviation of the grain, of 255: enlarging leaves nothing fine, and a file without that is half the size of a
#: camera's and quicker to decode. With it 12 megapixels take 3 to 4 MB, as photographs do.
_GRAIN = 4.0
#: Objects of an input at least, and in a quick run.
_OBJECTS, _FEW = 24, 8


@dataclass(frozen=True)
class Input:
    """One kind of photograph."""

    label: str
    """For the tables."""

    files: Mapping[str, Path]
    """Object name (without the bucket) -> file; several objects may be of one file."""


def photographs(folder: Path) -> list[Path]:
    """The JPEG files of a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def own_sample(folder: Path) -> list[Path]:
    """32 parts of scikit-image's photographs, of ImageNet's usual 500 x 375, written into ``folder``."""
    package = find_spec("skimage")
    assert package is not None and package.origin is not None
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        with Image.open(Path(package.origin).parent / "data" / name) as image:
            for step in range(8):
                part = image.convert("RGB").crop((8 * step, 6 * step, image.width, image.height)).resize((500, 375))
                part.save(folder / f"{name.partition('.')[0]}_{step}.jpg", quality=90)
    return sorted(folder.iterdir())


def enlarged(data: bytes, megapixels: float, seed: int, **options: object) -> bytes:
    """A JPEG of this photograph, of so many megapixels and with grain; ``options`` are Pillow's."""
    with Image.open(io.BytesIO(data)) as image:
        scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = (round(image.width * scale), round(image.height * scale))
        large = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(seed).normal(0, _GRAIN, large.shape[:2]).astype(np.float32)
    return _jpeg(np.clip(large + grain[..., None], 0, 255).astype(np.uint8), **options)


def _jpeg(pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer := io.BytesIO(), "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def _again(data: bytes, mode: str, **options: object) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return _jpeg(image.convert(mode), **options)


def make(files: Sequence[Path], folder: Path, *, quick: bool = False) -> dict[str, Input]:
    """All inputs as files in ``folder``, made anew; ``quick`` has the first three kinds, and fewer of each."""
    originals = [path.read_bytes() for path in files]
    largest = sorted(originals, key=_pixels, reverse=True)
    few = originals[:32]
    kinds: dict[str, tuple[str, list[bytes]]] = {
        "imagenet": ("ImageNet size", originals),
        "2mp": ("2 MP", [enlarged(data, 2, at) for at, data in enumerate(largest[: 4 if quick else 8])]),
        "12mp": ("12 MP", [enlarged(data, 12, at) for at, data in enumerate(largest[: 2 if quick else 4])]),
    }
    if not quick:
        kinds |= {
            "444": ("2 MP, 4:4:4", [enlarged(data, 2, at, subsampling=0) for at, data in enumerate(largest[:8])]),
            "gray": ("ImageNet size, grayscale", [_again(data, "L") for data in few]),
            "progressive": ("ImageNet size, progressive", [_again(data, "RGB", progressive=True) for data in few]),
        }
    made = {}
    for kind, (label, contents) in kinds.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        paths = [folder / kind / f"{at:04d}.jpg" for at in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        # Each object has its own box: few photographs are several objects, or a few boxes would decide the figures.
        times = -(-(_FEW if quick else _OBJECTS) // len(paths))
        names = ((f"{kind}/{path.stem}-{copy}.jpg", path) for copy in range(times) for path in paths)
        made[kind] = Input(label, dict(names))
    return made


def facts(kind: Input) -> dict[str, float]:
    """How many objects of how many photographs, and the mean size of these, in megapixels and kilobytes."""
    files = sorted(set(kind.files.values()))
    pixels = [_pixels(path.read_bytes()) for path in files]
    return {
        "objects": len(kind.files),
        "photographs": len(files),
        "megapixels": round(sum(pixels) / len(files) / 1e6, 2),
        "kilobytes": round(sum(path.stat().st_size for path in files) / len(files) / 1e3, 1),
    }


def _pixels(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return image.width * image.height
