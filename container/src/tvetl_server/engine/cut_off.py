"""How much of a truncated file is present, for its error message."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
from PIL import Image, ImageFile
from PIL import _imaging as core

#: A colour that fills no whole row of a picture, by the number of bands.
_UNLIKELY = {1: 137, 2: (137, 213), 3: (137, 213, 91), 4: (137, 213, 91, 44)}
_OPTION = "A pipeline with truncated: pad takes it, and Pillow fills the rest."


def message(data: bytes, kind: str | None, error: Exception) -> str | None:
    """A sentence on a file of Pillow's format ``kind`` that gave ``error``; None where it is not cut off.

    It decodes the file once more.
    """
    size = _RIFF_OR_BOXES[kind](data) if kind in _RIFF_OR_BOXES else 0
    if size > len(data):  # Pillow fills the rest of neither
        return f"The image is cut off: {len(data):,} of its {size:,} bytes are there."
    if str(error) == "Truncated File Read" or (kind == "JPEG" and str(error) == "cannot load this image"):  # no scan
        return "The image is cut off in its header or metadata."
    if not kind or not str(error).startswith("image file is truncated"):
        return None
    extent = ""
    with contextlib.suppress(Exception):  # a broken file may raise anything
        extent = _extent(data, kind)
    return f"The image is cut off{extent}. {_OPTION}"


def _extent(data: bytes, kind: str) -> str:
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        assert isinstance(image, ImageFile.ImageFile)
        if image.info.get("progressive") and image.fp:
            scans = 1 + data.count(b"\xff\xda", image.fp.tell())  # Pillow stopped behind the header of the first
            are = f"{scans} scans are there, the last in part" if scans > 1 else "a part of the first scan is there"
            return f": of this progressive JPEG {are}"
        prepare = image.load_prepare
        unlikely = _UNLIKELY[len(image.getbands())]

        def prepare_and_fill() -> None:
            prepare()
            image.im = core.fill(image.im.mode, image.im.size, unlikely)

        image.load_prepare = prepare_and_fill  # type: ignore[method-assign]
        with contextlib.suppress(OSError):
            image.load()
        pixels = np.asarray(image._new(image.im))
    if pixels.dtype == np.bool_:  # white rows are not unlikely
        return ""
    rows = int((pixels != unlikely).reshape(len(pixels), -1).any(axis=1).sum())
    return f": {rows:,} of its {len(pixels):,} rows are there"


def _riff(data: bytes) -> int:
    """The length of a WebP in bytes, by its header."""
    return 8 + int.from_bytes(data[4:8], "little")


def _boxes(data: bytes) -> int:
    """The end of the last box of an AVIF's file; 0 where its header gives none."""
    at = 0
    while at + 16 <= len(data):
        size, more = struct.unpack_from(">I4xQ", data, at)
        size = more if size == 1 else size
        if size < 8:
            return 0
        at += size
    return at


_RIFF_OR_BOXES = {"WEBP": _riff, "AVIF": _boxes}
