"""Parsing refuses what it does not understand, quickly, all at once, and names each place."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tvetl import spec
from tvetl.errors import PipelineError

README = """{"version": 1,
 "steps": [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"},
           {"op": "ToTensor"}, {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
           {"op": "ToPILImage"}],
 "output": {"format": "jpeg", "quality": 75},
 "seed": null, "precision": "exact"}"""


def problems(source: Any) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        spec.parse(source)
    return [str(problem) for problem in caught.value.problems]


def test_json_yaml_and_data_are_one_pipeline() -> None:
    yaml = """
    version: 1
    steps:
      - {op: RandomResizedCrop, size: 224}
      - op: RandomHorizontalFlip
      - op: ToTensor
      - op: Normalize
        mean: [0.485, 0.456, 4.06e-1]   # YAML 1.1 would take that last one for text
        std: [0.229, 0.224, 0.225]
      - {op: ToPILImage}
    """
    data = {
        "steps": (
            {"op": "RandomResizedCrop", "size": [224, 224]},
            {"op": "RandomHorizontalFlip", "p": 0.5},
            {"op": "ToTensor"},
            {"op": "Normalize", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
            {"op": "ToPILImage", "mode": None},
        )
    }
    assert spec.parse(README) == spec.parse(yaml) == spec.parse(data)
    assert spec.parse("{steps: [{op: CenterCrop, size: 10}]}").steps == (spec.Step("CenterCrop", {"size": (10, 10)}),)


def test_all_problems_are_reported_with_their_places() -> None:
    found = problems(
        {
            "steps": [
                {"op": "Resize", "size": 8},
                {"op": "Resize", "size": -3},
                {"op": "Normalise", "mean": [1]},
                {"op": "ColorJitter", "brighness": 0.2, "hue": 0.6},
                "ToTensor",
                {"size": 3},
                {"op": "CenterCrop"},
            ],
            "output": {"format": "jpg"},
            "sead": 3,
            "precision": "quick",
        }
    )
    assert found == [
        "$: unknown key 'sead'; did you mean seed?",
        "$.precision: expected one of exact, fast, got 'quick'",
        "$.steps[1].size: expected 1..8192, got -3",
        "$.steps[2].op: unknown op 'Normalise'; did you mean Normalize?",
        "$.steps[3]: unknown key 'brighness'; did you mean brightness?",
        "$.steps[3].hue: expected a number 0..0.5, got 0.6",
        "$.steps[4]: expected an object with op, got 'ToTensor'",
        "$.steps[5].op: missing; expected the name of a transform",
        "$.steps[6].size: missing; expected 1..8192 or a list of 1 or 2 (1..8192)",
        "$.output.format: expected one of jpeg, png, webp, npy, safetensors, raw, got 'jpg'; did you mean jpeg?",
    ]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"op": "Resize", "size": True}, "size: expected 1..8192 or a list of 1 or 2 (1..8192) or null, got true"),
        ({"op": "Resize", "size": 2.5}, "size: expected 1..8192, got 2.5"),
        ({"op": "Resize", "size": [1, 2, 3]}, "size: expected a list of 1 or 2 (1..8192), got [1, 2, 3]"),
        ({"op": "Resize", "size": 10**5000}, "size: expected 1..8192, got a number with too many digits"),
        (
            {"op": "Resize", "size": 8, "interpolation": "cubic"},
            "interpolation: expected one of nearest, nearest-exact",
        ),
        ({"op": "RandomRotation", "degrees": -1}, "degrees: expected a number 0..65504, got -1"),
        ({"op": "RandomRotation", "degrees": [3, 2]}, "degrees: expected a list of 2"),
        ({"op": "RandomRotation", "degrees": float("nan")}, "degrees: expected a number 0..65504, got nan"),
        ({"op": "RandomRotation", "degrees": float("inf")}, "degrees: expected a number 0..65504, got inf"),
        ({"op": "RandomRotation", "degrees": 10**400}, "degrees: expected a number 0..65504, got 1000"),
        ({"op": "RandomAffine", "degrees": 0, "translate": [0, 1.5]}, "translate: expected a list of 2"),
        ({"op": "RandomAffine", "degrees": 0, "scale": [0, 1]}, "scale: expected a list of 2 (a number above 0)"),
        ({"op": "RandomHorizontalFlip", "p": 1.01}, "p: expected a number 0..1, got 1.01"),
        ({"op": "RandomHorizontalFlip", "p": None}, "p: expected a number 0..1, got null"),
        ({"op": "RandomHorizontalFlip", "p": "0.5"}, "p: expected a number 0..1, got '0.5'"),
        ({"op": "GaussianBlur", "kernel_size": 4}, "kernel_size: expected an odd number 1..8192, got 4"),
        ({"op": "RandomPosterize", "bits": 0}, "bits: expected 1..8, got 0"),
        ({"op": "ColorJitter", "hue": [-0.6, 0]}, "hue: expected a list of 2 (a number -0.5..0.5), min <= max"),
        ({"op": "Grayscale", "num_output_channels": 2}, "num_output_channels: expected 1 or 3, got 2"),
        (
            {"op": "AutoAugment", "policy": "ImageNet"},
            "policy: expected one of imagenet, cifar10, svhn, got 'ImageNet'",
        ),
        ({"op": "TrivialAugmentWide", "num_magnitude_bins": 1}, "num_magnitude_bins: expected 2..1024, got 1"),
        ({"op": "Pad", "padding": [1, 2, 3]}, "padding: expected a list of 1 or 2 or 4 (0..8192), got [1, 2, 3]"),
        ({"op": "Normalize", "mean": [0.0], "std": [0]}, "std: expected a list of 1 or 3 (a number other than 0)"),
        ({"op": "__init__"}, "op: unknown op '__init__'"),
        ({"op": ["Resize"]}, "op: unknown op ['Resize']"),
    ],
)
def test_a_wrong_value_says_what_was_expected(step: dict[str, object], said: str) -> None:
    assert f"$.steps[1].{said}" in "\n".join(problems({"steps": [{"op": "Grayscale"}, step]}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected an object with steps, got null"),
        ("[]", "expected an object with steps, got []"),
        ("{}", "$.steps: missing"),
        ('{"steps": [1,', "not valid JSON: Expecting value (line 1, column 14)"),
        ("steps: [", "not valid YAML"),
        ("steps: []\x00", "not valid YAML"),
        ("steps: []\n---\nsteps: []", "not valid YAML"),
        ('{"steps": [], "steps": []}', "the key 'steps' comes twice"),
        ("steps: []\nsteps: []", "the key 'steps' comes twice"),
        ("{steps: [], steps: []}", "the key 'steps' comes twice"),
        ("steps: []\nbackground: #ffffff", "$: 'background' has no value (# begins a comment in YAML"),
        ("steps: [{op: Resize, size: }]", "$: 'size' has no value"),
        ("steps: []\nseed:\n", "$: 'seed' has no value"),
        ('{"steps": [{"op": "Resize", "size": NaN}]}', "NaN is not allowed"),
        ('{"steps": [{"op": "Resize", "size": -Infinity}]}', "-Infinity is not allowed"),
        ("steps: [{op: Resize, size: .nan}]", "got '.nan'"),
        ("steps: [{op: RandomRotation, degrees: 1e999}]", "got inf"),
        ("steps: [{op: RandomRotation, degrees: no}]", "got 'no'"),
        ("steps: &a []\nseed: *a", "anchors and aliases are not allowed"),
        ("steps: !!python/name:os.system ''", "tags are not allowed"),
        ("? [a]\n: 1", "expected text as a key"),
        ('{"steps": ' + "9" * 5000 + "}", "too many digits"),
        ('{"version": 2, "steps": []}', "$.version: expected 1, got 2"),
        ('{"seed": -1, "steps": []}', "$.seed: expected 0..9223372036854775807, got -1"),
        ('{"seed": 9223372036854775808, "steps": []}', "$.seed: expected 0..9223372036854775807"),
    ],
)
def test_bad_text_is_a_pipeline_error(text: str, said: str) -> None:
    assert said in "\n".join(problems(text))


@pytest.mark.parametrize(
    "text",
    [
        *["[" * 100_000, "[" * 60_000, '{"a":' * 10_000, "{" * 60_000, "- " * 30_000, "? " * 30_000, "{a: " * 10_000],
        "\n".join(" " * depth + "a:" for depth in range(300)),
    ],
    ids=lambda text: text[:6],
)
def test_endless_nesting_is_refused_before_it_is_followed(text: str) -> None:
    assert "levels of nesting" in problems(text)[0] or "65536 bytes" in problems(text)[0]


@pytest.mark.parametrize(
    "text", ['{"' + '\\"' * 30_000, '"' + "\\" * 60_000, "x" * 60_000, "{steps: [],\n" + "x: y, " * 9_000, "!" * 60_000]
)
def test_hostile_text_is_refused_in_time(text: str) -> None:
    began = time.monotonic()
    assert problems(text)
    assert time.monotonic() - began < 20  # minutes, where the time grows with the square of the length


def test_text_above_64_kib_is_refused() -> None:
    assert problems("#" * 65537) == ["$: expected at most 65536 bytes of text, got 65537"]
    assert spec.parse("steps: []" + " " * (65536 - 9)).steps == ()


def test_data_that_never_ends_is_refused() -> None:
    circle: dict[str, object] = {}
    circle["steps"] = [circle]
    assert "levels of nesting" in problems(circle)[0]
    lol: list[object] = []
    for _ in range(30):
        lol = [lol] * 10
    assert "values" in problems({"steps": lol})[0]


def test_at_most_64_steps() -> None:
    flip = {"op": "RandomHorizontalFlip"}
    assert len(spec.parse({"steps": [flip] * 64}).steps) == 64
    assert problems({"steps": [flip] * 65}) == ["$.steps: expected a list of 0..64 steps, got 65 steps"]


def test_a_long_list_of_problems_ends_with_a_count() -> None:
    found = problems({"steps": [{"op": "ToTensor", "a": 1, "b": 2, "c": 3}] * 50})
    assert len(found) == 101
    assert found[-1] == "$: and 51 more problems"
    found = problems({"steps": [], **{f"key{n}": n for n in range(150)}})
    assert len(found) == 11
    assert found[-1] == "$: and 140 more unknown keys"


def test_the_v1_name_of_a_transform_is_understood() -> None:
    old = [{"op": "PILToTensor"}, {"op": "ConvertImageDtype"}]
    new = [{"op": "PILToTensor"}, {"op": "ToDtype", "dtype": "float32", "scale": True}]
    assert spec.parse({"steps": old}) == spec.parse({"steps": new})
    found = problems({"steps": [old[0], {"op": "ConvertImageDtype", "scale": False}]})
    assert found == ["$.steps[1]: unknown key 'scale'; expected one of op, dtype"]


def test_no_steps_is_a_pipeline_that_only_encodes() -> None:
    assert spec.canonical(spec.parse({"steps": []})) == '{"version":1,"steps":[],"output":{"format":"jpeg"}}'


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"role": "mask"}, "$.steps[1].op: not together with role mask: nobody says what RandAugment makes of a mask"),
        ({}, "$.steps[1].op: not together with RandomIoUCrop: nobody says what RandAugment makes of boxes"),
    ],
)
def test_what_no_request_could_be_answered_by_is_refused(more: dict[str, object], said: str) -> None:
    steps = [{"op": "RandomIoUCrop"}, {"op": "RandomApply", "transforms": [{"op": "RandAugment"}]}]
    assert problems({"steps": steps if not more else [{"op": "Resize", "size": 8}, steps[1]], **more}) == [said]
