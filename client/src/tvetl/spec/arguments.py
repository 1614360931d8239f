"""What one request may ask for besides the pipeline: ``etl_args``, checked as strictly as the pipeline itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tvetl.errors import ArgumentsError, Problem
from tvetl.spec import limits
from tvetl.spec.model import IMAGE_FORMATS, MASK_FORMATS, TENSOR_FORMATS, Arguments, Output, Pipeline, Step, Value
from tvetl.spec.ops import OPS, Op, Param, row, single
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

#: What one of each is.
_ROWS = {"boxes": ("x1", "y1", "x2", "y2"), "keypoints": ("x", "y")}

#: Every argument; null is "as the pipeline says", as if it were not given, and so is false.
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
    return _arguments(values, given)


def _read_rows(name: str, given: Value, problems: Problems) -> tuple[Value, ...]:
    """The boxes or keypoints; each that is none is reported by its place."""
    assert isinstance(given, tuple)
    found: list[Value] = []
    for place, each in enumerate(given):
        try:
            row = read_row(each, _ROWS[name])
        except Refused as refusal:
            problems.add(f"$.{name}[{place}]", str(refusal))
            continue
        if name == "boxes" and not (row[0] <= row[2] and row[1] <= row[3]):
            problems.add(f"$.boxes[{place}]", f"expected x1 <= x2 and y1 <= y2, got {show(list(row))}")
        found.append(row)
    return tuple(found)


def _check_annotations(values: Mapping[str, Value], given: frozenset[str], problems: Problems) -> None:
    """Report what does not go together with a mask, or with the sample that boxes and keypoints make of an answer."""
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


def _arguments(values: Mapping[str, Value], given: frozenset[str]) -> Arguments:
    def number(name: str) -> int | None:
        value = values[name]
        return value if isinstance(value, int) else None

    def text(name: str) -> str | None:
        value = values[name]
        return value if isinstance(value, str) else None

    size, of = values["size"], values["of"]
    return Arguments(
        seed=number("seed"),
        epoch=number("epoch") or 0,
        view=number("view") or 0,
        views=number("views"),
        format=text("format"),
        quality=number("quality"),
        size=_pair(size) if isinstance(size, tuple) else number("size"),
        pixels=values["pixels"] is True,
        table=text("table"),
        like=text("like"),
        role={"image": "image", "mask": "mask", None: None}[text("as")],
        of=_pair(of) if isinstance(of, tuple) else None,
        boxes=_rows(values["boxes"]),
        keypoints=_rows(values["keypoints"]),
        given=given,
    )


def _pair(value: tuple[Value, ...]) -> tuple[int, int]:
    height, width = value
    assert isinstance(height, int)
    assert isinstance(width, int)
    return height, width


def _rows(value: Value) -> tuple[tuple[float, ...], ...] | None:
    return value if isinstance(value, tuple) else None  # type: ignore[return-value]  # by the kind of boxes


def with_arguments(pipeline: Pipeline, arguments: Arguments) -> Pipeline:
    """The pipeline that this request asks for: role, format, quality, size and pixels applied, the seed left as it is.

    With ``pixels`` it is the pipeline before its pointwise steps; its draws are the same. The pipeline itself (the same
    object) where nothing changes it, so that what was planned for it can be used.
    Raises ArgumentsError where the pipeline cannot do what is asked for.
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
        output = _asked_output(pipeline.output, arguments, problems)
    steps = pipeline.steps if arguments.size is None else _resized(pipeline.steps, arguments.size, problems)
    if output != pipeline.output or steps != pipeline.steps:
        pipeline = replace(pipeline, steps=steps, output=output)
    if arguments.pixels:
        try:
            found = parts(pipeline)
        except NotSplit as error:
            problems.add("$.pixels", str(error))
        else:
            pipeline = found.pixels
            if arguments.table is not None and arguments.table != found.digest:
                problems.add("$.table", "this pipeline has another table: the ETL was registered anew")
    if problems:
        raise ArgumentsError(problems.listed())
    return pipeline


def _check_steps(pipeline: Pipeline, arguments: Arguments, problems: Problems, *, is_mask: bool) -> None:
    """Report steps of which nobody knows what becomes of annotations, and a mask that is drawn apart from its image."""
    annotated = sorted(arguments.given & {"boxes", "keypoints"}) or (["as"] if is_mask else [])
    if not annotated:
        return
    ops = [*_ops(pipeline)]
    if unknown := next((op.name for op in ops if op.moves is None), ""):
        problems.add(
            f"$.{annotated[0]}", f"torchvision does not say what {unknown} makes of masks, boxes and keypoints"
        )
    if is_mask and arguments.seed is None and pipeline.seed is None and any(op.random for op in ops):
        problems.add(
            "$.as", "a mask needs a seed, here or in the pipeline: without one it is not drawn as its image is"
        )

    steps = (each for step in pipeline.steps for each in step.walk())
    coloured = (step.op for step in steps if isinstance(step.params.get("fill"), tuple) and not _fills_masks(step))
    if is_mask and (op := next(coloured, "")):
        problems.add("$.as", f"{op} fills with a colour, which no mask has: give the step a mask_fill")


def _fills_masks(step: Step) -> bool:
    return step.params.get("mask_fill") is not None


def needs_boxes(pipeline: Pipeline, *, is_mask: bool) -> str:
    """The op that cannot do without boxes, of a mask one whose draws depend on them; "" where there is none."""
    return next((op.name for op in _ops(pipeline) if op.needs_boxes and (op.random or not is_mask)), "")


def _ops(pipeline: Pipeline) -> Iterator[Op]:
    """The rows of all steps, and of those that they hold."""
    return (row(each.op) for step in pipeline.steps for each in step.walk())


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
    return replace(plain_output("png"), options={**plain_output("png").options, "compress_level": 1})


def _sample_output(output: Output) -> Output:
    """safetensors, with the same dtype."""
    sample = plain_output("safetensors")
    return replace(sample, options={**sample.options, "dtype": output.options.get("dtype")})


def _asked_output(output: Output, arguments: Arguments, problems: Problems) -> Output:
    wanted = arguments.format
    if wanted is not None and wanted != output.format:
        same_kind = IMAGE_FORMATS if output.format in IMAGE_FORMATS else TENSOR_FORMATS
        if wanted not in same_kind:
            problems.add("$.format", f"expected one of {', '.join(same_kind)}, for that is what the steps end in")
            return output
        # Only dtype means the same in two formats: a quality of 80 is another one in webp than in jpeg.
        kept = {name: value for name, value in output.options.items() if name == "dtype"}
        output = replace(plain_output(wanted), options={**plain_output(wanted).options, **kept})
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
