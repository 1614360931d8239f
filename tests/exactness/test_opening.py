"""A file of any kind is opened as Pillow opens it: turned once, or not at all, and its values clipped by no default."""

from __future__ import annotations

import io
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from support.exactness.files import (
    CUT,
    DEEP,
    EIGHT,
    PPM,
    RAMP,
    TRANSPARENT,
    WRITERS,
    Pixels,
    picture,
    saved,
    see_through,
    sixteen,
    tiff,
)

from tvetl.errors import PipelineError
from tvetl.spec import Arguments, opening, parse
from tvetl.spec.opening import open_rgb
from tvetl_server.engine import Engine
from tvetl_server.engine.decode import open_source
from tvetl_server.errors import DamagedImage, NotAnImage, ObjectError, TooManyPixels, WrongDepth
from tvetl_server.limits import Limits

#: A crop in the middle, so that regions are decoded where they can be; height and width.
CROP = (20, 12)


def answer(data: bytes, *steps: dict[str, object], **fields: object) -> Pixels:
    """(H, W, C) of the engine's answer."""
    engine = Engine(parse({"steps": [*steps, {"op": "PILToTensor"}], "seed": 1, **fields}), Limits())
    body = engine.transform(data, "b/o", Arguments()).body
    assert isinstance(body, bytes)
    return np.load(io.BytesIO(body)).transpose(1, 2, 0)


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["keep", "apply"])
@pytest.mark.parametrize("kind", WRITERS)
def test_an_image_is_turned_as_pillow_turns_it(kind: str, setting: str) -> None:
    turned = set()
    for orientation in range(1, 9):
        data = WRITERS[kind](picture(), orientation)
        opened = Image.open(io.BytesIO(data))
        expected = (ImageOps.exif_transpose(opened) if setting == "apply" else opened).convert("RGB")
        turned.add(expected.tobytes())
        whole = answer(data, orientation=setting)
        assert np.array_equal(whole, expected), orientation
        assert np.array_equal(open_rgb(data, parse({"steps": [], "orientation": setting})), expected), orientation
        for precision in ("exact", "fast"):
            part = answer(data, {"op": "CenterCrop", "size": CROP}, orientation=setting, precision=precision)
            top, left = (round((edge - crop) / 2) for edge, crop in zip(whole.shape[:2], CROP, strict=True))
            assert np.array_equal(part, whole[top : top + CROP[0], left : left + CROP[1]]), (orientation, precision)
    turns = setting == "apply" or kind.startswith("TIFF")  # which Pillow turns while it decodes
    assert len(turned) == (1 if kind in ("GIF", "BMP") or not turns else 8)


# --- PPM, PGM, PBM ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PPM)
def test_a_ppm_has_pillows_pixels(kind: str) -> None:
    whole = np.asarray(Image.open(io.BytesIO(PPM[kind])).convert("RGB"))
    assert np.array_equal(answer(PPM[kind], orientation="apply"), whole)
    part = answer(PPM[kind], {"op": "CenterCrop", "size": CROP})
    assert np.array_equal(part, whole[9 : 9 + CROP[0], 22 : 22 + CROP[1]])


def _by_pillow(data: bytes) -> Image.Image | None:
    try:
        image = Image.open(io.BytesIO(data), formats=["PPM"])
        return image.convert("RGB") if image.width * image.height < 10**6 else None
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _by_us(data: bytes) -> Image.Image | type[ObjectError]:
    try:
        return open_source(data, Limits(max_pixels=10**6), parse({"steps": [], "depth": "convert"})).pixels()
    except ObjectError as error:
        return type(error)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_ppm_is_refused_or_has_pillows_pixels() -> None:
    chance, answered, refused = Random(4), 0, 0
    for name, good in PPM.items():
        for at in range(30):
            broken = bytearray(good)
            if at % 3:
                for _ in range(chance.randrange(1, 4)):
                    broken[chance.randrange(min(len(broken), 60))] = chance.choice(b"0123456789 \n#\xff-P")
            else:
                del broken[chance.randrange(3, len(broken)) :]
            data = bytes(broken)
            expected, got = _by_pillow(data), _by_us(data)
            if isinstance(got, Image.Image):
                assert expected is not None and np.array_equal(got, expected), (name, data[:60])
                answered += 1
            else:  # Pillow also takes +5 and 1_0 for numbers
                assert expected is None or got is NotAnImage, (name, data[:60])
                refused += 1
    assert min(answered, refused) > 50


