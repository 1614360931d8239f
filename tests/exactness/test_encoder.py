"""The JPEG encoder in C beside Pillow's: files are equal to the last byte, and the rest is left to Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from support import encoding, sanitizers

from tvetl.spec import Value
from tvetl_server.engine.encode import _jpeg_by_c, _jpeg_head
from tvetl_server.engine.native import native as installed
from tvetl_server.engine.pixels import ArrayImage, image_on

SOURCE = "container/native/src/tvetl_pixels"
OPTIONS: dict[str, Value] = {"quality": 75, "progressive": False, "optimize": False}


@pytest.fixture
def native() -> ModuleType:
    if installed is None or not installed.has_avx2():
        pytest.skip("Pillow writes JPEGs here: there was no compiler, or the processor has no AVX2")
    return installed


def picture(kind: str = "soft", size: tuple[int, int] = (61, 45), bands: int = 3) -> ArrayImage:
    return image_on(encoding.pixels(kind, size, bands, np.random.default_rng(5)))


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


def test_what_is_whose(native: ModuleType) -> None:
    assert _jpeg_by_c(picture(), OPTIONS) is not None
    assert _jpeg_by_c(picture(bands=1), OPTIONS) is not None
    assert _jpeg_by_c(picture().copy(), OPTIONS) is None  # in Pillow's own memory
    assert _jpeg_by_c(picture(size=(31, 40)), OPTIONS) is None
    for name in ("optimize", "progressive"):
        assert _jpeg_by_c(picture(), {**OPTIONS, name: True}) is None


def test_what_does_not_fit_is_refused(native: ModuleType) -> None:
    Image.new("RGB", (40, 40)).save(file := io.BytesIO(), "JPEG")
    head = file.getvalue()
    for wrong in (b"", head[:50], head):  # the last has codes behind its head
        with pytest.raises(ValueError, match="no head"):
            native.encode(wrong, bytes(40 * 40 * 4))
    before, behind = _jpeg_head("RGB", (("quality", 75),))
    whole = before + b"\0\x28\0\x28" + behind
    assert native.encode(whole, bytes(40 * 40 * 4))
    for size in (40 * 40 * 3, 40 * 40 * 4 + 1, 0):
        with pytest.raises(ValueError, match="not of these pixels"):
            native.encode(whole, bytes(size))


def test_it_reads_and_writes_nothing_that_is_not_its_own(repository: Path, tmp_path: Path) -> None:
    script = repository / "tests" / "support" / "encoding.py"
    assert sanitizers.run(repository / SOURCE, script, 400, tmp_path) == "equal, some of them too narrow\n"
