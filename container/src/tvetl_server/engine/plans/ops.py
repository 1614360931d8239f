"""The table of ops: torchvision's transforms of PIL images, bit for bit, without torch.

An op first makes its random draws, given the size of the image. It answers with *actions* (crop to this box, resize to
that, ...) and the size that comes out. So everything random is known before a pixel is decoded, and a leading crop
tells the decoder which region is needed. Sources: torchvision/transforms/v2/_geometry.py, _color.py and
_functional_pil.py of the pinned release; tests/exactness compares every op with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tvetl.spec import Step, Value
from tvetl.spec.ops import HOLD_STEPS
from tvetl_server.engine.draw import LOG_OF_RATIO, RandomStream
from tvetl_server.engine.pixels import Box, Outcome, Size
from tvetl_server.engine.resize import Resize
from tvetl_server.errors import TransformFailed
from tvetl_server.plugin_ops import Do


@dataclass(frozen=True)
class Crop:
    """Keep ``box``, which lies inside the image."""

    box: Box

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.crop(self.box)


@dataclass(frozen=True)
class Call:
    """One of torchvision's functions, done by Pillow."""

    name: str
    """Its name in torchvision.transforms.v2.functional."""
    arguments: tuple[Value, ...]
    """Its arguments behind the image, in their order there."""
    do: Do = field(compare=False)

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.do(image)


Action = Callable[[Image.Image], Outcome]
"""A Crop, a Call, or any other function of an image; only the last of a pipeline may give a tensor."""

Drawn = tuple[list[Action], Size]
Drawer = Callable[[Mapping[str, Value], RandomStream, Size], Drawn]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    # torchvision's mapping: Pillow has one nearest, which is the exact one.
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


# --- size and place ---------------------------------------------------------------------------------------------


def resized(params: Mapping[str, Value], size: Size) -> Size:
    """The size that Resize gives (torchvision.transforms.functional._compute_resized_output_size)."""
    wanted, longest = params["size"], params["max_size"]
    if isinstance(wanted, tuple):
        height, width = map(integer, wanted)
        return width, height
    short, long = sorted(size)
    if wanted is None:
        new_short, new_long = int(integer(longest) * short / long), integer(longest)
    else:
        new_short, new_long = integer(wanted), int(integer(wanted) * long / short)
        if longest is not None and new_long > integer(longest):
            new_short, new_long = int(integer(longest) * new_short / new_long), integer(longest)
    return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)


def _resize_to(new: Size, old: Size, interpolation: Value) -> list[Action]:
    if min(new) < 1:
        raise TransformFailed(f"A {old[0]} x {old[1]} image would be resized to nothing ({new[0]} x {new[1]}).")
    how = _RESAMPLING[str(interpolation)]
    return [] if new == old else [Resize.to(new, how)]


