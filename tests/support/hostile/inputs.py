"""Files that a server may be sent by mistake or on purpose, made here, the same every time."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator

from PIL import Image

# --- the parts that files are made of -------------------------------------------------------------------------


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (72, 56)) -> Image.Image:
    """An image with something in it, in any mode of Pillow's."""
    down = Image.linear_gradient("L").resize(size)
    round_ = Image.radial_gradient("L").resize(size)
    rgb = Image.merge("RGB", (down, down.transpose(Image.Transpose.ROTATE_180), round_))
    if mode == "I;16":
        return down.convert("I").point(lambda value: value * 257).convert("I;16")
    return rgb.convert("L").convert(mode) if mode in ("LA", "I", "F", "1") else rgb.convert(mode)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """One of PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes, pixels: bytes | None = None, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG of RGB bytes; ``before`` are further chunks, ``pixels`` the compressed data."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = zlib.compress(bytes((1 + 3 * width) * height)) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(before) + chunk(b"IDAT", body) + chunk(b"IEND")


def zeros(count: int) -> bytes:
    """So many zeros in zlib's format, written without compressing them all."""
    step = 2**20
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeezer.compress(bytes(step)) + squeezer.flush(zlib.Z_FULL_FLUSH)  # after which nothing is remembered
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    last = rest.compress(bytes(count % step)) + rest.flush()
    return b"\x78\x9c" + block * (count // step) + last + struct.pack(">HH", count % 65521, 1)


def segment(marker: int, data: bytes) -> bytes:
    """One of JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_of(width: int, height: int, image: bytes | None = None) -> bytes:
    """A JPEG whose header says that it is of this size."""
    data = saved(picture(), "JPEG") if image is None else image
    at = next(found for found in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if found > 0)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def with_segments(jpeg: bytes, segments: Iterable[bytes]) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def scans(count: int, size: int = 16) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    data = jpeg_of(size, size, saved(picture("RGB", (16, 16)), "JPEG", progressive=True))
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[data.rindex(b"\xff\xda") : end] * count + data[end:]


def gif(frames: int, size: int = 4, canvas: tuple[int, int] | None = None, flags: int = 0) -> bytes:
    """``flags`` says among other things what becomes of a frame (2 << 2: the background comes back)."""
    pixels = bytes([2, 4, 0x84, 0x51, 0x28, 0x05, 0])
    head = b"GIF89a" + struct.pack("<HHBBB", *(canvas or (size, size)), 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    control = b"\x21\xf9\x04" + bytes([flags, 0, 0, 0, 0]) if flags else b""
    frame = control + b"," + struct.pack("<HHHHB", 0, 0, *(canvas or (size, size)), 0) + pixels
    return head + frame * frames + b";"


def tiff(directories: list[tuple[dict[int, tuple[int, int, int]], int]], pixels: bytes, order: str = "<") -> bytes:
    """Directories of ``{tag: (type, count, value)}`` and the place of the next: an index, or -1 for none.

    The pixels stand at offset 8. A tag whose value is None points to them.
    """
    start = 8 + len(pixels) + len(pixels) % 2
    places = [start]
    for tags, _ in directories:
        places.append(places[-1] + 2 + 12 * len(tags) + 4)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    parts = [magic, struct.pack(order + "I", places[0]), pixels, bytes(len(pixels) % 2)]
    for tags, following in directories:
        parts.append(struct.pack(order + "H", len(tags)))
        for tag, (kind, count, value) in sorted(tags.items()):
            short = struct.pack(order + "HH", value, 0) if kind == 3 and count == 1 else struct.pack(order + "I", value)
            parts += [struct.pack(order + "HHI", tag, kind, count), short]
        parts.append(struct.pack(order + "I", 0 if following < 0 else places[following]))
    return b"".join(parts)


def gray_tiff(width: int = 4, height: int = 4, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    """The tags of a plain TIFF with one strip; ``more`` by number, as t322=(4, 1, 16)."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, width * height)}
    return tags | {int(name[1:]): value for name, value in more.items()}


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def exif(entries: list[tuple[int, int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    """A directory of (tag, type, count, value), as it stands in a JPEG's segment."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following) + tail


def box(kind: bytes, *parts: bytes) -> bytes:
    """One of AVIF's."""
    data = b"".join(parts)
    return struct.pack(">I", 8 + len(data)) + kind + data


# --- what is too much -----------------------------------------------------------------------------------------


def _avif_samples(count: int) -> bytes:
    """An AVIF sequence of so many frames of one byte."""
    data = saved(picture(), "AVIF", save_all=True, append_images=[picture("L").convert("RGB")] * 3)
    for table, place, values in ((b"stsc", 16, (count,)), (b"stsz", 8, (1, count))):
        at = data.index(table) + place
        data = data[:at] + struct.pack(f">{len(values)}I", *values) + data[at + 4 * len(values) :]
    return data + bytes(count)


#: What must be refused, and how little that may cost. Name -> (code, how it is made).
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG 65,500 x 65,500 of zeros": (
        "too_many_pixels",
        lambda: png(65_500, 65_500, pixels=zeros(65_501 * 65_500), colour=0),
    ),
    "PNG 2^31 - 1 x 2^31 - 1": ("too_many_pixels", lambda: png(2**31 - 1, 2**31 - 1, pixels=b"")),
    "JPEG 64,000 x 64,000": ("too_many_pixels", lambda: jpeg_of(64_000, 64_000)),
    "progressive JPEG 64,000 x 64,000": (
        "too_many_pixels",
        lambda: jpeg_of(64_000, 64_000, saved(picture(), "JPEG", progressive=True)),
    ),
    "WebP canvas 16,384 x 16,384": (
        "too_many_pixels",
        lambda: riff((b"VP8X", b"\2\0\0\0" + b"\xff\x3f\0" * 2), (b"ANIM", bytes(6))),
    ),
    "WebP lossy 16,383 x 16,383": (
        "too_many_pixels",
        lambda: (lambda data: data[:26] + struct.pack("<HH", 16383, 16383) + data[30:])(saved(picture(), "WEBP")),
    ),
    "WebP lossless 16,384 x 16,384": (
        "too_many_pixels",
        lambda: (lambda data: data[:21] + struct.pack("<I", 0x0FFFFFFF) + data[25:])(
            saved(picture(), "WEBP", lossless=True)
        ),
    ),
    "GIF 65,535 x 65,535": ("too_many_pixels", lambda: gif(1, canvas=(65535, 65535), flags=2 << 2)),
    "BMP 65,500 x 65,500": (
        "too_many_pixels",
        lambda: (lambda data: data[:18] + struct.pack("<II", 65_500, 65_500) + data[26:])(saved(picture(), "BMP")),
    ),
    "TIFF 65,500 x 65,500": ("too_many_pixels", lambda: tiff([(gray_tiff(65_500, 65_500), -1)], bytes(16))),
    "TIFF 4 x 4 in a tile of 65,536 x 65,536": (
        "too_many_pixels",
        lambda: tiff(
            [(gray_tiff(t259=(3, 1, 8), t322=(4, 1, 65536), t323=(4, 1, 65536), t324=(4, 1, 8), t325=(4, 1, 99)), -1)],
            zlib.compress(bytes(10**6)),
        ),
    ),
    "GIF of 100,000 frames": ("too_many_frames", lambda: gif(100_000)),
    "APNG of 100,000 frames": (
        "too_many_frames",
        lambda: png(
            4,
            4,
            chunk(b"acTL", struct.pack(">II", 100_000, 0)),
            *(
                chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * i, 4, 4, 0, 0, 1, 9, 0, 0))
                + chunk(b"fdAT", struct.pack(">I", 2 * i + 1) + b"x")
                for i in range(100_000)
            ),
        ),
    ),
    "TIFF of 100,000 pages": (
        "too_many_frames",
        lambda: tiff([(gray_tiff(), at + 1) for at in range(99_999)] + [(gray_tiff(), -1)], bytes(16)),
    ),
    "WebP of 100,000 frames": (
        "too_many_frames",
        lambda: (
            lambda still: riff(
                (b"VP8X", b"\2\0\0\0" + struct.pack("<I", 3)[:3] * 2),
                (b"ANIM", bytes(6)),
                *[(b"ANMF", bytes(6) + struct.pack("<I", 3)[:3] * 2 + bytes(4) + still[12:])] * 100_000,
            )
        )(saved(picture("RGB", (4, 4)), "WEBP", lossless=True)),
    ),
    "AVIF of 2,500,000 frames": ("too_many_frames", lambda: _avif_samples(2_500_000)),
    "progressive JPEG of 1,000 scans": ("damaged_image", lambda: scans(1000, 13_000)),
    "zTXt of 512 MiB": (
        "damaged_image",
        lambda: png(4, 4, chunk(b"zTXt", b"Comment\0\0" + zeros(2**29))),
    ),
    "500 zTXt of 1 MB": ("damaged_image", lambda: png(4, 4, *[chunk(b"zTXt", b"Comment\0\0" + zeros(10**6))] * 500)),
    "60 zTXt of 1 MB": ("damaged_image", lambda: png(4, 4, *[chunk(b"zTXt", b"Comment\0\0" + zeros(10**6))] * 60)),
    "iTXt of 512 MiB": (
        "damaged_image",
        lambda: png(4, 4, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(2**29))),
    ),
    "iCCP of 512 MiB": ("damaged_image", lambda: png(4, 4, chunk(b"iCCP", b"icc\0\0" + zeros(2**29)))),
    "500 iCCP of 1 MB": ("damaged_image", lambda: png(4, 4, *[chunk(b"iCCP", b"icc\0\0" + zeros(10**6))] * 500)),
    "PNG of 1,000,000 chunks": ("damaged_image", lambda: png(4, 4, chunk(b"gAMA", bytes(4)) * 1_000_000)),
    "JPEG of 100,000 segments of EXIF": (
        "damaged_image",
        lambda: with_segments(saved(picture(), "JPEG"), [segment(0xE1, b"Exif\0\0" + bytes(60))] * 100_000),
    ),
    "JPEG with 16 MB between its segments": (
        "damaged_image",
        lambda: with_segments(saved(picture(), "JPEG"), [segment(0xFE, b""), bytes(2**24)]),
    ),
    "TIFF with a tag of 4,000,000 numbers": (
        "damaged_image",
        lambda: tiff([(gray_tiff(t273=(4, 4_000_000, 8), t279=(4, 4_000_000, 8), t278=(4, 1, 1)), -1)], bytes(2**24)),
    ),
    "TIFF with 65,535 tags": (
        "damaged_image",
        lambda: tiff([(dict.fromkeys(range(65535), (4, 1, 1)), -1)], bytes(16)),
    ),
}


