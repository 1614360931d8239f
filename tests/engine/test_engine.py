"""One object through the engine: outputs, views, arguments, limits, and what it refuses with which words."""

from __future__ import annotations

import importlib.util
import io
import struct
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from tvetl.errors import ArgumentsError, PipelineError
from tvetl.spec import Arguments, parse, parse_arguments
from tvetl_server.engine import Engine
from tvetl_server.engine.plans import needs_torch
from tvetl_server.errors import DamagedImage, NotAnImage, OutOfTime, TooManyFrames, TooManyPixels, TransformFailed
from tvetl_server.limits import Limits

CROP = [{"op": "RandomResizedCrop", "size": 48}, {"op": "RandomHorizontalFlip"}]
TENSOR = [*CROP, {"op": "ToTensor"}]


def engine(steps: list[dict[str, object]], limits: Limits = Limits(), **fields: object) -> Engine:  # noqa: B008
    return Engine(parse({"steps": steps, **fields}), limits)


@pytest.fixture(scope="module")
def photo(photographs: list[Path]) -> bytes:
    return photographs[-1].read_bytes()


def as_file(image: Image.Image, kind: str, **saving: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **saving)
    return file.getvalue()


def test_views_in_one_request_are_the_views_one_by_one(photo: bytes) -> None:
    pictures, tensors = engine(CROP, seed=5), engine(TENSOR, seed=5)
    together = pictures.transform(photo, "b/o", Arguments(views=4, epoch=2))
    assert together.content_type == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(together.body)) as tar:
        assert tar.getnames() == ["0.jpeg", "1.jpeg", "2.jpeg", "3.jpeg"]
        for view, member in enumerate(tar):
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == pictures.transform(photo, "b/o", Arguments(view=view, epoch=2)).body
    stacked = np.load(io.BytesIO(tensors.transform(photo, "b/o", Arguments(views=4)).body))
    assert stacked.shape == (4, 3, 48, 48)
    for view in range(4):
        one = tensors.transform(photo, "b/o", Arguments(view=view)).body
        assert np.array_equal(stacked[view], np.load(io.BytesIO(one)))


def test_views_of_different_sizes_are_no_tensor(photo: bytes) -> None:
    turned = engine([{"op": "Grayscale"}, {"op": "PILToTensor"}], seed=1)
    assert np.load(io.BytesIO(turned.transform(photo, "b/o", Arguments(views=2)).body)).shape[:2] == (2, 1)
    pytest.importorskip("torchvision", reason="RandomRotation needs torchvision, which is not installed")
    rotated = engine([{"op": "RandomRotation", "degrees": 45, "expand": True}, {"op": "PILToTensor"}], seed=1)
    with pytest.raises(TransformFailed, match="views differ in size"):
        rotated.transform(photo, "b/o", Arguments(views=3))


def test_every_form_of_a_tensor_holds_the_same(photo: bytes) -> None:
    def answer(format: str) -> bytes:
        return engine(TENSOR, seed=3, output={"format": format}).transform(photo, "b/o", Arguments()).body

    tensor = np.load(io.BytesIO(answer("npy")))
    assert (tensor.dtype, tensor.shape) == (np.float32, (3, 48, 48))
    assert np.array_equal(load(answer("safetensors"))["image"], tensor)
    assert answer("raw") == tensor.tobytes()


def test_without_a_seed_every_answer_is_another_and_with_one_the_same(photo: bytes) -> None:
    random, seeded = engine(CROP), engine(CROP, seed=1)
    assert len({random.transform(photo, "b/o", Arguments()).body for _ in range(5)}) == 5
    assert len({seeded.transform(photo, "b/o", Arguments()).body for _ in range(5)}) == 1
    for other in (Arguments(epoch=1), Arguments(view=1), Arguments(seed=2)):
        assert seeded.transform(photo, "b/o", other).body != seeded.transform(photo, "b/o", Arguments()).body
    assert seeded.transform(photo, "b/p", Arguments()).body != seeded.transform(photo, "b/o", Arguments()).body


def test_arguments_change_format_quality_and_size(photo: bytes) -> None:
    crops = engine(CROP, seed=1)
    small = crops.transform(photo, "b/o", parse_arguments('{"size": [16, 20], "format": "png"}'))
    assert (Image.open(io.BytesIO(small.body)).size, small.content_type) == ((20, 16), "image/png")
    rough = crops.transform(photo, "b/o", parse_arguments('{"quality": 10}')).body
    assert len(rough) < len(crops.transform(photo, "b/o", Arguments()).body)
    with pytest.raises(ArgumentsError, match=r"\$\.epoch: needs a seed"):
        engine(CROP).transform(photo, "b/o", parse_arguments('{"epoch": 1}'))


