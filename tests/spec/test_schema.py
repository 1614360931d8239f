"""The JSON Schema accepts what parsing accepts, and refuses nothing that parsing would take."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tvetl import spec
from tvetl.errors import PipelineError

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
VALIDATOR = jsonschema.Draft202012Validator(spec.schema())

#: What a schema cannot say, as parsing says it.
BEYOND_A_SCHEMA = (
    "min <= max",
    "does not take",
    " values for a ",
    "$.output.format: ",
    ".max_size: ",
    ".max_scale: ",
    ".max_aspect_ratio: ",
    ".sampler_options: ",
    ".p: expected ",
    ".magnitude: ",
    ".interpolation: expected one of nearest, ",
    ".fill: ",
    ".threshold: expected 0..1 for",
    ".value: random noise",
    "needs a scale",
    "not together with ",
    ".mode: ",
)
#: What may stand where something else is expected.
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3.5,
    8193,
    1e9,
    "",
    "nearest",
    "float32",
    "Resize",
    [],
    [1],
    [2, 1],
    [1, 2, 3],
    {},
]


def problems(data: object) -> list[str]:
    try:
        spec.parse(data)  # type: ignore[arg-type]
    except PipelineError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_it_is_a_valid_schema_and_plain_json() -> None:
    jsonschema.Draft202012Validator.check_schema(spec.schema())
    assert json.loads(json.dumps(spec.schema())) == spec.schema()


def test_it_accepts_what_parsing_accepts(pipelines: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(pipelines)
    def check(data: dict[str, Any]) -> None:
        found = problems(data)
        assert VALIDATOR.is_valid(data)  # they were drawn from it
        assert all(any(each in problem for each in BEYOND_A_SCHEMA) for problem in found), found
        if not found:
            assert VALIDATOR.is_valid(json.loads(spec.canonical(spec.parse(data))))

    check()


def test_it_refuses_what_parsing_refuses(pipelines: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(pipelines, st.data())
    def check(data: dict[str, Any], draw: st.DataObject) -> None:
        broken = copy.deepcopy(data)
        place = draw.draw(
            st.sampled_from([broken, *broken["steps"], *([broken["output"]] if "output" in broken else [])])
        )
        place[draw.draw(st.sampled_from([*place, "extra"]))] = draw.draw(st.sampled_from(ODD))
        found = problems(broken)
        if VALIDATOR.is_valid(broken):
            assert all(any(each in problem for each in BEYOND_A_SCHEMA) for problem in found), (broken, found)
        else:
            assert found, broken

    check()


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_it_accepts_the_pipeline_of_the_readme(name: str) -> None:
    steps: list[dict[str, object]] = [
        {"op": "RandomResizedCrop", "size": 224},
        {"op": "RandomHorizontalFlip"},
        {"op": "ToTensor"},
        {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"op": "ToPILImage"},
    ]
    data = {"version": 1, "steps": steps, "output": {"format": name}, "seed": None, "precision": "exact"}
    assert VALIDATOR.is_valid(data)
    assert not problems(data)


def test_it_knows_the_v1_names() -> None:
    assert VALIDATOR.is_valid({"steps": [{"op": "PILToTensor"}, {"op": "ConvertImageDtype", "dtype": "float16"}]})
    assert not VALIDATOR.is_valid({"steps": [{"op": "PILToTensor"}, {"op": "ConvertImageDtype", "scale": True}]})