# --- what is odd, and what is no image at all -----------------------------------------------------------------


def _rotated() -> Iterator[tuple[str, bytes]]:
    for orientation in range(1, 9):
        tag = Image.Exif()
        tag[0x0112] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            yield f"{kind} with orientation {orientation}", saved(picture(), kind, exif=tag)


def _modes() -> Iterator[tuple[str, bytes]]:
    for mode in ("L", "RGB", "CMYK", "YCbCr"):
        for progressive in (False, True):
            yield f"JPEG {mode}{' progressive' * progressive}", saved(picture(mode), "JPEG", progressive=progressive)
    for subsampling in (0, 1, 2):
        yield f"JPEG with subsampling {subsampling}", saved(picture(), "JPEG", subsampling=subsampling)
    ycck = saved(picture("CMYK"), "JPEG")
    at = ycck.index(b"Adobe")
    yield "JPEG YCCK", ycck[: at + 11] + b"\2" + ycck[at + 12 :]
    yield "JPEG with restarts", saved(picture(), "JPEG", restart_marker_blocks=1)
    for mode in ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"):
        yield f"PNG {mode}", saved(picture(mode), "PNG")
    transparent = picture("P")
    yield "PNG palette with transparency", saved(transparent, "PNG", transparency=bytes(range(256)))
    yield "PNG RGB with transparency", saved(picture(), "PNG", transparency=(0, 255, 0))
    yield "PNG of 16 bits RGB", png(4, 4, pixels=zlib.compress(bytes(25 * 4)), bits=16)
    yield "PNG of 16 bits RGBA", png(4, 4, pixels=zlib.compress(bytes(33 * 4)), bits=16, colour=6)
    for bits in (1, 2, 4):
        yield f"PNG of {bits} bits", png(8, 4, pixels=zlib.compress(bytes((1 + bits) * 4)), bits=bits, colour=0)
    for mode in ("L", "RGB", "RGBA", "P"):
        yield f"WebP {mode}", saved(picture(mode), "WEBP")
        yield f"WebP lossless {mode}", saved(picture(mode), "WEBP", lossless=True)
        yield f"AVIF {mode}", saved(picture(mode), "AVIF")
    for mode in ("1", "L", "P", "RGB"):
        yield f"GIF {mode}", saved(picture(mode), "GIF")
        yield f"BMP {mode}", saved(picture(mode), "BMP")
    yield "GIF with transparency", saved(transparent, "GIF", transparency=3)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"):
        yield f"TIFF {mode}", saved(picture(mode), "TIFF")
    for mode in ("1", "L", "RGB", "I;16"):
        yield f"PPM {mode}", saved(picture(mode), "PPM")
    yield (
        "PPM as text",
        b"P3\n# made by hand\n40 36 255\n" + b"\n".join(b"%d" % (at % 256) for at in range(40 * 36 * 3)),
    )
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
        yield f"TIFF {compression}", saved(picture(), "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield f"TIFF {compression}", saved(picture("1"), "TIFF", compression=compression)
    yield "big TIFF", saved(picture(), "TIFF", big_tiff=True)
    for kind in ("PNG", "WEBP", "AVIF", "GIF", "TIFF"):
        frames = [picture("RGB", (32, 24)).rotate(90 * i) for i in range(3)]
        yield f"{kind} of three frames", saved(frames[0], kind, save_all=True, append_images=frames[1:])


def shard() -> bytes:
    """A tar of two images and a text, a link and a long name among them."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("s/0.jpg", saved(picture(), "JPEG")), ("s/0.cls", b"7"), (f"s/{'1' * 120}.png", png(4, 4))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("s/2.cls")
        link.type, link.linkname = tarfile.SYMTYPE, "0.cls"
        tar.addfile(link)
    return file.getvalue()


def good() -> dict[str, bytes]:
    """Images that Pillow opens: every mode of every format, and every orientation."""
    return dict([*_modes(), *_rotated()])


def _strange() -> Iterator[tuple[str, bytes]]:
    jpeg, a_png = saved(picture(), "JPEG"), saved(picture(), "PNG")
    zero = struct.pack("<II", 1, 0)
    yield (
        "EXIF with a zero denominator",
        with_segments(jpeg, [segment(0xE1, exif([(0x011A, 5, 1, 26), (0x0128, 3, 1, 2)], 0, zero))]),
    )
    yield "EXIF of 5,000 tags", with_segments(jpeg, [segment(0xE1, exif([(tag, 4, 2**30, 8) for tag in range(5000)]))])
    yield "EXIF with a count of 2^32 - 1", with_segments(jpeg, [segment(0xE1, exif([(0x0112, 3, 2**32 - 1, 8)]))])
    yield "EXIF whose directory is its own child", with_segments(jpeg, [segment(0xE1, exif([(0x8769, 4, 1, 8)], 8))])
    yield "EXIF in PNG whose directory is its own child", png(4, 4, chunk(b"eXIf", exif([(0x8769, 4, 1, 8)], 8)[6:]))
    yield (
        "EXIF in text",
        png(4, 4, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 9\n" + b"49" * 9))),
    )
    yield (
        "sixteen EXIF of 60 kB",
        with_segments(jpeg, [segment(0xE1, exif([(0x011A, 5, 110_000, 26)], 0, bytes(60_000)))] * 16),
    )
    yield "an EXIF with nothing", with_segments(jpeg, [segment(0xE1, b"Exif\0\0")])
    yield "TIFF whose directory is its own next", tiff([(gray_tiff(), 0)], bytes(16))
    yield "TIFF of two directories in a circle", tiff([(gray_tiff(), 1), (gray_tiff(), 0)], bytes(16))
    yield "TIFF with its SubIFD in a circle", tiff([(gray_tiff(t330=(4, 1, 24)), -1)], bytes(16))
    yield "TIFF of no directory", b"II*\0\0\0\0\0"
    yield "TIFF with its directory behind its end", b"MM\0*\xff\xff\xff\xf0"
    yield "TIFF 0 x 0", tiff([(gray_tiff(0, 0), -1)], bytes(16))
    yield (
        "TIFF with strips of 2^32 - 1",
        tiff([(gray_tiff(t278=(4, 1, 2**32 - 1), t279=(4, 1, 2**32 - 1)), -1)], bytes(16)),
    )
    yield "TIFF with tiles of nothing", tiff([(gray_tiff(t322=(4, 1, 0), t323=(4, 1, 0)), -1)], bytes(16))
    for number, (width, height) in enumerate([(0, 0), (0, 9), (9, 0), (2**31 - 1, 1), (1, 178_000_000)]):
        yield f"PNG of strange size {number}", png(width, height, pixels=zlib.compress(b""))
    yield "JPEG 0 x 0", jpeg_of(0, 0)
    yield "JPEG 65,535 x 1", jpeg_of(65_535, 1)
    yield "PNG that ends too early", png(64, 64, pixels=zlib.compress(bytes(50)))
    yield "PNG with too many pixels", png(4, 4, pixels=zeros(2**26))
    yield "PNG without its palette", png(4, 4, pixels=zlib.compress(bytes(20)), colour=3)
    yield (
        "PNG with a palette of 256 for one bit",
        png(8, 4, chunk(b"PLTE", bytes(768)), pixels=zlib.compress(bytes(8)), bits=1, colour=3),
    )
    for colour in (1, 5, 7, 255):
        yield f"PNG of colour {colour}", png(4, 4, colour=colour)
    yield "PNG with two heads", png(4, 4, chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)))
    yield (
        "PNG with two heads, the second large",
        png(4, 4, chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))),
    )
    yield "APNG of no frames", png(4, 4, chunk(b"acTL", bytes(8)))
    yield (
        "APNG whose frame lies outside",
        png(
            4,
            4,
            chunk(b"acTL", struct.pack(">II", 2, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 2**31 - 1, 9, 9, 1, 9, 0, 0)),
        ),
    )
    yield "GIF without a frame", b"GIF89a" + bytes(7) + b";"
    yield "GIF whose frame lies outside", gif(1, canvas=(4, 4))[:-1].replace(b",\0\0\0\0", b",\xff\0\xff\0") + b";"
    yield "GIF 0 x 0", gif(1, canvas=(0, 0))
    yield "GIF that turns back to its background", gif(3, flags=2 << 2)
    yield "BMP whose pixels begin behind its end", saved(picture(), "BMP")[:10] + b"\xff\xff\xff\x7f" + bytes(99)
    yield "BMP run-lengths that jump", _rle_bmp(64, 64, b"\0\2\xff\xff" * 99)
    yield "BMP run-lengths that jump, in one row", _rle_bmp(1_000_000, 1, b"\0\2\xff\xff" * 99)
    yield "WebP whose length lies", b"RIFF\xff\xff\xff\xffWEBP" + saved(picture(), "WEBP")[12:]
    yield "WebP of nothing", riff()
    yield "WebP 2^24 x 1", riff((b"VP8X", b"\2\0\0\0\xff\xff\xff\0\0\0"), (b"ANIM", bytes(6)))
    for name, (first, second) in {
        "a JPEG and a PNG": (jpeg, a_png),
        "a PNG and a zip": (a_png, _zip(jpeg)),
        "a GIF and a JPEG": (saved(picture(), "GIF"), jpeg),
        "a JPEG and a web page": (jpeg, b"<html><script>1</script></html>"),
        "a web page and a JPEG": (b"<html>", jpeg),
    }.items():
        yield f"both {name}", first + second
    yield "both a GIF and a script", b"GIF89a/*" + bytes(20) + b"*/=1;"
    yield "a JPEG in a JPEG's comment", with_segments(jpeg, [segment(0xFE, jpeg)])


def _rle_bmp(width: int, height: int, pixels: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + head + bytes(1024) + pixels


def _zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.jpg"), data)
    return file.getvalue()


_BEGINNINGS = (
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\0\0\0\0WEBP",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"\0\0\0\x1cftypavif",
)


def _no_images() -> Iterator[tuple[str, bytes]]:
    jpeg = saved(picture(), "JPEG")
    yield "nothing but a zero", b"\0"
    yield "text", "Grüße, 你好\n".encode() * 9
    yield "zeros", bytes(4096)
    yield "ones", b"\xff" * 4096
    yield "noise", random.Random(5).randbytes(4096)
    yield "gzip", gzip.compress(jpeg, mtime=0)
    yield "zlib", zlib.compress(jpeg)
    yield "zip", _zip(jpeg)
    yield "zstd", b"(\xb5/\xfd" + bytes(99)
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>"
    yield (
        "SVG that includes",
        b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a SYSTEM 'file:///etc/hostname'>]><svg>&a;</svg>",
    )
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    yield "EPS in a DOS file", b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS-Adobe-3.0 EPSF-3.0\n"
    yield "PDF", b"%PDF-1.7\n%%EOF"
    yield "Photoshop", b"8BPS\0\1" + bytes(99)
    for kind in ("PPM", "TGA", "ICO", "SGI", "DDS", "PCX", "JPEG2000"):
        yield kind, saved(picture(), kind)
    for length in range(1, 12):
        for magic in _BEGINNINGS:
            if length <= len(magic):
                yield f"{length} bytes of {magic!r}", magic[:length]


def strange() -> dict[str, bytes]:
    """Files of strange make, polyglots, and what is no image."""
    return dict([*_strange(), *_no_images()])


#: Of each format as many kinds as decoders have ways; all of their truncations are tried.
KINDS = (
    "JPEG RGB",
    "JPEG RGB progressive",
    "JPEG CMYK",
    "JPEG with restarts",
    "PNG RGB",
    "PNG palette with transparency",
    "PNG of three frames",
    "WebP RGB",
    "WebP lossless RGBA",
    "WEBP of three frames",
    "GIF RGB",
    "GIF of three frames",
    "BMP RGB",
    "TIFF RGB",
    "TIFF tiff_lzw",
    "TIFF jpeg",
    "AVIF RGB",
    "AVIF of three frames",
)


def truncations(images: dict[str, bytes], points: int = 64) -> Iterator[tuple[str, bytes]]:
    """Each kind cut at so many places: the first bytes one by one, the rest evenly."""
    for kind in KINDS:
        data = images[kind]
        cuts = {*range(points // 4), *(len(data) * i // points for i in range(points))}
        for cut in sorted(cuts)[:points] if len(cuts) > points else sorted(cuts):
            yield f"{kind} cut at {cut}", data[:cut]


def damages(images: dict[str, bytes], each: int, seed: int = 7) -> Iterator[tuple[str, bytes]]:
    """Each kind with one stretch of bytes replaced, more of them near the beginning, where the structure is."""
    for kind in KINDS:
        data = images[kind]
        dice = random.Random(f"{seed} {kind}")
        for number in range(each):
            at = int(len(data) * dice.random() ** 3)
            length = dice.choice((1, 1, 1, 2, 4, 16))
            new = dice.choice((b"\0" * length, b"\xff" * length, dice.randbytes(length)))
            yield f"{kind} damaged {number} at {at}", data[:at] + new + data[at + length :]
