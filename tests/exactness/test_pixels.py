"""Our pixels are torchvision's and our files Pillow's: every op on its own, and whole pipelines."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from support.torch_seed import seed_cpu

from tvetl.spec import OPS, Arguments, derive_seed, parse
from tvetl_server.engine import Engine
from tvetl_server.engine.decode import open_source
from tvetl_server.engine.plans import View, needs_torch
from tvetl_server.engine.plans.exact import ExactPlan
from tvetl_server.limits import Limits

torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
v2 = pytest.importorskip("torchvision.transforms.v2", reason="compares with torchvision, which is not installed")
torch_plan = pytest.importorskip("tvetl_server.engine.plans.torchvision")

pytestmark = pytest.mark.filterwarnings("ignore:The transform `ToTensor")

BILINEAR, BICUBIC = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

CROP: list[dict[str, object]] = [{"op": "RandomCrop", "size": 90}]
ORDER: list[dict[str, object]] = [
    {"op": "RandomOrder", "transforms": [{"op": "RandomInvert"}, {"op": "RandomPosterize", "bits": 2}]}
]
BLUR_OR: list[dict[str, object]] = [{"op": "GaussianBlur", "kernel_size": 3}, {"op": "RandomInvert"}]


def _order() -> list[object]:
    return [v2.RandomOrder([v2.RandomInvert(), v2.RandomPosterize(2)])]


#: Each op with parameters that make it do something, beside the torchvision instance that it stands for.
ON_ITS_OWN: list[tuple[list[dict[str, object]], list[Callable[..., object]]]] = [
    ([{"op": "Resize", "size": 256}], [v2.Resize(256)]),
    ([{"op": "Resize", "size": [100, 300], "interpolation": "bicubic"}], [v2.Resize([100, 300], BICUBIC)]),
    ([{"op": "Resize", "size": 300, "max_size": 330}], [v2.Resize(300, max_size=330)]),
    ([{"op": "Resize", "size": None, "max_size": 200}], [v2.Resize(None, max_size=200)]),
    ([{"op": "CenterCrop", "size": 224}], [v2.CenterCrop(224)]),
    ([{"op": "CenterCrop", "size": [223, 501]}], [v2.CenterCrop([223, 501])]),
    (
        [{"op": "RandomCrop", "size": 224, "padding": 9, "pad_if_needed": True, "fill": [1, 2.7, 3]}],
        [v2.RandomCrop(224, 9, True, [1, 2.7, 3])],
    ),
    (
        [{"op": "RandomCrop", "size": [200, 600], "pad_if_needed": True, "padding_mode": "symmetric"}],
        [v2.RandomCrop([200, 600], pad_if_needed=True, padding_mode="symmetric")],
    ),
    ([{"op": "RandomResizedCrop", "size": 224}], [v2.RandomResizedCrop(224)]),
    (
        [
            {
                "op": "RandomResizedCrop",
                "size": [96, 128],
                "scale": [0.5, 1],
                "ratio": [1, 1],
                "interpolation": "bicubic",
            }
        ],
        [v2.RandomResizedCrop([96, 128], (0.5, 1), (1, 1), BICUBIC)],
    ),
    ([{"op": "RandomResizedCrop", "size": 64, "ratio": [0.5, 2.1]}], [v2.RandomResizedCrop(64, ratio=(0.5, 2.1))]),
    ([{"op": "Pad", "padding": [1, 2, 3, 4], "fill": 77.9}], [v2.Pad([1, 2, 3, 4], 77.9)]),
    ([{"op": "Pad", "padding": 20, "padding_mode": "reflect"}], [v2.Pad(20, padding_mode="reflect")]),
    ([{"op": "ScaleJitter", "target_size": [300, 400]}], [v2.ScaleJitter((300, 400))]),
    (
        [{"op": "RandomShortestSize", "min_size": [200, 333, 480], "max_size": 500, "interpolation": "bicubic"}],
        [v2.RandomShortestSize((200, 333, 480), 500, BICUBIC)],
    ),
    ([{"op": "RandomShortestSize", "min_size": 123}], [v2.RandomShortestSize(123)]),
    ([{"op": "RandomResize", "min_size": 100, "max_size": 500}], [v2.RandomResize(100, 500)]),
    (
        [{"op": "RandomZoomOut", "fill": [123, 117, 104], "mask_fill": 255, "side_range": [1, 2.5]}],
        [v2.RandomZoomOut([123, 117, 104], (1, 2.5))],
    ),
    (
        [{"op": "ToTensor"}, {"op": "RandomZoomOut", "side_range": [1, 1.3]}],
        [v2.ToTensor(), v2.RandomZoomOut(side_range=(1, 1.3))],
    ),
    ([{"op": "RandomHorizontalFlip"}], [v2.RandomHorizontalFlip()]),
    ([{"op": "RandomVerticalFlip", "p": 0.3}], [v2.RandomVerticalFlip(0.3)]),
    (
        [{"op": "RandomRotation", "degrees": 30, "expand": True, "interpolation": "bilinear"}],
        [v2.RandomRotation(30, BILINEAR, True)],
    ),
    (
        [{"op": "RandomAffine", "degrees": 15, "translate": [0.1, 0.2], "scale": [0.8, 1.2], "shear": 5}],
        [v2.RandomAffine(15, (0.1, 0.2), (0.8, 1.2), 5)],
    ),
    ([{"op": "RandomPerspective", "fill": 9}], [v2.RandomPerspective(fill=9)]),
    (
        [{"op": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": [0.2, 1.8], "hue": 0.1}],
        [v2.ColorJitter(0.4, 0.4, (0.2, 1.8), 0.1)],
    ),
    ([{"op": "ColorJitter", "hue": 0.5}], [v2.ColorJitter(hue=0.5)]),
    ([{"op": "Grayscale"}], [v2.Grayscale()]),
    ([{"op": "Grayscale", "num_output_channels": 3}], [v2.Grayscale(3)]),
    (
        [{"op": "Grayscale"}, {"op": "ColorJitter", "contrast": 1, "hue": 0.2}],
        [v2.Grayscale(), v2.ColorJitter(0, 1, 0, 0.2)],
    ),
    ([{"op": "RandomGrayscale", "p": 0.5}], [v2.RandomGrayscale(0.5)]),
    ([{"op": "GaussianBlur", "kernel_size": 5}], [v2.GaussianBlur(5)]),
    ([{"op": "RandomInvert"}], [v2.RandomInvert()]),
    ([{"op": "RandomPosterize", "bits": 3}], [v2.RandomPosterize(3)]),
    ([{"op": "RandomSolarize", "threshold": 127.5}], [v2.RandomSolarize(127.5)]),
    ([{"op": "RandomAdjustSharpness", "sharpness_factor": 1.7}], [v2.RandomAdjustSharpness(1.7)]),
    ([{"op": "RandomPhotometricDistort"}], [v2.RandomPhotometricDistort()]),
    (
        [{"op": "Grayscale"}, {"op": "RandomPhotometricDistort", "hue": [0, 0.5], "p": 0.9}],
        [v2.Grayscale(), v2.RandomPhotometricDistort(hue=(0, 0.5), p=0.9)],
    ),
    ([{"op": "RandomAutocontrast"}], [v2.RandomAutocontrast()]),
    ([{"op": "RandomEqualize"}], [v2.RandomEqualize()]),
    ([{"op": "AutoAugment"}], [v2.AutoAugment()]),
    ([{"op": "RandAugment"}], [v2.RandAugment()]),
    ([{"op": "TrivialAugmentWide"}], [v2.TrivialAugmentWide()]),
    ([{"op": "AugMix"}], [v2.AugMix()]),
    (
        [{"op": "ToTensor"}, {"op": "RandomErasing", "value": "random"}],
        [v2.ToTensor(), v2.RandomErasing(value="random")],
    ),
    (
        [
            {"op": "RandomApply", "p": 0.8, "transforms": [{"op": "ColorJitter", "brightness": 0.4, "hue": 0.1}]},
            {"op": "RandomGrayscale", "p": 0.2},
            {"op": "RandomApply", "transforms": [{"op": "RandomCrop", "size": 90}, {"op": "RandomHorizontalFlip"}]},
            {"op": "RandomInvert"},
        ],
        [
            v2.RandomApply([v2.ColorJitter(0.4, hue=0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.RandomCrop(90), v2.RandomHorizontalFlip()]),
            v2.RandomInvert(),
        ],
    ),
    (
        [{"op": "RandomApply", "transforms": [{"op": "GaussianBlur", "kernel_size": 5}]}, {"op": "RandomInvert"}],
        [v2.RandomApply(torch.nn.ModuleList([v2.GaussianBlur(5)])), v2.RandomInvert()],
    ),
    (
        [{"op": "ToTensor"}, {"op": "RandomApply", "transforms": [{"op": "Normalize", "mean": MEAN, "std": STD}]}],
        [v2.ToTensor(), v2.RandomApply([v2.Normalize(MEAN, STD)])],
    ),
    (
        [
            {"op": "RandomChoice", "p": [3, 1, 1], "transforms": [{"op": "RandomVerticalFlip"}, *CROP, *ORDER]},
            {"op": "RandomChoice", "transforms": [{"op": "RandomInvert", "p": 1}, {"op": "RandomHorizontalFlip"}]},
            {"op": "RandomOrder", "transforms": [*CROP, {"op": "RandomZoomOut", "side_range": [1, 1.5]}, *ORDER]},
            {"op": "RandomInvert"},
        ],
        [
            v2.RandomChoice([v2.RandomVerticalFlip(), v2.RandomCrop(90), *_order()], [3, 1, 1]),
            v2.RandomChoice([v2.RandomInvert(1), v2.RandomHorizontalFlip()]),
            v2.RandomOrder([v2.RandomCrop(90), v2.RandomZoomOut(side_range=(1, 1.5)), *_order()]),
            v2.RandomInvert(),
        ],
    ),
    (
        [
            {"op": "RandomOrder", "transforms": [{"op": "RandomChoice", "transforms": [*BLUR_OR]}, *CROP]},
            {"op": "RandomChoice", "transforms": [*CROP, {"op": "ScaleJitter", "target_size": [90, 99]}]},
            {"op": "RandomInvert"},
        ],
        [
            v2.RandomOrder([v2.RandomChoice([v2.GaussianBlur(3), v2.RandomInvert()]), v2.RandomCrop(90)]),
            v2.RandomChoice([v2.RandomCrop(90), v2.ScaleJitter((90, 99))]),
            v2.RandomInvert(),
        ],
    ),
    ([{"op": "ToTensor"}], [v2.ToTensor()]),
    ([{"op": "PILToTensor"}], [v2.PILToTensor()]),
    ([{"op": "ToImage"}], [v2.ToImage()]),
    (
        [{"op": "ToImage"}, {"op": "ToDtype", "dtype": "float32", "scale": True}],
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
    ),
    (
        [
            {"op": "ToImage"},
            {"op": "ToDtype", "dtype": "float16", "scale": True},
            {"op": "Normalize", "mean": MEAN, "std": STD},
        ],
        [v2.ToImage(), v2.ToDtype(torch.float16, scale=True), v2.Normalize(MEAN, STD)],
    ),
    (
        [{"op": "ToTensor"}, {"op": "ToDtype", "dtype": "uint8", "scale": True}],
        [v2.ToTensor(), v2.ToDtype(torch.uint8, scale=True)],
    ),
    (
        [{"op": "ToTensor"}, {"op": "Normalize", "mean": MEAN, "std": STD}, {"op": "ToDtype", "dtype": "uint8"}],
        [v2.ToTensor(), v2.Normalize(MEAN, STD), v2.ToDtype(torch.uint8)],
    ),
    (
        [{"op": "ToTensor"}, {"op": "Normalize", "mean": [0.5], "std": [-0.25]}],
        [v2.ToTensor(), v2.Normalize([0.5], [-0.25])],
    ),
    (
        [{"op": "ToTensor"}, {"op": "Normalize", "mean": MEAN, "std": STD}, {"op": "ToPILImage"}],
        [v2.ToTensor(), v2.Normalize(MEAN, STD), v2.ToPILImage()],
    ),
    (
        [
            {"op": "Grayscale"},
            {"op": "ToTensor"},
            {"op": "ToPILImage"},
            {"op": "Resize", "size": 64},
            {"op": "PILToTensor"},
        ],
        [v2.Grayscale(), v2.ToTensor(), v2.ToPILImage(), v2.Resize(64), v2.PILToTensor()],
    ),
]


def _name(case: tuple[list[dict[str, object]], object]) -> str:
    return "-".join(str(step["op"]) for step in case[0])


def test_every_op_of_the_table_is_compared() -> None:
    on_images = {name for name, op in OPS.items() if not op.needs_boxes}
    assert {step["op"] for steps, _ in ON_ITS_OWN for step in steps} == on_images


#: Draws of each photograph; and of ops that take torchvision ten milliseconds and more, twice for each comparison.
SEEDS, SEEDS_OF_SLOW = 20, 4
SLOW = {
    "RandomErasing",
    *("AugMix", "ColorJitter", "GaussianBlur", "RandomApply", "RandomChoice", "RandomPhotometricDistort"),
    *("RandomResize", "RandomRotation", "RandomShortestSize", "RandomZoomOut", "ScaleJitter"),
}


@pytest.fixture(scope="module")
def originals(sample: list[bytes]) -> list[Image.Image]:
    """The photographs as Pillow opens them, decoded once for all tests; transforms leave their input as it is."""
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in sample]
    for original in opened:
        original.info = {}  # metadata does not go on to the output
    return opened


@pytest.mark.parametrize("case", ON_ITS_OWN, ids=_name)
def test_pixels_of_each_op_are_torchvisions(
    case: tuple[list[dict[str, object]], list[Callable[..., object]]],
    sample: list[bytes],
    originals: list[Image.Image],
    limits: Limits,
) -> None:
    steps, transforms = case
    pipeline = parse({"steps": steps})
    plan = torch_plan.TorchPlan(pipeline) if needs_torch(pipeline) else ExactPlan(pipeline)
    is_random = any(OPS[each.op].random for step in pipeline.steps for each in step.walk())
    # What draws nothing is the same for each seed.
    seeds = (SEEDS_OF_SLOW if SLOW & {step["op"] for step in steps} else SEEDS) if is_random else 1
    for number, (data, original) in enumerate(zip(sample, originals, strict=True)):
        source = open_source(data, limits)
        for seed in range(seeds * number, seeds * (number + 1)):
            ours = np.asarray(plan(source, View(seed, limits, keep=True)))
            seed_cpu(seed)
            theirs: object = original
            for transform in transforms:
                theirs = transform(theirs)
            expected = np.asarray(theirs)
            assert ours.dtype == expected.dtype
            assert np.array_equal(ours, expected, equal_nan=ours.dtype.kind == "f"), (number, seed)


BLOG = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.ToTensor(), v2.Normalize(MEAN, STD), v2.ToPILImage()]
EVALUATION = [v2.Resize(256), v2.CenterCrop(224), v2.ToTensor(), v2.Normalize(MEAN, STD)]
COLOUR = [
    v2.RandomResizedCrop(160),
    v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    v2.RandomGrayscale(0.2),
    v2.RandomHorizontalFlip(),
]
BLUR = [v2.RandomResizedCrop(96), v2.GaussianBlur(9), v2.RandomSolarize(128, 0.2)]


def _steps(*steps: tuple[str, dict[str, object]]) -> list[dict[str, object]]:
    return [{"op": op, **params} for op, params in steps]


_NORMALIZE = ("Normalize", {"mean": MEAN, "std": STD})
WHOLE = {
    "blog": (
        BLOG,
        _steps(
            ("RandomResizedCrop", {"size": 224}),
            ("RandomHorizontalFlip", {}),
            ("ToTensor", {}),
            _NORMALIZE,
            ("ToPILImage", {}),
        ),
        {"format": "jpeg", "quality": 75},
        {"format": "JPEG", "quality": 75},
    ),
    "colour": (
        COLOUR,
        _steps(
            ("RandomResizedCrop", {"size": 160}),
            ("ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
            ("RandomGrayscale", {"p": 0.2}),
            ("RandomHorizontalFlip", {}),
        ),
        {"format": "jpeg", "quality": 90, "subsampling": "4:4:4", "progressive": True},
        {"format": "JPEG", "quality": 90, "subsampling": "4:4:4", "progressive": True},
    ),
    "blur": (
        BLUR,
        _steps(
            ("RandomResizedCrop", {"size": 96}),
            ("GaussianBlur", {"kernel_size": 9}),
            ("RandomSolarize", {"threshold": 128, "p": 0.2}),
        ),
        {"format": "webp", "quality": 60},
        {"format": "WEBP", "quality": 60},
    ),
    "crop as png": (
        [v2.RandomResizedCrop(64)],
        _steps(("RandomResizedCrop", {"size": 64})),
        {"format": "png", "compress_level": 3},
        {"format": "PNG", "compress_level": 3},
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_files_of_whole_pipelines_are_pillows_byte_for_byte(
    name: str, sample: list[bytes], originals: list[Image.Image], limits: Limits
) -> None:
    transforms, steps, output, saving = WHOLE[name]
    engine = Engine(parse({"steps": steps, "output": output}), limits)
    for number, (data, original) in enumerate(zip(sample, originals, strict=True)):
        for seed in range(20):
            ours = engine.transform(data, f"photos/{number}.jpg", Arguments(seed=seed, epoch=seed % 3)).body
            seed_cpu(derive_seed(seed, seed % 3, 0, f"photos/{number}.jpg"))
            theirs = original
            for transform in transforms:
                theirs = transform(theirs)
            expected = io.BytesIO()
            theirs.save(expected, **saving)
            assert ours == expected.getvalue(), (number, seed)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensors_of_the_evaluation_pipeline_are_torchvisions(
    dtype: str, sample: list[bytes], originals: list[Image.Image], limits: Limits
) -> None:
    steps = _steps(("Resize", {"size": 256}), ("CenterCrop", {"size": 224}), ("ToTensor", {}), _NORMALIZE)
    engine = Engine(parse({"steps": steps, "output": {"format": "npy", "dtype": dtype}}), limits)
    for data, original in zip(sample, originals, strict=True):
        theirs: object = original
        for transform in EVALUATION:
            theirs = transform(theirs)
        ours = np.load(io.BytesIO(engine.transform(data, "b/o", Arguments()).body))
        expected = theirs.to(getattr(torch, dtype)).numpy()  # type: ignore[attr-defined]
        assert ours.shape == (3, 224, 224)
        assert ours.dtype == expected.dtype
        assert np.array_equal(ours, expected)
