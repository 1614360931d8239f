"""A file's bytes to the RGB image that a pipeline's first step is given, by Pillow alone.

The server decodes to the same pixels for less work; the tests compare the two.
"""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from tvetl.spec.model import Pipeline


def open_rgb(data: bytes, pipeline: Pipeline) -> Image.Image:
    """The image in ``data`` as the pipeline opens it: RGB, with its ``orientation``. Raises what Pillow raises."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # which turns a TIFF, whatever the pipeline says
        upright = ImageOps.exif_transpose(image) if pipeline.orientation == "apply" else image
        return upright.convert("RGB")
