"""A file's structure is walked as Pillow does; what it breaks off at is left to the decoder."""

from __future__ import annotations

import struct
from random import Random

import pytest

from tvetl_server.engine import headers
from tvetl_server.errors import DamagedImage, TooManyFrames, TooManyPixels
from tvetl_server.limits import Limits

FEW = Limits(max_pixels=100, max_frames=2)


def test_a_place_beyond_all_numbers_is_left_to_the_decoder() -> None:
    """Found by the fuzzer: such an offset of a big TIFF is no error that struct knows."""
    headers.check(b"II+\0\x08\0\0\0" + b"\xff" * 8, "TIFF", FEW)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "AVIF", "BMP", "PPM"])
def test_nothing_and_noise_are_left_to_the_decoder(kind: str) -> None:
    for data in (b"", b"II", bytes(100), b"\xff" * 40, bytes(range(256))):
        headers.check(data, kind, Limits(max_pixels=2**40))


def test_a_jpeg_with_fill_and_marks_between_its_segments_is_walked_to_its_scan() -> None:
    head = b"\xff\xd8" + b"\xff\xff\xff\xfe\0\2" + b"\0\0" + b"\xff\xd0" + b"\xff\xdb\0\2"
    headers.check(head + b"\xff\xda\0\2" + b"\1\xff\0\2\xff\xd0\3" + b"\xff\xda\0\2" * 99, "JPEG", FEW)
    with pytest.raises(DamagedImage, match="more than 100 scans"):
        headers.check(head + b"\xff\xda\0\2\1\xff\0\2\xff\xd0\3" * 101, "JPEG", FEW)


def test_markers_are_found_by_c_as_by_its_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(1)
    few, many = (b"\0", b"\1", b"\xff"), (b"\1", b"\xff\0", b"\xff\1", b"\xff")
    made = [b"".join(chance.choices(few, k=chance.randrange(12))) for _ in range(3000)]
    made += [b"".join(chance.choices(many, (400, 40, 1, 1), k=chance.randrange(400))) for _ in range(3000)]
    cases = [(data, chance.randrange(len(data) + 2)) for data in made]
    found = [headers._marker(data, start) for data, start in cases]
    monkeypatch.setattr(headers, "native", None)
    assert found == [headers._marker(data, start) for data, start in cases]


def test_what_follows_a_jpeg_is_no_scan_of_it() -> None:
    headers.check(b"\xff\xd8\xff\xda\0\2\1\xff\xd9" + b"\xff\xda" * 500, "JPEG", FEW)
    thumbnail = b"\xff\xe1\3\xf2" + b"\xff\xda" * 504
    headers.check(b"\xff\xd8" + thumbnail + b"\xff\xda\0\2\1" + thumbnail + b"\xff\xda\0\2\1\xff\xd9", "JPEG", FEW)


def test_a_frame_that_goes_beyond_its_canvas_counts_as_it_will_be() -> None:
    head = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0)
    headers.check(head + b"," + struct.pack("<HHHHB", 0, 0, 10, 10, 0) + b"\2\0;", "GIF", FEW)
    with pytest.raises(TooManyPixels, match="11 x 10"):
        headers.check(head + b"," + struct.pack("<HHHHB", 1, 0, 10, 10, 0) + b"\2\0;", "GIF", FEW)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_pages_of_a_tiff_are_counted_until_one_comes_again(order: str, big: bool) -> None:
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    word, count = ("Q", "Q") if big else ("I", "H")
    first = 16 if big else 8
    size = struct.calcsize(order + count + word)
    head = magic + (struct.pack(order + "HH", 8, 0) if big else b"") + struct.pack(order + word, first)

    def pages(*following: int) -> bytes:
        return head + b"".join(struct.pack(order + count + word, 0, place) for place in following)

    headers.check(pages(first + size, first), "TIFF", FEW)
    with pytest.raises(TooManyFrames, match="3 frames or more"):
        headers.check(pages(first + size, first + 2 * size, 0), "TIFF", FEW)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "word"), [(3, "H"), (4, "I"), (16, "Q")])
def test_the_size_of_a_bigtiff_is_read_by_its_type(order: str, kind: int, word: str) -> None:
    def sized(width: int, height: int) -> bytes:
        entries = (
            struct.pack(order + "HHQ", tag, kind, 1) + struct.pack(order + word, value).ljust(8, b"\0")
            for tag, value in ((256, width), (257, height))
        )
        head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HHHQ", 43, 8, 0, 16)
        return head + struct.pack(order + "Q", 2) + b"".join(entries) + bytes(8)

    headers.check(sized(10, 10), "TIFF", FEW)
    with pytest.raises(TooManyPixels, match="11 x 10 pixels"):
        headers.check(sized(11, 10), "TIFF", FEW)


@pytest.mark.parametrize(
    "data",
    [
        b"P6\n4 4\n255\n" + bytes(48),
        b"P5 1 1 65535 \0\0",
        b"P4\r\n8\t1\n#",
        b"P1\n# a comment\n3 2\n010\n101\n",
        b"P2 2 1 15 3 4",
        b"P3\n#" + b"a long comment, " * 60 + b"\n1 1 255 1 2 3\n",
        b"P6\n4 4#\n255\n#",
    ],
)
def test_a_ppm_is_known_by_its_numbers(data: bytes) -> None:
    assert headers.is_ppm(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P6",
        b"P6\n",
        b"P6 a4 4 255\n",
        b"P5 10 20 and 30 more\n",
        b"P2 2 1 15 three and four",
        b"P1 1 1 x 1",
        b"P7\nWIDTH 1\n",
        b"P6#\n4 4 255\n",
        b"P3\n" + b"a long text, " * 60,
        b"P8 1 1 255 \0\0\0",
    ],
)
def test_text_that_begins_like_a_ppm_is_none(data: bytes) -> None:
    assert not headers.is_ppm(data)


def test_what_stands_before_the_pixels_of_a_ppm_is_limited() -> None:
    for gap in (b" ", b"#", b"#\n"):
        for place in (b"P6\n%s\n1 1\n255\n\0\0\0", b"P6\n1 1\n%s\n255\n\0\0\0"):
            headers.check(place % (gap * 20_000), "PPM", FEW)
            with pytest.raises(DamagedImage, match="more than 65,536 bytes before its pixels"):
                headers.check(place % (gap * 70_000), "PPM", FEW)
