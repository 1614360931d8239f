"""One view of an image by torchvision alone, with the parameters that were drawn for it. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from tvetl.answers import Array
from tvetl.spec import OPS, Pipeline, Step
from tvetl.spec.compose import to_compose
from tvetl.spec.opening import open_rgb

#: Left, top, right, bottom in the original's pixels; left is larger than right where the view is mirrored.
Box = tuple[float, float, float, float]
Params = Mapping[str, object]

#: After these a crop is no upright box of the original any more.
_WARPS = ("RandomRotation", "RandomAffine", "RandomPerspective")


@dataclass(frozen=True)
class Replayed:
    """A view: its pixels or tensor, the box of the original that its crops left, and the drawn parameters as text."""

    outcome: Image.Image | Array
    box: Box
    drawn: tuple[str, ...]


def replay(pipeline: Pipeline, data: bytes, seed: int) -> Replayed:
    """Run the pipeline as torchvision does after ``torch.manual_seed(seed)``, on the original's bytes.

    ``seed`` is what :func:`tvetl.spec.derive_seed` gives for the view. torch's own generator is left as it was.
    Raises what Pillow and torchvision raise.
    """
    image: object = open_rgb(data, pipeline)
    place = _Place(_size(image))
    drawn: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # What may come before the steps opens the image, which is done.
        transforms = to_compose(pipeline).transforms[-max(1, len(pipeline.steps)) :]
        image = _done(pipeline.steps, transforms, image, place, drawn)
    outcome = image.numpy() if isinstance(image, torch.Tensor) else image
    assert isinstance(outcome, (Image.Image, np.ndarray))
    dtype = pipeline.output.options.get("dtype")
    if isinstance(outcome, np.ndarray) and dtype is not None:
        outcome = outcome.astype(str(dtype), copy=False)
    return Replayed(outcome, place.box, tuple(drawn))


def _done(
    steps: Sequence[Step], transforms: Sequence[v2.Transform], image: object, place: _Place, drawn: list[str]
) -> object:
    """What the steps make of the image; where it stays of the original and what was drawn is noted."""
    for step, transform in zip(steps, transforms, strict=False):
        if step.inner:
            if torch.rand(1) < transform.p:  # v2's RandomApply.forward
                image = _done(step.inner, transform.transforms, image, place, drawn)
            continue
        params = _parameters(step, transform, image)
        if params is not None:
            place.move(step, params)
            drawn += [_described(step.op, params)] if OPS[step.op].random else []
        image = transform(image)
        place.size = _size(image)
    return image


def _parameters(step: Step, transform: v2.Transform, image: object) -> Params | None:
    """The parameters that the transform is about to draw, without drawing them: None where its ``p`` skips it."""
    with torch.random.fork_rng(devices=[]):
        if "p" in step.params and torch.rand(1) >= transform.p:  # v2's _RandomApplyTransform.forward
            return None
        made: Params = transform.make_params([image])
        return made


class _Place:
    """The part of the original that the image still shows, after crops, borders and flips."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.box: Box = (0.0, 0.0, float(size[0]), float(size[1]))
        self.size = size
        self._warped = False

    def move(self, step: Step, params: Params) -> None:
        self._warped |= step.op in _WARPS
        if self._warped:
            return
        left, top, right, bottom = self.box
        if step.op == "RandomHorizontalFlip":
            self.box = right, top, left, bottom
        elif step.op == "RandomVerticalFlip":
            self.box = left, bottom, right, top
        elif step.op == "Pad":
            self._pad(step.params["padding"])
        elif step.op == "CenterCrop":
            height, width = _ints(step.params["size"])
            self._cut(round((self.size[0] - width) / 2), round((self.size[1] - height) / 2), width, height)
        elif step.op in ("RandomCrop", "RandomResizedCrop"):
            if params.get("needs_pad"):
                self._pad(params["padding"])
            self._cut(*(int(str(params[name])) for name in ("left", "top", "width", "height")))

    def _pad(self, border: object) -> None:
        left, top, right, bottom = _ints(border)
        self._cut(-left, -top, self.size[0] + left + right, self.size[1] + top + bottom)
        self.size = self.size[0] + left + right, self.size[1] + top + bottom

    def _cut(self, left: int, top: int, width: int, height: int) -> None:
        x, y, right, bottom = self.box
        across, down = (right - x) / self.size[0], (bottom - y) / self.size[1]
        self.box = x + left * across, y + top * down, x + (left + width) * across, y + (top + height) * down


def _described(op: str, params: Params) -> str:
    if op == "RandomResizedCrop":
        return "crop {width} x {height} at {left}, {top}".format(**params)
    if op == "RandomCrop":
        return "crop at {left}, {top}".format(**params)
    if op == "ColorJitter":
        factors = {name.partition("_")[0]: value for name, value in params.items() if name.endswith("_factor")}
        return ", ".join(f"{name} {_short(value)}" for name, value in factors.items() if value is not None)
    shown = {name: value for name, value in params.items() if value is not None and name != "num_input_channels"}
    listed = ", ".join(f"{name} {_short(value)}" for name, value in shown.items())
    name = op.removeprefix("Random")
    return {"HorizontalFlip": "flip", "VerticalFlip": "vertical flip"}.get(name, f"{name} {listed}".strip())


def _short(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return _short(value.tolist()) if value.numel() < 8 else "..."
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_short(each) for each in value) + ")"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _size(image: object) -> tuple[int, int]:
    if isinstance(image, torch.Tensor):
        return int(image.shape[-1]), int(image.shape[-2])
    assert isinstance(image, Image.Image)
    return image.size


def _ints(value: object) -> tuple[int, ...]:
    assert isinstance(value, (list, tuple))
    return tuple(int(each) for each in value)
