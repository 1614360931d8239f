"""A pipeline and a torchvision Compose are two spellings of one thing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.spec.images import random_image

from tvetl import spec
from tvetl.errors import PipelineError
from tvetl.spec.compose import from_compose, to_compose

torch = pytest.importorskip("torch", reason="torchvision is not installed")
v1 = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
tv_tensors = pytest.importorskip("torchvision.tv_tensors", reason="torchvision is not installed")


BEFORE = {"pil": [], "uint8": [{"op": "PILToTensor"}], "float": [{"op": "ToTensor"}]}


@pytest.mark.parametrize("name", spec.OPS)
def test_every_pipeline_comes_back_from_its_compose(
    name: str, steps_of: Callable[[str], st.SearchStrategy[Any]]
) -> None:
    before = BEFORE[spec.OPS[name].takes[-1]]
    came_back = []

    @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(steps_of(name))
    def check(step: dict[str, object]) -> None:
        try:
            pipeline = spec.parse({"steps": [*before, step]})
        except PipelineError:
            assume(False)
        output = {"format": pipeline.output.format}
        assert from_compose(to_compose(pipeline), output=output) == pipeline
        came_back.append(step)

    check()
    assert came_back


def test_a_compose_holds_torchvisions_own_objects() -> None:
    steps = [
        {"op": "Resize", "size": 8, "interpolation": "bicubic"},
        {"op": "AutoAugment", "policy": "svhn"},
        {"op": "PILToTensor"},
        {"op": "ToDtype", "dtype": "float32", "scale": True},
    ]
    resize, augment, to_tensor, to_dtype = to_compose(spec.parse({"steps": steps})).transforms
    assert type(resize) is v2.Resize
    assert (resize.size, resize.interpolation, resize.antialias) == ([8], v2.InterpolationMode.BICUBIC, True)
    assert augment.policy is v2.AutoAugmentPolicy.SVHN
    assert type(to_tensor) is v2.PILToTensor
    assert (to_dtype.dtype, to_dtype.scale) == (torch.float32, True)


def test_it_warns_of_nothing_that_the_user_did_not_write() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_compose(spec.parse({"steps": [{"op": "ToTensor"}]}))


def test_no_steps_is_a_compose_that_does_nothing() -> None:
    empty = spec.parse({"steps": []})
    assert to_compose(empty)("anything") == "anything"
    assert from_compose(to_compose(empty)) == empty


V1_AND_WHAT_IT_MEANS: list[tuple[Callable[[], object], dict[str, object]]] = [
    (
        lambda: v1.Resize((8, 9), interpolation=v1.InterpolationMode.BICUBIC),
        {"size": [8, 9], "interpolation": "bicubic"},
    ),
    (lambda: v1.Resize(8, max_size=20), {"size": 8, "max_size": 20}),
    (lambda: v1.CenterCrop(8), {"size": 8}),
    (
        lambda: v1.RandomCrop(8, padding=(1, 2, 3, 4), fill=(1, 2, 3)),
        {"size": 8, "padding": [1, 2, 3, 4], "fill": [1, 2, 3]},
    ),
    (
        lambda: v1.RandomCrop(8, padding=(1, 2), padding_mode="edge"),
        {"size": 8, "padding": [1, 2], "padding_mode": "edge"},
    ),
    (
        lambda: v1.RandomResizedCrop(8, scale=[0.5, 1], interpolation=3),
        {"size": 8, "scale": [0.5, 1], "interpolation": "bicubic"},
    ),
    (lambda: v1.Pad([1, 2], padding_mode="reflect"), {"padding": [1, 2], "padding_mode": "reflect"}),
    (lambda: v1.RandomVerticalFlip(0.25), {"p": 0.25}),
    (lambda: v1.RandomRotation(30, fill=None, center=(3, 4)), {"degrees": 30, "center": [3, 4]}),
    (
        lambda: v1.RandomAffine(5, (0.1, 0.2), (0.5, 2), 7),
        {"degrees": 5, "translate": [0.1, 0.2], "scale": [0.5, 2], "shear": 7},
    ),
    (lambda: v1.RandomPerspective(0.3, 1.0), {"distortion_scale": 0.3, "p": 1}),
    (lambda: v1.ColorJitter(0.4, (0.2, 3), 0, 0.1), {"brightness": 0.4, "contrast": [0.2, 3], "hue": 0.1}),
    (lambda: v1.Grayscale(3), {"num_output_channels": 3}),
    (lambda: v1.GaussianBlur(5, 1.5), {"kernel_size": 5, "sigma": 1.5}),
    (lambda: v1.RandomPosterize(3, 1), {"bits": 3, "p": 1}),
    (lambda: v1.RandomSolarize(128), {"threshold": 128}),
    (lambda: v1.AutoAugment(v1.AutoAugmentPolicy.CIFAR10), {"policy": "cifar10"}),
    (lambda: v1.RandAugment(3, 5), {"num_ops": 3, "magnitude": 5}),
    (lambda: v1.TrivialAugmentWide(fill=[1.0, 2.0, 3.0]), {"fill": [1, 2, 3]}),
    (lambda: v1.AugMix(5, all_ops=False), {"severity": 5, "all_ops": False}),
]


@pytest.mark.parametrize(("make", "params"), V1_AND_WHAT_IT_MEANS)
def test_v1_transforms_are_read_too(make: Callable[[], object], params: dict[str, object]) -> None:
    transform = make()
    assert from_compose(v1.Compose([transform])) == spec.parse({"steps": [{"op": type(transform).__name__, **params}]})


def test_v1_tensors_are_read_too() -> None:
    compose = v1.Compose(
        [
            v1.PILToTensor(),
            v1.ConvertImageDtype(torch.float32),
            v1.Normalize(torch.tensor([0.5, 0.25, 0.5]), (0.5, 0.5, 0.5)),
            v1.RandomErasing(value="random"),
            v1.RandomErasing(value=(1, 2, 3)),
            v1.ToPILImage(),
        ]
    )
    steps = [
        {"op": "PILToTensor"},
        {"op": "ToDtype", "dtype": "float32", "scale": True},
        {"op": "Normalize", "mean": [0.5, 0.25, 0.5], "std": [0.5, 0.5, 0.5]},
        {"op": "RandomErasing", "value": "random"},
        {"op": "RandomErasing", "value": [1, 2, 3]},
        {"op": "ToPILImage"},
    ]
    assert from_compose(compose) == spec.parse({"steps": steps})


def test_a_compose_in_a_compose_is_read_through() -> None:
    compose = v2.Compose([v2.Compose([v2.CenterCrop(8)]), v2.RandomInvert()])
    assert from_compose(compose) == spec.parse({"steps": [{"op": "CenterCrop", "size": 8}, {"op": "RandomInvert"}]})


def test_a_sequential_and_what_changes_nothing_are_read_through() -> None:
    sequential = torch.nn.Sequential(v2.RGB(), v2.Resize(8), v2.Compose([v2.PILToTensor(), v2.ToPureTensor()]))
    compose = v2.Compose([v2.Grayscale(3), v2.RGB(), sequential, v2.Identity(), v2.RGB()])
    names = ["Grayscale", "Resize", "PILToTensor"]
    assert [step.op for step in from_compose(compose).steps] == names
    image = random_image()
    assert torch.equal(to_compose(from_compose(compose))(image), compose(image))


@pytest.mark.parametrize(
    "compose",
    [
        lambda: v2.Compose([v2.Grayscale(), v2.RGB()]),
        lambda: torch.nn.Sequential(v2.Compose([v1.Grayscale()]), v2.PILToTensor(), v2.Compose([v2.RGB()])),
    ],
)
def test_rgb_is_refused_where_it_would_change_something(compose: Callable[[], object]) -> None:
    with pytest.raises(PipelineError, match=r"\[1\]: RGB after Grayscale|\[2\]\.transforms\[0\]: RGB after Gray"):
        from_compose(compose())


@pytest.mark.parametrize("module", [v1, v2])
def test_random_apply_holds_steps(module: Any) -> None:
    jitter, blur = module.ColorJitter(0.4, 0.4, 0.4, 0.1), module.GaussianBlur(5, (0.1, 2))
    several = v2.Compose([module.RandomVerticalFlip(), v2.RGB(), module.RandomHorizontalFlip(1.0)])
    compose = module.Compose(
        [
            module.RandomApply([jitter], p=0.8),
            module.RandomApply(torch.nn.ModuleList([blur])),
            module.RandomApply([several], p=0.5),
        ]
    )
    flips = [{"op": "RandomVerticalFlip"}, {"op": "RandomHorizontalFlip", "p": 1}]
    jittered = {"op": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    pipeline = spec.parse(
        {
            "steps": [
                {"op": "RandomApply", "transforms": [jittered], "p": 0.8},
                {"op": "RandomApply", "transforms": [{"op": "GaussianBlur", "kernel_size": 5, "sigma": [0.1, 2]}]},
                {"op": "RandomApply", "transforms": flips},
            ]
        }
    )
    assert from_compose(compose) == pipeline == spec.parse(spec.canonical(pipeline))
    image, drawn = random_image(), set()
    for seed in range(20):
        torch.manual_seed(seed)
        expected = compose(image).tobytes()
        torch.manual_seed(seed)
        assert to_compose(pipeline)(image).tobytes() == expected
        drawn.add(expected)
    assert len(drawn) > 10


FLIP = {"op": "RandomHorizontalFlip"}


@pytest.mark.parametrize(
    ("fill", "params"),
    [
        ({"others": 7}, {"fill": 7}),
        ({"others": 7, tv_tensors.Mask: 7}, {"fill": 7, "mask_fill": 7}),
        ({tv_tensors.Mask: 255}, {"fill": None, "mask_fill": 255}),
        ({type(random_image()): [1, 2, 3], "others": 4}, {"fill": [1, 2, 3], "mask_fill": 4}),
        ({type(random_image()): 5}, {"fill": 5, "mask_fill": 0}),
        ({"others": 3, tv_tensors.Image: 9, tv_tensors.Video: 4}, {"fill": 3}),
    ],
)
def test_a_fill_by_type_means_what_torchvision_finds_in_it(fill: dict[object, object], params: object) -> None:
    theirs = v2.Pad(2, fill=dict(fill))
    pipeline = from_compose(theirs)
    assert pipeline == spec.parse({"steps": [{"op": "Pad", "padding": 2, **params}]})
    sample = {"image": random_image(), "mask": tv_tensors.Mask(torch.ones(40, 50, dtype=torch.uint8))}
    ours = to_compose(pipeline)(sample)
    assert ours["image"].tobytes() == theirs(sample)["image"].tobytes()
    assert torch.equal(ours["mask"], theirs(sample)["mask"])


def test_a_fill_for_another_type_of_image_is_theirs_once_the_image_is_one() -> None:
    fill = {tv_tensors.Image: 9, "others": 3}
    compose = v2.Compose([v2.Pad(1, fill=dict(fill)), v2.ToImage(), v2.Pad(2, fill=dict(fill)), v2.ToPureTensor()])
    assert [step.params.get("fill") for step in from_compose(compose).steps] == [3, None, 9]


@pytest.mark.parametrize("module", [v1, v2])
def test_one_of_several_and_any_order_hold_steps(module: Any) -> None:
    flip, crop = module.RandomHorizontalFlip(), module.CenterCrop(8)
    several = module.RandomOrder([v2.Compose([crop]), module.RandomApply([flip, crop])])
    compose = module.Compose([module.RandomChoice([flip, several], p=[1, 3]), module.RandomChoice([crop, flip])])
    inner = [
        {"op": "CenterCrop", "size": 8},
        {"op": "RandomApply", "transforms": [FLIP, {"op": "CenterCrop", "size": 8}]},
    ]
    shares = [1, 3] if module is v1 else [0.25, 0.75]  # as each keeps them
    steps = [
        {"op": "RandomChoice", "transforms": [FLIP, {"op": "RandomOrder", "transforms": inner}], "p": shares},
        {"op": "RandomChoice", "transforms": [inner[0], FLIP]},
    ]
    assert from_compose(compose) == spec.parse({"steps": steps})


def test_a_labels_getter_is_left_out() -> None:
    """What belongs to the boxes that are left is for whoever has it."""
    theirs = v2.SanitizeBoundingBoxes(4, labels_getter=lambda sample: sample["area"])
    assert from_compose(theirs) == spec.parse({"steps": [{"op": "SanitizeBoundingBoxes", "min_size": 4}]})


def test_output_and_seed_are_given_beside_the_compose() -> None:
    pipeline = from_compose(v2.Compose([v2.CenterCrop(8)]), output={"format": "png"}, seed=7)
    assert (pipeline.output.format, pipeline.seed) == ("png", 7)


class Mine(v2.CenterCrop):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: v1.Lambda(lambda image: image), "$.transforms[1]: Lambda is code, and a pipeline is data"),
        (lambda: v2.Lambda(lambda image: image), "writing an image or a tensor is what output is for"),
        (lambda: lambda image: image, "$.transforms[1]: function is code"),
        (
            lambda: v2.RandomChoice([v2.Compose([v2.CenterCrop(8), v2.RandomInvert()])]),
            "$.transforms[1].transforms[0]: Compose is 2 steps, and one is needed: RandomApply with p=1",
        ),
        (
            lambda: v2.RandomOrder([v2.RandomInvert(), v2.Identity()]),
            "$.transforms[1].transforms[1]: Identity is 0 steps, and one is needed: RandomApply with p=0",
        ),
        (lambda: v2.RandomChoice([v1.Lambda(int)]), "$.transforms[1].transforms[0]: Lambda is code"),
        (lambda: v2.RandomApply([v1.Lambda(int)]), "$.transforms[1].transforms[0]: Lambda is code"),
        (lambda: v2.RandomApply([v2.ToTensor()]), "$.steps[1].transforms[0]: ToTensor makes a float32 tensor of 3"),
        (lambda: v1.FiveCrop(8), "$.transforms[1]: FiveCrop is not among the transforms"),
        (lambda: Mine(8), "$.transforms[1]: expected a torchvision Compose or one of its transforms, got Mine"),
        (lambda: v2.Compose([v2.GaussianNoise()]), "$.transforms[1].transforms[0]: GaussianNoise"),
        (lambda: v2.Pad(1, fill={torch.Tensor: 3}), "$.transforms[1]: Pad: the image is a PIL image here"),
        (lambda: v2.Pad(1, fill={"mask": 3}), "$.transforms[1]: Pad: 'mask' is neither a type nor 'others'"),
        (lambda: v2.Pad(1, fill={"others": 3, tv_tensors.Mask: [1, 2, 3]}), "$.steps[1].mask_fill: expected 0..65535"),
        (
            lambda: v2.Compose([v2.ToImage(), v2.ToDtype({"others": torch.float16})]),
            "$.transforms[1].transforms[1]: ToDtype: float16 would change the values of Mask",
        ),
        (lambda: v2.ConvertBoundingBoxFormat("XYWH"), "$.transforms[1]: ConvertBoundingBoxFormat: boxes are XYXY here"),
        (lambda: v2.SetClampingMode("hard"), "$.transforms[1]: SetClampingMode: boxes are XYXY here"),
    ],
)
def test_what_is_not_in_the_table_is_refused_at_its_place(make: Callable[[], object], said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        from_compose(v1.Compose([v1.CenterCrop(8), make()]))
    assert said in str(caught.value)


def test_something_else_is_refused() -> None:
    with pytest.raises(PipelineError, match="expected a torchvision Compose"):
        from_compose(3)


def test_the_pixels_are_torchvisions_for_the_same_seed() -> None:
    image = random_image()
    theirs = v2.Compose(
        [v2.RandomResizedCrop(16, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0, 0.2)]
    )
    ours = to_compose(from_compose(theirs))
    for seed in range(20):
        torch.manual_seed(seed)
        expected = theirs(image)
        torch.manual_seed(seed)
        assert ours(image).tobytes() == expected.tobytes()
