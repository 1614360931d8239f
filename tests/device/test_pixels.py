"""The device's pixels against the CPU's, by the device's own code on the CPU: which are equal, how far the others are.

On the CPU nvImageCodec decodes with libjpeg, so all that only moves pixels gives the CPU's own: a draw that differs, or
a box, shows in every byte.
"""

from __future__ import annotations

from typing import Any

import pytest

from tvetl.spec import OPS

pytest.importorskip("torch", reason="the device needs torch, which is not installed")
pytest.importorskip("nvidia.nvimgcodec", reason="the device needs nvImageCodec, which is not installed")

from support.device.in_process import Both, distance
from support.device.sample_jpegs import seeded

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
    "RandomApply": {"transforms": [{"op": "RandomHorizontalFlip", "p": 1}]},
    "RandomChoice": {"transforms": [{"op": "RandomHorizontalFlip", "p": 1}, {"op": "RandomInvert"}]},
    "RandomOrder": {"transforms": [{"op": "RandomCrop", "size": 90}, {"op": "RandomVerticalFlip"}]},
    "ScaleJitter": {"target_size": [90, 120], "scale_range": [0.5, 2]},
    "RandomShortestSize": {"min_size": [60, 120], "max_size": 150},
    "RandomResize": {"min_size": 60, "max_size": 120},
}
#: The largest difference in levels, and the least PSNR in dB, of those whose pixels are not the CPU's. Where pixels are
#: turned, one beside an edge may be any other: 255.
CLOSE: dict[str, tuple[float, float]] = {
    "Resize": (1, 50),
    "RandomResizedCrop": (1, 50),
    "ScaleJitter": (1, 50),
    "RandomShortestSize": (1, 50),
    "RandomResize": (1, 50),
    "RandomPhotometricDistort": (24, 38),
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
    if "p" in OPS[name].params and name != "RandomChoice":
        step["p"] = 1
    if name in ("ToPILImage", "RandomErasing") or "pil" not in OPS[name].takes:
        return [{"op": "PILToTensor" if name == "ToDtype" else "ToTensor"}, step]
    return [step]


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if not op.needs_boxes])
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


def test_sizes_that_torchvision_draws_there_are_left_to_the_cpu(taken: dict[str, bytes]) -> None:
    """Else nothing would keep a result within its limit before it is made."""
    inner = {"op": "RandomApply", "transforms": [{"op": "RandomZoomOut"}]}
    device, cpu, ways = Both([{"op": "GaussianBlur", "kernel_size": 3}, inner]).ask(taken["0.jpg"], "a")
    assert (device, ways) == (cpu, {"step": 1})


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
