"""Files of every kind that is opened, made here: turned, deep, cut off, transparent, and PPMs of all sorts."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Pixels = npt.NDArray[np.uint8]
Write = Callable[[Image.Image, int], bytes]

ORIENTATION = 0x0112
#: All levels of 16 bits, as far as there is room.
RAMP = np.linspace(0, 65535, 38 * 57).reshape(38, 57).astype(np.uint16)


def picture(mode: str = "RGB", size: tuple[int, int] = (57, 38)) -> Image.Image:
    """Smooth, and different at each corner and edge."""
    down = Image.linear_gradient("L").resize(size)
    return Image.merge(
        "RGB", (down, down.transpose(Image.Transpose.ROTATE_180), Image.radial_gradient("L").resize(size))
    ).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- orientation ----------------------------------------------------------------------------------------------------


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _xmp(orientation: int) -> bytes:
    return f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()


def _png_xmp(image: Image.Image, orientation: int) -> bytes:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", _xmp(orientation).decode())
    return saved(image, "PNG", pnginfo=text)


def _behind_the_pixels(image: Image.Image, orientation: int) -> bytes:
    """A PNG with its EXIF data behind IDAT, where the standard allows it too."""
    chunk = b"eXIf" + _exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    plain = saved(image, "PNG")
    return plain[:-12] + whole + plain[-12:]


def _by(kind: str, tell: Callable[[int], dict[str, Any]], **options: Any) -> Write:
    return lambda image, orientation: saved(image, kind, **tell(orientation), **options)


def by_exif(orientation: int) -> dict[str, Any]:
    return {"exif": _exif(orientation)}


def by_xmp(orientation: int) -> dict[str, Any]:
    return {"xmp": _xmp(orientation)}


def by_both(orientation: int) -> dict[str, Any]:
    """EXIF's is the one that counts."""
    return {**by_exif(orientation), **by_xmp(9 - orientation)}


WRITERS: dict[str, Write] = {
    "JPEG": _by("JPEG", by_exif),
    "JPEG, progressive": _by("JPEG", by_exif, progressive=True),
    "JPEG by XMP": _by("JPEG", by_xmp),
    "JPEG by both": _by("JPEG", by_both),
    "MPO": _by("MPO", by_exif, save_all=True, append_images=[picture()]),
    "PNG": _by("PNG", by_exif),
    "PNG by XMP": _png_xmp,
    "PNG by EXIF behind its pixels": _behind_the_pixels,
    "WebP": _by("WEBP", by_exif, lossless=True),
    "WebP by XMP": _by("WEBP", by_xmp, lossless=True),
    "TIFF": _by("TIFF", by_exif),
    "TIFF, LZW": _by("TIFF", by_exif, compression="tiff_lzw"),
    "TIFF, big": _by("TIFF", by_exif, big_tiff=True),
    "TIFF by XMP": _by("TIFF", lambda orientation: {"tiffinfo": {700: _xmp(orientation)}}),
    "TIFF by both": _by(
        "TIFF", lambda orientation: {"tiffinfo": {ORIENTATION: orientation, 700: _xmp(9 - orientation)}}
    ),
    "AVIF": _by("AVIF", by_exif),  # written as rotation and mirroring of the container, irot and imir
    "AVIF by XMP": _by("AVIF", by_xmp),
    "GIF": lambda image, _: saved(image, "GIF"),
    "BMP": lambda image, _: saved(image, "BMP"),
}


# --- PPM, PGM, PBM --------------------------------------------------------------------------------------------------


def _as_text(magic: bytes, values: npt.NDArray[Any], most: bytes = b"") -> bytes:
    """(H, W) or (H, W, C) as plain text, with comments between the numbers and lines of any length."""
    height, width = values.shape[:2]
    rows = b"\n".join(b" ".join(b"%d" % value for value in row) for row in values.reshape(height, -1).tolist())
    return (
        b"%s\n# made by hand\n%d %d\n%s\n" % (magic, width, height, most)
        + rows.replace(b"\n", b" # a row\n", 3)
        + b"\n"
    )


