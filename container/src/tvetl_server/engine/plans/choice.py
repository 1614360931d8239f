"""Which plan a pipeline gets, and which ops this container can run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from tvetl.errors import PipelineError, Problem
from tvetl.spec import OPS, Op, Pipeline, Step, forms
from tvetl.spec.forms import FormKind
from tvetl.spec.ops import is_plugin, row
from tvetl.spec.pointwise import OPENS, POINTWISE
from tvetl_server.engine.plans.exact import ExactPlan, FastPlan, stages
from tvetl_server.engine.plans.ops import can_draw
from tvetl_server.engine.plans.plan import Plan
from tvetl_server.engine.table import Table
from tvetl_server.plugin_ops import PluginOp


def make_plan(pipeline: Pipeline, plugins: Mapping[str, PluginOp]) -> Plan:
    """The plan of a pipeline; raises PipelineError where it needs torch, which is not installed."""
    places = needs_torch(pipeline)
    if not places:
        return (FastPlan if pipeline.precision == "fast" else ExactPlan)(pipeline, plugins)
    if not has_torch():
        raise PipelineError(
            [
                Problem(f"$.steps[{i}].op", f"{_which(pipeline.steps[i])} needs torch; the image's cpu variant has it")
                for i in places
            ],
            hint="Take the image's cpu variant, or install tvetl-server[torch].",
        )
    from tvetl_server.engine.plans.torchvision import TorchPlan  # seconds and 500 MB, so only where a step asks for it

    return TorchPlan(pipeline, plugins)


def _which(step: Step) -> str:
    """The op, or of what it holds those that need torch."""
    return ", ".join(_which(each) for each in step.inner if not can_draw(each)) or step.op


def has_torch() -> bool:
    """Whether torchvision is installed; looked up, not imported."""
    return importlib.util.find_spec("torchvision") is not None


def runnable() -> list[str]:
    """The names of the table's ops that this container can run on an image, in the table's order."""
    return [op.name for op in OPS.values() if has_torch() or not only_torch(op)]


def tables(pipeline: Pipeline) -> list[Table]:
    """The tables of a pipeline, as DeviceSteps number them; none where it needs torch."""
    return [] if needs_torch(pipeline) else [stage for stage in stages(pipeline) if isinstance(stage, Table)]


def needs_torch(pipeline: Pipeline) -> list[int]:
    """The places of the steps that only torchvision can do."""
    steps = zip(pipeline.steps, forms(pipeline), strict=False)  # the form before each step
    return [place for place, (step, form) in enumerate(steps) if not _is_known(step, form.kind)]


def only_torch(op: Op) -> bool:
    """Whether torchvision is needed for this op with its default parameters, on an image where it takes one."""
    step = Step(op.name, {name: param.default for name, param in op.params.items()})
    return not _is_known(step, "pil" if "pil" in op.takes else op.takes[0])


def _is_known(step: Step, form: FormKind) -> bool:
    """Whether a step can be done without torch on this form of input."""
    here = can_draw(step) if form == "pil" else step.op in POINTWISE or not row(step.op).image
    return here or step.op in OPENS or is_plugin(step.op)
