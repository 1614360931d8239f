"""A pipeline's stages: its steps, with steps on single values merged into tables."""

from __future__ import annotations

from collections.abc import Iterator

from tvetl.spec import Op, Pipeline, Step, forms
from tvetl.spec.forms import FormKind
from tvetl.spec.ops import is_plugin, row
from tvetl.spec.pointwise import CLOSES, OPENS, POINTWISE
from tvetl_server.engine.plans import ops
from tvetl_server.engine.table import Table


def stages(pipeline: Pipeline) -> Iterator[Step | Table]:
    """The steps, with all steps from image to tensor (and back) merged into one table."""
    inside: list[Step] = []
    for step, form in zip(pipeline.steps, forms(pipeline), strict=False):  # the form before each step
        if not row(step.op).image:  # which changes no value: the same before a table as in it
            yield step
        elif inside or step.op in OPENS:
            inside.append(step)
            if step.op == CLOSES:
                yield Table(inside, form.channels)
                inside = []
        else:
            yield step
    if inside:
        yield Table(inside, form.channels)


def tables(pipeline: Pipeline) -> list[Table]:
    """The tables of a pipeline, as DeviceSteps number them; none where it needs torch."""
    return [] if needs_torch(pipeline) else [stage for stage in stages(pipeline) if isinstance(stage, Table)]


def _known(step: Step, form: FormKind) -> bool:
    """Whether a step can be done without torch on this form of input."""
    here = ops.can_draw(step) if form == "pil" else step.op in POINTWISE or not row(step.op).image
    return here or step.op in OPENS or is_plugin(step.op)


def needs_torch(pipeline: Pipeline) -> list[int]:
    """The places of the steps that only torchvision can do."""
    steps = zip(pipeline.steps, forms(pipeline), strict=False)  # the form before each step
    return [place for place, (step, form) in enumerate(steps) if not _known(step, form.kind)]


def only_torch(op: Op) -> bool:
    """Whether torchvision is needed for this op with its default parameters, on an image where it takes one."""
    step = Step(op.name, {name: param.default for name, param in op.params.items()})
    return not _known(step, "pil" if "pil" in op.takes else op.takes[0])
