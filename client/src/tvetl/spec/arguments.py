"""What one request may ask for besides the pipeline: ``etl_args``, checked as strictly as the pipeline itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tvetl.errors import ArgumentsError, Problem
from tvetl.spec import limits
from tvetl.spec.model import IMAGE_FORMATS, MASK_FORMATS, TENSOR_FORMATS, Arguments, Output, Pipeline, Step, Value
from tvetl.spec.ops import OPS, Param, row, single
from tvetl.spec.output import FORMATS, plain_output
from tvetl.spec.parse import Problems, read_params
from tvetl.spec.pointwise import NotSplit, parts
from tvetl.spec.text import BadText, check_data, load_json
from tvetl.spec.values import (
    DIGEST,
    FLAG,
    OBJECT,
    Refused,
    choice,
    either,
    integer,
    optional,
    read_row,
    rows,
    sequence,
    show,
    spelled,
)

_EDGE = integer(1, limits.EDGE)
_COUNTER = integer(0, limits.COUNTER)
#: An edge of an image as it is opened, which may be larger than any that a step makes.
_SIDE = integer(1, limits.COUNTER)

#: The numbers of one box, and of one keypoint.
_ROWS = {"boxes": ("x1", "y1", "x2", "y2"), "keypoints": ("x", "y")}

#: Every argument; null and false mean the same as an argument that is not given.
ARGUMENTS: Mapping[str, Param] = {
    "seed": Param(optional(integer(0, limits.SEED))),
    "epoch": Param(optional(_COUNTER)),
    "view": Param(optional(_COUNTER)),
    "views": Param(optional(integer(1, limits.VIEWS))),
    "format": Param(optional(choice(*FORMATS))),
    "quality": Param(optional(integer(0, 100))),
    "size": Param(optional(either(_EDGE, spelled(sequence(_EDGE, 1, 2), single)))),
    "pixels": Param(optional(FLAG)),
    "table": Param(optional(DIGEST)),
    "like": Param(optional(OBJECT)),
    "as": Param(optional(choice("image", "mask"))),
    "of": Param(optional(sequence(_SIDE, 2))),
    "boxes": Param(optional(rows(_ROWS["boxes"], limits.BOXES))),
    "keypoints": Param(optional(rows(_ROWS["keypoints"], limits.KEYPOINTS))),
}


def parse_arguments(source: str | Mapping[str, object] | None) -> Arguments:
    """The arguments in JSON text or data (None and "" are none); raises ArgumentsError with every problem."""
    if source is None or source == "":
        return Arguments()
    try:
        if isinstance(source, str):
            data = load_json(source, limits.ARGUMENTS_BYTES)
        else:
            check_data(data := source)
    except BadText as error:
        raise ArgumentsError([Problem("$", str(error))], hint=_HINT) from error
    if not isinstance(data, Mapping):
        raise ArgumentsError([Problem("$", "expected a JSON object")], hint=_HINT)
    problems = Problems()
    values = read_params(data, ARGUMENTS, "$", problems)
    given = frozenset(name for name, value in values.items() if value is not None and value is not False)
    if "table" in given and "pixels" not in given:
        problems.add("$.table", "is of pixels, which are not asked for")
    if {"view", "views"} <= given:
        problems.add("$.view", "not together with views, which gives the views 0, 1, ...")
    for name in given & _ROWS.keys():
        values[name] = _read_rows(name, values[name], problems)
    _check_annotations(values, given, problems)
    if problems:
        raise ArgumentsError(problems.listed(), hint=_HINT)
    # read_params has checked each against its row of ARGUMENTS; what is not given has the default of the dataclass.
    fields = {"role" if name == "as" else name: values[name] for name in given}
    return Arguments(**fields, given=given)  # type: ignore[arg-type]


def _read_rows(name: str, given: Value, problems: Problems) -> tuple[Value, ...]:
    """The boxes or keypoints; a wrong one is reported by its place."""
    assert isinstance(given, tuple)
    read: list[Value] = []
    for place, each in enumerate(given):
        try:
            row = read_row(each, _ROWS[name])
        except Refused as refusal:
            problems.add(f"$.{name}[{place}]", str(refusal))
            continue
        if name == "boxes" and not (row[0] <= row[2] and row[1] <= row[3]):
            problems.add(f"$.boxes[{place}]", f"expected x1 <= x2 and y1 <= y2, got {show(list(row))}")
        read.append(row)
    return tuple(read)


def _check_annotations(values: Mapping[str, Value], given: frozenset[str], problems: Problems) -> None:
    """Report arguments that do not go together with a mask, or with boxes and keypoints."""
    annotated = sorted(given & {"boxes", "keypoints"})
    if values.get("as") == "mask":
        for name in sorted(given & {"pixels", "quality", "keypoints"}):
            problems.add(f"$.{name}", "not together with as mask: a mask has none")
    elif annotated:
        if "views" in given:
            problems.add("$.views", f"not together with {annotated[0]}; ask for each view by itself, with view")
        if values.get("format") not in (None, "safetensors"):
            problems.add("$.format", f"expected safetensors, which holds an image and its {annotated[0]}")
    if "of" in given and values.get("as") == "image":
        problems.add("$.of", "is of a mask, and as says that the object is an image")


_HINT = f"etl_args is a JSON object with any of {', '.join(ARGUMENTS)}"


def with_arguments(pipeline: Pipeline, arguments: Arguments) -> Pipeline:
    """The pipeline that this request asks for: role, format, quality, size and pixels applied, the seed left as it is.

    With ``pixels`` it is the pipeline before its pointwise steps; its draws are the same. The pipeline itself (the same
    object) where nothing changes it, so that its plan can be used again.
    Raises ArgumentsError for arguments that the pipeline cannot do.
    """
    problems = Problems()
    if arguments.given & {"epoch", "view"} and arguments.seed is None and pipeline.seed is None:
        name = "epoch" if "epoch" in arguments.given else "view"
        problems.add(f"$.{name}", "needs a seed, here or in the pipeline; without one every answer is random")
    if arguments.role not in (None, pipeline.role):
        pipeline = replace(pipeline, role=arguments.role)
    is_mask = pipeline.role == "mask"
    _check_steps(pipeline, arguments, problems, is_mask=is_mask)
    if is_mask:
        output = _mask_output(pipeline.output, arguments, problems)
    elif arguments.is_annotated:
        output = _sample_output(pipeline.output)
    else:
        output = _image_or_tensor_output(pipeline.output, arguments, problems)
    steps = pipeline.steps if arguments.size is None else _resized(pipeline.steps, arguments.size, problems)
    if output != pipeline.output or steps != pipeline.steps:
        pipeline = replace(pipeline, steps=steps, output=output)
    if arguments.pixels:
        try:
            halves = parts(pipeline)
        except NotSplit as error:
            problems.add("$.pixels", str(error))
        else:
            pipeline = halves.pixels
            if arguments.table is not None and arguments.table != halves.digest:
                problems.add("$.table", "this pipeline has another table: the ETL was registered anew")
    if problems:
        raise ArgumentsError(problems.listed())
    return pipeline


def _check_steps(pipeline: Pipeline, arguments: Arguments, problems: Problems, *, is_mask: bool) -> None:
    """Report steps whose effect on annotations is not defined, and masks that would differ from their image."""
    annotated = sorted(arguments.given & {"boxes", "keypoints"}) or (["as"] if is_mask else [])
    if not annotated:
        return
    ops = [row(step.op) for step in _all_steps(pipeline)]
    if unknown := next((op.name for op in ops if op.moves is None), ""):
        problems.add(
            f"$.{annotated[0]}", f"torchvision does not say what {unknown} makes of masks, boxes and keypoints"
        )
    if is_mask and arguments.seed is None and pipeline.seed is None and any(op.random for op in ops):
        problems.add(
            "$.as", "a mask needs a seed, here or in the pipeline: without one it is not drawn as its image is"
        )

    for step in _all_steps(pipeline) if is_mask else ():
        if isinstance(step.params.get("fill"), tuple) and step.params.get("mask_fill") is None:
            problems.add("$.as", f"{step.op} fills with a colour, which no mask has: give the step a mask_fill")
            break


def needs_boxes(pipeline: Pipeline, *, is_mask: bool) -> str:
    """The first op that needs boxes, "" without one. A mask needs them only for an op whose draws depend on them."""
    ops = (row(step.op) for step in _all_steps(pipeline))
    return next((op.name for op in ops if op.needs_boxes and (op.random or not is_mask)), "")


def _all_steps(pipeline: Pipeline) -> Iterator[Step]:
    """All steps, and those that they hold."""
    return (each for step in pipeline.steps for each in step.walk())


def _mask_output(output: Output, arguments: Arguments, problems: Problems) -> Output:
    """png, or a tensor, as the pipeline's output is an image or a tensor."""
    wanted = arguments.format or (output.format if output.format in MASK_FORMATS else "png")
    if wanted not in MASK_FORMATS:
        problems.add("$.format", f"expected one of {', '.join(MASK_FORMATS)} for a mask")
        return output
    if wanted != "png":
        return plain_output(wanted)
    if output.format == "png":
        return output
    # Level 6, Pillow's default, makes a mask a fourth smaller, and takes half as long again for decoding and encoding.
    return plain_output("png", compress_level=1)


