"""Pillow's resize, by the C part where it is installed and by Pillow itself elsewhere.

Both give the same bytes. The C part also does the crops, the mirroring and the table that follow a resize, and reads
the pixels where the decoder left them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import PIL
from PIL import Image

from tvetl_server.engine.native import native
from tvetl_server.engine.pixels import Array, Box, Coded, Part, Size, image_on
from tvetl_server.engine.table import Table

#: By Pillow's version: whether it resizes down first, by the old and new size. The rounding depends on that.
#: Sources: ImagingResampleInner in src/libImaging/Resample.c of 13.0.0, Image.resize in src/PIL/Image.py of 12.3.0.
_DOWN_FIRST: Mapping[str, Callable[[Size, Size], bool]] = {
    "13.0.0": lambda old, new: old[1] > new[1] and old[1] - new[1] > 2 * (old[0] - new[0]),
    "12.3.0": lambda old, new: old[1] > new[1] and old[1] > 100 * old[0],
}
_down_first = _DOWN_FIRST.get(PIL.__version__)

#: Pixels up to which copying an Image for the C part pays; the cost of the copy grows faster than that of the resize.
_WORTH_A_COPY = 4_000_000
#: Pixels of a side that the C takes.
_LARGEST = 65535

_FLIP = Image.Transpose.FLIP_LEFT_RIGHT


def resizer() -> str:
    """The name of what resizes in this process, for people."""
    if native is None:
        return "Pillow (tvetl_pixels is not installed, or was without a compiler)"
    if _down_first is None:
        return f"Pillow (tvetl_pixels does not know what Pillow {PIL.__version__} does)"
    return f"tvetl_pixels, {'AVX2' if native.has_avx2() else 'plain C'}"


@dataclass(frozen=True)
class Resize:
    """Resizes RGB or L pixels; keeps ``window`` of the result, mirrors that and looks it up in ``table``."""

    size: Size
    resample: Image.Resampling
    window: Box
    mirrored: bool = False
    table: Table | None = None
    #: The part that is resized, None for all; pixels around it contribute at its edges.
    part: Part | None = None

    @classmethod
    def to(cls, size: Size, resample: Image.Resampling) -> Resize:
        """A plain resize."""
        return cls(size, resample, (0, 0, *size))

    def cropped(self, box: Box) -> Resize:
        """This resize, with its result cropped to ``box``."""
        left, top, right, bottom = box
        x, y, end, _ = self.window
        if self.mirrored:
            return replace(self, window=(end - right, y + top, end - left, y + bottom))
        return replace(self, window=(x + left, y + top, x + right, y + bottom))

    def __call__(self, pixels: Image.Image | Array) -> Image.Image | Array:
        """Resize an RGB or L image, or uint8 of (H, W, 3), to what the table returns, or without one to an image."""
        if isinstance(pixels, Image.Image):
            old = pixels.size
            pays = pixels.mode in ("RGB", "L") and old[0] * old[1] <= _WORTH_A_COPY
        else:
            old, pays = (pixels.shape[1], pixels.shape[0]), True
        if pays and self._is_known(old) and (outcome := self._by_c(np.asarray(pixels), old)) is not None:
            return outcome
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image = image.resize(self.size, self.resample, self.part)
        if self.window != (0, 0, *self.size):
            image = image.crop(self.window)
        if self.mirrored:
            image = image.transpose(_FLIP)
        return self.table(image) if self.table else image

    def of_coded(self, coded: Coded) -> Image.Image | Array | None:
        """Resize a part of a JPEG while it is decoded, a few rows at a time; None where the C part cannot."""
        left, top, right, bottom = coded.box
        old = right - left, bottom - top
        if not self._is_known(old) or _down_first is None or _down_first(old, self.size):
            return None
        return self._by_c(coded, old)

    def _is_known(self, old: Size) -> bool:
        """Whether the C part gives Pillow's bytes."""
        if native is None or _down_first is None or self.resample == Image.Resampling.NEAREST:
            return False
        return max(*old, *self.size) <= _LARGEST

    def _by_c(self, pixels: Array | Coded, old: Size) -> Image.Image | Array | None:
        """None where ``pixels`` are coded in a way that the C part does not decode."""
        assert native is not None and _down_first is not None
        left, top, right, bottom = self.window
        shape = (bottom - top, right - left)
        values = self.table.values if self.table and not self.table.is_identity else None
        planes = self.table is not None and not self.table.gives_image
        kind = np.dtype(np.uint8) if values is None else values.dtype
        gray = isinstance(pixels, np.ndarray) and pixels.ndim == 2
        # Four bytes a pixel is how Pillow keeps RGB.
        out = np.empty((1 if gray else 3, *shape) if planes else shape if gray else (*shape, 4), kind)
        done = native.resize(  # by position; _native.pyi names them
            pixels,
            self.size,
            self.resample,
            _down_first(old, self.size),
            self.window,
            self.mirrored,
            values,
            planes,
            out,
            *((self.part,) if self.part else ()),
        )
        if not done:
            return None
        return out if planes else image_on(out)
