"""To and from torchvision's own ``Compose``; torch and torchvision are imported when a function is called.

What an instance keeps is what a normal form is, so reading a parameter back is reading an attribute; the few
classes that keep something else have a row in ``_KEPT_OTHERWISE``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from tvetl.errors import PipelineError, Problem
from tvetl.spec.model import Pipeline, Step
from tvetl.spec.opening import Opened
from tvetl.spec.ops import ALIASES, OPS, alias_params, is_plugin
from tvetl.spec.parse import parse

if TYPE_CHECKING:
    from torchvision.transforms import v2

#: A step, or parameters of one, as plain data.
Data: TypeAlias = "dict[str, object]"

#: Pillow's numbers for its filters, which torchvision takes too.
_PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def to_compose(pipeline: Pipeline) -> v2.Compose:
    """The torchvision transforms (v2) that the pipeline means; without steps, one that does nothing.

    Called after ``torch.manual_seed(derive_seed(...))`` on an RGB image, it gives what the server gives. Where the
    pipeline says how files are opened (``orientation``, ``depth``, ``truncated``, ``background``), the first transform
    does that, to an image as ``Image.open`` gives it.
    Raises PipelineError where a step's op is your own: what that does is known in its server alone.
    """
    from torchvision.transforms import v2

    plugins = [f"$.steps[{place}].op" for place, step in enumerate(pipeline.steps) if is_plugin(step.op)]
    if plugins:
        raise PipelineError([Problem(path, "an op of your own, which torchvision does not have") for path in plugins])
    return v2.Compose([*Opened.of(pipeline), *map(to_transform, pipeline.steps)] or [v2.Identity()])


def to_transform(step: Step) -> Callable[..., object]:
    """torchvision's transform (v2) that one step of the op table means."""
    import torch
    from torchvision.transforms import v2

    params: dict[str, object] = dict(step.params)
    if step.inner:
        params["transforms"] = [to_transform(each) for each in step.inner]
    if "interpolation" in params:
        params["interpolation"] = v2.InterpolationMode(params["interpolation"])
    if "dtype" in params:
        params["dtype"] = getattr(torch, str(params["dtype"]))
    if "policy" in params:
        params["policy"] = v2.AutoAugmentPolicy(params["policy"])
    with warnings.catch_warnings():
        # torchvision calls ToTensor deprecated; it stays what most pipelines in the world are written with.
        warnings.filterwarnings("ignore", message=r".*`ToTensor\(\)` is deprecated")
        return _classes()[step.op](**params)


def _classes() -> dict[str, Callable[..., Callable[..., object]]]:
    from torchvision.transforms import v2

    return {name: getattr(v2, name) for name in OPS}


def from_compose(
    compose: object, *, output: Mapping[str, object] | None = None, seed: int | None = None, **fields: object
) -> Pipeline:
    """The pipeline that a torchvision ``Compose`` (v1 or v2) means; all else as in a pipeline.

    An ``nn.Sequential``, one transform, and the preset of pretrained weights (``weights.transforms()``) are taken too.
    Raises PipelineError for what is not in the op table: a Lambda, a class of your own, RandomChoice, ...
    """
    problems = [Problem("$.steps", "not together with a compose, which has them")] if "steps" in fields else []
    steps = [*_steps(compose, "$", problems)]
    if problems:
        raise PipelineError(problems)
    first = next(iter(getattr(compose, "transforms", ())), None)
    opened = first.fields if isinstance(first, Opened) else {}
    data: dict[str, object] = {**opened, **fields, "steps": steps, "seed": seed}
    return parse(data if output is None else {**data, "output": output})


def _steps(transform: object, path: str, problems: list[Problem], *, gray: bool = False) -> Iterator[Data]:
    """The steps that a transform means. ``gray``: whether the image that it gets has one channel."""
    from torch import nn
    from torchvision import transforms as v1
    from torchvision.transforms import _presets, v2

    # By the class itself: a subclass may do anything.
    kind = type(transform)
    names = {found: name for name in (*OPS, *ALIASES) for module in (v1, v2) if (found := getattr(module, name, None))}
    if isinstance(transform, (v1.Compose, v2.Compose)) or kind is nn.Sequential:
        yield from _in_turn(transform, path, problems, gray=gray)
    elif isinstance(transform, (v1.RandomApply, v2.RandomApply)) and kind in names:
        yield {"op": names[kind], "transforms": [*_in_turn(transform, path, problems, gray=gray)], "p": transform.p}
    elif kind in names:
        yield {"op": names[kind], **_read_back(names[kind], transform)}
    elif kind in (_presets.ImageClassification, _presets.SemanticSegmentation, _presets.ObjectDetection):
        yield from _preset(transform)
    elif kind is v2.RGB and gray:
        problems.append(Problem(path, "RGB after Grayscale: give that num_output_channels=3, and leave RGB out"))
    elif kind not in (v2.Identity, v2.RGB, v2.ToPureTensor):  # which change nothing here
        problems.append(Problem(path, _cannot(transform)))


