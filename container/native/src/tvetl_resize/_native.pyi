from typing_extensions import Buffer

def resize(
    pixels: Buffer,
    size: tuple[int, int],
    resample: int,
    vertical_first: bool,
    window: tuple[int, int, int, int],
    mirror: bool,
    table: Buffer | None,
    planes: bool,
    out: Buffer,
    part: tuple[float, float, float, float] = ...,
    /,
) -> None:
    """What Pillow's resize gives, into ``out``.

    ``pixels`` is uint8 of (H, W, 3) or (H, W), rows of packed pixels any distance apart. ``size`` is (width, height),
    up to 65535 each, ``resample`` a filter as Pillow numbers them (1 to 5), ``vertical_first`` which pass comes first.
    Of the result only ``window`` (left, top, right, bottom) is made, with ``mirror`` left to right, and each value v of
    channel c is replaced by ``table[c][v]``: (C, 256) items of one byte, or with ``planes`` of 1, 2 or 4. ``out`` is
    C-contiguous: (h, w, C), or (h, w, 4) for RGB as Pillow keeps it, or (C, h, w) with ``planes``. ``part`` (left, top,
    right, bottom, in pixels) is what is resized, all where it is not given; its neighbours count at its edges. Raises
    TypeError, ValueError, MemoryError.
    """

def has_avx2() -> bool:
    """Whether AVX2 is taken: where the processor has it and nobody switched it off."""

def use_avx2(wanted: bool, /) -> None:
    """For tests: take it where it is there, or do without."""