COLOUR = np.random.default_rng(2).integers(0, 256, (38, 57, 3), dtype=np.uint8)
PPM: dict[str, bytes] = {
    "P1": _as_text(b"P1", COLOUR[..., 0] & 1),
    "P1 without blanks": _as_text(b"P1", COLOUR[..., 0] & 1).replace(b" 0", b"0"),
    "P2": _as_text(b"P2", COLOUR[..., 0], b"255"),
    "P2 of 4 bits": _as_text(b"P2", COLOUR[..., 0] >> 4, b"15"),
    "P3": _as_text(b"P3", COLOUR, b"255"),
    "P3 of 10 bits": _as_text(b"P3", COLOUR.astype(int) * 4, b"1023"),
    "P4": saved(picture("1"), "PPM"),
    "P5": saved(picture("L"), "PPM"),
    "P5 up to 100": b"P5 57 38 100\n" + (COLOUR[..., 0] % 101).tobytes(),
    "P6": saved(picture(), "PPM"),
    "P6 up to 100": b"P6\r\n#\r\n57\t38\v100\f" + (COLOUR % 101).tobytes(),
    "P6 of 16 bits": b"P6 57 38 65535\n" + np.stack([RAMP] * 3, axis=-1).astype(">u2").tobytes(),
    "P6 with something behind": saved(picture(), "PPM") * 2,
}


# --- depth ----------------------------------------------------------------------------------------------------------

#: Its 8 bits by torchvision's ToDtype(uint8, scale=True).
EIGHT = (RAMP >> 8).astype(np.uint8)


def tiff(values: npt.NDArray[Any], bits: int, *, signed: bool = False, order: str = "<") -> bytes:
    """A gray TIFF of one strip; Pillow writes neither 12 bits nor signed values."""
    height, width = values.shape
    if bits == 12:
        pairs = np.pad(values, ((0, 0), (0, width % 2))).reshape(height, -1, 2).astype(np.uint32)
        three = (pairs[..., 0] << 12 | pairs[..., 1]).astype(">u4").view(np.uint8).reshape(height, -1, 4)[..., 1:]
        pixels = three.reshape(height, -1)[:, : (width * 12 + 7) // 8].tobytes()
    else:
        pixels = values.astype(f"{order}{'i' if signed else 'u'}{bits // 8}").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    tags[339] = 2 if signed else 1
    entries = b"".join(
        struct.pack(order + "HHII", tag, 4, 1, value)
        if tag in (256, 257, 273, 278, 279)
        else struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        for tag, value in sorted(tags.items())
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    return head + pixels + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def gray(values: npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    return saved(Image.fromarray(values), kind, **options)


def _of_1023(values: npt.NDArray[np.uint16]) -> Pixels:
    """Pillow scales it to 16 bits first."""
    return (np.rint(values / 1023 * 65535).astype(np.uint16) >> 8).astype(np.uint8)


#: What is clipped by convert("RGB"), and what scale makes of it: a number of each pixel, or why it is refused.
DEEP: dict[str, tuple[bytes, Pixels | str]] = {
    "16-bit PNG": (gray(RAMP, "PNG"), EIGHT),
    "16-bit PNG, turned": (gray(RAMP, "PNG", exif=_exif(6)), np.rot90(EIGHT, -1)),
    "16-bit PNG of small values": (gray(RAMP >> 8, "PNG"), np.zeros_like(EIGHT)),
    "16-bit TIFF": (gray(RAMP, "TIFF"), EIGHT),
    "16-bit TIFF, LZW": (gray(RAMP, "TIFF", compression="tiff_lzw"), EIGHT),
    "16-bit TIFF, turned": (gray(RAMP, "TIFF", exif=_exif(8)), np.rot90(EIGHT)),
    "16-bit TIFF, big-endian": (tiff(RAMP, 16, order=">"), EIGHT),
    "12-bit TIFF": (tiff(RAMP >> 4, 12), EIGHT),
    "signed 16-bit TIFF": (tiff(RAMP >> 1, 16, signed=True), EIGHT),
    "signed 16-bit TIFF below 0": (tiff(RAMP.astype(np.int16), 16, signed=True), "values begin at -32"),
    "32-bit TIFF": (gray(RAMP.astype(np.int32), "TIFF"), "32-bit whole numbers, whose range nobody knows"),
    "unsigned 32-bit TIFF": (tiff(RAMP, 32), "32-bit whole numbers"),
    "16-bit PGM": (b"P5 57 38 65535\n" + RAMP.astype(">u2").tobytes(), EIGHT),
    "16-bit PGM as text": (_as_text(b"P2", RAMP, b"65535"), EIGHT),
    "10-bit PGM": (b"P5 57 38 1023\n" + (RAMP >> 6).astype(">u2").tobytes(), _of_1023(RAMP >> 6)),
    "float TIFF": (
        gray((RAMP / 65535).astype(np.float32), "TIFF"),
        ((RAMP / 65535).astype(np.float32) * np.float32(255.999)).astype(np.uint8),
    ),
    "float TIFF up to 255": (gray((RAMP / 257).astype(np.float32), "TIFF"), "floats are 0 to 255"),
    "float TIFF below 0": (gray((RAMP / 65535 - 0.5).astype(np.float32), "TIFF"), "floats are -0.5 to 0.5"),
    "float TIFF with what is no number": (gray(np.array([[0.5, np.nan]], np.float32), "TIFF"), r"no numbers \(NaN\)"),
    "float TIFF without an end": (gray(np.array([[0.5, np.inf]], np.float32), "TIFF"), "floats are 0.5 to inf"),
}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def sixteen(values: npt.NDArray[np.uint16], colour: int) -> bytes:
    """A 16-bit PNG of (H, W, C), of the standard's colour type."""
    height, width, channels = values.shape
    rows = np.zeros((height, 1 + width * channels * 2), np.uint8)
    rows[:, 1:] = values.astype(">u2").view(np.uint8).reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    body = _chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + body + _chunk(b"IEND", b"")


# --- files that are cut off -----------------------------------------------------------------------------------------

NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 200, 3), dtype=np.uint8))
CUT: dict[str, bytes] = {
    "JPEG": saved(NOISE, "JPEG"),
    "JPEG, gray": saved(NOISE.convert("L"), "JPEG", quality=95),
    "JPEG, CMYK": saved(NOISE.convert("CMYK"), "JPEG"),
    "JPEG, progressive": saved(NOISE, "JPEG", progressive=True),
    "JPEG with restarts": saved(NOISE, "JPEG", restart_marker_blocks=5),
    "JPEG, turned": saved(NOISE, "JPEG", exif=_exif(6)),
    "PNG": saved(NOISE, "PNG"),
    "PNG, turned": saved(NOISE, "PNG", exif=_exif(8)),
    "GIF": saved(NOISE, "GIF"),
    "GIF with transparency": saved(NOISE.convert("P"), "GIF", transparency=3),
    "BMP": saved(NOISE, "BMP"),
    "TIFF": saved(NOISE, "TIFF"),
    "TIFF, turned": saved(NOISE, "TIFF", exif=_exif(6)),
    "TIFF, LZW": saved(NOISE, "TIFF", compression="tiff_lzw"),
    "WebP": saved(NOISE, "WEBP"),
    "AVIF": saved(NOISE, "AVIF"),
    "PPM": saved(NOISE, "PPM"),
    "PPM as text": _as_text(b"P3", np.asarray(NOISE), b"255"),
    "PBM": saved(NOISE.convert("1"), "PPM"),
}