def _resize(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    new = resized(params, size)
    return _resize_to(new, size, params["interpolation"]), new


def _center_crop(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    height, width = _pair(params["size"])
    missing = (max(width - size[0], 0), max(height - size[1], 0))
    # The odd pixel goes to the right and the bottom.
    border = (missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2)
    actions = _pad_by(border, 0, "constant")
    padded = (size[0] + missing[0], size[1] + missing[1])
    left, top = round((padded[0] - width) / 2.0), round((padded[1] - height) / 2.0)
    return actions + _crop_to((left, top, left + width, top + height), padded), (width, height)


def _random_crop(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    height, width = _pair(params["size"])
    padding = params["padding"] or (0, 0, 0, 0)
    assert isinstance(padding, tuple)
    left, top, right, bottom = map(integer, padding)
    if params["pad_if_needed"]:
        need_x = max(width - size[0] - left - right, 0)
        need_y = max(height - size[1] - top - bottom, 0)
        left, right, top, bottom = left + need_x, right + need_x, top + need_y, bottom + need_y
    padded = (size[0] + left + right, size[1] + top + bottom)
    if padded[0] < width or padded[1] < height:
        raise TransformFailed(f"RandomCrop of {width} x {height} does not fit into {padded[0]} x {padded[1]}.")
    actions = _pad_by((left, top, right, bottom), params["fill"], str(params["padding_mode"]))
    y = draw.below(padded[1] - height + 1) if padded[1] > height else 0
    x = draw.below(padded[0] - width + 1) if padded[0] > width else 0
    return actions + _crop_to((x, y, x + width, y + height), padded), (width, height)


def random_box(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Box:
    """The box of RandomResizedCrop: ten tries, then the largest central one of an allowed ratio."""
    (low, high), ratio = numbers(params["scale"]), numbers(params["ratio"])
    log_low, log_high = (LOG_OF_RATIO[value] for value in ratio)
    width, height = size
    for _ in range(10):
        area = width * height * draw.uniform(low, high)
        aspect = draw.exp_uniform(log_low, log_high)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = draw.below(height - h + 1), draw.below(width - w + 1)
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < min(ratio):
        h = round(w / min(ratio))
    elif width / height > max(ratio):
        w = round(h * max(ratio))
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h


def _random_resized_crop(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    left, top, right, bottom = box = random_box(params, draw, size)
    height, width = _pair(params["size"])
    # Crop, then resize: resize(box=...) would read beyond the crop and differ at its edges.
    cropped = (right - left, bottom - top)
    return _crop_to(box, size) + _resize_to((width, height), cropped, params["interpolation"]), (width, height)


def _pad(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    assert isinstance(params["padding"], tuple)
    left, top, right, bottom = border = tuple(map(integer, params["padding"]))
    new = (size[0] + left + right, size[1] + top + bottom)
    return [_bordered(border, params["fill"], str(params["padding_mode"]))], new


def _crop_to(box: Box, size: Size) -> list[Action]:
    return [] if box == (0, 0, *size) else [Crop(box)]


def _pad_by(border: tuple[int, ...], fill: Value, mode: str) -> list[Action]:
    return [_bordered(border, fill, mode)] if any(border) else []


def _bordered(border: tuple[int, ...], fill: Value, mode: str) -> Call:
    """``border`` is left, top, right, bottom; of nothing it moves no pixel, but torchvision then clamps boxes, too."""
    left, top, right, bottom = border

    def expand(image: Image.Image) -> Image.Image:
        return ImageOps.expand(image, border=border, fill=_colour(fill, image))

    def pad(image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        widths = [(top, bottom), (left, right), (0, 0)][: pixels.ndim]
        return Image.fromarray(np.pad(pixels, widths, mode=mode))  # type: ignore[call-overload]

    return Call("pad", (border, fill, mode), expand if mode == "constant" else pad)


def _colour(fill: Value, image: Image.Image) -> int | tuple[int, ...]:
    """torchvision's ``fill`` as Pillow takes it (_functional_pil._parse_fill): truncated to whole numbers."""
    bands = len(image.getbands())
    if isinstance(fill, tuple):
        return tuple(int(number(value)) for value in fill)
    value = int(number(fill or 0))
    return value if bands == 1 else (value,) * bands


def _between(params: Mapping[str, Value], name: str, draw: RandomStream) -> np.float32:
    """``low + torch.rand(1) * (high - low)``: in float32."""
    low, high = numbers(params[name])
    return np.float32(draw.rand()) * np.float32(high - low) + np.float32(low)


def _times(size: Size, ratio: float | np.float32) -> Size:
    """Width and height times ``ratio``, in its precision, truncated to whole numbers."""
    kind = type(ratio)
    return int(kind(size[0]) * ratio), int(kind(size[1]) * ratio)


def _scale_jitter(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    scale = _between(params, "scale_range", draw)
    first, second = _pair(params["target_size"])
    new = _times(size, np.float32(min(second / size[1], first / size[0])) * scale)
    return _resize_to(new, size, params["interpolation"]), new


def _random_shortest_size(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    least, longest = params["min_size"], params["max_size"]
    assert isinstance(least, tuple)
    ratio = integer(least[draw.below(len(least))]) / min(size)
    new = _times(size, ratio if longest is None else min(ratio, integer(longest) / max(size)))
    return _resize_to(new, size, params["interpolation"]), new


def _random_resize(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    least, most = integer(params["min_size"]), integer(params["max_size"])
    new = resized({"size": least + draw.below(most - least), "max_size": None}, size)
    return _resize_to(new, size, params["interpolation"]), new


def _random_zoom_out(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    if not _happens(params, draw):
        return [], size
    width, height = new = _times(size, _between(params, "side_range", draw))
    left, top = (int(np.float32(new[axis] - size[axis]) * np.float32(draw.rand())) for axis in (0, 1))
    border = (left, top, width - left - size[0], height - top - size[1])
    return [_bordered(border, params["fill"], "constant")], new


def _of_boxes(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    """The image stays as it is."""
    return [], size


# --- now and then -------------------------------------------------------------------------------------------------


def _happens(params: Mapping[str, Value], draw: RandomStream) -> bool:
    """Whether a step that is done with probability ``p`` is done, as ``torch.rand(1) < p`` says: in float32."""
    return draw.rand() < float(np.float32(number(params["p"])))


def chosen(step: Step, draw: RandomStream) -> list[int]:
    """The places of the steps that are done, of those that ``step`` holds, in the order in which they are done."""
    count = len(step.inner)
    if step.op == "RandomApply":
        return list(range(count)) if _happens(step.params, draw) else []
    if step.op == "RandomOrder":
        return draw.permutation(count)
    given = step.params["p"]
    shares = [number(share) for share in given] if isinstance(given, tuple) else [1.0] * count
    return [draw.choice([share / sum(shares) for share in shares])]


def _sometimes(make: Callable[[Mapping[str, Value]], Action]) -> Drawer:
    """A step done with probability ``p`` (v2's _RandomApplyTransform), which keeps the size."""

    def drawer(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
        return ([make(params)] if _happens(params, draw) else []), size

    return drawer


mirror = Call("horizontal_flip", (), lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
_upside_down = Call("vertical_flip", (), lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM))


def _enhance(name: str, enhancer: Callable[[Image.Image], ImageEnhance._Enhance], factor: float) -> Call:
    return Call(f"adjust_{name}", (factor,), lambda image: enhancer(image).enhance(factor))


# --- colour ---------------------------------------------------------------------------------------------------------


def _color_jitter(params: Mapping[str, Value], draw: RandomStream, size: Size) -> Drawn:
    order = draw.permutation(4)
    names = ("brightness", "contrast", "saturation", "hue")
    factors = [draw.uniform(*numbers(params[name])) if params[name] is not None else None for name in names]
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    actions: list[Action] = []
    for index in order:
        factor = factors[index]
        if factor is not None:
            actions.append(_rotate_hue(factor) if index == 3 else _enhance(names[index], enhancers[index], factor))
    return actions, size


def _rotate_hue(factor: float) -> Call:
    """``factor`` in -0.5..0.5 of a full turn; the hue channel wraps as uint8 does."""

    def rotate(image: Image.Image) -> Image.Image:
        if image.mode == "L":
            return image
        hue, saturation, value = image.convert("HSV").split()
        rotated = np.asarray(hue) + np.int32(factor * 255).astype(np.uint8)
        return Image.merge("HSV", (Image.fromarray(rotated), saturation, value)).convert(image.mode)

    return Call("adjust_hue", (factor,), rotate)


def _gray(params: Mapping[str, Value]) -> Call:
    wanted = params.get("num_output_channels")  # None: as many as there are

    def gray(image: Image.Image) -> Image.Image:
        one = image.convert("L")
        return one if (wanted or len(image.getbands())) == 1 else Image.merge("RGB", [one] * 3)

    return Call("rgb_to_grayscale", (wanted,), gray)


def _posterize(params: Mapping[str, Value]) -> Call:
    bits = integer(params["bits"])
    return Call("posterize", (bits,), lambda image: ImageOps.posterize(image, bits))


def _solarize(params: Mapping[str, Value]) -> Call:
    threshold = number(params["threshold"])
    return Call("solarize", (threshold,), lambda image: ImageOps.solarize(image, threshold))  # type: ignore[arg-type]


def _sharpen(params: Mapping[str, Value]) -> Call:
    return _enhance("sharpness", ImageEnhance.Sharpness, number(params["sharpness_factor"]))


#: The ops done here. A new one is a row; what is not here, or cannot be exact here, is torchvision's own.
DRAWERS: Mapping[str, Drawer] = {
    "Resize": _resize,
    "CenterCrop": _center_crop,
    "RandomCrop": _random_crop,
    "RandomResizedCrop": _random_resized_crop,
    "Pad": _pad,
    "ScaleJitter": _scale_jitter,
    "RandomShortestSize": _random_shortest_size,
    "RandomResize": _random_resize,
    "RandomZoomOut": _random_zoom_out,
    "RandomHorizontalFlip": _sometimes(lambda params: mirror),
    "RandomVerticalFlip": _sometimes(lambda params: _upside_down),
    "ClampBoundingBoxes": _of_boxes,
    "SanitizeBoundingBoxes": _of_boxes,
    "ColorJitter": _color_jitter,
    "Grayscale": lambda params, draw, size: ([_gray(params)], size),
    "RandomGrayscale": _sometimes(_gray),
    "RandomInvert": _sometimes(lambda params: Call("invert", (), ImageOps.invert)),
    "RandomPosterize": _sometimes(_posterize),
    "RandomSolarize": _sometimes(_solarize),
    "RandomAdjustSharpness": _sometimes(_sharpen),
    "RandomAutocontrast": _sometimes(lambda params: Call("autocontrast", (), ImageOps.autocontrast)),
    "RandomEqualize": _sometimes(lambda params: Call("equalize", (), ImageOps.equalize)),
}


def can_draw(step: Step) -> bool:
    """Whether the step can be drawn without torch: all of the table, except ratios whose logarithm only torch knows."""
    if step.op == "RandomResizedCrop":
        return all(value in LOG_OF_RATIO for value in numbers(step.params["ratio"]))
    if step.op in HOLD_STEPS:
        return all(map(can_draw, step.inner))
    return step.op in DRAWERS


# --- plain data, typed ------------------------------------------------------------------------------------------


def integer(value: Value) -> int:
    assert isinstance(value, int)
    return value


def number(value: Value) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def _pair(value: Value) -> tuple[int, int]:
    assert isinstance(value, tuple)
    return integer(value[0]), integer(value[1])


def numbers(value: Value) -> tuple[float, float]:
    assert isinstance(value, tuple)
    return number(value[0]), number(value[1])
