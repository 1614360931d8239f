"""The plans without torch: ``precision: exact``, and ``fast``, which decodes a JPEG small that is made much smaller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from PIL import Image

from tvetl.spec import Pipeline, Step, Value, forms
from tvetl.spec.ops import is_plugin, row
from tvetl.spec.pointwise import CLOSES, OPENS
from tvetl_server.engine.annotations import Annotations
from tvetl_server.engine.decode import Source
from tvetl_server.engine.device_request import DeviceSteps
from tvetl_server.engine.draw import Draw
from tvetl_server.engine.pixels import Box, Outcome, Size
from tvetl_server.engine.plans import ops
from tvetl_server.engine.plans.plan import View
from tvetl_server.engine.resize import Resize
from tvetl_server.engine.table import Table
from tvetl_server.errors import TransformFailed
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, prepare

#: What a JPEG can be decoded at: a block of 8 x 8 pixels becomes 1, 2 or 4 of them.
_FACTORS = (8, 4, 2)


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


class ExactPlan:
    """Draws, decodes and acts: torchvision's pixels without torch."""

    def __init__(self, pipeline: Pipeline, plugins: Mapping[str, PluginOp] = NO_PLUGINS) -> None:
        self._stages = list(stages(pipeline))
        self._tables = [stage for stage in self._stages if isinstance(stage, Table)]
        self._plugins = plugins

    def __call__(self, source: Source, view: View) -> Outcome:
        return self._act(source, self._draw(self._stages, Draw(view.seed), source.size, view), view)

    def _act(self, source: Source, drawn: Iterable[_DrawnStage], view: View) -> Outcome:
        box, actions = _planned(drawn)
        first = actions[0] if actions else None
        outcome: Outcome
        if isinstance(first, Resize):
            view.check(first.size)
            outcome, actions = self._resize(source, box, first, view), actions[1:]
        else:
            outcome = source.pixels(box, keep=view.keep)
        for action in actions:
            assert isinstance(outcome, Image.Image)  # a tensor comes last
            view.check(outcome.size)
            outcome = action(outcome)
        return outcome

    def sample(self, source: Source | None, annotations: Annotations, view: View) -> tuple[Outcome | None, Annotations]:
        drawn = list(self._draw(self._stages, Draw(view.seed), annotations.size, view))
        outcome = self._act(source, drawn, view) if source else None
        for each in drawn:
            annotations = _moved(annotations, each)
        return outcome, annotations

    def device_steps(self, size: Size, view: View) -> DeviceSteps | None:
        box, actions = _planned(self._draw(self._stages, Draw(view.seed), size, view))
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

    def _resize(self, source: Source, box: Box | None, resize: Resize, view: View) -> Outcome:
        coded = None if view.keep else source.coded(box)
        outcome = resize.of_coded(coded) if coded else None
        return resize(source.array(box, keep=view.keep)) if outcome is None else outcome

    def _draw(self, stages: Sequence[Step | Table], draw: Draw, size: Size, view: View) -> Iterator[_DrawnStage]:
        """The actions of each stage that is done, in order."""
        for stage in stages:
            if isinstance(stage, Table):
                yield _DrawnStage(stage, [stage], size)
            elif stage.inner:
                inner = [stage.inner[place] for place in ops.chosen(stage, draw)]
                for drawn in self._draw(inner, draw, size, view):
                    yield drawn
                    size = drawn.size
            elif is_plugin(stage.op):
                action, size = prepare(stage.op, self._plugins[stage.op], stage.params, draw, size)
                yield _DrawnStage(stage, [action], size)
            else:
                actions, size = ops.DRAWERS[stage.op](stage.params, draw, size)
                yield _DrawnStage(stage, actions, size)
            view.check(size)


class FastPlan(ExactPlan):
    """Decodes at 1/2, 1/4 or 1/8 where the result is at least as large as the target; otherwise an ExactPlan.

    The draws, the boxes, the flips and all sizes are those of the exact plan. What differs, and how far, is in
    docs/exactness.md, and tests/exactness/test_fast.py keeps it.
    """

    def _resize(self, source: Source, box: Box | None, resize: Resize, view: View) -> Outcome:
        box = box or (0, 0, *source.size)
        factor = _factor(box, resize)
        reduced = source.reduced(box, factor, keep=view.keep) if factor else None
        if reduced is None:
            return super()._resize(source, box, resize, view)
        pixels, part = reduced
        return replace(resize, part=part)(pixels)


