"""Pipelines that only torchvision can do, by torchvision itself, step by step; it needs torch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2._transform import _RandomApplyTransform

from tvetl.spec import OPS, Pipeline, Step, forms
from tvetl.spec.compose import to_transform
from tvetl.spec.ops import is_plugin
from tvetl_server.engine.annotations import Annotations
from tvetl_server.engine.decode import Source
from tvetl_server.engine.device_request import DeviceSteps
from tvetl_server.engine.pixels import Outcome, Size
from tvetl_server.engine.plans.ops import DRAWERS, can_draw, chosen, numbers
from tvetl_server.engine.plans.plan import View
from tvetl_server.errors import TransformFailed
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, prepare

#: The largest whole number up to which float32 has all.
_LARGEST = 2**24

#: Ops that draw how large they make an image, where the device would be told no limit.
_GROWS = frozenset(["ScaleJitter", "RandomShortestSize", "RandomResize", "RandomZoomOut"])

# torch's default generator, which torchvision draws from, belongs to the whole process.
_generator = threading.Lock()


#: An image, or a sample: "image", "mask", "boxes", "labels" and "keypoints", as far as they are there, in this order.
_Value: TypeAlias = "Image.Image | torch.Tensor | dict[str, Image.Image | torch.Tensor]"


@dataclass(frozen=True)
class _Prepared:
    step: Step
    #: Channels of the image that the step takes.
    channels: int
    #: None of a plugin's op.
    transform: Callable[..., object] | None
    #: The steps that it holds.
    inner: Sequence[_Prepared]


def _prepared(step: Step, channels: int) -> _Prepared:
    transform = None if is_plugin(step.op) else to_transform(step)
    return _Prepared(step, channels, transform, [_prepared(each, channels) for each in step.inner])


class TorchPlan:
    """torchvision's transforms, one after the other, behind the same call as ExactPlan."""

    def __init__(self, pipeline: Pipeline, plugins: Mapping[str, PluginOp] = NO_PLUGINS) -> None:
        torch.set_num_threads(1)  # the workers are the parallelism; more threads only fight over the same cores
        steps = zip(pipeline.steps, forms(pipeline), strict=False)  # the form before each step
        self._steps = [_prepared(step, form.channels) for step, form in steps]
        self._plugins = plugins

    def __call__(self, source: Source, view: View) -> Outcome:
        value = self._run(source.pixels(keep=view.keep), view)
        assert not isinstance(value, dict)
        return _outcome(value)

    def sample(self, source: Source | None, annotations: Annotations, view: View) -> tuple[Outcome | None, Annotations]:
        image = {"image": source.pixels(keep=view.keep)} if source else {}
        sample = self._run({**image, **_tensors(annotations, with_labels=source is not None)}, view)
        assert isinstance(sample, dict)
        moved = {name: np.asarray(each) for name, each in sample.items() if name != "image"}
        annotations = Annotations(
            _size(sample), moved.get("mask"), moved.get("boxes"), moved.get("labels"), moved.get("keypoints")
        )
        return _outcome(sample["image"]) if source else None, annotations

    def _run(self, value: _Value, view: View) -> _Value:
        with _generator, torch.inference_mode():
            # torch.manual_seed seeds other devices, too, and formats the call stack for each not in use: 0.1 to 0.2 ms.
            torch.default_generator.manual_seed(view.seed)
            value = self._do(self._steps, value, view)
            view.check(_size(value))
        return value

    def device_steps(self, size: Size, view: View) -> DeviceSteps | None:
        here = any(
            each.transform is None or not _GROWS.isdisjoint(inner.op for inner in each.step.walk())
            for each in self._steps
        )
        return None if here else [["torchvision", view.seed]]

    def _do(self, steps: Sequence[_Prepared], value: _Value, view: View) -> _Value:
        for each in steps:
            size = _size(value)
            view.check(_size_after(each.step, size))
            _check_mask_fill(each.step, value)
            if each.inner:  # one by one, as none may make more pixels than are allowed
                value = self._do([each.inner[place] for place in chosen(each.step, _TorchDraw())], value, view)
                continue
            if isinstance(value, dict) and "image" not in value:
                value = _do_alone(each, value)
                continue
            try:
                done = each.transform(value) if each.transform else self._do_plugin(each.step, value, view)
            except ZeroDivisionError as error:  # by RandomIoUCrop, of the height of a box
                text = f"{each.step.op} draws a box without pixels in an image of {size[0]} x {size[1]}."
                raise TransformFailed(text) from error
            assert isinstance(done, (Image.Image, torch.Tensor, dict))
            value = done
        return value

    def _do_plugin(self, step: Step, value: _Value, view: View) -> Image.Image:
        assert isinstance(value, Image.Image)  # parsing lets nothing else through
        do, size = prepare(step.op, self._plugins[step.op], step.params, _TorchDraw(), value.size)
        view.check(size)
        return do(value)


