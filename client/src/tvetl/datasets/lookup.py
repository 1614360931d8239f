"""Pixels to the values that a pipeline makes of them: look-ups in its table, bit for bit the server's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[np.generic]


def _in_c() -> Callable[[Any, Any, Any], None] | None:
    """The C part's look-up, where the package tvetl-pixels is installed: numpy takes more than twice as long."""
    try:
        found: Callable[[Any, Any, Any], None] = importlib.import_module("tvetl_pixels._native").look_up
    except (ImportError, AttributeError):
        return None
    return found


_look_up = _in_c()


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
