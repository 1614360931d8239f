"""Decoding of an ETL's answers to numpy arrays and PIL images; their content shows the format."""

from __future__ import annotations

import functools
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator
from tokenize import TokenError
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from tvetl.errors import UsageError

Array: TypeAlias = npt.NDArray[np.generic]
#: A tensor (several views of one shape are stacked), an image, or the images of several views.
Decoded: TypeAlias = "Array | Image.Image | list[Image.Image]"
Converted = TypeVar("Converted")

_BLOCK = 512  # bytes of a block of a tar archive
_LARGEST_SPARSE = 2**30  # bytes of a member with holes, which costs an archive nothing and a reader all of them
#: Pillow's modes that are kept; others become RGB, which would clip values of more than 8 bits at 255.
_KEPT = ("RGB", "L", "I;16", "I", "F")
_NPY = b"\x93NUMPY"
_SAFETENSORS = {"U8": np.uint8, "F16": np.float16, "F32": np.float32, "I32": np.int32, "I64": np.int64}


def read_answer(data: bytes | bytearray) -> Decoded:
    """Decode npy and safetensors to arrays, image files to PIL images, a tar of views to a list of them.

    Images are RGB or L; of 16 bits or floats they keep Pillow's mode (I;16, I, F), which ETLs never write.

    Arrays are writable, in the shape and dtype that were sent; of a bytearray they are its own memory. Raises
    UsageError for anything else: ``raw`` has no header and cannot be told from noise.
    """
    if not data:
        raise UsageError("it is empty")
    if data.startswith(_NPY):
        return _npy(data)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return _safetensors(data)
    if is_tar(data):
        return [_opened(member, _in_kept_mode) for _, member in members(data)]
    return _opened(data, _in_kept_mode)


def read_sample(data: bytes | bytearray) -> tuple[dict[str, Array], tuple[int, int]]:
    """Decode the answer to an image with boxes or keypoints, or to a mask, in safetensors.

    Gives the tensors by name (``image`` (C, H, W), ``boxes`` float32 (M, 4), ``kept`` int64 (M,), ``keypoints``
    float32 (K, 2), ``mask`` (H, W)), writable, of a bytearray its own memory; and height and width of the original.
    Raises UsageError for anything else.
    """
    if data[8:9] != b"{":
        raise UsageError("this is no safetensors")
    tensors, metadata = _tensors(data)
    try:
        height, width = map(int, json.loads(str(metadata["of"])))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise UsageError("this safetensors does not say the size of the original") from error
    return tensors, (height, width)


def read_mask(data: bytes | bytearray) -> Array:
    """Decode a mask as it is stored to the numbers of its pixels, (H, W).

    Of image files uint8 for modes 1, L and P (its indices), int32 for more bits; of npy and safetensors their own.
    Raises UsageError for anything else.
    """
    if data.startswith(_NPY) or data[8:9] == b"{":
        answer = read_answer(data)
        if not isinstance(answer, np.ndarray) or answer.ndim != 2:
            raise UsageError("this tensor is no mask: expected one of two dimensions, (H, W)")
        return answer
    return _opened(data, _numbers)


def _numbers(image: Image.Image) -> Array:
    if image.mode in ("1", "L", "P"):
        return np.array(image, np.uint8)
    if image.mode.startswith("I"):
        return np.array(image.convert("I"), np.int32)
    hint = "A mask has one number a pixel, of a class or an instance: mode 1, L, P, I;16 or I."
    raise UsageError(f"this image of mode {image.mode} is no mask", hint=hint)


def is_tar(data: bytes | bytearray) -> bool:
    """Whether it is a tar archive (ustar, GNU or pax)."""
    return data[257:262] == b"ustar"