@pytest.mark.parametrize("data", [b"P6 65500 65500 255\n", b"P1\n9999999999 9999999999\n1", b"P2 65500 65500 65535 1"])
def test_a_ppm_that_promises_too_much_is_refused_from_its_header(data: bytes) -> None:
    with pytest.raises(TooManyPixels, match="more than the"):
        answer(data)


# --- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DEEP)
def test_nothing_is_clipped_unless_it_was_asked_for(kind: str) -> None:
    data, scaled = DEEP[kind]
    assert Image.open(io.BytesIO(data)).mode in ("I", "F", "I;16", "I;16B")
    with pytest.raises(WrongDepth, match="the pipeline's depth say what to do: scale, or convert"):
        answer(data)
    fields = {"orientation": "apply"}
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(answer(data, depth="convert", **fields), expected)
    pipeline = parse({"steps": [], "depth": "scale", **fields})
    if isinstance(scaled, str):
        for opened in (lambda: answer(data, depth="scale"), lambda: open_rgb(data, pipeline)):
            with pytest.raises((WrongDepth, opening.WrongDepth), match=scaled):
                opened()
    else:
        assert np.array_equal(answer(data, depth="scale", **fields), np.stack([scaled] * 3, axis=-1))
        assert np.array_equal(answer(data, depth="scale", **fields), open_rgb(data, pipeline))


def test_a_kind_that_pillow_does_not_read_is_not_only_said_to_be_damaged() -> None:
    with pytest.raises(DamagedImage, match="damaged, or of a kind that Pillow does not read"):
        answer(tiff(RAMP, 64))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("depth", ["refuse", "convert", "scale"])
def test_sixteen_bits_of_colour_lose_their_low_byte_as_in_torchvision(colour: int, channels: int, depth: str) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (9, 7, channels), dtype=np.uint16)
    got = answer(sixteen(values, colour), depth=depth)
    assert np.array_equal(got, Image.open(io.BytesIO(sixteen(values, colour))).convert("RGB"))
    assert np.array_equal(got, values[..., :3] >> 8 if channels > 2 else np.stack([values[..., 0] >> 8] * 3, axis=-1))


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision are deprecated")
def test_what_scale_makes_is_what_torchvision_makes() -> None:
    torch = pytest.importorskip("torch", reason="torchvision is not installed")
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    reading = pytest.importorskip("torchvision.io", reason="torchvision is not installed")

    def eight(values: Any) -> Pixels:
        return v2.functional.to_dtype(values, torch.uint8, scale=True).numpy()  # type: ignore[no-any-return]

    for name in ("16-bit PNG", "16-bit PNG of small values"):
        data, scaled = DEEP[name]
        read = reading.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        assert read.dtype == torch.uint16
        assert np.array_equal(eight(read)[0], scaled)
    for name, values in (
        ("signed 16-bit TIFF", (RAMP >> 1).astype(np.int16)),
        ("float TIFF", (RAMP / 65535).astype(np.float32)),
    ):
        assert np.array_equal(eight(torch.from_numpy(values)), DEEP[name][1])


# --- files that are cut off -------------------------------------------------------------------------------------------


#: Those that Pillow pads.
PADDED = [kind for kind in CUT if not kind.startswith(("WebP", "AVIF", "TIFF, LZW", "PPM as text"))]


