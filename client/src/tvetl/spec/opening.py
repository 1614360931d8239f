"""A file's bytes to the RGB image that a pipeline's first step is given, by Pillow alone.

The server decodes to the same pixels for less work, and converts by :func:`to_rgb` too; the tests compare the two.
"""

from __future__ import annotations

import io
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from tvetl.spec.model import Pipeline, Value

#: Pillow's modes of one value a pixel whose conversion to RGB clips at 0 and 255.
_DEEP = frozenset(["I", "F", "I;16", "I;16L", "I;16B", "I;16N"])
_KINDS = {"I": "whole numbers of 16 or 32 bits", "F": "32-bit floats"}
#: Tags of a TIFF.
_BITS, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2


class WrongDepth(ValueError):
    """Values of more than 8 bits that the pipeline's ``depth`` does not take; the text is a sentence for users."""


def open_rgb(data: bytes, pipeline: Pipeline) -> Image.Image:
    """The image in ``data`` as the pipeline opens it: RGB, by its ``orientation``, ``depth``, ``truncated`` and
    ``background``.

    Raises WrongDepth, and what Pillow raises.
    """
    with truncated(pipeline), Image.open(io.BytesIO(data)) as image:
        return _opened(image, pipeline)


def _opened(image: Image.Image, pipeline: Pipeline) -> Image.Image:
    check_depth(image, pipeline)
    image.load()
    if pipeline.orientation == "apply" and image.format != "TIFF":  # which Pillow transposed by loading it
        image = ImageOps.exif_transpose(image)
    return to_rgb(image, pipeline)


#: The fields of a pipeline that say how files are opened, and their defaults.
FIELDS = ("orientation", "depth", "truncated", "background")
_DEFAULTS = {name: getattr(Pipeline, name) for name in FIELDS}


@dataclass(frozen=True)
class Opened:
    """The first transform of a Compose whose pipeline opens files by other fields than the defaults."""

    pipeline: Pipeline

    @classmethod
    def of(cls, pipeline: Pipeline) -> list[Opened]:
        """Empty for a pipeline with the defaults: then ``Image.open(...).convert("RGB")`` is enough."""
        opened = cls(pipeline)
        return [] if opened.fields == _DEFAULTS else [opened]

    @property
    def fields(self) -> dict[str, Value]:
        """Each field that says how files are opened."""
        return {name: getattr(self.pipeline, name) for name in FIELDS}

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB of an image as Image.open gave it; raises what :func:`open_rgb` raises."""
        with truncated(self.pipeline):
            return _opened(image, self.pipeline)


class _Truncated(AbstractContextManager[None]):
    """Sets Pillow's flag, which is the whole process's: only one thread at a time opens or decodes, by its pipeline.

    A class, as a generator would take 2 us longer, three times an image.
    """

    _lock = threading.Lock()

    def __init__(self, pad: bool) -> None:
        self._pad = pad
        self._before = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self._before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, self._pad

    def __exit__(self, *_: object) -> None:
        ImageFile.LOAD_TRUNCATED_IMAGES = self._before
        self._lock.release()


_TRUNCATED = {"refuse": _Truncated(False), "pad": _Truncated(True)}


def truncated(pipeline: Pipeline) -> AbstractContextManager[None]:
    """In it Pillow opens and decodes files that are cut off as the pipeline says; not to be entered twice."""
    return _TRUNCATED[pipeline.truncated]


def check_depth(image: Image.Image, pipeline: Pipeline) -> None:
    """Raises WrongDepth where the image, opened and maybe not yet decoded, has values that ``depth`` refuses."""
    if image.mode in _DEEP and pipeline.depth == "refuse":
        kind = _KINDS.get(image.mode, "16-bit whole numbers")
        raise WrongDepth(
            f"The image's values are {kind}, which RGB would clip to 0..255. Let the pipeline's depth say what to do: "
            "scale, or convert to clip."
        )


def to_rgb(image: Image.Image, pipeline: Pipeline) -> Image.Image:
    """RGB of an image that Pillow opened and decoded; raises WrongDepth."""
    if image.mode in _DEEP and pipeline.depth == "scale":
        image = _scaled(image)
    if is_clear(image, pipeline):
        assert pipeline.background is not None
        # Pillow makes no RGBA of La.
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*pipeline.background, 255)), rgba)
    return image.convert("RGB")


def is_clear(image: Image.Image, pipeline: Pipeline) -> bool:
    """Whether the image has transparency, and the pipeline a background for it."""
    return pipeline.background is not None and image.has_transparency_data


def _scaled(image: Image.Image) -> Image.Image:
    """L, or LA where one value means transparent."""
    eight = Image.fromarray(_floats(image) if image.mode == "F" else _whole(image))
    clear = image.info.get("transparency")
    if clear is not None:
        eight.putalpha(Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)))
    return eight


def _floats(image: Image.Image) -> npt.NDArray[np.uint8]:
    values = np.asarray(image)
    if np.isnan(values).any():
        raise WrongDepth("Some of the image's floats are no numbers (NaN); the pipeline's depth, scale, takes 0 to 1.")
    if not (values.min() >= 0 and values.max() <= 1):
        raise WrongDepth(
            f"The image's floats are {values.min():g} to {values.max():g}; the pipeline's depth, scale, takes 0 to 1."
        )
    return (values * np.float32(255.999)).astype(np.uint8)  # v2.functional.to_dtype_image of torchvision


def _whole(image: Image.Image) -> npt.NDArray[np.uint8]:
    tags: Any = getattr(image, "tag_v2", None)  # a TIFF's; PNG and PPM have 16 bits here
    bits = tags.get(_BITS, (1,))[0] - (tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED) if tags is not None else 16
    if bits > 16:
        raise WrongDepth(
            "The image's values are 32-bit whole numbers, whose range nobody knows; the pipeline's depth, scale, takes "
            "up to 16 bits."
        )
    values = np.asarray(image)
    if values.min() < 0:
        raise WrongDepth(
            f"The image's values begin at {values.min()}; the pipeline's depth, scale, takes none below 0."
        )
    return (values >> (bits - 8)).astype(np.uint8)  # v2.functional.to_dtype_image of torchvision