def _png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_what_is_too_large_is_refused_from_its_header() -> None:
    with pytest.raises(TooManyPixels, match="65500 x 65500 pixels"):
        engine(CROP).transform(_png_header(65_500, 65_500), "b/o", Arguments())
    frames = [Image.new("L", (4, 4), shade) for shade in range(12)]
    animation = as_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(TooManyFrames, match="12 frames"):
        engine(CROP, Limits(max_frames=11)).transform(animation, "b/o", Arguments())
    assert engine(CROP).transform(animation, "b/o", Arguments()).body


@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"op": "Resize", "size": 4000}, "4000 x 60000000"),
        ({"op": "RandomShortestSize", "min_size": 4000}, "4000 x 60000000"),
        ({"op": "RandomResize", "min_size": 4000, "max_size": 4001}, "4000 x 60000000"),
        ({"op": "ScaleJitter", "target_size": [8000, 8000], "scale_range": [100, 100]}, "53 x 800000"),
        ({"op": "RandomZoomOut", "side_range": [100, 100], "p": 1}, "200 x 3000000"),
        ({"op": "RandomRotation", "degrees": [45, 45], "expand": True}, "21214 x 21214"),
        ({"op": "RandomApply", "p": 1, "transforms": [{"op": "Resize", "size": 4000}]}, "4000 x 60000000"),
    ],
)
def test_a_result_that_would_be_too_large_is_refused_before_it_is_made(
    step: dict[str, object], said: str, by_torch: bool
) -> None:
    steps: list[dict[str, object]] = [{"op": "GaussianBlur", "kernel_size": 3}, step] if by_torch else [step]
    if by_torch or step["op"] == "RandomRotation":
        pytest.importorskip("torchvision", reason="GaussianBlur and RandomRotation need torchvision")
    strip = as_file(Image.new("RGB", (2, 30_000)), "PNG")
    with pytest.raises(TooManyPixels, match=said):
        engine(steps, Limits(max_output_pixels=40_000_000)).transform(strip, "b/o", Arguments())


def test_an_image_too_small_for_a_box_of_iou_is_told_so() -> None:
    pytest.importorskip("torchvision", reason="RandomIoUCrop needs torchvision, which is not installed")
    crop = {"op": "RandomIoUCrop", "max_scale": 0.4, "sampler_options": [*[0] * 31, 1]}
    asked = parse_arguments({"boxes": [[0, 0, 1, 1]], "seed": 3})
    with pytest.raises(TransformFailed, match="RandomIoUCrop draws a box without pixels in an image of 2 x 2"):
        engine([crop]).transform(as_file(Image.new("RGB", (2, 2)), "PNG"), "b/o", asked)


