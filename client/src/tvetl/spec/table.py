"""Pointwise steps as a table: 256 results a channel, for server and client alike.

``ToTensor, Normalize`` maps each byte of a channel to one float, ``ToTensor, Normalize, ToPILImage`` to one
byte. So the steps run once on all 256 values, in the arithmetic of torch (IEEE float32, in its order of operations).
A server that sends bytes and a client that looks them up here get what the server would have sent.

Not imported with :mod:`tvetl.spec`, for it needs numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvetl.spec.model import Output, Pipeline, Step, Value
from tvetl.spec.pointwise import CLOSES, NotSplit, parts

Array = npt.NDArray[np.generic]


def table_of(steps: Sequence[Step], channels: int) -> Array:
    """The results of pointwise steps for each byte: (channels, 256), C-contiguous, of the dtype that the steps give.

    The first step takes an image of ``channels`` (1 or 3), so it is one of OPENS.
    """
    values: Array = np.tile(np.arange(256, dtype=np.uint8), (channels, 1))
    with np.errstate(all="ignore"):  # a float16 that overflows is infinite there, too
        for step in steps:
            values = _VALUES[step.op](values, step.params)
    return np.ascontiguousarray(values)


def as_output(tensor: Array, output: Output) -> Array:
    """The tensor in the dtype that a tensor format is to be written in; itself where that is its own."""
    dtype = output.options["dtype"]
    return tensor if dtype is None else tensor.astype(str(dtype), copy=False)


@dataclass(frozen=True, eq=False)
class Split:
    """A pipeline in two: one that gives bytes, and the table that makes of each byte what the whole pipeline gives."""

    pipeline: Pipeline
    """The same up to its pixels: its answer is uint8 (C, H, W), of the same draws and in the same format."""
    table: Array
    """(C, 256), C-contiguous, of the dtype of the whole pipeline's answer: channel c is ``table[c][pixels[c]]``."""


def split(pipeline: Pipeline) -> Split | None:
    """The pipeline in two; None where it does not end in pointwise steps, or where these leave the pixels as they are.

    :func:`tvetl.spec.pointwise.parts` says why not.
    """
    try:
        halves = parts(pipeline)
    except NotSplit:
        return None
    with np.errstate(all="ignore"):
        table = as_output(table_of(halves.steps, halves.channels), pipeline.output)
    return Split(halves.pixels, table)


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
