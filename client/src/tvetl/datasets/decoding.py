"""An ETL's answers as torch's tensors; and the values of pixels by a pipeline's table, bit for bit the server's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tvetl.answers import Array, Decoded, read_answer
from tvetl.errors import ObjectFailed, TvetlError, UsageError


def undecodable(name: str, error: Exception) -> ObjectFailed:
    """The failure of an object that does not hold what was expected."""
    hint = error.hint if isinstance(error, TvetlError) else ""
    return ObjectFailed(f"{name}: {error}", code="undecodable", hint=hint)


def pixels_of(answer: Decoded) -> npt.NDArray[np.uint8]:
    """The pixels that a server answered: uint8 (C, H, W), or of several views (N, C, H, W)."""
    if not isinstance(answer, np.ndarray) or answer.dtype != np.uint8:
        raise UsageError("the ETL was asked for pixels, and answered something else")
    return answer.view(np.uint8)


def decode(data: bytearray | bytes, *, pil: bool) -> object:
    """An ETL's answer as tensors, or with ``pil`` its images as they are (a list of them for several views)."""
    answer = read_answer(data)
    return answer if pil and not isinstance(answer, np.ndarray) else _tensor(answer)


def to_tensor(data: bytearray | bytes) -> torch.Tensor:
    """Decode what an ETL answered: a tensor as it was sent, an image as uint8 (C, H, W), views as (N, C, H, W).

    Raises UsageError for other formats, and for views that are images of different sizes.
    """
    return _tensor(read_answer(data))


def _tensor(answer: Decoded) -> torch.Tensor:
    if isinstance(answer, np.ndarray):
        native = answer.dtype.newbyteorder("=")
        try:
            return torch.from_numpy(answer if answer.dtype == native else answer.astype(native))
        except (TypeError, ValueError) as error:
            raise UsageError(f"torch has no tensors of {answer.dtype}") from error
    if isinstance(answer, Image.Image):
        pixels = np.array(answer)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(planes))
    try:
        return torch.stack([_tensor(image) for image in answer])
    except RuntimeError as error:
        hint = "Resize them in the pipeline, or ask for images with pil=True."
        raise UsageError("the views differ in size, so they are no one tensor", hint=hint) from error


#: The C part's look-up, where the package tvetl-pixels is installed: numpy takes more than twice as long.
_look_up: Callable[[Any, Any, Any], None] | None = None
with suppress(ImportError, AttributeError):
    _look_up = importlib.import_module("tvetl_pixels._native").look_up


def look_up(pixels: npt.NDArray[np.uint8], table: Array, out: Array | None = None) -> torch.Tensor:
    """The values of pixels (..., C, H, W) in a table (C, 256), as a tensor of that shape in the table's dtype.

    ``out`` is C-contiguous memory for them, of the same shape and as many bytes a value.
    """
    if out is None:
        out = np.empty(pixels.shape, table.dtype)
    channels = len(table)
    planes = np.ascontiguousarray(pixels).reshape(-1, channels, pixels.shape[-1] * pixels.shape[-2])
    results = out.reshape(planes.shape)
    for image, values in zip(planes, results, strict=True):
        for channel in range(channels):
            if _look_up and table.itemsize in (2, 4):
                _look_up(image[channel], table[channel], values[channel])
            else:
                # No byte is beyond 255, so nothing wraps; the other modes take longer, or buffer the results.
                table[channel].take(image[channel], out=values[channel], mode="wrap")
    return torch.from_numpy(out)


def look_up_on_device(pixels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The same where the pixels (..., C, H, W) and the table (C, 256) are: on a GPU, say."""
    channels = len(table)
    first = torch.arange(0, 256 * channels, 256, dtype=torch.int32, device=pixels.device)
    places = pixels.to(torch.int32).add_(first.view(channels, 1, 1))
    return table.flatten().index_select(0, places.flatten()).view(pixels.shape)
