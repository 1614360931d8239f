"""What comes out where the device did the pixels: formats, qualities, arguments, views and shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from tvetl.spec import parse_arguments

pytest.importorskip("torch", reason="the device needs torch, which is not installed")
pytest.importorskip("nvidia.nvimgcodec", reason="the device needs nvImageCodec, which is not installed")

from support.device.in_process import Both, distance, pixels
from support.device.sample_jpegs import jpeg


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("subsampling", [None, "4:2:0", "4:2:2", "4:4:4"])
def test_jpegs_have_the_quality_asked_for_and_are_close(
    quality: int, subsampling: str | None, taken: dict[str, bytes]
) -> None:
    both = Both(
        [{"op": "RandomCrop", "size": 128}], output={"format": "jpeg", "quality": quality, "subsampling": subsampling}
    )
    for name in ("0.jpg", "3.jpg", "gray.jpg"):
        device, cpu, ways = both.ask(taken[name], name)
        assert ways == {"device": 1}
        assert device[1] == cpu[1] == "image/jpeg"
        one, other = (Image.open(io.BytesIO(body)) for body in (device[0], cpu[0]))
        assert (one.mode, one.size, one.layer) == (other.mode, other.size, other.layer)
        assert one.quantization == other.quantization
        assert distance(device[0], cpu[0])[1] > 45


def test_gray_results_are_gray(taken: dict[str, bytes]) -> None:
    for output in ({"format": "png"}, {"format": "jpeg"}, {"format": "webp"}):
        device, cpu, ways = Both([{"op": "Grayscale"}, {"op": "CenterCrop", "size": 50}], output=output).ask(
            taken["0.jpg"], "a"
        )
        assert ways == {"device": 1}
        assert Image.open(io.BytesIO(device[0])).mode == Image.open(io.BytesIO(cpu[0])).mode


@pytest.mark.parametrize(
    "output", [{"format": "jpeg", "progressive": True}, {"format": "jpeg", "optimize": True}, {"format": "webp"}]
)
def test_formats_that_its_encoder_lacks_are_encoded_by_the_cpu(output: dict[str, Any], taken: dict[str, bytes]) -> None:
    device, cpu, ways = Both([{"op": "RandomCrop", "size": 128}], output=output).ask(taken["0.jpg"], "a")
    assert (device, ways) == (cpu, {"device": 1})


def test_arguments_apply_on_the_device(taken: dict[str, bytes]) -> None:
    crops = Both([{"op": "RandomHorizontalFlip"}, {"op": "RandomCrop", "size": 100}])
    for asked in (
        '{"size": 64}',
        '{"size": [30, 70]}',
        '{"epoch": 7}',
        '{"view": 3}',
        '{"seed": 8}',
        '{"format": "webp"}',
    ):
        device, cpu, ways = crops.ask(taken["1.jpg"], "b/1.jpg", parse_arguments(asked))
        assert (device, ways) == (cpu, {"device": 1}), asked
    rough = crops.ask(taken["1.jpg"], "b/1.jpg", parse_arguments('{"format": "jpeg", "quality": 10}'))[0]
    assert len(rough[0]) < len(crops.ask(taken["1.jpg"], "b/1.jpg", parse_arguments('{"format": "jpeg"}'))[0][0])
    by_torch = Both([{"op": "ToTensor"}, {"op": "RandomErasing"}, {"op": "RandomCrop", "size": 90}], "npy")
    for asked in ('{"size": 64}', '{"size": [30, 70]}'):
        device, cpu, ways = by_torch.ask(taken["1.jpg"], "b/1.jpg", parse_arguments(asked))
        assert (device, ways) == (cpu, {"device": 1}), asked


def test_views_in_one_request_are_the_views_one_by_one(taken: dict[str, bytes]) -> None:
    pictures = Both([{"op": "RandomCrop", "size": 60}])
    device, cpu, ways = pictures.ask(taken["2.jpg"], "a", parse_arguments('{"views": 5}'))
    assert (device, ways) == (cpu, {"device": 1})
    with tarfile.open(fileobj=io.BytesIO(device[0])) as tar:
        assert len({tar.extractfile(name).read() for name in tar.getnames()}) == 5  # type: ignore[union-attr]
    tensors = Both([{"op": "RandomCrop", "size": 60}, {"op": "ToTensor"}], "npy")
    device, cpu, ways = tensors.ask(taken["2.jpg"], "a", parse_arguments('{"views": 3}'))
    assert (device, ways) == (cpu, {"device": 1})
    assert pixels(device[0]).shape == (3, 3, 60, 60)
    whole = Both([{"op": "RandomHorizontalFlip"}]).ask(taken["2.jpg"], "a", parse_arguments('{"views": 3}'))
    assert whole[0] == whole[1]


def test_a_shard_is_sent_image_by_image(taken: dict[str, bytes], images: Sequence[Image.Image]) -> None:
    buffer = io.BytesIO()
    files = {**taken, "progressive.jpg": jpeg(images[0], progressive=True), "notes.txt": b"text"}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    device, cpu, ways = Both([{"op": "RandomCrop", "size": 50}]).ask(buffer.getvalue(), "b/a.tar")
    assert device == cpu
    assert ways == {"device": len(taken), "format": 1}


def test_fast_is_the_devices_own_way(taken: dict[str, bytes]) -> None:
    """Decoded whole, so nearer to exact than the CPU's fast is."""
    steps = [{"op": "RandomResizedCrop", "size": 40, "scale": [0.9, 1.0]}]
    device, _, ways = Both(steps, precision="fast").ask(taken["1.jpg"], "a")
    assert ways == {"device": 1}
    _, exact, _ = Both(steps).ask(taken["1.jpg"], "a")
    assert distance(device[0], exact[0])[0] <= 1
