"""Data to a Pipeline and back: every problem is found and named by its place before anything runs.

Each step is checked against the form that the step before gives, so a chain that cannot work is refused here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping

from tvetl.errors import PipelineError, Problem
from tvetl.spec import limits
from tvetl.spec.forms import START, Form, ParamErrors, pil_image
from tvetl.spec.model import Output, Pipeline, Step, Value
from tvetl.spec.ops import ALIASES, OPS, Param, is_plugin, row
from tvetl.spec.output import FORMATS, default_output, output_fits
from tvetl.spec.text import BadText, check_data, load
from tvetl.spec.values import EXTENSION, LIKE, PLAIN, Refused, choice, integer, optional, sequence, several, show

#: The fields of a pipeline beside steps and output.
FIELDS: Mapping[str, Param] = {
    "version": Param(integer(1, 1), Pipeline.version),
    "seed": Param(optional(integer(0, limits.SEED)), Pipeline.seed),
    "precision": Param(choice("exact", "fast"), Pipeline.precision),
    "orientation": Param(choice("keep", "apply"), Pipeline.orientation),
    "depth": Param(choice("refuse", "convert", "scale"), Pipeline.depth),
    "truncated": Param(choice("refuse", "pad"), Pipeline.truncated),
    "background": Param(optional(sequence(integer(0, 255), 3)), Pipeline.background),
    "role": Param(choice("image", "mask"), Pipeline.role),
    "like": Param(optional(LIKE), Pipeline.like),
    "mask_members": Param(several(EXTENSION, 0, limits.EXTENSIONS), Pipeline.mask_members),
    "box_members": Param(several(EXTENSION, 0, limits.EXTENSIONS), Pipeline.box_members),
}
#: The remedy where a step takes the first kind and gets the second.
_HINTS = {
    ("pil", "uint8"): "it is a tensor already; ToDtype changes its type, ToPILImage makes it an image again",
    ("pil", "float"): "it is a tensor already; ToDtype changes its type, ToPILImage makes it an image again",
    ("uint8", "pil"): "put PILToTensor or ToTensor before it",
    ("float", "pil"): "put ToTensor before it",
    ("float", "uint8"): "put ToDtype with dtype float32 and scale true before it",
}


class Problems(list[Problem]):
    """The problems of one text, each with its place."""

    def add(self, path: str, message: str) -> None:
        self.append(Problem(path, message))

    def listed(self) -> list[Problem]:
        """For an error: those above a limit are only counted."""
        rest = len(self) - limits.PROBLEMS
        return self[: limits.PROBLEMS] + ([Problem("$", f"and {rest} more problems")] if rest > 0 else [])


def read_params(
    data: Mapping[str, object], params: Mapping[str, Param], path: str, problems: Problems, ignore: Collection[str] = ()
) -> dict[str, Value]:
    """The normal form of every parameter, defaults filled in; those that are wrong are left out and reported."""
    unknown_keys(data, (*ignore, *params), path, problems)
    values: dict[str, Value] = {}
    for name, param in params.items():
        if name not in data:
            if param.required:
                problems.add(f"{path}.{name}", f"missing; expected {param.kind.expected}")
            else:
                values[name] = param.default
            continue
        try:
            values[name] = param.kind.read(data[name])
        except Refused as refusal:
            problems.add(f"{path}.{name}", str(refusal))
    return values


def unknown_keys(data: Mapping[str, object], known: Collection[str], path: str, problems: Problems) -> None:
    """Report keys that nobody would read. Those above a limit are only counted: looking for a near key takes time."""
    unknown = [key for key in data if key not in known]
    for key in unknown[: limits.UNKNOWN]:
        instead = _did_you_mean(key, known) or (f"; expected one of {', '.join(known)}" if known else "")
        problems.add(path, f"unknown key {show(key)}{instead}")
    if len(unknown) > limits.UNKNOWN:
        problems.add(path, f"and {len(unknown) - limits.UNKNOWN} more unknown keys")


def _did_you_mean(word: object, known: Collection[str]) -> str:
    candidates = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower()[:80], candidates, n=1)
    return f"; did you mean {candidates[near[0]]}?" if near else ""


def parse(source: str | Mapping[str, object]) -> Pipeline:
    """The pipeline in JSON or YAML text, or in data; raises PipelineError with every problem and its place."""
    try:
        if isinstance(source, str):
            data = load(source, limits.PIPELINE_BYTES)
        else:
            data = dict(source) if isinstance(source, Mapping) else source
            check_data(data)
    except BadText as error:
        raise PipelineError([Problem("$", str(error))]) from error
    if not isinstance(data, Mapping):
        raise PipelineError([Problem("$", f"expected an object with steps, got {show(data)}")])
    problems = Problems()
    fields = read_params(data, FIELDS, "$", problems, ignore=("steps", "output"))
    for extension in _items(fields, "mask_members") & _items(fields, "box_members"):
        problems.add("$.box_members", f"{show(extension)} is among mask_members, too")
    steps, form = _read_steps(data, problems)
    output = _read_output(data["output"], form, problems) if "output" in data else default_output(form or START)
    _check_annotations(steps, problems, is_mask=fields.get("role") == "mask")
    if problems or output is None:
        raise PipelineError(problems.listed())
    # read_params has checked each against its row of FIELDS.
    return Pipeline(steps=tuple(steps), output=output, **fields)  # type: ignore[arg-type]


def _check_annotations(steps: Iterable[Step], problems: Problems, *, is_mask: bool) -> None:
    """Report ops whose effect on annotations torchvision does not define, where the pipeline needs annotations."""
    rows = [(place, row(each.op)) for place, step in enumerate(steps) for each in step.walk()]
    needs = "role mask" if is_mask else next((op.name for _, op in rows if op.needs_boxes), "")
    for place, op in rows:
        if needs and op.moves is None:
            made_of = "a mask" if is_mask else "boxes"
            problems.add(
                f"$.steps[{place}].op", f"not together with {needs}: nobody says what {op.name} makes of {made_of}"
            )


def _items(values: Mapping[str, Value], name: str) -> set[Value]:
    items = values.get(name)
    return set(items) if isinstance(items, tuple) else set()


def _read_steps(data: Mapping[str, object], problems: Problems) -> tuple[list[Step], Form | None]:
    """The steps and the form that the last gives; None where a step that cannot be read hides it."""
    if "steps" not in data:
        problems.add("$.steps", "missing; expected a list of steps (it may be empty)")
        return [], None
    raw = data["steps"]
    if not isinstance(raw, (list, tuple)) or len(raw) > limits.STEPS:
        got = f"{len(raw)} steps" if isinstance(raw, (list, tuple)) else show(raw)
        problems.add("$.steps", f"expected a list of 0..{limits.STEPS} steps, got {got}")
        return [], None
    steps: list[Step] = []
    form: Form | None = START
    for index, item in enumerate(raw):
        path = f"$.steps[{index}]"
        before = len(problems)
        step = _read_step(item, path, problems)
        if step is None:
            form = None
            continue
        steps.append(step)
        form = _pass(step, form, path, problems, readable=len(problems) == before)
    return steps, form


def _read_step(item: object, path: str, problems: Problems, depth: int = 0) -> Step | None:
    if not isinstance(item, Mapping):
        problems.add(path, f"expected an object with op, got {show(item)}")
        return None
    name = item.get("op")
    if isinstance(name, str) and is_plugin(name):  # its parameters are known where its package is: in the server
        plain = {str(key): Param(PLAIN, required=True) for key in item if key != "op"}
        return Step(name, read_params(item, plain, path, problems, ignore=("op",)))
    alias = ALIASES.get(name) if isinstance(name, str) else None
    op = OPS.get(alias.op if alias else name) if isinstance(name, str) else None
    if op is None:
        unknown = f"unknown op {show(name)}{_did_you_mean(name, [*OPS, *ALIASES])}"
        problems.add(f"{path}.op", unknown if "op" in item else "missing; expected the name of a transform")
        return None
    values = read_params(item, (alias or op).params, path, problems, ignore=("op",))
    if "transforms" in values:
        values["transforms"] = tuple(
            _read_inner(op.name, item["transforms"], f"{path}.transforms", problems, depth + 1)
        )
    return Step(op.name, {**values, **alias.fixed} if alias else values)


def _read_inner(outer: str, items: object, path: str, problems: Problems, depth: int) -> Iterator[Step]:
    """The steps that a step holds, which lies in ``depth - 1`` others."""
    assert isinstance(items, (list, tuple))
    if depth > limits.DEPTH:
        problems.add(path, f"steps may lie in steps {limits.DEPTH} deep, and no deeper")
        return
    for index, item in enumerate(items):
        step = _read_step(item, f"{path}[{index}]", problems, depth)
        if step and is_plugin(step.op):
            problems.add(f"{path}[{index}].op", f"{step.op} cannot stand inside a {outer}")
        elif step:
            yield step


def _pass(step: Step, form: Form | None, path: str, problems: Problems, *, readable: bool) -> Form | None:
    """The form that the step gives, None where that is unknown; reports parameters that do not fit."""
    op = row(step.op)
    if readable and op.agrees:
        _report(op.agrees(step.params), path, problems)
    if form is None:
        return None
    if form.kind not in op.takes:
        hint = "it is one already" if op.gives is pil_image else _HINTS[op.takes[0], form.kind]
        problems.add(path, f"{step.op} does not take {form}: {hint}")
        return None
    if readable and op.fits:
        _report(op.fits(step.params, form), path, problems)
    for index, inner in enumerate(step.inner):
        where = f"{path}.transforms[{index}]"
        after = _pass(inner, form, where, problems, readable=readable)
        if after not in (form, None):
            problems.add(where, f"{inner.op} makes {after} of {form}, and what {step.op} does must give what it takes")
    try:
        return op.gives(step.params, form)
    except KeyError:  # a parameter that the form depends on could not be read
        return None


def _report(errors: ParamErrors, path: str, problems: Problems) -> None:
    for name, message in errors:
        problems.add(f"{path}.{name}", message)


def _read_output(item: object, form: Form | None, problems: Problems) -> Output | None:
    if not isinstance(item, Mapping):
        problems.add("$.output", f"expected an object with format, got {show(item)}")
        return None
    format = item.get("format")
    if not isinstance(format, str) or format not in FORMATS:
        got = f"got {show(format)}{_did_you_mean(format, FORMATS)}" if "format" in item else "but it is missing"
        problems.add("$.output.format", f"expected one of {', '.join(FORMATS)}, {got}")
        return None
    output = Output(format, read_params(item, FORMATS[format], "$.output", problems, ignore=("format",)))
    if form is not None:
        _report(output_fits(output, form), "$.output", problems)
    return output


def forms(pipeline: Pipeline) -> tuple[Form, ...]:
    """The image before the first step (PIL, RGB), after it, ..., after the last: one form more than steps."""
    flow = [START]
    for step in pipeline.steps:
        flow.append(row(step.op).gives(step.params, flow[-1]))
    return tuple(flow)


def to_data(pipeline: Pipeline) -> dict[str, object]:
    """The pipeline as plain data that :func:`parse` takes; what equals its default is left out."""
    steps = [_step_data(step) for step in pipeline.steps]
    output = {"format": pipeline.output.format, **_unusual(pipeline.output.options, FORMATS[pipeline.output.format])}
    fields: dict[str, Value] = {name: getattr(pipeline, name) for name in FIELDS}
    return {"version": fields.pop("version"), "steps": steps, "output": output, **_unusual(fields, FIELDS)}


def _step_data(step: Step) -> dict[str, object]:
    data: dict[str, object] = {"op": step.op, **_unusual(step.params, row(step.op).params)}
    return data | {"transforms": [_step_data(each) for each in step.inner]} if step.inner else data


def _unusual(values: Mapping[str, Value], params: Mapping[str, Param]) -> dict[str, Value]:
    def is_unusual(name: str) -> bool:
        param = params.get(name)  # none of a plugin op's is known here, so all are given
        return param is None or param.required or values[name] != param.default

    return {name: values[name] for name in sorted(values) if is_unusual(name)}


def canonical(pipeline: Pipeline) -> str:
    """The one JSON text of a pipeline: ASCII, no spaces, defaults left out; parsing it gives the pipeline again."""
    return json.dumps(to_data(pipeline), separators=(",", ":"), allow_nan=False)


def digest(pipeline: Pipeline) -> str:
    """sha256 of the canonical text, in hex: equal where torchvision does the same to every image."""
    return hashlib.sha256(canonical(pipeline).encode()).hexdigest()
