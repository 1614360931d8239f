"""Which plan a pipeline gets, and which ops this container can run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from tvetl.errors import PipelineError, Problem
from tvetl.spec import OPS, Pipeline, Step
from tvetl_server.engine.plans.exact import ExactPlan
from tvetl_server.engine.plans.fast import FastPlan
from tvetl_server.engine.plans.ops import can_draw
from tvetl_server.engine.plans.plan import Plan
from tvetl_server.engine.plans.stages import needs_torch, only_torch
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
