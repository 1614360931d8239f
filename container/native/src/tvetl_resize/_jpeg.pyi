from typing_extensions import Buffer

def decode(data: Buffer, size: tuple[int, int], scale: int, box: tuple[int, int, int, int], out: Buffer, /) -> bool:
    """Part of a JPEG at 1/``scale`` (2, 4, 8) of its size, into ``out``: uint8 of (H, W, 3), C-contiguous, RGB.

    ``size`` is (width, height) in full; ``box`` (left, top, right, bottom) is in pixels of the reduced image, whose
    size is rounded up. False, and anything in ``out``, where this is no baseline JPEG of one scan and one or three
    components, with chroma of whole or half size, without restart markers, or where its codes up to the box's last row
    are no such codes.
    Raises TypeError, ValueError, MemoryError.
    """

def use_avx2(wanted: bool, /) -> None:
    """For tests: take AVX2 and BMI2 where they are there, or do without; the answers are the same."""

def marker(data: Buffer, start: int, /) -> int:
    """Where the first 0xff is, from ``start`` on, that another byte than 0 follows; -1 where there is none."""
