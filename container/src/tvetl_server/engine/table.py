"""Steps on single values (ToTensor, Normalize, ...) as one look-up of an image in a table.

The table's values are the contract's (:mod:`tvetl.spec.table`), as a client may look them up itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tvetl.spec import Step
from tvetl.spec.pointwise import CLOSES
from tvetl.spec.table import Array, table_of


class _Lookup(Image.ImagePointHandler):
    """A table of whole numbers as Pillow's C takes it. Image.point would round all 768 again for each image."""

    def __init__(self, values: list[int]) -> None:
        self._values = values

    def point(self, image: Image.Image) -> Image.Image:
        image.load()
        return image._new(image.im.point(self._values, None))


class Table:
    """A chain of such steps. Called with an RGB or L image, it returns an image or a (C, H, W) tensor."""

    def __init__(self, steps: Sequence[Step], bands: int) -> None:
        """``bands`` is 1 or 3: the channels of the images that will come."""
        #: (bands, 256), C-contiguous
        self.values = table_of(steps, bands)
        #: Whether it ends in an image, and not in a tensor.
        self.gives_image = steps[-1].op == CLOSES
        #: Whether each value stays as it is: the answer is the pixels, as an image or as a tensor.
        self.keeps_values = self.values.dtype == np.uint8 and bool((self.values == np.arange(256)).all())
        #: Whether it changes nothing.
        self.is_identity = self.gives_image and self.keeps_values
        self._lookup = _Lookup(self.values.ravel().tolist() if self.gives_image else [])

    def __call__(self, image: Image.Image) -> Image.Image | Array:
        if not self.gives_image:
            pixels = np.asarray(image)
            planes = [pixels] if pixels.ndim == 2 else [pixels[..., band] for band in range(pixels.shape[2])]
            return np.stack([row[plane] for row, plane in zip(self.values, planes, strict=True)])
        return image if self.is_identity else image.point(self._lookup)