class _TorchDraw:
    """Draws from the generator that torchvision draws from, for plugin ops and for steps that hold steps.

    They are equal to those of :class:`tvetl_server.engine.draw.Draw`.
    """

    def rand(self) -> float:
        return float(torch.rand(1))

    def uniform(self, low: float, high: float) -> float:
        return float(torch.empty(1).uniform_(low, high))

    def exp_uniform(self, low: float, high: float) -> float:
        return float(torch.exp(torch.empty(1).uniform_(low, high)))

    def below(self, n: int) -> int:
        return int(torch.randint(0, n, ()))

    def permutation(self, n: int) -> list[int]:
        return [int(i) for i in torch.randperm(n)]

    def choice(self, shares: Sequence[float]) -> int:
        return int(torch.multinomial(torch.tensor(shares), 1))


def _size_after(step: Step, size: Size) -> Size:
    """The size that the step will draw, known before anything is made of it; draws nothing."""
    turns = step.op == "RandomRotation" and step.params["expand"]
    if not turns and (step.inner or not can_draw(step)):
        return size
    state = torch.get_rng_state()
    try:
        if turns:
            return _turned(size, _TorchDraw().uniform(*numbers(step.params["degrees"])))
        return DRAWERS[step.op](step.params, _TorchDraw(), size)[1]
    finally:
        torch.set_rng_state(state)


def _check_mask_fill(step: Step, value: _Value) -> None:
    """Raises TransformFailed where a mask cannot hold what it is filled with: torchvision would wrap it."""
    fill, mask = step.params.get("mask_fill"), value.get("mask") if isinstance(value, dict) else None
    if isinstance(fill, int) and fill > 255 and isinstance(mask, torch.Tensor) and mask.dtype == torch.uint8:
        raise TransformFailed(f"A mask of uint8 cannot be filled with {fill}.")


def _turned(size: Size, degrees: float) -> Size:
    """At most a pixel less than torchvision makes, which keeps every corner."""
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return int(size[0] * cosine + size[1] * sine), int(size[0] * sine + size[1] * cosine)


def _do_alone(prepared: _Prepared, sample: dict[str, Image.Image | torch.Tensor]) -> _Value:
    """A step on a mask without its image. It makes the draws that it would make for the image."""
    assert prepared.transform is not None
    if prepared.step.op in ("SanitizeBoundingBoxes", "ClampBoundingBoxes"):
        # They draw nothing and leave masks. But on the boxes that they leave depends what RandomIoUCrop draws later.
        if "boxes" not in sample:
            return sample
        labels = torch.arange(np.asarray(sample["boxes"]).shape[0])  # SanitizeBoundingBoxes refuses a sample without
        return {**sample, "boxes": _moved(prepared, {"boxes": sample["boxes"], "labels": labels})["boxes"]}
    width, height = _size(sample)
    image = tv_tensors.Image(torch.zeros(1).expand(prepared.channels, height, width))  # takes no memory
    if not OPS[prepared.step.op].moves:
        _draw_alone(prepared.transform, image)
        return sample
    if prepared.step.op == "RandomIoUCrop":  # which takes no sample without an image
        return {name: each for name, each in _moved(prepared, {"image": image, **sample}).items() if name != "image"}
    return _moved(prepared, sample)


def _moved(prepared: _Prepared, sample: dict[str, Image.Image | torch.Tensor]) -> dict[str, Image.Image | torch.Tensor]:
    assert prepared.transform is not None
    done = prepared.transform(sample)
    assert isinstance(done, dict)
    return done


def _draw_alone(transform: Callable[..., object], image: torch.Tensor) -> None:
    """The draws of torchvision's forward, and nothing else of it."""
    assert isinstance(transform, v2.Transform)
    probability = getattr(transform, "p", None) if isinstance(transform, _RandomApplyTransform) else None
    if probability is None or torch.rand(1) < probability:
        transform.make_params([image])


def _tensors(annotations: Annotations, *, with_labels: bool) -> dict[str, Image.Image | torch.Tensor]:
    """As torchvision takes them. A label is a box's place, by which it is known when others are gone."""
    canvas = annotations.size[1], annotations.size[0]
    sample: dict[str, Image.Image | torch.Tensor] = {}
    if annotations.mask is not None:
        if annotations.mask.max(initial=0) > _LARGEST or annotations.mask.min(initial=0) < -_LARGEST:
            raise TransformFailed(
                f"torchvision moves a mask's numbers up to {_LARGEST:,}, as they pass through float32."
            )
        sample["mask"] = tv_tensors.Mask(torch.from_numpy(np.array(annotations.mask)))
    if annotations.boxes is not None:
        boxes = torch.from_numpy(annotations.boxes)
        sample["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas)
        if with_labels:
            sample["labels"] = torch.from_numpy(annotations.kept)
    if annotations.keypoints is not None:
        sample["keypoints"] = tv_tensors.KeyPoints(torch.from_numpy(annotations.keypoints), canvas_size=canvas)
    return sample


def _outcome(value: Image.Image | torch.Tensor) -> Outcome:
    return value if isinstance(value, Image.Image) else np.asarray(value)


def _size(value: _Value) -> Size:
    if isinstance(value, dict):
        value = value["image"] if "image" in value else value["mask"]
    if isinstance(value, Image.Image):
        return value.size
    height, width = v2.functional.get_size(value)
    return width, height
