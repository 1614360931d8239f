"""One pipeline, one text, one digest; the same digest only where torchvision does the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tvetl import spec
from tvetl.errors import PipelineError


def digest(*steps: dict[str, object]) -> str:
    return spec.digest(spec.parse({"steps": steps}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"op": "Resize", "size": 8}, {"op": "Resize", "size": [8]}),
        ({"op": "Resize", "size": 8}, {"op": "Resize", "size": 8.0}),
        ({"op": "CenterCrop", "size": 8}, {"op": "CenterCrop", "size": [8, 8]}),
        ({"op": "RandomRotation", "degrees": 30}, {"op": "RandomRotation", "degrees": [-30.0, 30]}),
        ({"op": "RandomRotation", "degrees": 0}, {"op": "RandomRotation", "degrees": [-0.0, 0.0]}),
        ({"op": "RandomRotation", "degrees": -0.0}, {"op": "RandomRotation", "degrees": 0}),
        ({"op": "RandomAffine", "degrees": 1, "shear": 2}, {"op": "RandomAffine", "degrees": 1, "shear": [-2, 2]}),
        ({"op": "ColorJitter", "hue": 0}, {"op": "ColorJitter"}),
        ({"op": "ColorJitter", "brightness": 2}, {"op": "ColorJitter", "brightness": [0, 3]}),
        ({"op": "Pad", "padding": [1, 2]}, {"op": "Pad", "padding": [1, 2, 1, 2]}),
        ({"op": "RandomCrop", "size": 8, "padding": 0}, {"op": "RandomCrop", "size": 8}),
        (
            {"op": "GaussianBlur", "kernel_size": 3, "sigma": 1},
            {"op": "GaussianBlur", "kernel_size": [3], "sigma": [1]},
        ),
        ({"op": "RandomHorizontalFlip", "p": 1}, {"op": "RandomHorizontalFlip", "p": 1.0}),
        ({"op": "Pad", "padding": 1, "fill": 7.0}, {"op": "Pad", "padding": 1, "fill": 7}),
        ({"op": "AugMix", "interpolation": "bilinear"}, {"op": "AugMix"}),
    ],
)
def test_spellings_that_mean_the_same_have_one_digest(one: dict[str, object], other: dict[str, object]) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"op": "Resize", "size": 8}, {"op": "Resize", "size": [8, 8]}),
        ({"op": "RandomRotation", "degrees": 30}, {"op": "RandomRotation", "degrees": [0, 30]}),
        ({"op": "RandomAffine", "degrees": 1}, {"op": "RandomAffine", "degrees": 1, "shear": 0}),
        ({"op": "RandomAffine", "degrees": 1}, {"op": "RandomAffine", "degrees": 1, "fill": None}),
        ({"op": "GaussianBlur", "kernel_size": 3}, {"op": "GaussianBlur", "kernel_size": 5}),
        ({"op": "Pad", "padding": [1, 2]}, {"op": "Pad", "padding": [2, 1]}),
    ],
)
def test_what_differs_has_another_digest(one: dict[str, object], other: dict[str, object]) -> None:
    assert digest(one) != digest(other)


def test_the_order_of_keys_and_of_spelled_defaults_does_not_matter() -> None:
    text = '{"output": {"quality": 75, "format": "jpeg"}, "steps": [{"fill": 0, "padding": 2, "op": "Pad"}], "seed": 5}'
    expected = '{"version":1,"steps":[{"op":"Pad","padding":[2,2,2,2]}],"output":{"format":"jpeg"},"seed":5}'
    assert spec.canonical(spec.parse(text)) == expected


def test_the_digest_is_sha256_of_the_canonical_text() -> None:
    # sha256sum of {"version":1,"steps":[],"output":{"format":"jpeg"}}
    assert spec.digest(spec.parse({"steps": []})) == "afeac6f75b3626dfd41cf1cbb4079e5939d1c87e806775ef66a86e11a03cc20c"


def test_parsing_the_canonical_text_gives_the_pipeline_again(pipelines: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(pipelines)
    def check(data: dict[str, object]) -> None:
        try:
            pipeline = spec.parse(data)
        except PipelineError:
            assume(False)
        text = spec.canonical(pipeline)
        again = spec.parse(text)
        assert again == pipeline
        assert spec.canonical(again) == text
        assert spec.parse(json.dumps(data)) == pipeline
        # Equal to 0.0 for torchvision, but not for sha256.
        assert not minus_zeros(json.loads(text))

    check()


def minus_zeros(data: object) -> list[object]:
    if isinstance(data, (dict, list)):
        return [each for value in (data.values() if isinstance(data, dict) else data) for each in minus_zeros(value)]
    return [data] if str(data) == "-0.0" else []


def test_how_files_are_opened_is_in_the_text_only_where_it_is_not_the_default() -> None:
    fields = {"orientation": "keep", "depth": "refuse", "truncated": "refuse", "background": None}
    assert spec.canonical(spec.parse({"steps": [], **fields})) == spec.canonical(spec.parse({"steps": []}))
    fields = {"truncated": "pad", "depth": "scale", "background": [255, 0, 7.0]}
    text = spec.canonical(spec.parse({"steps": [], **fields}))
    assert text.endswith(',"background":[255,0,7],"depth":"scale","truncated":"pad"}')
    assert spec.parse("steps: []\nbackground: [255, 0, 7]\ndepth: scale\ntruncated: pad") == spec.parse(text)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("depth", "clip", "one of refuse, convert, scale"),
        ("truncated", True, "one of refuse, pad"),
        ("background", [255, 255], "a list of 3 (0..255)"),
        ("background", [255, 255, 256], "a list of 3 (0..255)"),
        ("background", "white", "a list of 3 (0..255) or null"),
        ("orientation", None, "one of keep, apply"),
    ],
)
def test_how_files_are_opened_is_checked(field: str, value: object, expected: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec.parse({"steps": [], field: value})
    assert f"$.{field}: expected {expected}" in str(caught.value)
