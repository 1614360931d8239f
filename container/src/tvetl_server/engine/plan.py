"""From a pipeline to what is run for each image, chosen once at start.

Where every step is known to :mod:`exact` and :mod:`table`, the plan needs no torch; otherwise the whole pipeline
is torchvision's own. The answers are the same either way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from tvetl.spec import Op, Pipeline, Step, forms
from tvetl.spec.forms import FormKind
from tvetl.spec.ops import is_own
from tvetl_server.engine import exact
from tvetl_server.engine.decode import Box, Source
from tvetl_server.engine.draw import Draw
from tvetl_server.engine.encode import Outcome
from tvetl_server.engine.resize import Resize
from tvetl_server.engine.table import CLOSES, OPENS, Table, is_pointwise
from tvetl_server.errors import ObjectError, OutOfTime, TooManyPixels, TransformFailed, first_line
from tvetl_server.own import NONE, OwnOp, prepare
from tvetl_server.settings import Limits


@dataclass(frozen=True)
class Run:
    """What one view of one object needs beside the pipeline: its seed, and what it may cost."""

    seed: int
    limits: Limits
    #: time.monotonic() when to give up, or None.
    deadline: float | None = None
    #: Other views of the same source follow, so its pixels are worth keeping.
    again: bool = False

    def check(self, size: exact.Size) -> None:
        """Raises TooManyPixels before a step makes them, and OutOfTime between steps."""
        if size[0] * size[1] > self.limits.max_output_pixels:
            raise TooManyPixels(
                f"A step would make {size[0]} x {size[1]} pixels, "
                f"more than the {self.limits.max_output_pixels:,} allowed."
            )
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime(f"The object took longer than the {self.limits.seconds:g} seconds allowed.")


class Plan(Protocol):
    """The steps of a pipeline, between opened and encoded."""

    def __call__(self, source: Source, run: Run) -> Outcome: ...


class ExactPlan:
    """Draw, decode, do: torchvision's pixels with no torch."""

    def __init__(self, pipeline: Pipeline, own: Mapping[str, OwnOp] = NONE) -> None:
        self._stages = list(_stages(pipeline))
        self._own = own

    def __call__(self, source: Source, run: Run) -> Outcome:
        actions = self._draw(Draw(run.seed), source.size, run)
        box = None
        first = actions[0] if actions else None
        if isinstance(first, exact.Crop):
            box, actions = first.box, actions[1:]
        actions = list(_joined(actions))
        first = actions[0] if actions else None
        outcome: Outcome
        if isinstance(first, Resize):
            run.check(first.size)
            outcome, actions = self._resize(source, box, first, run), actions[1:]
        else:
            outcome = source.pixels(box, again=run.again)
        for action in actions:
            assert isinstance(outcome, Image.Image)  # a tensor comes last
            run.check(outcome.size)
            outcome = action(outcome)
        return outcome

    def _resize(self, source: Source, box: Box | None, resize: Resize, run: Run) -> Outcome:
        return resize(source.array(box, again=run.again))

    def _draw(self, draw: Draw, size: exact.Size, run: Run) -> list[exact.Action]:
        actions: list[exact.Action] = []
        for stage in self._stages:
            if isinstance(stage, Table):
                actions.append(stage)
            elif is_own(stage.op):
                action, size = prepare(stage.op, self._own[stage.op], stage.params, draw, size)
                actions.append(action)
            else:
                drawn, size = exact.DRAWERS[stage.op](stage.params, draw, size)
                actions += drawn
            run.check(size)
        return actions


def _joined(actions: Iterable[exact.Action]) -> Iterator[exact.Action]:
    """The same actions; what a resize can do on the way is part of it."""
    resize: Resize | None = None
    for action in actions:
        if resize and not resize.table and isinstance(action, exact.Crop):
            resize = resize.cropped(action.box)
        elif resize and not resize.table and action is exact.mirror:
            resize = resize.flipped()
        elif resize and not resize.table and isinstance(action, Table):
            resize = resize.looked_up(action)
        else:
            if resize:
                yield resize
            resize = action if isinstance(action, Resize) else None
            if not resize:
                yield action
    if resize:
        yield resize


def _stages(pipeline: Pipeline) -> Iterator[Step | Table]:
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


def _known(step: Step, form: FormKind) -> bool:
    """Whether a step is done without torch, on what it is given."""
    here = exact.can_draw(step) if form == "pil" else is_pointwise(step)
    return here or step.op in OPENS or is_own(step.op)


def needs_torch(pipeline: Pipeline) -> list[int]:
    """The places of the steps that only torchvision itself does; empty where none is."""
    steps = zip(pipeline.steps, forms(pipeline), strict=False)  # the form before each step
    return [place for place, (step, form) in enumerate(steps) if not _known(step, form.kind)]


def only_torch(op: Op) -> bool:
    """Whether torchvision is needed for this op with its default parameters, on an image where it takes one."""
    step = Step(op.name, {name: param.default for name, param in op.params.items()})
    return not _known(step, "pil" if "pil" in op.takes else op.takes[0])


def run_plan(plan: Plan, source: Source, run: Run) -> Outcome:
    """Run it, and say whatever a step throws as TransformFailed."""
    try:
        return plan(source, run)
    except ObjectError:
        raise
    except MemoryError as error:
        raise TooManyPixels("There is not enough memory for what a step makes of this image.") from error
    except Exception as error:
        # PIL, numpy and torch say in their own classes that an image does not suit a step.
        raise TransformFailed(f"A step cannot take this image: {first_line(error)}.") from error
