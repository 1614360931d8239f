"""What a pipeline consists of for a plan: steps, and one table for each run of steps on single values."""

from __future__ import annotations

from collections.abc import Iterator

from tvetl.spec import Op, Pipeline, Step, forms
from tvetl.spec.forms import FormKind
from tvetl.spec.ops import is_own
from tvetl.spec.pointwise import CLOSES, OPENS, POINTWISE
from tvetl_server.engine.plans import ops
from tvetl_server.engine.table import Table


def stages(pipeline: Pipeline) -> Iterator[Step | Table]:
    """The steps as they are, but each run from image to tensor (and back) as one table."""
    inside: list[Step] = []
    for step, form in zip(pipeline.steps, forms(pipeline), strict=False):  # the form before each step
        if inside or step.op in OPENS:
            inside.append(step)
            if step.op == CLOSES:
                yield Table(inside, form.channels)
                inside = []
        else:
            yield step
    if inside:
        yield Table(inside, form.channels)


def tables(pipeline: Pipeline) -> list[Table]:
    """The tables of a pipeline that needs no torch, as its programs count them; none of another's."""
    return [] if needs_torch(pipeline) else [stage for stage in stages(pipeline) if isinstance(stage, Table)]


def _known(step: Step, form: FormKind) -> bool:
    """Whether a step is done without torch, on what it is given."""
    here = ops.can_draw(step) if form == "pil" else step.op in POINTWISE
    return here or step.op in OPENS or is_own(step.op)


def needs_torch(pipeline: Pipeline) -> list[int]:
    """The places of the steps that only torchvision itself does; empty where none is."""
    steps = zip(pipeline.steps, forms(pipeline), strict=False)  # the form before each step
    return [place for place, (step, form) in enumerate(steps) if not _known(step, form.kind)]


def only_torch(op: Op) -> bool:
    """Whether torchvision is needed for this op with its default parameters, on an image where it takes one."""
    step = Step(op.name, {name: param.default for name, param in op.params.items()})
    return not _known(step, "pil" if "pil" in op.takes else op.takes[0])
