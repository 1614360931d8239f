"""The JSON Schema of a pipeline, generated from the op table, for editors and for checks in other languages."""

from __future__ import annotations

from collections.abc import Mapping

from tvetl.spec import limits
from tvetl.spec.model import Value
from tvetl.spec.ops import ALIASES, OPS, PLUGIN_PATTERN, Param
from tvetl.spec.output import FORMATS
from tvetl.spec.parse import FIELDS

_DESCRIPTION = (
    "A tvetl pipeline: torchvision transforms and how their result is written. A schema cannot say everything: "
    "parsing also refuses a range whose min is above its max, parameters of a step that do not go together, "
    "steps that do not take what the step before gives, ops of which nobody says what they make of boxes or masks "
    "where there are some, an output that does not hold what the last step gives, "
    f"keys that come twice, text above {limits.PIPELINE_BYTES} bytes and more than {limits.NESTING} levels of nesting."
)

#: A step whose op a derived image brings: the schema knows neither the op nor its parameters.
_OWN: dict[str, object] = {
    "title": "an op of your own",
    "type": "object",
    "properties": {"op": {"type": "string", "pattern": PLUGIN_PATTERN}},
    "required": ["op"],
}


def schema() -> dict[str, object]:
    """JSON Schema (2020-12) of a pipeline: whatever it refuses, parse refuses too."""
    steps = [_object("op", name, op.params) for name, op in OPS.items()]
    steps += [_object("op", name, alias.params) for name, alias in ALIASES.items()]
    steps.append(_OWN)
    outputs = [_object("format", name, options) for name, options in FORMATS.items()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tvetl pipeline",
        "description": _DESCRIPTION,
        "type": "object",
        "properties": {
            "steps": {"type": "array", "maxItems": limits.STEPS, "items": {"anyOf": steps}},
            "output": {"anyOf": outputs},
            **{name: _parameter(param) for name, param in FIELDS.items()},
        },
        "required": ["steps"],
        "additionalProperties": False,
    }


def _object(key: str, name: str, params: Mapping[str, Param]) -> dict[str, object]:
    return {
        "title": name,
        "type": "object",
        "properties": {key: {"const": name}, **{each: _parameter(param) for each, param in params.items()}},
        "required": [key, *(each for each, param in params.items() if param.required)],
        "additionalProperties": False,
    }


def _parameter(param: Param) -> dict[str, object]:
    return dict(param.kind.schema) if param.required else {**param.kind.schema, "default": _json(param.default)}


def _json(value: Value) -> object:
    return [_json(each) for each in value] if isinstance(value, tuple) else value
