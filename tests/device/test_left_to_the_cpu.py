"""Images and steps that the device does not take: the answers, and the errors, are the CPU's."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the device needs torch, which is not installed")
pytest.importorskip("nvidia.nvimgcodec", reason="the device needs nvImageCodec, which is not installed")

from support.device.in_process import Both
from support.device.sample_jpegs import jpeg, turned


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_formats_that_it_does_not_take_give_the_cpus_bytes(
    images: Sequence[Image.Image], taken: dict[str, bytes]
) -> None:
    image = images[0]
    broken = bytearray(taken["0.jpg"])
    broken[len(broken) // 2 : len(broken) // 2 + 4] = b"\xff\xd3\xff\xd3"
    deep = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    given = {
        "progressive": jpeg(image, progressive=True),
        "restarts": jpeg(image, restart_marker_blocks=2),
        "cmyk": jpeg(image.convert("CMYK")),
        "png": file(image, "PNG"),
        "16 bits": file(deep, "PNG"),
        "palette": file(image.convert("P"), "PNG"),
        "webp": file(image, "WEBP"),
        "gif": file(image, "GIF"),
        "bmp": file(image, "BMP"),
        "tiff": file(image, "TIFF"),
        "cut short": taken["0.jpg"][:-1000],
        "no end": taken["0.jpg"][:-2],
        "more behind": taken["0.jpg"] + b"more",
        "markers inside": bytes(broken),
    }
    both = Both([{"op": "RandomCrop", "size": 60}])
    for kind, data in given.items():
        device, cpu, ways = both.ask(data, kind)
        assert device == cpu, kind
        assert ways in ({"format": 1}, {}), f"{kind}: {ways}"
    for kind, data in {
        "text": b"no image",
        "nothing": b"",
        "head": taken["0.jpg"][:300],
        "small": jpeg(Image.new("RGB", (9, 9))),
    }.items():
        device, cpu, _ = both.ask(data, kind)
        assert device == cpu, kind
        assert isinstance(device[0], str), f"{kind} is an error"


def test_damage_inside_a_jpeg_changes_no_answer(taken: dict[str, bytes]) -> None:
    """Wrong codes that libjpeg reads over: on the CPU both do, and a GPU's decoder that does not refuses."""
    both = Both([{"op": "CenterCrop", "size": 100}])
    chance = np.random.default_rng(5)
    went: dict[str, int] = {}
    for name in ("0.jpg", "gray.jpg", "4:4:4.jpg"):
        for number in range(40):
            data = bytearray(taken[name])
            for place in chance.integers(2, len(data) - 2, 3):
                data[place] = chance.integers(0, 256)
            device, cpu, ways = both.ask(bytes(data), f"{name}{number}")
            assert device == cpu, f"{name} {number}"
            went |= {way: went.get(way, 0) + 1 for way in ways}
    assert went["device"] > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_only_upright_images_are_sent(orientation: int, images: Sequence[Image.Image]) -> None:
    data = jpeg(images[0], exif=turned(orientation))
    device, cpu, ways = Both([{"op": "RandomCrop", "size": 60}], orientation="apply").ask(data, "a")
    assert device == cpu
    assert ways == ({"device": 1} if orientation == 1 else {"format": 1})
    device, cpu, ways = Both([{"op": "RandomCrop", "size": 60}]).ask(data, "a")
    assert (device, ways) == (cpu, {"device": 1})


def test_errors_of_the_pipeline_equal_the_cpus(taken: dict[str, bytes]) -> None:
    for steps, format in (
        ([{"op": "RandomCrop", "size": 600}], "png"),
        ([{"op": "Resize", "size": 4000, "max_size": None}, {"op": "Pad", "padding": 5000}], "png"),
        ([{"op": "ToTensor"}, {"op": "RandomCrop", "size": 600}], "npy"),
    ):
        device, cpu, _ = Both(steps, format).ask(taken["0.jpg"], "a")
        assert device == cpu
        assert device[0] in ("TransformFailed", "TooManyPixels"), device


def test_steps_that_only_the_cpu_has_are_done_there(taken: dict[str, bytes]) -> None:
    """A border wider than the image, mirrored: numpy has it, torch has not."""
    device, cpu, ways = Both([{"op": "Pad", "padding": 400, "padding_mode": "reflect"}]).ask(taken["0.jpg"], "a")
    assert (device, ways) == (cpu, {"refused": 1})


def test_what_needs_opening_otherwise_is_left_to_the_cpu(images: Sequence[Image.Image]) -> None:
    whole, clear = jpeg(images[0]), images[0].convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    deep = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    opened = {"truncated": "pad", "depth": "scale", "background": [9, 99, 199]}
    both = Both([{"op": "RandomCrop", "size": 60}], **opened)
    for data in (whole[: len(whole) // 2], file(clear, "PNG"), file(deep, "PNG"), file(images[0], "PPM")):
        device, cpu, ways = both.ask(data, "a")
        assert isinstance(cpu[0], bytes)
        assert (device, ways) == (cpu, {"format": 1})
    assert both.ask(whole, "a")[2] == {"device": 1}