@pytest.mark.parametrize(
    "step",
    [{"op": "Pad", "padding": 1}, {"op": "RandomRotation", "degrees": [45, 45]}, {"op": "RandomPerspective", "p": 1}],
)
def test_a_mask_is_not_filled_with_what_it_cannot_hold(step: dict[str, object]) -> None:
    if step["op"] != "Pad":
        pytest.importorskip("torchvision", reason=f"{step['op']} needs torchvision, which is not installed")
    classes, instances = Image.new("L", (9, 9)), Image.fromarray(np.ones((9, 9), np.uint16))
    filled = engine([{**step, "mask_fill": 300}])
    asked = parse_arguments({"as": "mask", "seed": 3})
    with pytest.raises(TransformFailed, match="A mask of uint8 cannot be filled with 300"):
        filled.transform(as_file(classes, "PNG"), "b/o", asked)
    body = filled.transform(as_file(instances, "PNG"), "b/o", asked).body
    assert isinstance(body, bytes)
    assert 300 in np.asarray(Image.open(io.BytesIO(body)))


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_a_result_that_its_format_cannot_hold_is_no_bug(format: str) -> None:
    strip = as_file(Image.new("RGB", (66_000, 2)), "PNG")
    written = engine([{"op": "RandomVerticalFlip"}], output={"format": format})
    for arguments in (Arguments(), Arguments(views=2)):
        with pytest.raises(TransformFailed, match="cannot hold the result of 66000 x 2 pixels"):
            written.transform(strip, "b/o", arguments)


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"", "empty"),
        (b"%!PS-Adobe-3.0 EPSF", "PostScript"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b'<svg xmlns="x">', "SVG"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"hello, there", "text"),
        (b"P6 is a paper size", "text"),
        (b"P7\nWIDTH 1", "a PAM image"),
        (b"PF\n1 1\n-1.0\n" + bytes(12), "a PFM image"),
        (bytes(range(200, 256)), "of a kind not known here"),
    ],
)
def test_what_is_no_image_is_told_as_what_it_looks_like(data: bytes, looks: str) -> None:
    with pytest.raises(NotAnImage, match=f"it is {looks}"):
        engine(CROP).transform(data, "b/o", Arguments())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_every_allowed_format_is_read_and_its_half_is_damaged(kind: str, photo: bytes) -> None:
    whole = Image.open(io.BytesIO(photo)).convert("RGB")
    data = as_file(whole, kind)
    assert engine([{"op": "CenterCrop", "size": 64}]).transform(data, "b/o", Arguments()).body
    with pytest.raises(DamagedImage, match=r"is damaged|is cut off"):
        engine([{"op": "CenterCrop", "size": 64}]).transform(data[: len(data) // 2], "b/o", Arguments())


def test_an_image_that_does_not_suit_a_step_says_so(photo: bytes) -> None:
    with pytest.raises(TransformFailed, match="RandomCrop of 4000 x 4000 does not fit"):
        engine([{"op": "RandomCrop", "size": 4000}]).transform(photo, "b/o", Arguments())


def test_time_is_limited(photo: bytes) -> None:
    with pytest.raises(OutOfTime, match="30 seconds"):
        engine(CROP).transform(photo, "b/o", Arguments(), deadline=time.monotonic() - 1)


def test_nothing_of_the_source_but_its_pixels_goes_on(photo: bytes) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret words"
    picture = Image.open(io.BytesIO(photo)).convert("RGB")
    data = as_file(picture, "JPEG", exif=exif, comment=b"secret words", icc_profile=b"secret words")
    assert b"secret words" in data
    for format in ("jpeg", "png", "webp"):
        steps: list[dict[str, object]] = [{"op": "RandomHorizontalFlip"}]
        answer = engine(steps, output={"format": format}).transform(data, "b/o", Arguments()).body
        assert b"secret words" not in answer
        assert set(Image.open(io.BytesIO(answer)).info) <= {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "loop",
            "background",
        }


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "RandomHorizontalFlip"}],
        [
            {"op": "ScaleJitter", "target_size": [1024, 1024]},
            {"op": "RandomCrop", "size": 1024, "pad_if_needed": True, "fill": [123, 117, 104], "mask_fill": 0},
        ],
        [{"op": "RandomShortestSize", "min_size": [480, 512, 544], "max_size": 1333}],
        [{"op": "RandomResize", "min_size": 260, "max_size": 1040}],
        [{"op": "RandomChoice", "transforms": [{"op": "RandomZoomOut"}, {"op": "RandomVerticalFlip"}]}],
    ],
)
def test_presets_without_colours_and_iou_need_no_torch(steps: list[dict[str, object]]) -> None:
    ends: list[dict[str, object]] = [
        {"op": "ToImage"},
        {"op": "ToDtype", "dtype": "float32", "scale": True},
        {"op": "ClampBoundingBoxes"},
        {"op": "SanitizeBoundingBoxes"},
    ]
    assert needs_torch(parse({"steps": [*steps, *ends]})) == []


def test_a_step_that_needs_torch_is_named_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    steps: list[dict[str, object]] = [{"op": "RandomHorizontalFlip"}, {"op": "RandomRotation", "degrees": 5}]
    with pytest.raises(PipelineError, match=r"\$\.steps\[1\]\.op: RandomRotation needs torch") as caught:
        engine(steps)
    assert "cpu variant" in caught.value.hint
    inside = {"op": "RandomOrder", "transforms": [{"op": "GaussianBlur", "kernel_size": 3}, {"op": "RandomInvert"}]}
    with pytest.raises(PipelineError, match=r"\$\.steps\[0\]\.op: GaussianBlur needs torch"):
        engine([{"op": "RandomChoice", "transforms": [inside, {"op": "CenterCrop", "size": 9}]}])
    assert engine([{"op": "RandomChoice", "transforms": [{"op": "RandomOrder", "transforms": [CROP[0]]}]}])
    with pytest.raises(PipelineError, match="RandomResizedCrop needs torch"):
        engine([{"op": "RandomResizedCrop", "size": 9, "ratio": [0.5, 2]}])
