"""Pipelines drawn from the schema itself: every op with any of its parameters, within bounds a small image survives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import strategies as st

from tvetl import spec
from tvetl.spec import limits

Drawn = st.SearchStrategy[Any]


def values(schema: Mapping[str, Any], most: int) -> Drawn:
    """Values of a parameter's schema; whole numbers at most ``most``, where the schema allows so few."""
    if "$ref" in schema:  # the steps that a step holds
        return st.sampled_from(
            [{"op": "RandomInvert"}, {"op": "RandomCrop", "size": 5}, {"op": "Resize", "size": [9, 8]}]
        )
    if "anyOf" in schema:
        return st.one_of([values(each, most) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "null":
        return st.none()
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        return st.lists(values(schema["items"], most), min_size=schema["minItems"], max_size=schema["maxItems"])
    low, high = schema["minimum"], schema["maximum"]
    if kind == "integer":
        whole = st.integers(low, max(low, min(high, most)))
        return whole.filter(lambda n: n % 2 == 1) if "not" in schema else whole
    return st.one_of(st.floats(low, high), st.floats(max(low, 0.0), min(high, 2.0)) if high > 0 else st.just(low))


#: With others, nothing may be left of a small image, or too much be made of it.
FEW_PIXELS = {
    "ratio": [0.5, 2.0],
    "target_size": [9, 12],
    "scale_range": [0.5, 2.0],
    "side_range": [1.0, 2.0],
    "min_scale": 0.25,
    "sampler_options": [0.5, 1],
}


def objects(key: str, name: str, params: Mapping[str, spec.Param], most: int) -> Drawn:
    def value(each: str, param: spec.Param) -> Drawn:
        if name == "RandomChoice" and each == "p":
            # torchvision divides them by their sum and keeps equal ones for none: others would not come back.
            shares = [0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625]
            assert len(shares) == limits.INNER
            return st.none() | st.just(shares)
        return st.just(FEW_PIXELS[each]) if each in FEW_PIXELS else values(param.kind.schema, most)

    required = {each: value(each, param) for each, param in params.items() if param.required}
    others = {each: value(each, param) for each, param in params.items() if not param.required}
    return st.fixed_dictionaries({key: st.just(name), **required}, optional=others)


@pytest.fixture(scope="session")
def steps_of() -> Callable[[str], Drawn]:
    """Steps of one op, as a user might write them; sizes at most 15, which fit into a small image."""
    return lambda name: objects("op", name, spec.OPS[name].params, 15)


@pytest.fixture(scope="session")
def pipelines() -> Drawn:
    """Pipelines of up to four steps with well-formed parameters; many have chains that cannot work."""
    from tvetl.spec.output import FORMATS

    steps = st.one_of([objects("op", name, op.params, 2000) for name, op in spec.OPS.items()])
    outputs = st.one_of([objects("format", name, options, 100) for name, options in FORMATS.items()])
    return st.fixed_dictionaries(
        {"steps": st.lists(steps, max_size=4)},
        optional={
            "output": outputs,
            "version": st.just(1),
            "seed": st.none() | st.integers(0, 2**63 - 1),
            "precision": st.sampled_from(["exact", "fast"]),
            "orientation": st.sampled_from(["keep", "apply"]),
            "depth": st.sampled_from(["refuse", "convert", "scale"]),
            "truncated": st.sampled_from(["refuse", "pad"]),
            "background": st.none() | st.lists(st.integers(0, 255), min_size=3, max_size=3),
            "role": st.sampled_from(["image", "mask"]),
            "like": st.sampled_from([None, "{bucket}/{stem}.jpg", "images/{name}"]),
            "mask_members": st.lists(st.sampled_from(["png", "seg.png"]), max_size=3),
            "box_members": st.lists(st.sampled_from(["json", "boxes.json"]), max_size=3),
        },
    )
