"""Image to tensor and what is done to each value alone, as a table: 256 results a channel.

``ToTensor, Normalize`` maps each byte of a channel to one float, ``ToTensor, Normalize, ToPILImage`` to one
byte. So the chain runs once, at start, on all 256 values, in the arithmetic of torch (IEEE float32, in its order
of operations), and an image is a look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from tvetl.spec import Step, Value

Array = npt.NDArray[np.generic]

#: Steps that turn an image into a tensor: a table begins there.
OPENS = ("ToTensor", "PILToTensor", "ToImage")
#: The step that turns a tensor into an image: a table ends there.
CLOSES = "ToPILImage"


def _to_tensor(values: Array, params: Mapping[str, Value]) -> Array:
    return values.astype(np.float32) / np.float32(255)


def _as_it_is(values: Array, params: Mapping[str, Value]) -> Array:
    return values


def _to_dtype(values: Array, params: Mapping[str, Value]) -> Array:
    """v2.functional.to_dtype_image."""
    dtype = np.dtype(str(params["dtype"]))
    was_float, is_float = values.dtype.kind == "f", dtype.kind == "f"
    if values.dtype == dtype or not params["scale"] or (was_float and is_float):
        return _cast(values, dtype)
    # torch multiplies by a scalar in float32 and rounds to the tensor's own dtype once more.
    if is_float:
        return (values.astype(np.float32) * np.float32(1.0 / 255)).astype(dtype)
    return _cast((values.astype(np.float32) * np.float32(255 + 1.0 - 1e-3)).astype(values.dtype), dtype)


def _normalize(values: Array, params: Mapping[str, Value]) -> Array:
    mean, std = (np.asarray(params[name], values.dtype).reshape(-1, 1) for name in ("mean", "std"))
    return np.divide(np.subtract(values, mean), std)


def _to_image(values: Array, params: Mapping[str, Value]) -> Array:
    """torchvision.transforms.functional.to_pil_image; what lies outside 0..1 wraps, as it does there."""
    return _cast(np.multiply(values, 255), np.dtype(np.uint8)) if values.dtype.kind == "f" else values


def _cast(values: Array, dtype: np.dtype[np.generic]) -> Array:
    if values.dtype.kind == "f" and dtype.kind == "u":
        # What C leaves undefined outside 0..255, torch and numpy both do as x86 does: cut, then wrap.
        return np.trunc(values.astype(np.float64)).astype(np.int64).astype(dtype)
    return values.astype(dtype)


_VALUES: Mapping[str, Callable[[Array, Mapping[str, Value]], Array]] = {
    "ToTensor": _to_tensor,
    "PILToTensor": _as_it_is,
    "ToImage": _as_it_is,
    "ToDtype": _to_dtype,
    "Normalize": _normalize,
    CLOSES: _to_image,
}


def is_pointwise(step: Step) -> bool:
    """Whether a step inside a table can be one: it looks at one value of a tensor at a time."""
    return step.op in _VALUES


class _Lookup(Image.ImagePointHandler):
    """A table of whole numbers, as Pillow's own code takes it: Image.point would round all 768 anew for each image."""

    def __init__(self, values: list[int]) -> None:
        self._values = values

    def point(self, image: Image.Image) -> Image.Image:
        image.load()
        return image._new(image.im.point(self._values, None))


class Table:
    """A chain of such steps; called with an RGB or L image, it gives an image or a (C, H, W) tensor."""

    def __init__(self, steps: Sequence[Step], bands: int) -> None:
        """``bands`` is 1 or 3: the channels of the images that will come."""
        values: Array = np.tile(np.arange(256, dtype=np.uint8), (bands, 1))
        with np.errstate(all="ignore"):  # a float16 that overflows is infinite there, too
            for step in steps:
                values = _VALUES[step.op](values, step.params)
        #: (bands, 256), C-contiguous
        self.values = np.ascontiguousarray(values)
        #: Whether it ends in an image, and not in a tensor.
        self.gives_image = steps[-1].op == CLOSES
        #: Whether it changes nothing.
        self.is_identity = bool(self.gives_image and (values == np.arange(256)).all())
        self._lookup = _Lookup(values.ravel().tolist() if self.gives_image else [])

    def __call__(self, image: Image.Image) -> Image.Image | Array:
        if not self.gives_image:
            pixels = np.asarray(image)
            planes = [pixels] if pixels.ndim == 2 else [pixels[..., band] for band in range(pixels.shape[2])]
            return np.stack([row[plane] for row, plane in zip(self.values, planes, strict=True)])
        return image if self.is_identity else image.point(self._lookup)