def padded(data: bytes) -> Pixels | None:
    """What Pillow makes of it with its flag, upright; None where it refuses it nevertheless."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def refusal(data: bytes, **fields: object) -> str:
    with pytest.raises(DamagedImage) as caught:
        answer(data, **fields)
    return str(caught.value)


@pytest.mark.parametrize("kind", CUT)
def test_a_file_that_is_cut_off_is_padded_as_by_pillow_where_that_was_asked_for(kind: str) -> None:
    whole, fields, came = CUT[kind], {"truncated": "pad", "orientation": "apply"}, 0
    for end in (0.02, 0.3, 0.6, 0.97):
        data = whole[: int(len(whole) * end)]
        expected = padded(data)
        refusal(data)
        if expected is None:
            refusal(data, **fields)
            continue
        came += 1
        assert np.array_equal(answer(data, **fields), expected), end
        assert np.array_equal(open_rgb(data, parse({"steps": [], **fields})), expected), end
        top, left = ((edge - crop) // 2 for edge, crop in zip(expected.shape[:2], CROP, strict=True))
        part = answer(data, {"op": "CenterCrop", "size": CROP}, **fields)
        assert np.array_equal(part, expected[top : top + CROP[0], left : left + CROP[1]]), end
        small = answer(data, {"op": "Resize", "size": [30, 20]}, precision="fast", **fields)
        assert small.shape == (30, 20, 3)
        refusal(data)
    assert came >= 3 if kind in PADDED else came == 0
    assert np.array_equal(answer(whole, **fields), answer(whole, orientation="apply"))


def test_the_error_says_how_much_of_the_picture_is_there() -> None:
    hint = "A pipeline with truncated: pad takes it"
    for kind, missing in (("PNG", None), ("BMP", None), ("PPM", None), ("JPEG", 128), ("GIF with transparency", None)):
        data = CUT[kind][: len(CUT[kind]) * 6 // 10]
        said = refusal(data)
        found = re.fullmatch(rf"The image is cut off: (\d+) of its 300 rows are there\. {hint}.*", said)
        assert found, said
        rows = int(found[1])
        assert 130 < rows < 195
        if missing is not None:  # libjpeg fills the rest with gray; it holds back rows that it has not smoothed yet
            pixels = padded(data)
            assert pixels is not None
            assert 0 <= int((pixels != missing).any(axis=(1, 2)).sum()) - rows <= 32
    progressive = CUT["JPEG, progressive"]
    assert re.search(rf"progressive JPEG \d+ scans are there, the last in part\. {hint}", refusal(progressive[:-5000]))
    assert "of this progressive JPEG a part of the first scan is there" in refusal(progressive[:900])
    for kind in ("WebP", "AVIF"):
        data = CUT[kind]
        assert f"{len(data) // 2:,} of its {len(data):,} bytes are there" in refusal(data[: len(data) // 2])
    assert refusal(CUT["PBM"][:1000]).startswith(f"The image is cut off. {hint}")
    scan = CUT["JPEG"].index(b"\xff\xda")
    for data in (CUT["JPEG"][: scan - 9], CUT["JPEG"][:scan], CUT["PNG"][:20], CUT["BMP"][:20]):
        assert refusal(data, truncated="pad") == "The image is cut off in its header or metadata."


def test_pipelines_of_both_kinds_do_not_disturb_one_another() -> None:
    """Pillow's flag is the whole process's."""
    data = CUT["JPEG, progressive"][:-3000]
    expected = padded(data)

    def ask(number: int) -> bool:
        if number % 2:
            return np.array_equal(answer(data, truncated="pad"), expected)
        return refusal(data).startswith("The image is cut off")

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(60)))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


# --- transparency -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow, where alpha is dropped
@pytest.mark.parametrize("colour", [None, [255, 255, 255], [10, 200, 90]])
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_is_laid_over_the_background(kind: str, colour: list[int] | None) -> None:
    data = TRANSPARENT[kind]
    opened = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert opened.has_transparency_data
    expected = opened.convert("RGB")
    if colour is not None:
        ground = Image.new("RGBA", opened.size, (*colour, 255))
        expected = Image.alpha_composite(ground, opened.convert("RGBA")).convert("RGB")
        assert np.asarray(expected).tobytes() != np.asarray(opened.convert("RGB")).tobytes()
    whole = answer(data, background=colour, orientation="apply")
    assert np.array_equal(whole, expected)
    assert np.array_equal(open_rgb(data, parse({"steps": [], "background": colour, "orientation": "apply"})), expected)
    part = answer(data, {"op": "CenterCrop", "size": CROP}, background=colour, orientation="apply", precision="fast")
    top, left = (round((edge - crop) / 2) for edge, crop in zip(whole.shape[:2], CROP, strict=True))
    assert np.array_equal(part, whole[top : top + CROP[0], left : left + CROP[1]])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF"])
def test_what_is_opaque_has_no_background(kind: str) -> None:
    data = saved(picture(), kind)
    assert np.array_equal(answer(data, background=[255, 0, 0]), answer(data))


def test_a_clear_value_of_16_bits_is_found_before_they_are_scaled() -> None:
    data = saved(Image.fromarray(RAMP), "PNG", transparency=int(RAMP[20, 30]))
    got = answer(data, depth="scale", background=[1, 2, 3])
    assert got[20, 30].tolist() == [1, 2, 3]
    got[20, 30] = EIGHT[20, 30]
    assert np.array_equal(got, np.stack([EIGHT] * 3, axis=-1))


def test_premultiplied_gray_is_laid_over_the_background() -> None:
    """Of which Pillow itself makes no RGB."""
    gray_and_alpha = np.asarray(see_through("LA"))
    values = (gray_and_alpha[..., :1].astype(int) * gray_and_alpha[..., 1:] // 255).astype(np.uint8)
    pixels = np.concatenate([values, gray_and_alpha[..., 1:]], axis=-1)
    tags = {256: (4, 1, 57), 257: (4, 1, 38), 258: (3, 2, 8 | 8 << 16), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    tags |= {277: (3, 1, 2), 278: (4, 1, 38), 279: (4, 1, pixels.size), 338: (3, 1, 1)}
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<I", 8 + pixels.size)
    data = head + pixels.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert Image.open(io.BytesIO(data)).mode == "La"
    got = answer(data, background=[255, 255, 255])[..., 0].astype(int)
    alpha = gray_and_alpha[..., 1].astype(int)
    over = values[..., 0].astype(int) + 255 - alpha
    assert np.abs(got - over).max() <= 2


# --- to and from torchvision ----------------------------------------------------------------------------------------


def test_a_compose_opens_files_as_its_pipeline_says() -> None:
    pytest.importorskip("torch", reason="torchvision is not installed")
    from tvetl.spec.compose import from_compose, to_compose

    crop = [{"op": "CenterCrop", "size": CROP}]
    for data, fields in (
        (WRITERS["JPEG"](picture(), 6), {"orientation": "apply"}),
        (WRITERS["TIFF"](picture(), 6), {"orientation": "apply"}),
        (DEEP["16-bit PNG, turned"][0], {"depth": "scale", "orientation": "apply"}),
        (CUT["JPEG"][:-9000], {"truncated": "pad"}),
        (TRANSPARENT["PNG LA"], {"background": (9, 99, 199)}),
    ):
        pipeline = parse({"steps": crop, "output": {"format": "png"}, **fields})
        compose = to_compose(pipeline)
        assert np.array_equal(compose(Image.open(io.BytesIO(data))), answer(data, *crop, **fields))
        assert from_compose(compose, output={"format": "png"}) == pipeline
        assert from_compose(to_compose(parse({"steps": crop})), output={"format": "png"}, **fields) == pipeline
    assert len(to_compose(parse({"steps": crop})).transforms) == 1
    with pytest.raises(PipelineError, match=r"unknown key 'colour'"):
        from_compose(compose, colour=3)
    with pytest.raises(PipelineError, match=r"\$\.steps: not together with a compose"):
        from_compose(compose, steps=[])
    with pytest.raises(PipelineError, match=r"\$\.transforms\[1\]: expected a torchvision"):
        from_compose(type(compose)([*to_compose(parse({"steps": crop})).transforms, compose.transforms[0]]))
