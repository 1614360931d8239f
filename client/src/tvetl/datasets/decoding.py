"""An ETL's answers as torch's tensors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tvetl.answers import Decoded, read_answer
from tvetl.errors import ObjectFailed, TvetlError, UsageError


def undecodable(name: str, error: Exception) -> ObjectFailed:
    """The failure of an object that does not hold what was expected."""
    hint = error.hint if isinstance(error, TvetlError) else ""
    return ObjectFailed(f"{name}: {error}", code="undecodable", hint=hint)


def pixels_of(data: bytearray | bytes) -> npt.NDArray[np.uint8]:
    """The pixels that a server answered: uint8 (C, H, W), or of several views (N, C, H, W)."""
    return pixels_in(read_answer(data))


def pixels_in(answer: Decoded) -> npt.NDArray[np.uint8]:
    """The same of an answer that is read."""
    if not isinstance(answer, np.ndarray) or answer.dtype != np.uint8:
        raise UsageError("the ETL was asked for pixels, and answered something else")
    return answer.view(np.uint8)


def decode(data: bytearray | bytes, *, pil: bool) -> object:
    """What an ETL answered as tensors, or with ``pil`` its images as they are (a list of them for several views)."""
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
