"""``precision: exact``: torchvision's pixels without torch, by the table of ops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from PIL import Image

from tvetl.spec import Pipeline, Step
from tvetl.spec.ops import is_plugin
from tvetl_server.engine.decode import Source
from tvetl_server.engine.device_request import DeviceSteps
from tvetl_server.engine.draw import Draw
from tvetl_server.engine.pixels import Box, Outcome, Size
from tvetl_server.engine.plans import ops
from tvetl_server.engine.plans.plan import Job
from tvetl_server.engine.plans.stages import stages
from tvetl_server.engine.resize import Resize
from tvetl_server.engine.table import Table
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, prepare


class ExactPlan:
    """Draws, decodes and acts: torchvision's pixels without torch."""

    def __init__(self, pipeline: Pipeline, plugins: Mapping[str, PluginOp] = NO_PLUGINS) -> None:
        self._stages = list(stages(pipeline))
        self._tables = [stage for stage in self._stages if isinstance(stage, Table)]
        self._plugins = plugins

    def __call__(self, source: Source, job: Job) -> Outcome:
        box, actions = self._drawn(source.size, job)
        first = actions[0] if actions else None
        outcome: Outcome
        if isinstance(first, Resize):
            job.check(first.size)
            outcome, actions = self._resize(source, box, first, job), actions[1:]
        else:
            outcome = source.pixels(box, keep=job.keep)
        for action in actions:
            assert isinstance(outcome, Image.Image)  # a tensor comes last
            job.check(outcome.size)
            outcome = action(outcome)
        return outcome

    def device_steps(self, size: Size, job: Job) -> DeviceSteps | None:
        box, actions = self._drawn(size, job)
        steps: DeviceSteps = [["crop", *box]] if box else []
        for action in actions:
            if isinstance(action, Resize):
                table = self._tables.index(action.table) if action.table and not action.table.keeps_values else -1
                name = action.resample.name.lower()
                steps.append(["resize", action.size, name, action.window, action.mirrored, table])
            elif isinstance(action, ops.Crop):
                steps.append(["crop", *action.box])
            elif isinstance(action, Table):
                steps += [] if action.keeps_values else [["look_up", self._tables.index(action)]]
            elif isinstance(action, ops.Call):
                steps.append([action.name, *action.arguments])
            else:  # a plugin's op
                return None
        return steps

    def _drawn(self, size: Size, job: Job) -> tuple[Box | None, list[ops.Action]]:
        """The region of the source that is needed, and the actions on it."""
        actions, _ = self._draw(self._stages, Draw(job.seed), size, job)
        first = actions[0] if actions else None
        if isinstance(first, ops.Crop):
            return first.box, list(_merged(actions[1:]))
        return None, list(_merged(actions))

    def _resize(self, source: Source, box: Box | None, resize: Resize, job: Job) -> Outcome:
        coded = None if job.keep else source.coded(box)
        outcome = resize.of_coded(coded) if coded else None
        return resize(source.array(box, keep=job.keep)) if outcome is None else outcome

    def _draw(self, stages: Sequence[Step | Table], draw: Draw, size: Size, job: Job) -> ops.Drawn:
        actions: list[ops.Action] = []
        for stage in stages:
            if isinstance(stage, Table):
                actions.append(stage)
            elif stage.inner:
                drawn, size = self._draw(stage.inner if ops.happens(stage.params, draw) else (), draw, size, job)
                actions += drawn
            elif is_plugin(stage.op):
                action, size = prepare(stage.op, self._plugins[stage.op], stage.params, draw, size)
                actions.append(action)
            else:
                drawn, size = ops.DRAWERS[stage.op](stage.params, draw, size)
                actions += drawn
            job.check(size)
        return actions, size


def _merged(actions: Iterable[ops.Action]) -> Iterator[ops.Action]:
    """The same actions, with each crop, flip and table merged into the resize before it."""
    resize: Resize | None = None
    for action in actions:
        if resize and not resize.table and isinstance(action, ops.Crop):
            resize = resize.cropped(action.box)
        elif resize and not resize.table and action is ops.mirror:
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