# --- transparency ---------------------------------------------------------------------------------------------------


def see_through(mode: str = "RGBA") -> Image.Image:
    """Colours that hide below all degrees of alpha."""
    values = np.random.default_rng(5).integers(0, 256, (38, 57, 4), dtype=np.uint8)
    values[..., 3] = np.asarray(Image.linear_gradient("L").resize((57, 38)))
    return Image.fromarray(values, "RGBA").convert(mode)


PALETTE = see_through("RGB").convert("P")
TRANSPARENT: dict[str, bytes] = {
    "PNG RGBA": saved(see_through(), "PNG"),
    "PNG RGBA, turned": saved(see_through(), "PNG", exif=_exif(6)),
    "PNG LA": saved(see_through("LA"), "PNG"),
    "PNG palette of alphas": saved(see_through("RGB").convert("P"), "PNG", transparency=bytes(range(256))),
    "PNG palette of one clear colour": saved(PALETTE, "PNG", transparency=PALETTE.getpixel((9, 9))),
    "PNG RGB of one clear colour": saved(picture(), "PNG", transparency=picture().getpixel((9, 9))),
    "PNG L of one clear value": saved(picture("L"), "PNG", transparency=picture("L").getpixel((9, 9))),
    "PNG 1 with clear black": saved(picture("1"), "PNG", transparency=0),
    "16-bit PNG LA": sixteen(np.random.default_rng(6).integers(0, 65536, (38, 57, 2), dtype=np.uint16), 4),
    "16-bit PNG RGBA": sixteen(np.random.default_rng(6).integers(0, 65536, (38, 57, 4), dtype=np.uint16), 6),
    "GIF": saved(PALETTE, "GIF", transparency=PALETTE.getpixel((9, 9))),
    "WebP": saved(see_through(), "WEBP", lossless=True),
    "TIFF RGBA": saved(see_through(), "TIFF"),
    "TIFF RGBA, turned": saved(see_through(), "TIFF", exif=_exif(5)),
    "TIFF LA": saved(see_through("LA"), "TIFF"),
    "AVIF": saved(see_through(), "AVIF"),
}
