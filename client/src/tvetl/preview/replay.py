"""One view of an image by torchvision alone, with the parameters that were drawn for it. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from tvetl.answers import Array
from tvetl.preview.moved import Moved
from tvetl.spec import OPS, Pipeline, Step
from tvetl.spec.compose import to_compose
from tvetl.spec.opening import open_rgb

#: Left, top, right, bottom in the original's pixels; left is larger than right where the view is mirrored.
Box = tuple[float, float, float, float]
Params = Mapping[str, object]
Sample = dict[str, object]

#: After these a crop is no upright box of the original any more.
_WARPS = ("RandomRotation", "RandomAffine", "RandomPerspective")


@dataclass(frozen=True, eq=False, kw_only=True)
class Replayed(Moved):
    """A view, the box of the original that its crops left, and the drawn parameters as text."""

    box: Box
    drawn: tuple[str, ...]


def replay(
    pipeline: Pipeline,
    data: bytes,
    seed: int,
    *,
    boxes: Sequence[Sequence[float]] | None = None,
    mask: Array | None = None,
) -> Replayed:
    """Run the pipeline as torchvision does after ``torch.manual_seed(seed)``, on the original's bytes.

    ``seed`` is what :func:`tvetl.spec.derive_seed` gives for the view. ``boxes`` [x1, y1, x2, y2] and ``mask`` (H, W)
    go with the image as its sample. torch's own generator is left as it was. Raises what Pillow and torchvision raise.
    """
    image = open_rgb(data, pipeline)
    sample = _sample(image, boxes, mask)
    place = _Place(image.size)
    drawn: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # What may come before the steps opens the image, which is done.
        transforms = to_compose(pipeline).transforms[-max(1, len(pipeline.steps)) :]
        sample = _done(pipeline.steps, transforms, sample, place, drawn)
    outcome = sample["image"]
    if isinstance(outcome, torch.Tensor):
        outcome = outcome.numpy()
    assert isinstance(outcome, (Image.Image, np.ndarray))
    dtype = pipeline.output.options.get("dtype")
    if isinstance(outcome, np.ndarray) and dtype is not None:
        outcome = outcome.astype(str(dtype), copy=False)
    rest = (np.asarray(sample[name]) if name in sample else None for name in ("boxes", "labels", "mask"))
    return Replayed(outcome, *rest, box=place.box, drawn=tuple(drawn))


def _sample(image: Image.Image, boxes: Sequence[Sequence[float]] | None, mask: Array | None) -> Sample:
    """As torchvision takes it. A label is a box's place, by which it is known when others are gone."""
    sample: Sample = {"image": image}
    if boxes is not None:
        edges = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        canvas = (image.height, image.width)
        sample["boxes"] = tv_tensors.BoundingBoxes(edges, format="XYXY", canvas_size=canvas)
        sample["labels"] = torch.arange(len(boxes))
    if mask is not None:
        sample["mask"] = tv_tensors.Mask(torch.from_numpy(mask))
    return sample


def _done(
    steps: Sequence[Step], transforms: Sequence[v2.Transform], sample: Sample, place: _Place, drawn: list[str]
) -> Sample:
    """What the steps make of the sample; where it stays of the original and what was drawn is noted."""
    for step, transform in zip(steps, transforms, strict=False):
        if step.inner:
            chosen = _chosen(step, transform)
            inner = [step.inner[at] for at in chosen], [transform.transforms[at] for at in chosen]
            sample = _done(*inner, sample, place, drawn)
            continue
        params = _parameters(step, transform, sample)
        if params is not None:
            place.move(step, params)
            drawn += [_described(step.op, params)] if OPS[step.op].random else []
        sample = transform(sample)
        place.size = _size(sample["image"])
    return sample


def _chosen(step: Step, transform: v2.Transform) -> list[int]:
    """Which of its steps a step does, in which order, drawn as by the ``forward`` of torchvision's class."""
    if step.op == "RandomChoice":
        return [int(torch.multinomial(torch.tensor(transform.p), 1))]
    if step.op == "RandomOrder":
        return [int(at) for at in torch.randperm(len(step.inner))]
    return [*range(len(step.inner))] if torch.rand(1) < transform.p else []


def _parameters(step: Step, transform: v2.Transform, sample: Sample) -> Params | None:
    """The parameters that the transform is about to draw, without drawing them: None where its ``p`` skips it."""
    with torch.random.fork_rng(devices=[]):
        # The p of RandomPhotometricDistort is that of each of its parts.
        once = "p" in step.params and step.op != "RandomPhotometricDistort"
        if once and torch.rand(1) >= transform.p:  # v2's _RandomApplyTransform.forward
            return None
        made: Params = transform.make_params([sample[name] for name in ("image", "boxes") if name in sample])
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
        elif step.op == "RandomZoomOut":
            self._pad(params["padding"])
        elif step.op in ("RandomCrop", "RandomResizedCrop", "RandomIoUCrop") and params:
            if params.get("needs_pad"):
                self._pad(params["padding"])
            self._cut(*_ints([params[name] for name in ("left", "top", "width", "height")]))

    def _pad(self, border: object) -> None:
        left, top, right, bottom = _ints(border)
        self._cut(-left, -top, self.size[0] + left + right, self.size[1] + top + bottom)
        self.size = self.size[0] + left + right, self.size[1] + top + bottom

    def _cut(self, left: int, top: int, width: int, height: int) -> None:
        x, y, right, bottom = self.box
        across, down = (right - x) / self.size[0], (bottom - y) / self.size[1]
        self.box = x + left * across, y + top * down, x + (left + width) * across, y + (top + height) * down


def _described(op: str, params: Params) -> str:
    if op == "RandomIoUCrop" and not params:
        return "no IoU crop"
    if op in ("RandomResizedCrop", "RandomIoUCrop"):
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