def _factor(box: Box, resize: Resize) -> int | None:
    """The largest factor that leaves at least the target; none for nearest, which picks single pixels."""
    if resize.resample == Image.Resampling.NEAREST:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    return next((n for n in _FACTORS if width >= n * resize.size[0] and height >= n * resize.size[1]), None)


class _DrawnStage(NamedTuple):
    """One stage with its actions, once its random numbers are drawn."""

    stage: Step | Table
    actions: list[ops.Action]
    size: Size
    """Width and height of the result."""


def _planned(drawn: Iterable[_DrawnStage]) -> tuple[Box | None, list[ops.Action]]:
    """The region of the source that is needed, and the actions on it."""
    actions = [action for each in drawn for action in each.actions]
    first = actions[0] if actions else None
    if isinstance(first, ops.Crop):
        return first.box, list(_merged(actions[1:]))
    return None, list(_merged(actions))


def _moved(annotations: Annotations, drawn: _DrawnStage) -> Annotations:
    """The annotations after one stage."""
    stage, actions, size = drawn
    if isinstance(stage, Table):
        return annotations
    if stage.op == "SanitizeBoundingBoxes":
        return annotations.sanitized(ops.number(stage.params["min_size"]), ops.number(stage.params["min_area"]))
    if stage.op == "ClampBoundingBoxes":  # with null, torchvision leaves them as they are
        return annotations if stage.params["clamping_mode"] is None else annotations.clamped()
    if stage.op == "RandomResizedCrop":  # torchvision clamps also where it crops nothing
        annotations = annotations.clamped()
    before = annotations
    for action in actions:
        annotations = _acted(annotations, action, stage)
    if stage.op == "CenterCrop":  # torchvision computes their place in another way than that of the pixels
        left, top = (round((old - new) / 2.0) for old, new in zip(before.size, size, strict=True))
        placed = replace(before, mask=None).cropped((left, top, left + size[0], top + size[1]))
        annotations = replace(placed, mask=annotations.mask)
    return annotations


def _acted(annotations: Annotations, action: ops.Action, stage: Step) -> Annotations:
    if isinstance(action, Resize):
        # The crop of a RandomResizedCrop is resized by nearest whatever it says.
        exact = stage.op != "RandomResizedCrop" and stage.params["interpolation"] == "nearest-exact"
        return annotations.resized(action.size, exact=exact)
    if isinstance(action, ops.Crop):
        return annotations.cropped(action.box)
    assert isinstance(action, ops.Call)
    if action.name == "pad":
        border, fill, mode = action.arguments
        assert isinstance(border, tuple)
        own = stage.params.get("mask_fill")
        of_mask = 0.0 if annotations.mask is None else _fill(fill if own is None else own)
        return annotations.padded([ops.integer(each) for each in border], of_mask, str(mode))
    flips = {"horizontal_flip": 0, "vertical_flip": 1}
    return annotations.flipped(flips[action.name]) if action.name in flips else annotations


def _fill(fill: Value) -> float:
    """The number that fills a mask's border. Raises TransformFailed for colours."""
    if isinstance(fill, tuple):
        raise TransformFailed("A mask cannot be filled with a colour; give the step a mask_fill.")
    return ops.number(fill or 0)


def _merged(actions: Iterable[ops.Action]) -> Iterator[ops.Action]:
    """The same actions, with each crop, flip and table merged into the resize before it."""
    resize: Resize | None = None
    for action in actions:
        if resize and not resize.table and isinstance(action, ops.Crop):
            resize = resize.cropped(action.box)
        elif resize and not resize.table and action is ops.mirror:
            resize = replace(resize, mirrored=not resize.mirrored)
        elif resize and not resize.table and isinstance(action, Table):
            resize = replace(resize, table=action)
        else:
            if resize:
                yield resize
            resize = action if isinstance(action, Resize) else None
            if not resize:
                yield action
    if resize:
        yield resize
