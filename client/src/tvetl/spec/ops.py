"""The op table: every step a pipeline may have, with torchvision.transforms.v2's own names, parameters and defaults.

Closed: a name that is not here does not exist, and nothing is ever looked up in a module by a user's string. What a
derived image adds (``acme.Vignette``) has a dot in its name; here such a step is data, and its server judges it.
The tests compare each row with the signature of torchvision's class.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tvetl.spec import forms, limits
from tvetl.spec.model import Value
from tvetl.spec.values import (
    FLAG,
    NULL,
    Kind,
    Refused,
    choice,
    either,
    integer,
    optional,
    real,
    sequence,
    several,
    spelled,
)


@dataclass(frozen=True)
class Param:
    """One parameter; ``required`` ones have no default."""

    kind: Kind
    default: Value = None
    required: bool = False


@dataclass(frozen=True)
class Op:
    """One row: the parameters, the images that the step takes and gives, and whether it draws random numbers."""

    name: str
    takes: tuple[forms.FormKind, ...]
    params: Mapping[str, Param]
    gives: forms.Gives = forms.same
    random: bool = False
    #: Checks its parameters against each other, and against the image that it takes.
    agrees: forms.Agree | None = None
    fits: forms.Fit | None = None
    #: True where it moves pixels, so that an image's annotations move too; False where it changes values alone; None
    #: where torchvision does not say what becomes of annotations. An op that holds steps does what these do.
    moves: bool | None = True
    #: Whether it acts on boxes, and so cannot do without them; ``image``: whether it does anything to the image, too.
    needs_boxes: bool = False
    image: bool = True


@dataclass(frozen=True)
class Alias:
    """A v1 name that v2 calls otherwise: the op it means, its own parameters, and the op's that it fixes."""

    op: str
    params: Mapping[str, Param]
    fixed: Mapping[str, Value]


# Spellings that torchvision turns into one form when it makes its instance.


