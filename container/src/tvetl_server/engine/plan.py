"""From a pipeline to what is run for each image, chosen once at start.

Where every step is known to :mod:`exact` and :mod:`table`, the plan needs no torch; otherwise the whole pipeline
is torchvision's own. The answers are the same either way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from tvetl.spec import Op, Pipeline, Step, forms
from tvetl.spec.forms import FormKind
from tvetl.spec.ops import is_own
from tvetl.spec.pointwise import CLOSES, OPENS, POINTWISE
from tvetl_server.engine import exact
from tvetl_server.engine.decode import Box, Source
from tvetl_server.engine.draw import Draw
from tvetl_server.engine.encode import Outcome
from tvetl_server.engine.resize import Resize
from tvetl_server.engine.table import Table
from tvetl_server.errors import ObjectError, OutOfTime, TooManyPixels, TransformFailed, first_line
from tvetl_server.limits import Limits
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, prepare


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


Program = list[list[Any]]
"""What is to be done to one view, as JSON has it, for a device: each step a name and its arguments, in this order.

["crop", left, top, right, bottom], of the source, first or not at all; ["resize", [width, height], name, [left, top,
right, bottom], mirrored, table], of which the box is kept; ["look_up", table]; a function of
torchvision.transforms.v2.functional. ``table`` counts the tables of the pipeline, -1 is none: a request may ask for the
pixels before the last. Or this alone: ["torchvision", seed], the whole pipeline by torchvision itself after
torch.manual_seed.
"""


class Plan(Protocol):
    """The steps of a pipeline, between opened and encoded."""

    def __call__(self, source: Source, run: Run) -> Outcome: ...

    def program(self, size: exact.Size, run: Run) -> Program | None:
        """What the same seed draws for a source of ``size``; None where only this plan itself can do it."""
        ...


class ExactPlan:
    """Draw, decode, do: torchvision's pixels with no torch."""

    def __init__(self, pipeline: Pipeline, own: Mapping[str, PluginOp] = NO_PLUGINS) -> None:
        self._stages = list(_stages(pipeline))
        self._tables = [stage for stage in self._stages if isinstance(stage, Table)]
        self._own = own

    def __call__(self, source: Source, run: Run) -> Outcome:
        box, actions = self._drawn(source.size, run)
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

    def program(self, size: exact.Size, run: Run) -> Program | None:
        box, actions = self._drawn(size, run)
        program: Program = [["crop", *box]] if box else []
        for action in actions:
            if isinstance(action, Resize):
                table = self._tables.index(action.table) if action.table and not action.table.keeps_values else -1
                name = action.resample.name.lower()
                program.append(["resize", action.size, name, action.window, action.mirrored, table])
            elif isinstance(action, exact.Crop):
                program.append(["crop", *action.box])
            elif isinstance(action, Table):
                program += [] if action.keeps_values else [["look_up", self._tables.index(action)]]
            elif isinstance(action, exact.Call):
                program.append([action.name, *action.arguments])
            else:  # an own op
                return None
        return program

    def _drawn(self, size: exact.Size, run: Run) -> tuple[Box | None, list[exact.Action]]:
        """The region of the source that is needed, and what is done to it."""
        actions = self._draw(Draw(run.seed), size, run)
        first = actions[0] if actions else None
        if isinstance(first, exact.Crop):
            return first.box, list(_joined(actions[1:]))
        return None, list(_joined(actions))

    def _resize(self, source: Source, box: Box | None, resize: Resize, run: Run) -> Outcome:
        coded = None if run.again else source.coded(box)
        outcome = resize.of_coded(coded) if coded else None
        return resize(source.array(box, again=run.again)) if outcome is None else outcome

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


def tables(pipeline: Pipeline) -> list[Table]:
    """The tables of a pipeline that needs no torch, as its programs count them; none of another's."""
    return [] if needs_torch(pipeline) else [stage for stage in _stages(pipeline) if isinstance(stage, Table)]


def _known(step: Step, form: FormKind) -> bool:
    """Whether a step is done without torch, on what it is given."""
    here = exact.can_draw(step) if form == "pil" else step.op in POINTWISE
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
    with _said():
        return plan(source, run)


def program_of(plan: Plan, source: Source, run: Run) -> Program | None:
    """Its program, with the same errors."""
    with _said():
        return plan.program(source.size, run)


@contextlib.contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except ObjectError:
        raise
    except MemoryError as error:
        raise TooManyPixels("There is not enough memory for what a step makes of this image.") from error
    except Exception as error:
        # PIL, numpy and torch say in their own classes that an image does not suit a step.
        raise TransformFailed(f"A step cannot take this image: {first_line(error)}.") from error
