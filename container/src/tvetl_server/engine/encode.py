"""Pixels or tensors to bytes: image files as Pillow writes them, tensors as numpy, safetensors or plain memory.

Baseline JPEGs of pixels that lie in an array are written by the C part where it can: the same bytes in less time.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, features
from safetensors.numpy import save as save_tensors

from tvetl.spec import Output, Value
from tvetl.spec.table import as_output
from tvetl_server.engine.annotations import Annotations
from tvetl_server.engine.native import native
from tvetl_server.engine.pixels import Array, ArrayImage, Encoded, Mask, Outcome, Size
from tvetl_server.errors import TooManyPixels, TransformFailed, first_line


def _image(kind: str) -> Callable[[Image.Image, Mapping[str, Value]], bytes]:
    def save(image: Image.Image, options: Mapping[str, Value]) -> bytes:
        buffer = io.BytesIO()
        try:
            # null stands for Pillow's own default.
            given = {name: value for name, value in options.items() if value is not None}
            if kind == "JPEG" and (data := _jpeg_by_c(image, given)):
                return data
            image.save(buffer, kind, **given)
        except MemoryError as error:
            raise TooManyPixels("There is not enough memory to write the result.") from error
        except (OSError, ValueError) as error:  # JPEG ends at 65,500 pixels a side, WebP at 16,383
            width, height = image.size
            raise TransformFailed(
                f"{kind} cannot hold the result of {width} x {height} pixels: {first_line(error)}."
            ) from error
        return buffer.getvalue()

    return save


def _jpeg_by_c(image: Image.Image, options: Mapping[str, Value]) -> bytes | None:
    """What ``image.save`` would write as JPEG; None where the C part cannot, or Pillow refuses. Raises MemoryError."""
    if native is None or not _IS_TURBO_3 or not isinstance(image, ArrayImage):
        return None
    if image.info or max(image.size) > _LARGEST_JPEG:
        return None
    pixels = image.array()
    if pixels is None or image.mode not in ("RGB", "L") or options["progressive"] or options["optimize"]:
        return None
    before, behind = _jpeg_head(image.mode, tuple(options.items()))
    data: bytes | None = native.encode(before + struct.pack(">HH", image.height, image.width) + behind, pixels)
    return data


@lru_cache(maxsize=256)
def _jpeg_head(mode: str, options: tuple[tuple[str, Value], ...]) -> tuple[bytes, bytes]:
    """What Pillow writes with these options before the height and width, and between them and the first code."""
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, "JPEG", **dict(options))
    data = buffer.getvalue()
    frame, marker, at = 0, 0, 2
    while marker != 0xDA:  # start of scan
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker == 0xC0:  # start of frame
            frame = at + 5
        at += 2 + length
    return data[:frame], data[frame + 4 : at]


def _npy(tensor: Array) -> bytes:
    """What np.save writes, which would copy the tensor three times."""
    return b"".join((_npy_header(tensor.shape, tensor.dtype), tensor.data))


@lru_cache(maxsize=64)
def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


_IMAGES = {"jpeg": _image("JPEG"), "png": _image("PNG"), "webp": _image("WEBP")}
_TENSORS: Mapping[str, Callable[[Array], bytes]] = {
    "npy": _npy,
    "safetensors": lambda tensor: save_tensors({"image": tensor}),
    "raw": lambda tensor: tensor.tobytes(),
}
_LARGEST_16 = 2**16 - 1
#: Whose arithmetic the C part has.
_IS_TURBO_3 = (features.version_feature("libjpeg_turbo") or "").startswith("3.")
#: Pixels a side of Pillow's JPEGs (libjpeg's JPEG_MAX_DIMENSION).
_LARGEST_JPEG = 65500
_MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def encode(outcome: Outcome | Encoded, output: Output) -> bytes:
    """One result in the output's format. Tensors are C-contiguous and little-endian; ``raw`` has no header.

    Raises TransformFailed where the format cannot hold the image.
    """
    if isinstance(outcome, bytes):
        return outcome
    if isinstance(outcome, Image.Image):
        return _IMAGES[output.format](outcome, output.options)
    return _TENSORS[output.format](np.ascontiguousarray(as_output(outcome, output)))


def encode_views(outcomes: Sequence[Outcome | Encoded], output: Output) -> bytes:
    """Several results in one answer: tensors of one shape as (N, C, H, W), images as an uncompressed tar.

    The members are named ``0.jpeg``, ``1.jpeg``, ... Raises TransformFailed where tensors differ in shape.
    """
    if output.format not in _IMAGES:
        return encode(stacked([outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]), output)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for view, outcome in enumerate(outcomes):
            data = encode(outcome, output)
            member = tarfile.TarInfo(f"{view}.{output.format}")  # time 0, owner 0: the same bytes every time
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def stacked(views: Sequence[Array]) -> Array:
    """One tensor of several. Raises TransformFailed where they differ in shape."""
    try:
        return np.stack(views)
    except ValueError as error:
        raise TransformFailed("The views differ in size, so they are no one tensor; resize them.") from error


def encode_annotated(outcome: Outcome, moved: Annotations, output: Output, size: Size) -> bytes:
    """An image with its boxes and keypoints, as safetensors. ``size`` is that of the original.

    ``image`` is (C, H, W): of an image its uint8 values, of a tensor what the output says.
    """
    if isinstance(outcome, Image.Image):
        pixels = np.asarray(outcome)
        image = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    else:
        image = as_output(outcome, output)
    tensors = {"image": image, "boxes": moved.boxes, "kept": moved.kept, "keypoints": moved.keypoints}
    return _sample({name: tensor for name, tensor in tensors.items() if tensor is not None}, size)


def encode_masks(masks: Sequence[Mask], output: Output, size: Size, *, several: bool) -> bytes:
    """A mask, or ``several`` views of one, as PNG or as tensors (H, W) and (N, H, W). ``size`` is that of the original.

    Raises TransformFailed where the format cannot hold them.
    """
    if output.format == "safetensors":
        return _sample({"mask": stacked(masks) if several else masks[0]}, size)
    outcomes = [_mask_image(mask) for mask in masks] if output.format == "png" else masks
    return encode_views(outcomes, output) if several else encode(outcomes[0], output)


def _sample(tensors: Mapping[str, Array], size: Size) -> bytes:
    """Tensors by their names. Their metadata ``of`` is the height and width of the original."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return save_tensors(contiguous, {"of": f"[{size[1]}, {size[0]}]"})


def _mask_image(mask: Mask) -> Image.Image:
    """L of uint8, and I;16 of int32. Raises TransformFailed where a value has more than 16 bits."""
    if mask.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(mask))
    values = mask.astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > _LARGEST_16:
        raise TransformFailed("png holds a mask's numbers up to 65,535; a tensor (format npy, say) holds all.")
    return Image.fromarray(values.astype(np.uint16))


def media_type(output: Output, *, several: bool = False) -> str:
    """The Content-Type of an answer."""
    if several and output.format in _IMAGES:
        return "application/x-tar"
    return _MEDIA_TYPES.get(output.format, "application/octet-stream")
