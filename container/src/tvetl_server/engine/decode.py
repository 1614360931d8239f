"""Image bytes to pixels, and only the pixels that are needed.

Images are refused from their header, before anything is allocated (:mod:`headers`). The pixels are those of
``PIL.Image.open(...).convert("RGB")``. The C part decodes a region of a JPEG to the same pixels for less work. Pillow
decodes what it cannot.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from tvetl.spec import Pipeline, opening, parse
from tvetl_server.engine import cut_off, headers
from tvetl_server.engine.native import native
from tvetl_server.engine.pixels import Array, Box, Coded, Mask, Part, Size, image_on
from tvetl_server.errors import (
    BadAnnotations,
    DamagedImage,
    NotAnImage,
    ObjectError,
    TooManyPixels,
    WrongDepth,
    first_line,
)
from tvetl_server.limits import Limits

#: Other libjpegs round otherwise; Pillow's wheels have libjpeg-turbo.
_IS_TURBO = features.check_feature("libjpeg_turbo")

#: How a file of each allowed format starts. EPS, PSD, FITS and the like run interpreters or are not
#: photographs: they stay shut whatever Pillow could do.
_MAGIC: tuple[tuple[str, int, bytes | tuple[bytes, ...]], ...] = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
    ("GIF", 0, (b"GIF87a", b"GIF89a")),
    ("BMP", 0, b"BM"),
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("AVIF", 4, (b"ftypavif", b"ftypavis", b"ftypmif1")),
)

#: How other kinds of files start, for the message.
_LOOKS_LIKE: tuple[tuple[int, bytes | tuple[bytes, ...], str], ...] = (
    (0, (b"%!PS", b"\xc5\xd0\xd3\xc6"), "PostScript"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"SIMPLE", "a FITS file"),
    (0, (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"), "JPEG 2000"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"(\xb5/\xfd", "zstd"),
    (257, b"ustar", "a tar archive"),
    (4, b"ftyp", "a video or HEIF file"),
    (0, b"P7\n", "a PAM image"),
    (0, (b"PF\n", b"Pf\n"), "a PFM image"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML"),
    (0, b"<", "HTML or XML"),
    (0, b"{", "JSON"),
)

_ORIENTATION = 0x0112  # the EXIF tag
#: Its values by which the sides change places.
_ON_ITS_SIDE = (5, 6, 7, 8)
#: Its values, and what makes the image upright: ImageOps.exif_transpose, which would write the EXIF data anew, too.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Pillow's modes of one whole number a pixel.
_MASK_MODES = frozenset(["1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"])

#: Formats whose frames Pillow would count by opening each; :mod:`headers` has counted them.
_COUNTED = frozenset(["GIF", "TIFF"])

#: A pipeline whose fields are those by default.
_PLAIN = parse({"steps": []})


class Source:
    """An opened image: its size is known and allowed, its pixels are not decoded yet."""

    def __init__(self, data: bytes, image: Image.Image, pipeline: Pipeline, scan: tuple[int, int] | None) -> None:
        """``scan`` is what :func:`headers.check` gave."""
        self._data = data
        self._image = image
        self._pipeline = pipeline
        #: (width, height) in pixels, after orientation.
        self.size: Size
        self.size, self._to_upright = _orientation(image, upright=pipeline.orientation == "apply")
        self._decoded: Image.Image | None = None
        self._array: Array | None = None  # all of it
        self._reduced: dict[int, Array] = {}  # all of it at 1/2, 1/4, 1/8
        # Pillow stopped reading behind the header of the first scan; the same must have been seen there.
        file = getattr(image, "fp", None)
        begin = file.tell() if file else 0
        self._end_of_scan = scan[1] if scan and scan[0] == begin else None

    def pixels(self, box: Box | None = None, *, keep: bool = False) -> Image.Image:
        """RGB pixels of the image or of ``box``; raises DamagedImage.

        ``keep`` decodes the whole once, for other parts that follow.
        """
        everything = (0, 0, *self.size)
        box = box or everything
        if self._decoded is None and (coded := self.coded(everything if keep else box)):
            pixels = _decode(coded, 4)
            if pixels is not None:
                image = image_on(pixels)
                if coded.box != everything:
                    return image
                self._decoded = image
        if self._decoded is None:
            self._decoded = self._decode()
        return self._decoded if box == everything else self._decoded.crop(box)

    def array(self, box: Box | None = None, *, keep: bool = False) -> Image.Image | Array:
        """The same pixels with the least copying: uint8 of (H, W, 3), or an image where Pillow decodes."""
        left, top, right, bottom = box = box or (0, 0, *self.size)
        if self._array is None and self._decoded is None and (coded := self.coded(None if keep else box)):
            region = _decode(coded)
            if region is not None and not keep:
                return region
            self._array = region
        if self._array is None:
            return self.pixels(box, keep=keep)
        return self._array[top:bottom, left:right]

    def coded(self, box: Box | None = None, factor: int = 1) -> Coded | None:
        """All of the image or ``box``, at 1/``factor``, for the C part to decode; None where it cannot."""
        if native is None or (factor == 1 and not _IS_TURBO) or not self._can_decode_regions():
            return None
        return Coded(self._data, self.size, factor, box or (0, 0, *self.size))

    def reduced(self, box: Box, factor: int, *, keep: bool = False) -> tuple[Image.Image | Array, Part] | None:
        """RGB pixels around ``box`` at 1/``factor`` (2, 4, 8) of their size, and where it lies in them.

        None where :meth:`array` costs no more. Raises DamagedImage where :meth:`array` does.
        """
        if self._image.format != "JPEG" or self._image.mode not in ("RGB", "L") or self._to_upright is not None:
            return None
        width, height = (-(-side // factor) for side in self.size)
        left, top, right, bottom = box[0] // factor, box[1] // factor, -(-box[2] // factor), -(-box[3] // factor)
        part = box[0] / factor - left, box[1] / factor - top, box[2] / factor - left, box[3] / factor - top
        whole = self._reduced.get(factor)
        if whole is None and not self._can_decode_regions():
            whole = self._draft(factor)
            if whole.shape != (height, width, 3):
                return None
            self._reduced[factor] = whole
        elif whole is None:
            coded = self.coded((0, 0, width, height) if keep else (left, top, right, bottom), factor)
            pixels = _decode(coded) if coded else None
            if pixels is None or not keep:
                return None if pixels is None else (pixels, part)
            whole = self._reduced[factor] = pixels
        return whole[top:bottom, left:right], part

    def mask(self) -> Mask:
        """The values as Pillow reads them, in no other order than the pixels of an image.

        uint8 of modes 1, L and P (its indices), int32 of 16 and 32 bits. Raises DamagedImage and BadAnnotations.
        """
        image = self._image
        if image.mode not in _MASK_MODES:
            raise BadAnnotations(
                f"A mask has one whole number a pixel (Pillow's modes 1, L, P, I;16 or I); this one is {image.mode}."
            )
        with _as_damaged_image(self._data), opening.truncated(self._pipeline):
            image.load()
            if self._to_upright is not None:
                image = image.transpose(self._to_upright)
            values = np.asarray(image)
        return values.astype(np.uint8 if image.mode in ("1", "L", "P") else np.int32, copy=False)

    def baseline(self) -> bytes | None:
        """The file, if it is a whole baseline JPEG that needs no turning; else None."""
        return self._data if self._can_decode_regions() else None

    def _draft(self, factor: int) -> Array:
        """All of it at 1/``factor``, by Pillow: libjpeg's scaled DCT."""
        with (
            _as_damaged_image(self._data),
            opening.truncated(self._pipeline),
            Image.open(io.BytesIO(self._data), formats=["JPEG"]) as image,
        ):
            image.draft(None, (image.width // factor, image.height // factor))
            return np.asarray(image.convert("RGB"))

    def _decode(self) -> Image.Image:
        try:
            with _as_damaged_image(self._data), opening.truncated(self._pipeline):
                image = self._image
                image.load()
                # An RGB image is taken as it is: convert would copy it, which is memory. (_new is how Pillow's own
                # methods make a plain image of what a decoder left.)
                is_done = image.mode == "RGB" and not opening.is_clear(image, self._pipeline)
                rgb = image._new(image.im) if is_done else opening.to_rgb(image, self._pipeline)
                if self._to_upright is not None:
                    rgb = rgb.transpose(self._to_upright)
        except (DamagedImage, WrongDepth):
            self._image.close()  # a second load would return the rows that Pillow had decoded until then
            raise
        rgb.info = {}  # nothing of the source but its pixels goes on: no comment, no profile, no GPS
        self._image = rgb  # and the decoder's own buffers end here
        return rgb

    def _can_decode_regions(self) -> bool:
        """Whether regions may be decoded: a JPEG of one scan without markers, closed by its end marker.

        Decoding a region never sees damage beyond it. So a broken file could pass under one seed and fail under
        another. libjpeg reads a file of this structure to its end, whatever its codes say. Pillow decodes all others:
        progressive, with restart markers, cut short, with trailing data, CMYK.
        """
        if self._image.format != "JPEG" or self._image.mode not in ("RGB", "L") or self._to_upright is not None:
            return False
        return self._end_of_scan is not None and not self._data[self._end_of_scan + 2 :].strip(b"\0")


def _orientation(image: Image.Image, *, upright: bool) -> tuple[Size, Image.Transpose | None]:
    """The size that the image will have, and how it is to be turned once it is decoded."""
    if image.format == "TIFF":
        # Pillow turns a TIFF while it decodes it, also by its XMP. The size of an opened one may be that from before.
        width, height = image._tile_size  # type: ignore[attr-defined]
        turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
        return ((height, width) if turned else (width, height)), None
    if not upright:
        return image.size, None
    if image.format == "PNG":
        image.load()  # the chunk with the orientation may follow the pixels
    orientation = image.getexif().get(_ORIENTATION, 1)
    width, height = image.size
    return ((height, width) if orientation in _ON_ITS_SIDE else (width, height)), _TO_UPRIGHT.get(orientation)


def open_source(data: bytes, limits: Limits, pipeline: Pipeline = _PLAIN, *, is_mask: bool = False) -> Source:
    """Open image bytes, as the pipeline's fields say, without decoding them. A mask may have values of any depth.

    Raises NotAnImage (not one of the allowed formats), DamagedImage (its header cannot be read), TooManyPixels,
    TooManyFrames, WrongDepth.
    """
    name = format_of(data)
    if name is None:
        raise NotAnImage(f"This is no JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or PPM: it is {_looks_like(data)}.")
    scan = headers.check(data, name, limits)
    with _as_damaged_image(data), opening.truncated(pipeline):
        image = Image.open(io.BytesIO(data), formats=[name])
        headers.check_pixels(*image.size, limits)
        if name not in _COUNTED:
            headers.check_frames(int(getattr(image, "n_frames", 1)), limits)
        if not is_mask:
            opening.check_depth(image, pipeline)
        return Source(data, image, pipeline, scan)


def format_of(data: bytes) -> str | None:
    """Pillow's name of the allowed format that these bytes begin like; None for all else.

    PPM stands for PBM and PGM too. Of these at least 512 bytes must be there, or all.
    """
    known = next((name for name, offset, magic in _MAGIC if data.startswith(magic, offset)), None)
    if known == "WEBP" and not data.startswith(b"RIFF"):  # a text may have the word there
        return None
    return known or ("PPM" if headers.is_ppm(data) else None)


def _looks_like(data: bytes) -> str:
    if not data:
        return "empty"
    head = data[:512].lstrip()
    for offset, magic, description in _LOOKS_LIKE:
        if (head if offset == 0 else data).startswith(magic, offset):
            return description
    words = data[:64].decode("utf-8", "replace").rstrip("\ufffd")  # the cut may have hit a character
    known = all(character.isprintable() or character.isspace() for character in words) and "\ufffd" not in words
    return "text" if words and known else "of a kind not known here"


@contextlib.contextmanager
def _as_damaged_image(data: bytes) -> Iterator[None]:
    """Whatever a decoder raises on a broken file becomes DamagedImage, with a message of one line."""
    try:
        yield
    except ObjectError:
        raise
    except opening.WrongDepth as error:
        raise WrongDepth(str(error)) from error
    except MemoryError as error:
        raise TooManyPixels("There is not enough memory to decode the image.") from error
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error, KeyError, IndexError, ... by format.
        raise DamagedImage(cut_off.message(data, format_of(data), error) or _message(error)) from error


def _message(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # a TIFF of three floats a pixel, say: Pillow gives no reason
        return "The image is damaged, or of a kind that Pillow does not read: its header is not understood."
    return f"The image is damaged: {first_line(error)}."


def _decode(coded: Coded, channels: int = 3) -> Array | None:
    """RGB pixels, uint8 of (H, W, channels), at 1 equal to decoding all of it and cropping; None where that cannot be.

    Of four channels, which are for :func:`image_on`, the last is 255.
    """
    assert native is not None
    left, top, right, bottom = coded.box
    pixels = np.empty((bottom - top, right - left, channels), np.uint8)
    return pixels if native.decode(*coded, pixels) else None
