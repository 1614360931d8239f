"""Pipelines that only torchvision can do, by torchvision itself, step by step; it needs torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from tvetl.spec import Pipeline, Step
from tvetl.spec.compose import to_transform
from tvetl.spec.ops import is_plugin
from tvetl_server.engine.decode import Source
from tvetl_server.engine.device_request import DeviceSteps
from tvetl_server.engine.pixels import Outcome, Size
from tvetl_server.engine.plans.ops import resized
from tvetl_server.engine.plans.plan import Job
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, prepare

# torch's default generator, which torchvision draws from, belongs to the whole process.
_generator = threading.Lock()


_Value: TypeAlias = "Image.Image | torch.Tensor"


@dataclass(frozen=True)
class _Prepared:
    step: Step
    #: None of a plugin's op.
    transform: Callable[..., object] | None
    #: The steps of a RandomApply.
    inner: Sequence[_Prepared]


def _prepared(steps: Sequence[Step]) -> list[_Prepared]:
    return [
        _Prepared(step, None if is_plugin(step.op) else to_transform(step), _prepared(step.inner)) for step in steps
    ]


class TorchPlan:
    """torchvision's transforms, one after the other, behind the same call as ExactPlan."""

    def __init__(self, pipeline: Pipeline, plugins: Mapping[str, PluginOp] = NO_PLUGINS) -> None:
        torch.set_num_threads(1)  # the workers are the parallelism; more threads only fight over the same cores
        self._steps = _prepared(pipeline.steps)
        self._plugins = plugins

    def __call__(self, source: Source, job: Job) -> Outcome:
        value: _Value = source.pixels(keep=job.keep)
        with _generator, torch.inference_mode():
            torch.manual_seed(job.seed)
            value = self._do(self._steps, value, job)
            job.check(_size(value))
        return value if isinstance(value, Image.Image) else np.asarray(value)

    def device_steps(self, size: Size, job: Job) -> DeviceSteps | None:
        return None if any(each.transform is None for each in self._steps) else [["torchvision", job.seed]]

    def _do(self, steps: Sequence[_Prepared], value: _Value, job: Job) -> _Value:
        for each in steps:
            size = _size(value)
            job.check(resized(each.step.params, size) if each.step.op == "Resize" else size)
            if each.inner:  # one by one, as none may make more pixels than are allowed
                happens = bool(torch.rand(1) < float(str(each.step.params["p"])))
                value = self._do(each.inner, value, job) if happens else value
                continue
            done = each.transform(value) if each.transform else self._do_plugin(each.step, value, job)
            assert isinstance(done, (Image.Image, torch.Tensor))
            value = done
        return value

    def _do_plugin(self, step: Step, value: _Value, job: Job) -> Image.Image:
        assert isinstance(value, Image.Image)  # parsing lets nothing else through
        do, size = prepare(step.op, self._plugins[step.op], step.params, _TorchDraw(), value.size)
        job.check(size)
        return do(value)


class _TorchDraw:
    """What plugin ops draw, from the generator that the steps around them draw from; equal to :class:`draw.Draw`'s."""

    def rand(self) -> float:
        return float(torch.rand(1))

    def uniform(self, low: float, high: float) -> float:
        return float(torch.empty(1).uniform_(low, high))

    def below(self, n: int) -> int:
        return int(torch.randint(0, n, ()))

    def permutation(self, n: int) -> list[int]:
        return [int(i) for i in torch.randperm(n)]


def _size(value: Image.Image | torch.Tensor) -> Size:
    if isinstance(value, Image.Image):
        return value.size
    height, width = v2.functional.get_size(value)
    return width, height
