"""How a result is written: the formats, their options with Pillow's defaults, and which results fit which format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tvetl.spec.forms import Form
from tvetl.spec.model import IMAGE_FORMATS, Output
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


def plain_output(format: str) -> Output:
    """The format with all its options as they are by default."""
    return Output(format, {name: param.default for name, param in FORMATS[format].items()})


def default_output(form: Form) -> Output:
    """What is written when the pipeline does not say: jpeg of an image, npy of a tensor."""
    return plain_output("jpeg" if form.kind == "pil" else "npy")


def misfits(output: Output, form: Form) -> Iterator[tuple[str, str]]:
    """Options that do not fit the result (``format`` or ``dtype``), and why."""
    if (output.format in IMAGE_FORMATS) != (form.kind == "pil"):
        remedy = "add ToPILImage at the end" if form.kind != "pil" else "add PILToTensor or ToTensor at the end"
        wanted = "an image" if output.format in IMAGE_FORMATS else "a tensor"
        yield "format", f"{output.format} holds {wanted}, but the steps end in {form}: {remedy}"
        return
    dtype = output.options.get("dtype")
    # Between the float types nothing is scaled; any other change would need a scale that nobody asked for.
    if dtype is not None and dtype != form.dtype and "uint8" in (dtype, form.dtype):
        yield "dtype", f"{dtype} needs a scale for {form}: add ToDtype with dtype {dtype} and scale true"
