"""The walk over the steps says what torchvision would say image by image."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tvetl import spec
from tvetl.errors import PipelineError

BEFORE: dict[str, list[dict[str, object]]] = {
    "an RGB image": [],
    "an L image": [{"op": "Grayscale"}],
    "a uint8 tensor": [{"op": "PILToTensor"}],
    "a float tensor": [{"op": "ToTensor"}],
    "a float16 tensor of 1 channel": [
        {"op": "Grayscale"},
        {"op": "ToTensor"},
        {"op": "ToDtype", "dtype": "float16"},
    ],
}


def form_of(image: Any) -> spec.Form:
    """What torchvision gave, as a Form."""
    if not hasattr(image, "dtype"):
        return spec.Form("pil", "uint8", len(image.getbands()))
    dtype = str(image.dtype).removeprefix("torch.")
    return spec.Form("uint8" if dtype == "uint8" else "float", dtype, image.shape[0])


def random_image() -> Any:
    numpy = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    return image.fromarray(numpy.random.default_rng(7).integers(0, 256, (24, 33, 3), dtype=numpy.uint8))


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", spec.OPS)
def test_what_is_accepted_runs_in_torchvision_and_gives_what_the_walk_says(
    name: str, before: str, steps_of: Callable[[str], st.SearchStrategy[Any]]
) -> None:
    torch = pytest.importorskip("torch", reason="torchvision is not installed")
    from torchvision import tv_tensors

    from tvetl.spec.compose import to_compose

    boxes = tv_tensors.BoundingBoxes([[1, 2, 9, 8]], format="XYXY", canvas_size=(24, 33))
    needed = {"boxes": boxes, "labels": torch.zeros(1)} if spec.OPS[name].needs_boxes else {}
    sample = {"image": random_image(), **needed}
    accepted = []

    @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(steps_of(name), st.integers(0, 2**32 - 1))
    def check(step: dict[str, object], seed: int) -> None:
        assume(step.get("max_size") != 1)  # of 33 x 24 pixels: 1 x 0
        try:
            pipeline = spec.parse({"steps": [*BEFORE[before], step]})
        except PipelineError as error:
            accepted.append(False)
            assume(False)
            raise AssertionError from error
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Anti-alias option is always applied")
            result = to_compose(pipeline)(sample)["image"]
        assert form_of(result) == spec.forms(pipeline)[-1]
        accepted.append(True)

    if spec.forms(spec.parse({"steps": BEFORE[before]}))[-1].kind in spec.OPS[name].takes:
        check()
        assert True in accepted
    else:
        with pytest.raises(PipelineError, match=rf"\$\.steps\[{len(BEFORE[before])}\]"):
            spec.parse({"steps": [*BEFORE[before], MINIMAL.get(name, {"op": name})]})


MINIMAL: dict[str, dict[str, object]] = {
    "Normalize": {"op": "Normalize", "mean": [0.5], "std": [0.5]},
    "ToDtype": {"op": "ToDtype", "dtype": "float32"},
}


def applied(*steps: dict[str, object]) -> dict[str, object]:
    return {"op": "RandomApply", "transforms": list(steps)}


TO_TENSOR, TO_BYTES, GRAY = {"op": "ToTensor"}, {"op": "PILToTensor"}, {"op": "Grayscale"}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"op": "Normalize", "mean": [0.5], "std": [0.5]}], "$.steps[0]: Normalize does not take a PIL image of 3"),
        ([TO_BYTES, {"op": "Normalize", "mean": [0.5], "std": [0.5]}], "put ToDtype with dtype float32 and scale true"),
        ([GRAY, TO_TENSOR, {"op": "Normalize", "mean": [0.5] * 3, "std": [0.5]}], "$.steps[2].mean: 3 values for a"),
        ([TO_TENSOR, TO_TENSOR], "$.steps[1]: ToTensor does not take a float32 tensor of 3 channels"),
        ([{"op": "ToPILImage"}], "it is one already"),
        ([{"op": "ToDtype", "dtype": "uint8"}], "$.steps[0]: ToDtype does not take a PIL image"),
        ([TO_TENSOR, {"op": "RandomSolarize", "threshold": 128}], "$.steps[1].threshold: expected 0..1"),
        ([TO_TENSOR, {"op": "RandomRotation", "degrees": 5, "interpolation": "bicubic"}], "$.steps[1].interpolation"),
        ([TO_BYTES, {"op": "Resize", "size": 5, "interpolation": "box"}], "$.steps[1].interpolation"),
        ([TO_BYTES, {"op": "RandomErasing", "value": "random"}], "$.steps[1].value"),
        ([GRAY, {"op": "Pad", "padding": 1, "fill": [1, 2, 3]}], "$.steps[1].fill: 3 values for a PIL image of 1"),
        ([{"op": "Pad", "padding": 1, "fill": 256}], "$.steps[0].fill: expected 0..255"),
        ([TO_TENSOR, {"op": "ToPILImage", "mode": "L"}], "$.steps[1].mode"),
        ([{"op": "Resize", "size": [5, 5], "max_size": 9}], "$.steps[0].max_size"),
        ([{"op": "Resize", "size": None}], "$.steps[0].max_size: needed"),
        ([{"op": "Resize", "size": 9, "max_size": 9}], "$.steps[0].max_size: expected more than size (9), got 9"),
        ([{"op": "RandAugment", "magnitude": 31}], "$.steps[0].magnitude: expected less than num_magnitude_bins (31)"),
        (
            [applied(TO_TENSOR)],
            "$.steps[0].transforms[0]: ToTensor makes a float32 tensor of 3 channels of a PIL image",
        ),
        ([applied({"op": "RandomInvert"}, GRAY)], "$.steps[0].transforms[1]: Grayscale makes a PIL image of 1 channel"),
        (
            [TO_TENSOR, applied({"op": "RandomSolarize", "threshold": 9})],
            "$.steps[1].transforms[0].threshold: expected 0",
        ),
        (
            [applied({"op": "Normalize", "mean": [0], "std": [1]})],
            "$.steps[0].transforms[0]: Normalize does not take a",
        ),
        ([applied({"op": "Pad", "padding": -1})], "$.steps[0].transforms[0].padding: expected"),
        (
            [{"op": "RandomResize", "min_size": 9, "max_size": 9}],
            "$.steps[0].max_size: expected more than min_size (9)",
        ),
        (
            [{"op": "RandomIoUCrop", "sampler_options": [0.5, 0.9]}],
            "$.steps[0].sampler_options: needs a 1, which takes the whole image",
        ),
        (
            [{"op": "RandomIoUCrop", "min_scale": 1, "max_scale": 0.5}],
            "$.steps[0].max_scale: expected at least min_scale",
        ),
        (
            [{"op": "RandomIoUCrop", "min_aspect_ratio": 3}],
            "$.steps[0].max_aspect_ratio: expected at least min_aspect_ratio (3), got 2",
        ),
        (
            [{"op": "RandomChoice", "transforms": [{"op": "RandomInvert"}], "p": [0.5, 0.5]}],
            "$.steps[0].p: expected one number for each of 1 steps, got 2",
        ),
        (
            [{"op": "RandomChoice", "transforms": [{"op": "RandomInvert"}], "p": [0]}],
            "$.steps[0].p: expected a number above 0 among them",
        ),
        (
            [{"op": "RandomOrder", "transforms": [GRAY]}],
            "$.steps[0].transforms[0]: Grayscale makes a PIL image of 1 channel",
        ),
        ([applied(applied(applied(applied({"op": "RandomInvert"}))))], "steps may lie in steps 3 deep, and no deeper"),
        ([applied(applied(TO_TENSOR))], "$.steps[0].transforms[0].transforms[0]: ToTensor makes a float32 tensor"),
        ([{"op": "Pad", "padding": 1, "mask_fill": 65536}], "$.steps[0].mask_fill: expected 0..65535"),
        ([applied({"op": "acme.Blur"})], "$.steps[0].transforms[0].op: acme.Blur cannot stand inside a RandomApply"),
        ([applied()], "$.steps[0].transforms: expected a list of 1..8 steps, got []"),
        ([applied(*[{"op": "RandomInvert"}] * 9)], "$.steps[0].transforms: expected a list of 1..8 steps"),
    ],
)
def test_a_chain_that_cannot_work_is_refused_at_its_place(steps: list[dict[str, object]], said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec.parse({"steps": steps})
    assert len(caught.value.problems) == 1
    assert said in str(caught.value)


def test_an_image_of_a_normalised_tensor_is_allowed() -> None:
    steps = [TO_TENSOR, {"op": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}, {"op": "ToPILImage"}]
    assert spec.parse({"steps": steps}).output.format == "jpeg"


@pytest.mark.parametrize(
    ("steps", "output", "said"),
    [
        ([], {"format": "npy"}, "$.output.format: npy holds a tensor"),
        ([], {"format": "raw"}, "add PILToTensor or ToTensor"),
        ([TO_TENSOR], {"format": "jpeg"}, "add ToPILImage at the end"),
        ([TO_TENSOR], {"format": "npy", "dtype": "uint8"}, "$.output.dtype: uint8 needs a scale"),
        ([TO_BYTES], {"format": "npy", "dtype": "float32"}, "$.output.dtype: float32 needs a scale"),
        ([], {"format": "png", "quality": 3}, "$.output: unknown key 'quality'"),
        ([], {"format": "jpeg", "quality": 0}, "$.output.quality: expected 1..100, got 0"),
        ([], {"format": "gif"}, "$.output.format: expected one of jpeg"),
        ([], {}, "$.output.format: expected one of jpeg, png, webp, npy, safetensors, raw, but it is missing"),
        ([], "jpeg", "$.output: expected an object"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(steps: list[object], output: object, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec.parse({"steps": steps, "output": output})
    assert said in str(caught.value)


@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
def test_float_tensors_are_written_in_either_float_type(dtype: str | None) -> None:
    pipeline = spec.parse({"steps": [TO_TENSOR], "output": {"format": "safetensors", "dtype": dtype}})
    assert pipeline.output.options == {"dtype": dtype}


def test_without_an_output_images_become_jpeg_and_tensors_npy() -> None:
    assert spec.parse({"steps": []}).output == spec.Output(
        "jpeg", {"quality": 75, "subsampling": None, "progressive": False, "optimize": False}
    )
    assert spec.parse({"steps": [TO_BYTES]}).output == spec.Output("npy", {"dtype": None})