def _items(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else (value,)


def single(value: Value) -> Value:
    """[n] -> n; anything else as it is."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _repeated(value: Value, count: int) -> Value:
    """n -> n, n, ...; (left and right, top and bottom) -> left, top, right, bottom."""
    items = _items(value)
    return items * (count // len(items))


def _no_border_is_none(value: Value) -> Value:
    return value if any(_items(value)) else None


def _two(kind: Kind, *, ordered: bool = False) -> Kind:
    """n, [n] or [a, b]; one value stands for both."""
    return spelled(either(kind, sequence(kind, 1, 2, ordered=ordered)), lambda value: _repeated(value, 2))


def _around(center: float, least: float, most: float, reach: float) -> Kind:
    """A distance d for [center - d, center + d], or [min, max]; cut at ``least`` as torchvision's ColorJitter does."""

    def both_sides(value: Value) -> Value:
        assert isinstance(value, float)
        # "+ 0.0" turns -0.0, which compares equal but prints differently, into 0.0.
        return (max(center - value + 0.0, least), center + value)

    return either(spelled(real(0, reach), both_sides), sequence(real(least, most), 2, ordered=True))


def _null_for(default: Value, kind: Kind) -> Kind:
    """The kind, or null, which is also the normal form of ``default``: torchvision does the same for both."""
    return optional(spelled(kind, lambda value: None if value == default else value))


_NUMBER = limits.NUMBER
_EDGE = integer(1, limits.EDGE)
_EDGES = spelled(either(_EDGE, several(_EDGE, 1, limits.DRAWN_OF)), _items)
_SIZE = _two(_EDGE)
_SHORT_EDGE_OR_SIZE = either(_EDGE, spelled(sequence(_EDGE, 1, 2), single), NULL)
_BORDER = integer(0, limits.EDGE)
_BORDERS = spelled(either(_BORDER, sequence(_BORDER, 1, 2, 4)), lambda value: _repeated(value, 4))
_P = real(0, 1)
_POSITIVE = replace(real(limits.DIVISOR), expected="a number above 0")
_FROM_0 = sequence(real(0), 2, ordered=True)
_SHARE = replace(real(limits.DIVISOR, 1), expected="a number above 0 and at most 1")
_GROWTH = sequence(
    replace(real(limits.DIVISOR, limits.GROWTH), expected=f"a number above 0 and at most {limits.GROWTH:g}"),
    2,
    ordered=True,
)
_OPTIONS = _null_for((0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), several(real(0), 1, limits.DRAWN_OF))
_RATIO = sequence(_POSITIVE, 2, ordered=True)
_ANGLES = _around(0.0, -_NUMBER, _NUMBER, _NUMBER)
_FACTORS = _null_for((1.0, 1.0), _around(1.0, 0.0, _NUMBER, _NUMBER - 1))
_HUE_RANGE = sequence(real(-0.5, 0.5), 2, ordered=True)
_HUES = _null_for((0.0, 0.0), _around(0.0, -0.5, 0.5, 0.5))
_SHEAR = either(_ANGLES, sequence(real(), 4, ordered=True), NULL)
_POINT = optional(sequence(real(), 2))
_SHADE = real(whole_as_int=True)
_FILL = either(_SHADE, sequence(_SHADE, 3), NULL)
_MASK_FILL = optional(integer(0, limits.MASK_VALUE))
_ERASER = either(real(), spelled(sequence(real(), 1, 3), single), choice("random"))
_DIVISOR = replace(
    either(real(limits.DIVISOR), real(-_NUMBER, -limits.DIVISOR)), expected="a number other than 0", alternatives=()
)
# One bin makes torchvision divide by zero.
_BINS = integer(2, limits.BINS)
_RESAMPLING = choice("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")
# Pillow warps with these four only.
_WARPING = choice("nearest", "nearest-exact", "bilinear", "bicubic")
_MODE = choice("constant", "edge", "reflect", "symmetric")
_DTYPE = choice("uint8", "float16", "float32")

_ANY: tuple[forms.FormKind, ...] = ("pil", "uint8", "float")
_PIL: tuple[forms.FormKind, ...] = ("pil",)
_TENSOR: tuple[forms.FormKind, ...] = ("uint8", "float")
_FLOAT: tuple[forms.FormKind, ...] = ("float",)


def _accept_steps(value: object) -> Value:
    """Their number alone: what they are is read with its place in the pipeline (:mod:`tvetl.spec.parse`)."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= limits.INNER:
        raise Refused
    return tuple(value)


_STEPS = Kind(
    f"a list of 1..{limits.INNER} steps",
    {"type": "array", "minItems": 1, "maxItems": limits.INNER, "items": {"$ref": "#/properties/steps/items"}},
    _accept_steps,
    (list, tuple),
)


def _need(kind: Kind) -> Param:
    return Param(kind, required=True)


_HALF = {"p": Param(_P, 0.5)}
_RESIZING = {"interpolation": Param(_RESAMPLING, "bilinear"), "antialias": Param(optional(FLAG), True)}
# What masks are filled with: ``fill={tv_tensors.Mask: mask_fill, "others": fill}`` of torchvision; null: as images.
_BLACK = {"fill": Param(_FILL, 0), "mask_fill": Param(_MASK_FILL, None)}
_AUGMENT = {"interpolation": Param(_WARPING, "nearest"), "fill": Param(_FILL, None)}

# fmt: off
_ROWS = (
    # Size and place
    Op("Resize", _ANY, agrees=forms.size_agrees, fits=forms.resampling_fits, params={
        "size": _need(_SHORT_EDGE_OR_SIZE), "interpolation": Param(_RESAMPLING, "bilinear"),
        "max_size": Param(optional(_EDGE), None), "antialias": Param(optional(FLAG), True)}),
    Op("CenterCrop", _ANY, {"size": _need(_SIZE)}),
    Op("RandomCrop", _ANY, random=True, fits=forms.fill_fits, params={
        "size": _need(_SIZE), "padding": Param(optional(spelled(_BORDERS, _no_border_is_none)), None),
        "pad_if_needed": Param(FLAG, False), **_BLACK, "padding_mode": Param(_MODE, "constant")}),
    Op("RandomResizedCrop", _ANY, random=True, fits=forms.resampling_fits, params={
        "size": _need(_SIZE), "scale": Param(_FROM_0, (0.08, 1.0)), "ratio": Param(_RATIO, (3.0 / 4.0, 4.0 / 3.0)),
        **_RESIZING}),
    Op("Pad", _ANY, fits=forms.fill_fits, params={
        "padding": _need(_BORDERS), **_BLACK, "padding_mode": Param(_MODE, "constant")}),
    Op("RandomHorizontalFlip", _ANY, _HALF, random=True),
    Op("RandomVerticalFlip", _ANY, _HALF, random=True),
    Op("RandomRotation", _ANY, random=True, fits=forms.warping_fits, params={
        "degrees": _need(_ANGLES), "interpolation": Param(_WARPING, "nearest"), "expand": Param(FLAG, False),
        "center": Param(_POINT, None), **_BLACK}),
    Op("RandomAffine", _ANY, random=True, fits=forms.warping_fits, params={
        "degrees": _need(_ANGLES), "translate": Param(optional(sequence(_P, 2)), None),
        "scale": Param(optional(_RATIO), None), "shear": Param(_SHEAR, None),
        "interpolation": Param(_WARPING, "nearest"), **_BLACK, "center": Param(_POINT, None)}),
    Op("RandomPerspective", _ANY, random=True, fits=forms.warping_fits, params={
        "distortion_scale": Param(_P, 0.5), "p": Param(_P, 0.5),
        "interpolation": Param(_WARPING, "bilinear"), **_BLACK}),
    Op("ScaleJitter", _ANY, random=True, fits=forms.resampling_fits, params={
        "target_size": _need(sequence(_EDGE, 2)), "scale_range": Param(_GROWTH, (0.1, 2.0)), **_RESIZING}),
    Op("RandomShortestSize", _ANY, random=True, fits=forms.resampling_fits, params={
        "min_size": _need(_EDGES), "max_size": Param(optional(_EDGE), None),
        **_RESIZING}),
    Op("RandomResize", _ANY, random=True, agrees=forms.sizes_agree, fits=forms.resampling_fits, params={
        "min_size": _need(_EDGE), "max_size": _need(_EDGE), **_RESIZING}),
    Op("RandomZoomOut", _ANY, random=True, fits=forms.fill_fits, params={
        **_BLACK, "side_range": Param(sequence(real(1, limits.GROWTH), 2, ordered=True), (1.0, 4.0)), **_HALF}),

    # Boxes
    Op("RandomIoUCrop", _ANY, random=True, needs_boxes=True, agrees=forms.iou_agrees, params={
        "min_scale": Param(_SHARE, 0.3), "max_scale": Param(_SHARE, 1.0),
        "min_aspect_ratio": Param(_POSITIVE, 0.5), "max_aspect_ratio": Param(_POSITIVE, 2.0),
        "sampler_options": Param(_OPTIONS, None), "trials": Param(integer(1, limits.REPEATS), 40)}),
    Op("ClampBoundingBoxes", _ANY, needs_boxes=True, image=False, params={
        "clamping_mode": Param(optional(choice("auto", "soft", "hard")), "auto")}),
    Op("SanitizeBoundingBoxes", _ANY, needs_boxes=True, image=False, params={
        "min_size": Param(real(1), 1.0), "min_area": Param(real(1), 1.0)}),

    # Colour
    Op("ColorJitter", _ANY, moves=False, random=True, params={
        "brightness": Param(_FACTORS, None), "contrast": Param(_FACTORS, None),
        "saturation": Param(_FACTORS, None), "hue": Param(_HUES, None)}),
    Op("Grayscale", _ANY, moves=False, gives=forms.gray, params={
        "num_output_channels": Param(either(integer(1, 1), integer(3, 3)), 1)}),
    Op("RandomGrayscale", _ANY, moves=False, random=True, params={"p": Param(_P, 0.1)}),
    Op("GaussianBlur", _ANY, moves=False, random=True, params={
        "kernel_size": _need(_two(integer(1, limits.EDGE, odd=True))),
        "sigma": Param(_two(_POSITIVE, ordered=True), (0.1, 2.0))}),
    Op("RandomInvert", _ANY, moves=False, random=True, params=_HALF),
    # torchvision says 0..8 bits; Pillow refuses 0.
    Op("RandomPosterize", _ANY, moves=False, random=True, params={"bits": _need(integer(1, 8)), **_HALF}),
    Op("RandomSolarize", _ANY, moves=False, random=True, fits=forms.threshold_fits, params={
        "threshold": _need(real(0, 255)), **_HALF}),
    Op("RandomAdjustSharpness", _ANY, moves=False, random=True, params={
        "sharpness_factor": _need(real(0)), **_HALF}),
    Op("RandomPhotometricDistort", _ANY, moves=False, random=True, params={
        "brightness": Param(_FROM_0, (0.875, 1.125)), "contrast": Param(_FROM_0, (0.5, 1.5)),
        "saturation": Param(_FROM_0, (0.5, 1.5)), "hue": Param(_HUE_RANGE, (-0.05, 0.05)), **_HALF}),
    Op("RandomAutocontrast", _ANY, moves=False, random=True, params=_HALF),
    Op("RandomEqualize", _ANY, moves=False, random=True, params=_HALF),

    # Whole policies
    Op("AutoAugment", _ANY, moves=None, random=True, fits=forms.warping_fits, params={
        "policy": Param(choice("imagenet", "cifar10", "svhn"), "imagenet"), **_AUGMENT}),
    Op("RandAugment", _ANY, moves=None, random=True, agrees=forms.magnitude_agrees, fits=forms.warping_fits, params={
        "num_ops": Param(integer(0, limits.REPEATS), 2), "magnitude": Param(integer(0, limits.BINS - 1), 9),
        "num_magnitude_bins": Param(_BINS, 31), **_AUGMENT}),
    Op("TrivialAugmentWide", _ANY, moves=None, random=True, fits=forms.warping_fits, params={
        "num_magnitude_bins": Param(_BINS, 31), **_AUGMENT}),
    # A chain_depth of 0 and less draws a depth of 1 to 3. It mixes tensors even where it takes a PIL image.
    Op("AugMix", _ANY, moves=None, random=True, fits=forms.fill_fits, params={
        "severity": Param(integer(1, 10), 3), "mixture_width": Param(integer(1, limits.REPEATS), 3),
        "chain_depth": Param(integer(-1, limits.REPEATS), -1), "alpha": Param(_POSITIVE, 1.0),
        "all_ops": Param(FLAG, True), "interpolation": Param(choice("nearest", "bilinear"), "bilinear"),
        "fill": Param(_FILL, None)}),
    Op("RandomErasing", _ANY, moves=False, random=True, fits=forms.erasure_fits, params={
        "p": Param(_P, 0.5), "scale": Param(sequence(_P, 2, ordered=True), (0.02, 0.33)),
        "ratio": Param(_RATIO, (0.3, 3.3)), "value": Param(_ERASER, 0.0)}),

    # All of its steps or none, one of them, all in any order
    Op("RandomApply", _ANY, random=True, params={"transforms": _need(_STEPS), "p": Param(_P, 0.5)}),
    Op("RandomChoice", _ANY, random=True, agrees=forms.shares_agree, params={
        "transforms": _need(_STEPS), "p": Param(optional(several(real(0), 1, limits.INNER)), None)}),
    Op("RandomOrder", _ANY, random=True, params={"transforms": _need(_STEPS)}),

    # Image to tensor and back
    Op("ToTensor", _PIL, moves=False, params={}, gives=forms.float_tensor),
    Op("PILToTensor", _PIL, moves=False, params={}, gives=forms.byte_tensor),
    Op("ToImage", _PIL, moves=False, params={}, gives=forms.byte_tensor),
    Op("ToDtype", _TENSOR, moves=False, gives=forms.cast, params={
        "dtype": _need(_DTYPE), "scale": Param(FLAG, False)}),
    Op("Normalize", _FLOAT, moves=False, fits=forms.statistics_fit, params={
        "mean": _need(sequence(real(), 1, 3)), "std": _need(sequence(_DIVISOR, 1, 3))}),
    Op("ToPILImage", _TENSOR, moves=False, gives=forms.pil_image, fits=forms.mode_fits, params={
        "mode": Param(optional(choice("L", "RGB")), None)}),
)
# fmt: on

#: Every op by its name. The order is the one of the documentation.
OPS: Mapping[str, Op] = {op.name: op for op in _ROWS}

#: Those that hold steps, as ``transforms``.
HOLD_STEPS = frozenset(name for name, op in OPS.items() if "transforms" in op.params)

#: Qualifier, dot, name.
PLUGIN_PATTERN = r"^[a-z][a-z0-9_]{0,31}\.[A-Za-z][A-Za-z0-9_]{0,63}$"


def is_plugin(name: str) -> bool:
    """Whether the name is qualified, as those of ops that a derived image brings (``acme.Vignette``)."""
    return bool(re.match(PLUGIN_PATTERN, name)) and not name.endswith("\n")  # which "$" lets pass


@functools.lru_cache(maxsize=256)
def row(name: str) -> Op:
    """The op's row. Of a plugin op only what holds for each: it takes a PIL image and gives one of as many channels."""
    return Op(name, _PIL, {}, moves=None) if is_plugin(name) else OPS[name]


#: Names of torchvision.transforms (v1) that mean an op of another name.
ALIASES: Mapping[str, Alias] = {
    "ConvertImageDtype": Alias("ToDtype", {"dtype": Param(_DTYPE, "float32")}, fixed={"scale": True}),
}
