"""A file of any kind is opened as Pillow opens it: turned once, or not at all."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tvetl.spec import Arguments, parse
from tvetl.spec.opening import open_rgb
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

Pixels = npt.NDArray[np.uint8]
Write = Callable[[Image.Image, int], bytes]

ORIENTATION = 0x0112
#: A crop in the middle, so that regions are decoded where they can be; height and width.
CROP = (20, 12)


def picture(mode: str = "RGB", size: tuple[int, int] = (57, 38)) -> Image.Image:
    """Smooth, and different at each corner and edge."""
    down = Image.linear_gradient("L").resize(size)
    return Image.merge(
        "RGB", (down, down.transpose(Image.Transpose.ROTATE_180), Image.radial_gradient("L").resize(size))
    ).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def answer(data: bytes, *steps: dict[str, object], **fields: object) -> Pixels:
    """(H, W, C) of the engine's answer."""
    engine = Engine(parse({"steps": [*steps, {"op": "PILToTensor"}], "seed": 1, **fields}), Limits())
    body = engine.transform(data, "b/o", Arguments()).body
    assert isinstance(body, bytes)
    return np.load(io.BytesIO(body)).transpose(1, 2, 0)


# --- orientation ----------------------------------------------------------------------------------------------------


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _xmp(orientation: int) -> bytes:
    return f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()


def _png_xmp(image: Image.Image, orientation: int) -> bytes:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", _xmp(orientation).decode())
    return saved(image, "PNG", pnginfo=text)


def _behind_the_pixels(image: Image.Image, orientation: int) -> bytes:
    """A PNG with its EXIF data behind IDAT, where the standard allows it too."""
    chunk = b"eXIf" + _exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    plain = saved(image, "PNG")
    return plain[:-12] + whole + plain[-12:]


def _by(kind: str, tell: Callable[[int], dict[str, Any]], **options: Any) -> Write:
    return lambda image, orientation: saved(image, kind, **tell(orientation), **options)


def by_exif(orientation: int) -> dict[str, Any]:
    return {"exif": _exif(orientation)}


def by_xmp(orientation: int) -> dict[str, Any]:
    return {"xmp": _xmp(orientation)}


def by_both(orientation: int) -> dict[str, Any]:
    """EXIF's is the one that counts."""
    return {**by_exif(orientation), **by_xmp(9 - orientation)}


WRITERS: dict[str, Write] = {
    "JPEG": _by("JPEG", by_exif),
    "JPEG, progressive": _by("JPEG", by_exif, progressive=True),
    "JPEG by XMP": _by("JPEG", by_xmp),
    "JPEG by both": _by("JPEG", by_both),
    "MPO": _by("MPO", by_exif, save_all=True, append_images=[picture()]),
    "PNG": _by("PNG", by_exif),
    "PNG by XMP": _png_xmp,
    "PNG by EXIF behind its pixels": _behind_the_pixels,
    "WebP": _by("WEBP", by_exif, lossless=True),
    "WebP by XMP": _by("WEBP", by_xmp, lossless=True),
    "TIFF": _by("TIFF", by_exif),
    "TIFF, LZW": _by("TIFF", by_exif, compression="tiff_lzw"),
    "TIFF, big": _by("TIFF", by_exif, big_tiff=True),
    "TIFF by XMP": _by("TIFF", lambda orientation: {"tiffinfo": {700: _xmp(orientation)}}),
    "TIFF by both": _by(
        "TIFF", lambda orientation: {"tiffinfo": {ORIENTATION: orientation, 700: _xmp(9 - orientation)}}
    ),
    "AVIF": _by("AVIF", by_exif),  # written as rotation and mirroring of the container, irot and imir
    "AVIF by XMP": _by("AVIF", by_xmp),
    "GIF": lambda image, _: saved(image, "GIF"),
    "BMP": lambda image, _: saved(image, "BMP"),
}


@pytest.mark.parametrize("setting", ["keep", "apply"])
@pytest.mark.parametrize("kind", WRITERS)
def test_an_image_is_turned_as_pillow_turns_it(kind: str, setting: str) -> None:
    turned = set()
    for orientation in range(1, 9):
        data = WRITERS[kind](picture(), orientation)
        opened = Image.open(io.BytesIO(data))
        expected = (ImageOps.exif_transpose(opened) if setting == "apply" else opened).convert("RGB")
        turned.add(expected.tobytes())
        whole = answer(data, orientation=setting)
        assert np.array_equal(whole, expected), orientation
        assert np.array_equal(open_rgb(data, parse({"steps": [], "orientation": setting})), expected), orientation
        for precision in ("exact", "fast"):
            part = answer(data, {"op": "CenterCrop", "size": CROP}, orientation=setting, precision=precision)
            top, left = (round((edge - crop) / 2) for edge, crop in zip(whole.shape[:2], CROP, strict=True))
            assert np.array_equal(part, whole[top : top + CROP[0], left : left + CROP[1]]), (orientation, precision)
    turns = setting == "apply" or kind.startswith("TIFF")  # which Pillow turns while it decodes
    assert len(turned) == (1 if kind in ("GIF", "BMP") or not turns else 8)
