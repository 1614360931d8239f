"""How a result is written: the formats, their options with Pillow's defaults, and which results fit which format."""

from __future__ import annotations

from collections.abc import Mapping

from tvetl.spec.forms import Form, ParamErrors
from tvetl.spec.model import IMAGE_FORMATS, Output, Value
from tvetl.spec.ops import Param
from tvetl.spec.values import FLAG, choice, integer, optional

_TENSOR = {"dtype": Param(optional(choice("uint8", "float16", "float32")), None)}

#: Every format with its options. ``dtype`` null: as the pipeline gives it.
FORMATS: Mapping[str, Mapping[str, Param]] = {
    "jpeg": {
        "quality": Param(integer(1, 100), 75),
        "subsampling": Param(optional(choice("4:4:4", "4:2:2", "4:2:0")), None),
        "progressive": Param(FLAG, False),
        "optimize": Param(FLAG, False),
    },
    "png": {"compress_level": Param(integer(0, 9), 6), "optimize": Param(FLAG, False)},
    "webp": {
        "quality": Param(integer(0, 100), 80),
        "lossless": Param(FLAG, False),
        "method": Param(integer(0, 6), 4),
    },
    "npy": _TENSOR,
    "safetensors": _TENSOR,
    "raw": _TENSOR,
}


def plain_output(format: str, **options: Value) -> Output:
    """The format with these options, and all others as they are by default."""
    return Output(format, {**{name: param.default for name, param in FORMATS[format].items()}, **options})


def default_output(form: Form) -> Output:
    """The output of a pipeline without one: jpeg of an image, npy of a tensor."""
    return plain_output("jpeg" if form.kind == "pil" else "npy")


def output_fits(output: Output, form: Form) -> ParamErrors:
    """Report options that do not fit the result (``format`` or ``dtype``)."""
    if (output.format in IMAGE_FORMATS) != (form.kind == "pil"):
        remedy = "add ToPILImage at the end" if form.kind != "pil" else "add PILToTensor or ToTensor at the end"
        wanted = "an image" if output.format in IMAGE_FORMATS else "a tensor"
        yield "format", f"{output.format} holds {wanted}, but the steps end in {form}: {remedy}"
        return
    dtype = output.options.get("dtype")
    # Between the float types nothing is scaled; any other change would need a scale that nobody asked for.
    if dtype is not None and dtype != form.dtype and "uint8" in (dtype, form.dtype):
        yield "dtype", f"{dtype} needs a scale for {form}: add ToDtype with dtype {dtype} and scale true"
