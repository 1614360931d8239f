"""What only torchvision does, by torchvision itself, step by step; no other module of the server needs torch."""

from __future__ import annotations

import threading

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from tvetl.spec import Pipeline
from tvetl.spec.compose import to_compose
from tvetl_server.engine.decode import Source
from tvetl_server.engine.encode import Outcome
from tvetl_server.engine.exact import resized
from tvetl_server.engine.plan import Run

# torch's default generator, which torchvision draws from, belongs to the whole process.
_generator = threading.Lock()


class TorchPlan:
    """A torchvision Compose behind the same call as ExactPlan."""

    def __init__(self, pipeline: Pipeline) -> None:
        torch.set_num_threads(1)  # the workers are the parallelism; more threads only fight over the same cores
        self._steps = list(zip(pipeline.steps, to_compose(pipeline).transforms, strict=True))

    def __call__(self, source: Source, run: Run) -> Outcome:
        value: Image.Image | torch.Tensor = source.pixels(again=run.again)
        with _generator, torch.inference_mode():
            torch.manual_seed(run.seed)
            for step, transform in self._steps:
                size = _size(value)
                run.check(resized(step.params, size) if step.op == "Resize" else size)
                value = transform(value)
            run.check(_size(value))
        return value if isinstance(value, Image.Image) else np.asarray(value)


def _size(value: Image.Image | torch.Tensor) -> tuple[int, int]:
    if isinstance(value, Image.Image):
        return value.size
    height, width = v2.functional.get_size(value)
    return width, height