def _in_turn(compose: object, path: str, problems: list[Problem], *, gray: bool) -> Iterator[Data]:
    place, several = ("transforms", compose.transforms) if hasattr(compose, "transforms") else ("", compose)
    assert isinstance(several, Iterable)
    for index, each in enumerate(several):
        if path == "$" and index == 0 and isinstance(each, Opened):
            continue  # from_compose has its fields
        for step in _steps(each, f"{path}.{place}[{index}]" if place else f"{path}[{index}]", problems, gray=gray):
            gray = gray if step["op"] != "Grayscale" else step["num_output_channels"] == 1
            yield step


def _preset(preset: object) -> Iterator[Data]:
    """What the forward of torchvision's presets does; it makes floats as ToTensor does, by dividing."""
    kept = {name: _plain(getattr(preset, name, None)) for name in ("resize_size", "crop_size", "mean", "std")}
    if kept["resize_size"] is not None:
        yield {"op": "Resize", "size": kept["resize_size"], **_read(preset, ("interpolation", "antialias"))}
    if kept["crop_size"] is not None:
        yield {"op": "CenterCrop", "size": kept["crop_size"]}
    yield {"op": "ToTensor"}
    if kept["mean"] is not None:
        yield {"op": "Normalize", "mean": kept["mean"], "std": kept["std"]}


def _cannot(transform: object) -> str:
    kind = type(transform).__name__
    if kind in ("Lambda", "function", "builtin_function_or_method", "method"):
        return (
            f"{kind} is code, and a pipeline is data: write it with the ops of the table, "
            "or leave it out; writing an image or a tensor is what output is for"
        )
    if kind in ("VideoClassification", "OpticalFlow"):
        return f"the preset {kind} takes videos or pairs of images, and a pipeline takes one image"
    if type(transform).__module__.startswith("torchvision."):
        return f"{kind} is not among the transforms that a pipeline can have: leave it out and apply it after loading"
    return f"expected a torchvision Compose or one of its transforms, got {kind}: apply it after loading"


def _read_back(name: str, transform: object) -> Data:
    found = _read(transform, alias_params(ALIASES[name]) if name in ALIASES else OPS[name].params)
    return {**found, **_KEPT_OTHERWISE.get(name, _nothing)(transform, found)}


def _read(transform: object, params: Iterable[str]) -> Data:
    """Its attributes of these names, as a pipeline has them."""
    found = {each: _plain(getattr(transform, each)) for each in params if hasattr(transform, each)}
    if "interpolation" in found and type(found["interpolation"]) is int:
        found["interpolation"] = _PILLOW_FILTERS.get(found["interpolation"], found["interpolation"])
    return found


def _plain(value: object) -> object:
    """Enums by their value, dtypes by their name, arrays and tensors as lists."""
    import torch

    if isinstance(value, Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        return _plain(tolist())
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _nothing(_: object, __: Mapping[str, object]) -> dict[str, object]:
    return {}


def _crop_padding(transform: object, found: Mapping[str, object]) -> dict[str, object]:
    """v2 keeps left, right, top, bottom; v1 keeps what it was given: left, top, right, bottom."""
    from torchvision.transforms import v2

    padding = found["padding"]
    if not isinstance(transform, v2.RandomCrop) or not isinstance(padding, list):
        return {}
    left, right, top, bottom = padding
    return {"padding": [left, top, right, bottom]}


def _erasing_value(_: object, found: Mapping[str, object]) -> dict[str, object]:
    """v2 keeps None for "random"."""
    return {"value": "random"} if found["value"] is None else {}


_KEPT_OTHERWISE: Mapping[str, Callable[[object, Mapping[str, object]], dict[str, object]]] = {
    "RandomCrop": _crop_padding,
    "RandomErasing": _erasing_value,
}
