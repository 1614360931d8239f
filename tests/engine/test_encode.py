"""Files are Pillow's own, of the pixels that the decoder left in memory, and of what was done to them since."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tvetl.spec import Output, Value, parse
from tvetl_server.engine.encode import encode
from tvetl_server.engine.pixels import image_on
from tvetl_server.errors import TransformFailed


def output(**options: Value) -> Output:
    return parse({"steps": [], "output": {"format": "jpeg", **options}}).output


def picture(bands: int = 3) -> Image.Image:
    shape = (45, 61, 4) if bands == 3 else (45, 61)
    return image_on(np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8))


def saved(image: Image.Image, **options: object) -> bytes:
    image.save(file := io.BytesIO(), "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"quality": 100}, {"subsampling": "4:4:4"}, {"optimize": True}, {"progressive": True}], ids=str
)
@pytest.mark.parametrize("bands", [1, 3])
def test_the_engine_writes_what_pillow_would(options: dict[str, Value], bands: int) -> None:
    image = picture(bands)
    asked = output(**options)
    given = {name: value for name, value in asked.options.items() if value is not None}
    assert encode(image, asked) == saved(image.copy(), **given)


def test_what_was_done_to_an_image_is_in_its_file() -> None:
    for change in (
        lambda image: image.putpixel((3, 3), (255, 0, 0)),
        lambda image: image.paste((0, 255, 0), (5, 5, 20, 20)),
        lambda image: ImageDraw.Draw(image).line((0, 0, 40, 40), fill=(0, 0, 255)),
        lambda image: image.thumbnail((40, 40)),
        lambda image: image.info.update(comment=b"by a plugin op"),
    ):
        image, other = picture(), picture().copy()
        change(image)
        change(other)
        assert encode(image, output()) == saved(other, quality=75) != encode(picture(), output())


def test_what_is_too_large_for_the_format_is_said() -> None:
    with pytest.raises(TransformFailed, match="65501 x 1 pixels"):
        encode(image_on(np.zeros((1, 65501, 4), np.uint8)), output())


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int32"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (2, 3, 4, 5), (4, 6)])
def test_npy_is_what_numpy_saves(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(file := io.BytesIO(), tensor)
    npy = parse({"steps": [{"op": "ToTensor"}], "output": {"format": "npy"}}).output
    for order in ("C", "F"):
        assert encode(np.asarray(tensor, order=order), npy) == file.getvalue()
