"""The image between two steps, and the checks of a step's parameters: what torchvision would refuse image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from tvetl.spec.model import Value
from tvetl.spec.values import show

FormKind = Literal["pil", "uint8", "float"]
Params: TypeAlias = Mapping[str, Value]
#: The name of each wrong parameter, and its error message.
ParamErrors: TypeAlias = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Form:
    """An image between two steps: ``pil`` is a PIL image (RGB or L), the others a tensor (C, H, W) of ``dtype``."""

    kind: FormKind
    dtype: str = "uint8"
    channels: int = 3

    def __str__(self) -> str:
        type_ = "PIL image" if self.kind == "pil" else f"{self.dtype} tensor"
        return f"a {type_} of {self.channels} channel{'s' if self.channels > 1 else ''}"


#: The image that decoding gives: ``Image.open(...).convert("RGB")``.
START = Form("pil")

Fit: TypeAlias = Callable[[Params, Form], ParamErrors]
Agree: TypeAlias = Callable[[Params], ParamErrors]
Gives: TypeAlias = Callable[[Params, Form], Form]


# The image that a step gives.


def same(_: Params, form: Form) -> Form:
    return form


def _converted(kind: FormKind, dtype: str) -> Gives:
    return lambda _, form: replace(form, kind=kind, dtype=dtype)


float_tensor = _converted("float", "float32")
byte_tensor = _converted("uint8", "uint8")
pil_image = _converted("pil", "uint8")


def cast(params: Params, form: Form) -> Form:
    dtype = str(params["dtype"])
    return replace(form, kind="uint8" if dtype == "uint8" else "float", dtype=dtype)


def gray(params: Params, form: Form) -> Form:
    return replace(form, channels=3 if params["num_output_channels"] == 3 else 1)


# Parameters that must agree with each other.


def size_agrees(params: Params) -> ParamErrors:
    size, longest = params["size"], params["max_size"]
    if size is None and longest is None:
        yield "max_size", "needed where size is null"
    elif isinstance(size, tuple) and longest is not None:
        yield "max_size", "only with a size for the shorter edge (one number), or with size null"
    elif isinstance(size, int) and isinstance(longest, int) and longest <= size:
        yield "max_size", f"expected more than size ({size}), got {longest}"


def magnitude_agrees(params: Params) -> ParamErrors:
    magnitude, bins = params["magnitude"], params["num_magnitude_bins"]
    if isinstance(magnitude, int) and isinstance(bins, int) and magnitude >= bins:
        yield "magnitude", f"expected less than num_magnitude_bins ({bins}), got {magnitude}"


def sizes_agree(params: Params) -> ParamErrors:
    least, most = params["min_size"], params["max_size"]
    if isinstance(least, int) and isinstance(most, int) and most <= least:
        yield "max_size", f"expected more than min_size ({least}), got {most}: it is never drawn; Resize has one size"


def iou_agrees(params: Params) -> ParamErrors:
    for name in ("scale", "aspect_ratio"):
        least, most = params[f"min_{name}"], params[f"max_{name}"]
        if isinstance(least, float) and isinstance(most, float) and most < least:
            yield f"max_{name}", f"expected at least min_{name} ({least:g}), got {most:g}"
    options = params["sampler_options"]
    if isinstance(options, tuple) and not any(isinstance(each, float) and each >= 1 for each in options):
        yield "sampler_options", "needs a 1, which takes the whole image; without, it may search without end"


def shares_agree(params: Params) -> ParamErrors:
    shares, steps = params["p"], params["transforms"]
    if isinstance(shares, tuple) and isinstance(steps, tuple):
        if len(shares) != len(steps):
            yield "p", f"expected one number for each of {len(steps)} steps, got {len(shares)}"
        elif not any(shares):
            yield "p", "expected a number above 0 among them"


# Parameters that must fit the image that the step is given.


def _per_channel(name: str, params: Params, form: Form) -> ParamErrors:
    value = params[name]
    if isinstance(value, tuple) and len(value) not in (1, form.channels):
        yield name, f"{len(value)} values for {form}"


def statistics_fit(params: Params, form: Form) -> ParamErrors:
    yield from _per_channel("mean", params, form)
    yield from _per_channel("std", params, form)


def fill_fits(params: Params, form: Form) -> ParamErrors:
    yield from _per_channel("fill", params, form)
    fill = params["fill"]
    shades = [shade for shade in (fill if isinstance(fill, tuple) else (fill,)) if isinstance(shade, (int, float))]
    if form.kind != "float" and not all(0 <= shade <= 255 for shade in shades):
        yield "fill", f"expected 0..255 for {form}, got {show(fill)}"
    if form.kind != "pil" and isinstance(fill, tuple) and params.get("padding_mode", "constant") != "constant":
        yield "fill", "torchvision takes a list only with padding_mode constant on a tensor"


def _interpolation_fits(params: Params, form: Form, on_tensors: tuple[str, ...]) -> ParamErrors:
    if form.kind != "pil" and params["interpolation"] not in on_tensors:
        yield "interpolation", f"expected one of {', '.join(on_tensors)} for {form}, got {params['interpolation']}"


def resampling_fits(params: Params, form: Form) -> ParamErrors:
    on_tensors = ("nearest", "nearest-exact", "bilinear", "bicubic")
    yield from _interpolation_fits(params, form, (*on_tensors, "lanczos") if params["antialias"] else on_tensors)


def warping_fits(params: Params, form: Form) -> ParamErrors:
    yield from _interpolation_fits(params, form, ("nearest", "bilinear"))
    yield from fill_fits(params, form)


def threshold_fits(params: Params, form: Form) -> ParamErrors:
    threshold = params["threshold"]
    if form.kind == "float" and isinstance(threshold, float) and threshold > 1:
        yield "threshold", f"expected 0..1 for {form}, got {show(threshold)}"


def erasure_fits(params: Params, form: Form) -> ParamErrors:
    yield from _per_channel("value", params, form)
    # Normal noise has negative values, and what those become as uint8 is not defined.
    if params["value"] == "random" and form.kind != "float":
        yield "value", f"random noise needs a float tensor, not {form}"


def mode_fits(params: Params, form: Form) -> ParamErrors:
    if params["mode"] not in (None, "RGB" if form.channels == 3 else "L"):
        yield "mode", f"{params['mode']} cannot be made of {form}"
