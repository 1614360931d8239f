"""To and from torchvision's own ``Compose``; torch and torchvision are imported when a function is called.

An instance keeps the normal form of its parameters, so reading a parameter back is reading an attribute.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from tvetl.errors import PipelineError, Problem
from tvetl.spec.model import Pipeline, Step
from tvetl.spec.opening import Opened
from tvetl.spec.ops import ALIASES, HOLD_STEPS, OPS, is_plugin
from tvetl.spec.parse import Problems, parse

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
    from torchvision import tv_tensors
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
    mask_fill = params.pop("mask_fill", None)
    if mask_fill is not None:
        params["fill"] = {tv_tensors.Mask: mask_fill, "others": params["fill"]}
    with warnings.catch_warnings():
        # torchvision calls ToTensor deprecated; it stays what most pipelines in the world are written with.
        warnings.filterwarnings("ignore", message=r".*`ToTensor\(\)` is deprecated")
        transform: Callable[..., object] = getattr(v2, OPS[step.op].name)(**params)
        return transform


def from_compose(
    compose: object, *, output: Mapping[str, object] | None = None, seed: int | None = None, **fields: object
) -> Pipeline:
    """The pipeline that a torchvision ``Compose`` (v1 or v2) means; all else as in a pipeline.

    An ``nn.Sequential``, one transform, and the preset of pretrained weights (``weights.transforms()``) are taken too.
    What only changes the type of masks and boxes is left out, and so is the ``labels_getter`` of SanitizeBoundingBoxes:
    an answer says which boxes are left, whatever belongs to them.
    Raises PipelineError for what is not in the op table: a Lambda, a class of your own, ...
    """
    problems = Problems()
    if "steps" in fields:
        problems.add("$.steps", "not together with a compose, which has them")
    steps = [*_steps(compose, "$", problems, _Flow())]
    if problems:
        raise PipelineError(problems)
    first = next(iter(getattr(compose, "transforms", ())), None)
    opened = first.fields if isinstance(first, Opened) else {}
    data: dict[str, object] = {**opened, **fields, "steps": steps, "seed": seed}
    return parse(data if output is None else {**data, "output": output})


@dataclass
class _Flow:
    """The image between two transforms: whether it has one channel, and its type in ``_image_types``."""

    gray: bool = False
    type: str = "PIL image"

    def after(self, step: Data) -> None:
        if step["op"] == "Grayscale":
            self.gray = step["num_output_channels"] == 1
        self.type = _GIVES.get(str(step["op"]), self.type)


_GIVES = {"ToTensor": "tensor", "PILToTensor": "tensor", "ToImage": "tv_tensors.Image", "ToPILImage": "PIL image"}


def _image_types() -> dict[str, type]:
    import torch
    from PIL import Image
    from torchvision import tv_tensors

    return {"PIL image": Image.Image, "tensor": torch.Tensor, "tv_tensors.Image": tv_tensors.Image}


def _steps(transform: object, path: str, problems: Problems, flow: _Flow) -> Iterator[Data]:
    """The steps that a transform means."""
    from torch import nn
    from torchvision import transforms as v1
    from torchvision.transforms import _presets, v2

    # By the class itself: a subclass may do anything.
    kind = type(transform)
    names = {cls: name for name in (*OPS, *ALIASES) for module in (v1, v2) if (cls := getattr(module, name, None))}
    if isinstance(transform, (v1.Compose, v2.Compose)) or kind is nn.Sequential:
        yield from _in_turn(transform, path, problems, flow)
    elif names.get(kind) in HOLD_STEPS:
        inner = _in_turn(transform, path, problems, replace(flow), single=names[kind] != "RandomApply")
        yield {"op": names[kind], "transforms": [*inner], **_read_back(names[kind], transform)}
    elif kind in names:
        try:
            yield from _step(names[kind], transform, flow)
        except _Unsupported as error:
            problems.add(path, f"{kind.__name__}: {error}")
    elif kind in (_presets.ImageClassification, _presets.SemanticSegmentation, _presets.ObjectDetection):
        yield from _preset(transform)
    elif kind is v2.RGB and flow.gray:
        problems.add(path, "RGB after Grayscale: give that num_output_channels=3, and leave RGB out")
    elif kind is v2.ToPureTensor:
        flow.type = "tensor" if flow.type == "tv_tensors.Image" else flow.type
    elif kind in (v2.ConvertBoundingBoxFormat, v2.SetClampingMode):
        target = getattr(transform, "format", None) or getattr(transform, "clamping_mode", None)
        if str(getattr(target, "value", target)) not in ("XYXY", "soft"):
            problems.add(path, f"{kind.__name__}: boxes are XYXY here, and clamped softly; change them after loading")
    elif kind not in (v2.Identity, v2.RGB):  # which change nothing here
        problems.add(path, _cannot(transform))


def _in_turn(compose: object, path: str, problems: Problems, flow: _Flow, *, single: bool = False) -> Iterator[Data]:
    """The steps of all transforms that it holds; ``single``: each of them must be one step."""
    place, several = ("transforms", compose.transforms) if hasattr(compose, "transforms") else ("", compose)
    assert isinstance(several, Iterable)
    for index, each in enumerate(several):
        if path == "$" and index == 0 and isinstance(each, Opened):
            continue  # from_compose has its fields
        where = f"{path}.{place}[{index}]" if place else f"{path}[{index}]"
        before, count = len(problems), 0
        for count, step in enumerate(_steps(each, where, problems, flow), 1):  # noqa: B007
            flow.after(step)
            yield step
        if single and count != 1 and len(problems) == before:
            instead = "RandomApply with p=1 holds several" if count else "RandomApply with p=0 does nothing"
            problems.add(where, f"{type(each).__name__} is {count} steps, and one is needed: {instead}")


def _step(name: str, transform: object, flow: _Flow) -> Iterator[Data]:
    """One step, or none where it would change no image. Raises _Unsupported."""
    params = _read_back(name, transform)
    if isinstance(params.get("fill"), Mapping):
        fills = _fills(params["fill"], flow)
        params |= fills if "mask_fill" in OPS[name].params else {"fill": fills["fill"]}
    if isinstance(params.get("dtype"), Mapping):
        params["dtype"] = _dtype(params["dtype"], flow)
        if params["dtype"] is None:
            return
    yield {"op": name, **params}


class _Unsupported(Exception):
    """A value that no parameter of a pipeline can have; the text says why."""


def _of_type(table: Mapping[object, object], kind: type) -> object:
    """What torchvision takes of a dict for inputs of this type (v2._utils._get_fill)."""
    return _plain(table[kind] if kind in table else table.get("others"))


def _check_table(table: Mapping[object, object], flow: _Flow) -> None:
    types = _image_types()
    for key in table:
        if not isinstance(key, type) and key != "others":
            raise _Unsupported(f"{key!r} is neither a type nor 'others', so torchvision does not look it up")
    # As torchvision does, a type that has nothing is left out; but where another type of image has, that was meant.
    if not {types[flow.type], "others"} & table.keys() and not table.keys().isdisjoint(types.values()):
        raise _Unsupported(f"the image is a {flow.type} here, for which torchvision finds nothing: say it of 'others'")


def _fills(table: object, flow: _Flow) -> Data:
    """``fill`` by type as a pipeline has it: for images, and for masks."""
    from torchvision import tv_tensors

    assert isinstance(table, Mapping)
    _check_table(table, flow)
    image, mask = _of_type(table, _image_types()[flow.type]), _of_type(table, tv_tensors.Mask)
    as_images = mask == image and tv_tensors.Mask not in table
    return {"fill": image, "mask_fill": None if as_images else mask or 0}


def _dtype(table: object, flow: _Flow) -> object:
    """``dtype`` by type, of images; None where theirs stays. Raises _Unsupported where masks or boxes would change."""
    from torchvision import tv_tensors

    assert isinstance(table, Mapping)
    _check_table(table, flow)
    lossless = {
        tv_tensors.Mask: (None, "uint8", "int32", "int64", "float32", "float64"),
        tv_tensors.BoundingBoxes: (None, "float32", "float64"),
        tv_tensors.KeyPoints: (None, "float32", "float64"),
    }
    for kind, dtypes in lossless.items():
        if (dtype := _of_type(table, kind)) not in dtypes:
            raise _Unsupported(
                f"{dtype} would change the values of {kind.__name__}, which stay as they are: 'others': None"
            )
    return _of_type(table, _image_types()[flow.type])


def _preset(preset: object) -> Iterator[Data]:
    """What the forward of torchvision's presets does; it makes floats as ToTensor does, by dividing."""
    fields = _read(preset, ("resize_size", "crop_size", "mean", "std"))
    if fields.get("resize_size") is not None:
        yield {"op": "Resize", "size": fields["resize_size"], **_read(preset, ("interpolation", "antialias"))}
    if fields.get("crop_size") is not None:
        yield {"op": "CenterCrop", "size": fields["crop_size"]}
    yield {"op": "ToTensor"}
    if fields.get("mean") is not None:
        yield {"op": "Normalize", "mean": fields["mean"], "std": fields["std"]}


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
    """The parameters of an instance. It keeps their normal forms, but for four that this function changes back."""
    from torchvision.transforms import v2

    params = _read(transform, ALIASES[name].params if name in ALIASES else OPS[name].params)
    if name == "RandomChoice":
        shares = params["p"]
        if isinstance(shares, list) and shares == [1 / len(shares)] * len(shares):
            params["p"] = None  # v2 keeps equal shares for none
    elif name == "RandomCrop":
        padding = params["padding"]
        if isinstance(transform, v2.RandomCrop) and isinstance(padding, list):
            left, right, top, bottom = padding  # v1 keeps the order that it was given
            params["padding"] = [left, top, right, bottom]
    elif name == "RandomErasing" and params["value"] is None:
        params["value"] = "random"
    elif name == "RandomIoUCrop":
        params["sampler_options"] = _plain(getattr(transform, "options", None))
    return params


def _read(transform: object, params: Iterable[str]) -> Data:
    """Its attributes of these names, as a pipeline has them."""
    attributes = [each for each in params if each != "transforms" and hasattr(transform, each)]
    values = {each: _plain(getattr(transform, each)) for each in attributes}
    interpolation = values.get("interpolation")
    if type(interpolation) is int:
        values["interpolation"] = _PILLOW_FILTERS.get(interpolation, interpolation)
    return values


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
