"""JPEGs of the C beside Pillow's own: equal to the last byte, and whose they are where they are not for the C."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from types import ModuleType

import encoding
import numpy as np
import pytest
import sanitizers
from PIL import Image, ImageDraw

from tvetl.spec import Output, Value, parse
from tvetl_server.engine import resize
from tvetl_server.engine.encode import _by_c, _head, encode
from tvetl_server.engine.resize import OnArray, image_on
from tvetl_server.errors import TransformFailed

SOURCE = "container/native/src/tvetl_resize/_native.c"
OPTIONS: dict[str, Value] = {"quality": 75, "progressive": False, "optimize": False}


@pytest.fixture
def native() -> ModuleType:
    if resize._native is None or not resize._native.has_avx2():
        pytest.skip("JPEGs are Pillow's here: there was no compiler, or the processor has no AVX2")
    return resize._native


def output(**options: Value) -> Output:
    return parse({"steps": [], "output": {"format": "jpeg", **options}}).output


def picture(kind: str = "soft", size: tuple[int, int] = (61, 45), bands: int = 3) -> OnArray:
    return image_on(encoding.pixels(kind, size, bands, np.random.default_rng(5)))


def saved(image: Image.Image, **options: object) -> bytes:
    image.save(file := io.BytesIO(), "JPEG", **options)
    return file.getvalue()


def test_random_pictures_and_options(native: ModuleType) -> None:
    done = sum(encoding.compare(native, Random(number)) for number in range(3000))
    assert done > 2000


@pytest.mark.parametrize("kind", encoding.KINDS)
@pytest.mark.parametrize("bands", [1, 3])
def test_every_quality(native: ModuleType, kind: str, bands: int) -> None:
    given = encoding.pixels(kind, (96, 80), bands, np.random.default_rng(1))
    for quality in range(1, 101):
        assert encoding.by_c(native, given, {"quality": quality}) == encoding.by_pillow(given, {"quality": quality}), (
            quality
        )


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_every_size_of_the_last_blocks(native: ModuleType, subsampling: str) -> None:
    for width in range(32, 66):
        for height in range(1, 34):
            given = encoding.pixels("soft", (width, height), 3, np.random.default_rng(width * height))
            options: dict[str, Value] = {"quality": 90, "subsampling": subsampling}
            assert encoding.by_c(native, given, options) == encoding.by_pillow(given, options), (width, height)


def test_each_pattern_at_its_strongest(native: ModuleType) -> None:
    for pattern in np.moveaxis(encoding.waves(), -1, 0):
        for one in (pattern, 255 - pattern):
            given = np.tile(np.hstack([one, 255 - one]), (3, 4))
            assert encoding.by_c(native, given, {"quality": 100}) == encoding.by_pillow(given, {"quality": 100})


@pytest.mark.parametrize(
    "options", [{}, {"quality": 100}, {"subsampling": "4:4:4"}, {"optimize": True}, {"progressive": True}], ids=str
)
@pytest.mark.parametrize("bands", [1, 3])
def test_the_engine_writes_what_pillow_would(options: dict[str, Value], bands: int) -> None:
    image = picture(bands=bands)
    asked = output(**options)
    given = {name: value for name, value in asked.options.items() if value is not None}
    assert encode(image, asked) == saved(image.copy(), **given)


def test_what_is_whose(native: ModuleType) -> None:
    assert _by_c(picture(), OPTIONS) is not None
    assert _by_c(picture(bands=1), OPTIONS) is not None
    assert _by_c(picture().copy(), OPTIONS) is None  # in Pillow's own memory
    assert _by_c(picture(size=(31, 40)), OPTIONS) is None
    for name in ("optimize", "progressive"):
        assert _by_c(picture(), {**OPTIONS, name: True}) is None


def test_what_was_done_to_an_image_is_in_its_file(native: ModuleType) -> None:
    for change in (
        lambda image: image.putpixel((3, 3), (255, 0, 0)),
        lambda image: image.paste((0, 255, 0), (5, 5, 20, 20)),
        lambda image: ImageDraw.Draw(image).line((0, 0, 40, 40), fill=(0, 0, 255)),
        lambda image: image.thumbnail((40, 40)),
        lambda image: image.info.update(comment=b"by an own op"),
    ):
        image, other = picture(), picture().copy()
        change(image)
        change(other)
        assert encode(image, output()) == saved(other, quality=75) != encode(picture(), output())


def test_what_does_not_fit_is_refused(native: ModuleType) -> None:
    head = saved(Image.new("RGB", (40, 40)))
    for wrong in (b"", head[:50], head):  # the last has codes behind its head
        with pytest.raises(ValueError, match="no head"):
            native.encode(wrong, bytes(40 * 40 * 4))
    before, behind = _head("RGB", (("quality", 75),))
    whole = before + b"\0\x28\0\x28" + behind
    assert native.encode(whole, bytes(40 * 40 * 4))
    for size in (40 * 40 * 3, 40 * 40 * 4 + 1, 0):
        with pytest.raises(ValueError, match="not of these pixels"):
            native.encode(whole, bytes(size))


def test_what_is_too_large_for_the_format_is_said(native: ModuleType) -> None:
    with pytest.raises(TransformFailed, match="65501 x 1 pixels"):
        encode(image_on(np.zeros((1, 65501, 4), np.uint8)), output())


def test_it_reads_and_writes_nothing_that_is_not_its_own(repository: Path, tmp_path: Path) -> None:
    script = repository / "tests" / "encoding.py"
    assert sanitizers.run(repository / SOURCE, script, 400, tmp_path) == "equal, some of them too narrow\n"