def _sample_output(output: Output) -> Output:
    """safetensors, with the same dtype."""
    return plain_output("safetensors", dtype=output.options.get("dtype"))


def _image_or_tensor_output(output: Output, arguments: Arguments, problems: Problems) -> Output:
    wanted = arguments.format
    if wanted is not None and wanted != output.format:
        same_kind = IMAGE_FORMATS if output.format in IMAGE_FORMATS else TENSOR_FORMATS
        if wanted not in same_kind:
            problems.add("$.format", f"expected one of {', '.join(same_kind)}, for that is what the steps end in")
            return output
        # Only dtype means the same in two formats: a quality of 80 is another one in webp than in jpeg.
        output = plain_output(wanted, **{name: value for name, value in output.options.items() if name == "dtype"})
    if arguments.quality is None:
        return output
    param = FORMATS[output.format].get("quality")
    if param is None:
        problems.add("$.quality", f"{output.format} has no quality")
        return output
    try:
        return replace(output, options={**output.options, "quality": param.kind.read(arguments.quality)})
    except Refused as refusal:
        problems.add("$.quality", f"{refusal} for {output.format}")
        return output


def _resized(steps: tuple[Step, ...], size: int | tuple[int, int], problems: Problems) -> tuple[Step, ...]:
    sized = [index for index, step in enumerate(steps) if "size" in step.params and step.op in OPS]
    inside = [step.op for step in steps if any("size" in each.params for held in step.inner for each in held.walk())]
    if inside:
        problems.add("$.size", f"needs a pipeline with exactly one step that has a size; {inside[0]} holds another")
        return steps
    if len(sized) != 1:
        problems.add("$.size", f"needs a pipeline with exactly one step that has a size; this one has {len(sized)}")
        return steps
    [index] = sized
    old = steps[index]
    op = OPS[old.op]
    new = Step(old.op, {**old.params, "size": op.params["size"].kind.read(size)})
    for name, message in op.agrees(new.params) if op.agrees else ():
        problems.add("$.size", f"does not go with {name} of step {index} ({old.op}): {message}")
    return (*steps[:index], new, *steps[index + 1 :])