def members(data: bytes | bytearray) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a tar archive, in order. Raises UsageError where it is damaged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if member.size > max(len(data), _LARGEST_SPARSE):
                    raise UsageError(f"{member.name!r} in this tar archive is said to have {member.size:,} bytes")
                if member.isfile() and (file := tar.extractfile(member)):
                    yield member.name, file.read()
            # tarfile ends without an error where a header is cut off; the end mark is a block of zeros.
            if data[tar.offset : tar.offset + _BLOCK] != bytes(_BLOCK):
                raise UsageError("this tar archive is cut short: it ends without its end mark")
    except UsageError:
        raise
    except Exception as error:  # by what is broken, tarfile lets ValueError, EOFError, OverflowError, ... through
        raise UsageError(f"this is no tar archive that can be read: {str(error) or type(error).__name__}") from error


def _npy(data: bytes | bytearray) -> Array:
    """The array of an npy file, whose header must promise as many bytes as follow."""
    begin = 10 + int.from_bytes(data[8:10], "little")
    if data[6:7] != b"\x01":  # a header of more than 65,535 bytes
        begin = 12 + int.from_bytes(data[8:12], "little")
    shape, order, dtype = npy_header(bytes(data[:begin]))
    if math.prod(shape) * dtype.itemsize != len(data) - begin:
        raise UsageError(f"this npy is damaged: {shape} of {dtype} is not what follows")
    try:
        array: Array = np.frombuffer(data, dtype, offset=begin).reshape(shape, order=order)
    except ValueError as error:  # lengths below 0, values of no bytes
        raise UsageError(f"this npy is damaged: {error}") from error
    return array if array.flags.writeable else array.copy()


@functools.lru_cache(maxsize=64)
def npy_header(header: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[np.generic]]:
    """Shape, order and dtype that an npy file's header gives. Raises UsageError where it is damaged, or of objects."""
    file = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("it holds objects, which only Python could unpack")
    except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, TokenError) as error:
        raise UsageError(f"this npy is damaged: {error}") from error
    return shape, "F" if fortran else "C", dtype


def _safetensors(data: bytes | bytearray) -> Array:
    """The one tensor of a safetensors file."""
    tensors, _ = _tensors(data)
    if len(tensors) != 1:
        raise UsageError(f"this safetensors holds {len(tensors)} tensors, {', '.join(tensors)}: expected one")
    return tensors.popitem()[1]


def _tensors(data: bytes | bytearray) -> tuple[dict[str, Array], dict[str, object]]:
    """Tensors and metadata of a safetensors file: 8 bytes with the header's length, the header in JSON, the values."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:end])
        metadata = dict(header.pop("__metadata__", {}))
        return {name: _of_entry(data, end, entry) for name, entry in header.items()}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UsageError("this is not safetensors as an ETL writes it: tensors of U8, I32, I64, F16, F32") from error


def _of_entry(data: bytes | bytearray, begin: int, entry: dict[str, Any]) -> Array:
    """The tensor that an entry of a safetensors header describes. Raises ValueError where its bytes are missing."""
    (first, last), dtype = entry["data_offsets"], np.dtype(_SAFETENSORS[entry["dtype"]])
    count = math.prod(entry["shape"])
    if first < 0 or last - first != count * dtype.itemsize or begin + last > len(data):
        raise ValueError("its bytes are not there")
    if not count:  # of which numpy makes no view at the data's end
        return np.empty(entry["shape"], dtype)
    array: Array = np.frombuffer(data, dtype, count, begin + first).reshape(entry["shape"])
    return array if array.flags.writeable and array.flags.aligned else array.copy()


def _in_kept_mode(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") and image.mode not in _KEPT:  # the other order of bytes
        return image.convert("I")
    return image.copy() if image.mode in _KEPT else image.convert("RGB")


def _opened(data: bytes | bytearray, convert: Callable[[Image.Image], Converted]) -> Converted:
    """An image file, converted while it is open. Raises UsageError for another file and for a damaged one."""
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise UsageError(f"this image has more pixels than Pillow decodes: {error}") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, TypeError, struct.error, KeyError, ... by format
        hint = "An ETL's output is one of npy, safetensors, jpeg, png and webp; without an ETL, leave such objects out."
        raise UsageError("this is neither a tensor nor an image", hint=hint) from error
    try:
        with image:
            return convert(image)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"this image ({image.format}) is damaged: {error}") from error
