"""The device's pixels against the CPU's, by the device's own code on the CPU: which are equal, how far the others are.

On the CPU nvImageCodec decodes with libjpeg, so all that only moves pixels gives the CPU's own: a draw that differs, or
a box, shows in every byte.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvetl.spec import OPS, Arguments, parse_arguments

pytest.importorskip("torch", reason="the device needs torch, which is not installed")
pytest.importorskip("nvidia.nvimgcodec", reason="the device needs nvImageCodec, which is not installed")

from benchmarks.distances import InProcess
from device.direct import Both, distance, pixels

from tvetl_server.engine import DeviceRequest
from tvetl_server.engine.cuda import DeviceLost, Gpu


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


@pytest.fixture(scope="module")
def images(photographs: list[Path]) -> list[Image.Image]:
    """Of odd and even sizes."""
    found = []
    for place, path in enumerate(photographs):
        image = Image.open(path).convert("RGB")
        image.thumbnail((230 + 13 * place, 400))
        found.append(image)
    return found


@pytest.fixture(scope="module")
def taken(images: list[Image.Image]) -> dict[str, bytes]:
    """JPEGs of each kind that the device takes."""
    found = {f"{place}.jpg": jpeg(image) for place, image in enumerate(images)}
    first, second, *_ = images
    found |= {f"{kind}.jpg": jpeg(first, subsampling=kind) for kind in ("4:4:4", "4:2:2", "4:2:0")}
    found |= {f"q{quality}.jpg": jpeg(second, quality=quality, optimize=True) for quality in (10, 75, 100)}
    found["gray.jpg"] = jpeg(first.convert("L"))
    found["colours.jpg"] = jpeg(second, keep_rgb=True)
    found["exif.jpg"] = jpeg(second, exif=_turned(6))
    found["comment.jpg"] = jpeg(first, comment=b"x" * 3000, icc_profile=b"y" * 500)
    return found


def seeded(seed: int) -> Arguments:
    return Arguments(given=frozenset(["seed"]), seed=seed)


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


MOVES: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "the middle": [{"op": "CenterCrop", "size": [97, 130]}],
    "more than there is": [{"op": "CenterCrop", "size": [300, 500]}],
    "anywhere": [{"op": "RandomCrop", "size": 64}],
    "anywhere beside it": [{"op": "RandomCrop", "size": [90, 70], "padding": [3, 9, 20, 5], "padding_mode": "reflect"}],
    "anywhere, flipped": [
        {"op": "RandomHorizontalFlip"},
        {"op": "RandomCrop", "size": 100},
        {"op": "RandomVerticalFlip"},
        {"op": "RandomCrop", "size": 77},
    ],
    "padded": [{"op": "Pad", "padding": [1, 2, 3, 4], "fill": [9, 80, 200]}, {"op": "CenterCrop", "size": 111}],
}


@pytest.mark.parametrize("steps", MOVES.values(), ids=MOVES)
def test_ops_that_only_move_pixels_give_the_same_bytes(steps: list[dict[str, Any]], taken: dict[str, bytes]) -> None:
    both = Both(steps)
    for name, data in taken.items():
        for seed in (1, 2, 3):
            device, cpu, ways = both.ask(data, name, seeded(seed))
            assert ways == {"device": 1}, name
            assert device == cpu, f"{name} with seed {seed}"


@pytest.mark.parametrize("format", ["npy", "safetensors", "raw"])
def test_tables_give_the_same_bytes(format: str, taken: dict[str, bytes]) -> None:
    normal = {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for chain in (
        [{"op": "ToTensor"}, normal],
        [{"op": "ToImage"}, {"op": "ToDtype", "dtype": "float16", "scale": True}],
        [{"op": "PILToTensor"}],
    ):
        both = Both([{"op": "RandomCrop", "size": 88}, {"op": "RandomHorizontalFlip"}, *chain], format)
        for name, data in taken.items():
            device, cpu, ways = both.ask(data, name)
            assert (ways, device == cpu) == ({"device": 1}, True), name


@pytest.mark.parametrize(
    ("interpolation", "levels", "decibels"),
    # Nearest: Pillow adds up its places, and torch multiplies, so now and then one picks the neighbour. Bicubic: Pillow
    # rounds and cuts off between the two directions.
    [("nearest", 255, 30), ("bilinear", 1, 52), ("bicubic", 8, 50)],
)
def test_a_resize_is_this_close(interpolation: str, levels: float, decibels: float, taken: dict[str, bytes]) -> None:
    """So its box, which is drawn, is the same."""
    resize = {"op": "RandomResizedCrop", "size": 80, "interpolation": interpolation}
    both = Both([resize, {"op": "RandomHorizontalFlip"}])
    found = []
    for name, data in taken.items():
        for seed in (1, 2):
            device, cpu, ways = both.ask(data, name, seeded(seed))
            assert ways == {"device": 1}
            found.append(distance(device[0], cpu[0]))
    print(f"{interpolation}: {max(each[0] for each in found):g} levels, {min(each[1] for each in found):.1f} dB")
    assert max(each[0] for each in found) <= levels
    assert min(each[1] for each in found) >= decibels


@pytest.mark.parametrize("interpolation", ["box", "hamming", "lanczos"])
def test_filters_that_tensors_do_not_have_are_the_cpus(interpolation: str, taken: dict[str, bytes]) -> None:
    device, cpu, ways = Both([{"op": "Resize", "size": 80, "interpolation": interpolation}]).ask(taken["0.jpg"], "a")
    assert (device, ways) == (cpu, {"refused": 1})


#: Parameters of those that need some, and of those that would do nothing.
PARAMS: dict[str, dict[str, Any]] = {
    "Resize": {"size": 100},
    "CenterCrop": {"size": 120},
    "RandomCrop": {"size": 120, "padding": 8},
    "RandomResizedCrop": {"size": 100},
    "Pad": {"padding": 9},
    "RandomRotation": {"degrees": 30},
    "RandomAffine": {"degrees": 20, "translate": [0.1, 0.1], "scale": [0.8, 1.2]},
    "ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    "GaussianBlur": {"kernel_size": 5},
    "RandomPosterize": {"bits": 3},
    "RandomSolarize": {"threshold": 128},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "ToDtype": {"dtype": "float32", "scale": True},
    "Normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
#: The largest difference in levels, and the least PSNR in dB, of those whose pixels are not the CPU's. Where pixels are
#: turned, one beside an edge may be any other: 255.
CLOSE: dict[str, tuple[float, float]] = {
    "Resize": (1, 50),
    "RandomResizedCrop": (1, 50),
    "RandomRotation": (255, 40),
    "RandomAffine": (255, 40),
    "RandomPerspective": (255, 28),
    "ColorJitter": (24, 40),
    "Grayscale": (1, 48),
    "RandomGrayscale": (1, 48),
    "GaussianBlur": (1, 50),
    "RandomAdjustSharpness": (1, 50),
    "RandomAutocontrast": (1, 48),
    "AutoAugment": (255, 35),
    "RandAugment": (255, 35),
    "TrivialAugmentWide": (255, 27),
    "AugMix": (32, 40),
}


def chain_of(name: str) -> list[dict[str, Any]]:
    step = {"op": name, **PARAMS.get(name, {})}
    if "p" in OPS[name].params:
        step["p"] = 1
    if name in ("ToPILImage", "RandomErasing") or "pil" not in OPS[name].takes:
        return [{"op": "PILToTensor" if name == "ToDtype" else "ToTensor"}, step]
    return [step]


@pytest.mark.parametrize("name", OPS)
def test_every_op_of_the_table_runs_there_and_this_close(name: str, taken: dict[str, bytes]) -> None:
    steps = chain_of(name)
    gives_tensor = name != "ToPILImage" and (len(steps) > 1 or name.startswith(("ToI", "ToT", "PILTo")))
    both = Both(steps, "npy" if gives_tensor else "png")
    found = []
    for source in ("0.jpg", "1.jpg", "2.jpg", "gray.jpg", "4:2:2.jpg"):
        for seed in (1, 2):
            device, cpu, ways = both.ask(taken[source], source, seeded(seed))
            assert ways == {"device": 1}, "none is left to the CPU"
            assert device[1] == cpu[1], device
            if name not in CLOSE:
                assert device == cpu
            found.append(distance(device[0], cpu[0]))
    level, decibels = max(each[0] for each in found), min(each[1] for each in found)
    print(f"{name}: {level:g} levels, {decibels:.1f} dB")
    assert level <= CLOSE.get(name, (0, 0))[0]
    assert decibels >= CLOSE.get(name, (0, 0))[1]


def test_other_draws_would_be_far_off(taken: dict[str, bytes]) -> None:
    """Else the numbers above would say nothing of the draws."""
    for name in (
        "RandomAffine",
        "RandomPerspective",
        "RandAugment",
        "TrivialAugmentWide",
        "AutoAugment",
        "RandomRotation",
    ):
        both = Both(chain_of(name))
        one, other = (both.ask(taken["1.jpg"], "1.jpg", seeded(n))[1] for n in (1, 5))
        assert distance(one[0], other[0])[1] < 26


# --- what comes out ---------------------------------------------------------------------------------------------------


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


# --- what is not for it -----------------------------------------------------------------------------------------------


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
    data = jpeg(images[0], exif=_turned(orientation))
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


# --- a batch ----------------------------------------------------------------------------------------------------------


def request(data: bytes, *programs: list[Any], jpeg: tuple[int, str | None] | None = None) -> DeviceRequest:
    return DeviceRequest(data, Image.open(io.BytesIO(data)).size, programs or ([],), jpeg, None)


def test_a_batch_gives_what_each_gives_alone(taken: dict[str, bytes]) -> None:
    both = Both([{"op": "Resize", "size": 64}, {"op": "CenterCrop", "size": 64}])
    assert isinstance(both.device._device, InProcess)
    gpu = both.device._device.gpu
    programs = [
        [["crop", 5, 6, 70, 80]],
        [["resize", [50, 40], "bilinear", [1, 2, 30, 40], True, -1]],
        [],
        [["invert"]],
    ]
    requests = [request(data, *programs[place % 3 : place % 3 + 2]) for place, data in enumerate(taken.values())]
    requests.insert(3, request(taken["0.jpg"], [["crop", 0, 0, 10, 10]]))
    requests.insert(5, DeviceRequest(b"no image", (10, 10), [[]], None, None))
    together = gpu.run(requests)
    assert together[5] is None
    for each, found in zip(requests, together, strict=True):
        (alone,) = gpu.run([each])
        assert (alone is None) == (found is None)
        for one, other in zip(alone or [], found or [], strict=True):
            assert np.array_equal(one, other)
    assert gpu.run([]) == []


def test_a_size_other_than_the_headers_is_refused(taken: dict[str, bytes]) -> None:
    gpu = Gpu("host", Both([]).pipeline)
    width, height = Image.open(io.BytesIO(taken["0.jpg"])).size
    for size in ((width + 1, height), (height, width + 5)):
        assert gpu.run([DeviceRequest(taken["0.jpg"], size, [[]], None, None)]) == [None]


class Faulty(Gpu):
    """It fails with whichever batch has a certain one in it."""

    culprits: Sequence[DeviceRequest] = ()
    lost = False
    batches: list[int]

    def _together(self, requests: Sequence[DeviceRequest]) -> Any:
        self.batches.append(len(requests))
        if any(each is culprit for each in requests for culprit in self.culprits):
            raise RuntimeError("CUDA out of memory.\nmore")
        return super()._together(requests)

    def _probe(self, error: Exception) -> None:
        if self.lost:
            raise DeviceLost(str(error))
        super()._probe(error)


def test_in_a_batch_that_fails_only_the_bad_images_do(taken: dict[str, bytes]) -> None:
    gpu = Faulty("host", Both([]).pipeline)
    gpu.batches = []
    requests = [request(data) for data in taken.values()]
    whole = Gpu("host", Both([]).pipeline).run(requests)
    for places in ([0], [len(requests) - 1], [2, 3], [1, 5, 6], [*range(len(requests))]):
        gpu.batches.clear()
        gpu.culprits = [requests[place] for place in places]
        for place, (found, right) in enumerate(zip(gpu.run(requests), whole, strict=True)):
            assert (found is None) == (place in places)
            assert found is None or np.array_equal(found[0], right[0])  # type: ignore[index]
        assert len(gpu.batches) <= 1 + 2 * len(places) * 4, "halves, not one by one"


def test_a_device_that_is_lost_is_not_tried_in_halves(taken: dict[str, bytes]) -> None:
    gpu = Faulty("host", Both([]).pipeline)
    requests = [request(data) for data in taken.values()]
    gpu.batches, gpu.lost, gpu.culprits = [], True, requests[1:2]
    with pytest.raises(DeviceLost, match="out of memory"):
        gpu.run(requests)
    assert gpu.batches == [len(taken)]
