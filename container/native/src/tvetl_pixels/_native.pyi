from typing_extensions import Buffer

Box = tuple[int, int, int, int]

def decode(data: Buffer, size: tuple[int, int], scale: int, box: Box, out: Buffer, /) -> bool:
    """Part of a JPEG at 1/``scale`` (1, 2, 4, 8) of its size, into ``out``: uint8 of (H, W, 3), C-contiguous, RGB.

    ``size`` is (width, height) in full; ``box`` (left, top, right, bottom) is in pixels of the reduced image, whose
    size is rounded up. At 1 the pixels are libjpeg-turbo's own, with its accurate DCT and smooth ("fancy") upsampling,
    and ``out`` may be of (H, W, 4), as Pillow keeps RGB: then the fourth is 255. False, and anything in ``out``, where
    this is no baseline JPEG of one scan and one or three components, with chroma of whole or half size, without restart
    markers, where its codes up to the box's last row are no such codes, or, at 1, where a block that the box needs asks
    for more than 16 bits.
    Raises TypeError, ValueError, MemoryError.
    """

def encode(head: Buffer, pixels: Buffer, /) -> bytes | None:
    """A baseline JPEG, to the byte what libjpeg-turbo makes of ``pixels`` for Pillow.

    ``head`` is all that such a file has before its codes; ``pixels`` is uint8 of (H, W, 4), of which the fourth counts
    for nothing, or (H, W), C-contiguous, of the size that the head says. None without AVX2, for less than 32 pixels a
    row, and where the head's tables have no code for something that may come, or chroma is halved down alone.
    Raises TypeError, ValueError, MemoryError.
    """

def look_up(source: Buffer, table: Buffer, target: Buffer, /) -> None:
    """``table[v]`` for each byte v of ``source``, into ``target``.

    ``table`` is 256 entries of 2 or 4 bytes; ``target`` has room for as many of these as ``source`` has bytes, and
    shares no memory with the others. All are C-contiguous; the GIL is released. Raises TypeError, ValueError.
    """

def marker(data: Buffer, start: int, /) -> int:
    """Where the first 0xff is, from ``start`` on, that another byte than 0 follows; -1 where there is none."""

def resize(
    pixels: Buffer | tuple[Buffer, tuple[int, int], int, Box],
    size: tuple[int, int],
    resample: int,
    vertical_first: bool,
    window: Box,
    mirror: bool,
    table: Buffer | None,
    planes: bool,
    out: Buffer,
    part: tuple[float, float, float, float] = ...,
    /,
) -> bool:
    """What Pillow's resize gives, into ``out``.

    ``pixels`` is uint8 of (H, W, 3) or (H, W), rows of packed pixels any distance apart; or what :func:`decode` takes,
    decoded on the way, a few rows at a time, and False where that says so. ``size`` is (width, height), up to 65535
    each, ``resample`` a filter as Pillow numbers them (1 to 5), ``vertical_first`` which pass comes first: for arrays.
    Of the result only ``window`` (left, top, right, bottom) is made, with ``mirror`` left to right, and each value v of
    channel c is replaced by ``table[c][v]``: (C, 256) items of one byte, or with ``planes`` of 1, 2 or 4. ``out`` is
    C-contiguous: (C, h, w) with ``planes``; otherwise (h, w), or for RGB (h, w, 4) as Pillow keeps it. ``part`` (left,
    top, right, bottom, in pixels) is what is resized, all where it is not given; its neighbours count at its edges.
    Raises TypeError, ValueError, MemoryError.
    """

def has_avx2() -> bool:
    """Whether AVX2 is used: the processor has it, and it is not switched off."""

def use_avx2(wanted: bool, /) -> None:
    """For tests: take AVX2 and BMI2 where they are there, or do without; the answers are the same."""
