"""A region decoded alone is the whole picture, cropped; and where Pillow refuses a file, so does every region of it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tvetl_server.engine.decode import open_source
from tvetl_server.engine.pixels import Box
from tvetl_server.errors import DamagedImage, ObjectError
from tvetl_server.limits import Limits


def _jpeg(data: bytes) -> bytes:
    if data.startswith(b"\xff\xd8"):
        return data
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(file, "JPEG", quality=92)
    return file.getvalue()


def _boxes(chance: random.Random, size: tuple[int, int], count: int) -> list[Box]:
    width, height = size
    boxes = []
    for _ in range(count):
        w, h = chance.randint(1, width), chance.randint(1, height)
        left, top = chance.randint(0, width - w), chance.randint(0, height - h)
        boxes.append((left, top, left + w, top + h))
    return boxes


def _refused(get: Callable[[Box], object], box: Box) -> object:
    """What it gives; None where the image is damaged."""
    try:
        return get(box)
    except DamagedImage:
        return None


def test_a_region_is_the_whole_picture_cropped(sample: list[bytes], limits: Limits) -> None:
    chance = random.Random(1)
    for data in map(_jpeg, sample):
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        for box in _boxes(chance, whole.size, 5):
            assert np.array_equal(open_source(data, limits).pixels(box), whole.crop(box)), box
            assert np.array_equal(open_source(data, limits).array(box), whole.crop(box)), box
        several = open_source(data, limits)
        for box in (None, *_boxes(chance, whole.size, 2)):
            assert np.array_equal(several.array(box, keep=True), whole.crop(box) if box else whole), box


def _broken(chance: random.Random, data: bytes) -> bytes:
    """One kind of damage: bytes changed, zeroed, left out, said twice, or an early end."""
    broken, at = bytearray(data), chance.randrange(200, len(data) - 2)
    match chance.randrange(5):
        case 0:
            for _ in range(30):
                broken[chance.randrange(200, len(data) - 2)] = chance.randrange(256)
        case 1:
            broken[at : at + 200] = bytes(len(broken[at : at + 200]))
        case 2:
            del broken[at : at + chance.randrange(1, 3000)]
        case 3:
            broken[at:at] = broken[at : at + 500]
        case _:
            broken[at:] = b"\xff\xd9"
    return bytes(broken)


def test_what_pillow_refuses_is_refused_whichever_region_is_asked_for(sample: list[bytes], limits: Limits) -> None:
    chance = random.Random(2)
    refused = 0
    for _ in range(400):
        data = _broken(chance, _jpeg(chance.choice(sample)))
        try:
            source = open_source(data, limits)
        except ObjectError:
            continue
        if source.size[0] * source.size[1] > 20_000_000:
            continue  # damage to the header can promise anything
        everything = (0, 0, *source.size)
        whole = _refused(source.pixels, everything)
        for box in (everything, *_boxes(chance, source.size, 2)):
            region = _refused(open_source(data, limits).array, box)
            assert (region is None) == (whole is None)
            if isinstance(whole, Image.Image):
                assert np.array_equal(np.asarray(region), whole.crop(box))
            else:
                refused += 1
    assert refused >= 10  # else the damage was too mild to show anything


@pytest.mark.parametrize("saving", [{"progressive": True}, {"restart_marker_blocks": 7}, {"subsampling": "4:4:4"}])
def test_other_kinds_of_jpeg_have_the_same_regions(
    saving: dict[str, object], sample: list[bytes], limits: Limits
) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(sample[0])).convert("RGB").save(file, "JPEG", **saving)
    whole = Image.open(file).convert("RGB")
    for box in _boxes(random.Random(3), whole.size, 5):
        assert np.array_equal(open_source(file.getvalue(), limits).pixels(box), whole.crop(box))
