from typing_extensions import Buffer

def decode(data: Buffer, size: tuple[int, int], scale: int, box: tuple[int, int, int, int], out: Buffer, /) -> bool:
    """Part of a JPEG at 1/``scale`` (1, 2, 4, 8) of its size, into ``out``: uint8 of (H, W, 3), C-contiguous, RGB.

    ``size`` is (width, height) in full; ``box`` (left, top, right, bottom) is in pixels of the reduced image, whose
    size is rounded up. At 1 the pixels are libjpeg-turbo's own, with its accurate DCT and smooth ("fancy") upsampling,
    and ``out`` may be of (H, W, 4), as Pillow keeps RGB: then the fourth is 255. False, and anything in ``out``, where
    this is no baseline JPEG of one scan and one or three components, with chroma of whole or half size, without restart
    markers, where its codes up to the box's last row are no such codes, or, at 1, where a block that the box needs asks
    for more than 16 bits.
    Raises TypeError, ValueError, MemoryError.
    """

def use_avx2(wanted: bool, /) -> None:
    """For tests: take AVX2 and BMI2 where they are there, or do without; the answers are the same."""

def marker(data: Buffer, start: int, /) -> int:
    """Where the first 0xff is, from ``start`` on, that another byte than 0 follows; -1 where there is none."""
