"""The kinds of pixels that the parts of the engine hand to each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL import _imaging as core

Array = npt.NDArray[np.generic]

Size = tuple[int, int]
"""Width and height in pixels, as Pillow has it."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, right and bottom exclusive, as Pillow has it."""

Part = tuple[float, float, float, float]
"""A box whose edges may lie between pixels."""

Mask = npt.NDArray[np.generic]
"""(H, W), uint8 or int32: the number of a class or of an instance for each pixel."""

Outcome = Image.Image | Array
"""The result of a pipeline's steps: an RGB or L image, or a (C, H, W) tensor of uint8, float16 or float32."""

Encoded = bytes
"""An image that a device has encoded already."""


class Coded(NamedTuple):
    """A part of a baseline JPEG that is not decoded yet; the arguments of the C part's ``decode``."""

    data: bytes
    size: Size
    """Of the whole image."""
    factor: int
    """1, 2, 4 or 8: how many times smaller it is decoded."""
    box: Box
    """In pixels of the smaller image."""


class ArrayImage(Image.Image):
    """An L or RGB image on the memory of an array; the first write to it copies."""

    _array: Array
    _shared: object

    def array(self) -> Array | None:
        """Its pixels as :func:`image_on` got them; None where the image was written to since."""
        return self._array if self.im is self._shared else None


def image_on(pixels: Array) -> ArrayImage:
    """An image on this very memory: uint8 of (H, W), or of (H, W, 4) with a meaningless fourth.

    Image.frombuffer does that for L alone.
    """
    height, width = pixels.shape[:2]
    image = ArrayImage()
    image._mode = "L" if pixels.ndim == 2 else "RGB"
    image._size = width, height
    image.im = core.map_buffer(pixels, (width, height), "raw", 0, (image._mode, 0, 1))
    image.readonly = 1
    image._array, image._shared = pixels, image.im
    return image
