"""Pointwise steps: those that look at each value of a tensor alone; and a pipeline without those that it ends in.

Their results are computed in :mod:`tvetl.spec.table`, which needs numpy; this module does not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from tvetl.spec.model import IMAGE_FORMATS, Pipeline, Step, Value
from tvetl.spec.ops import row
from tvetl.spec.output import plain_output
from tvetl.spec.parse import forms

#: Steps that turn an image into a tensor: a table begins there.
OPENS = ("ToTensor", "PILToTensor", "ToImage")
#: The step that turns a tensor into an image: a table ends there.
CLOSES = "ToPILImage"
#: Pointwise steps from tensor to tensor.
BETWEEN = ("ToDtype", "Normalize")
#: Every pointwise step.
POINTWISE = (*OPENS, *BETWEEN, CLOSES)


class NotSplit(Exception):
    """A pipeline that has no pointwise steps at its end; the text says why, for the user."""


@dataclass(frozen=True)
class Parts:
    """A pipeline in two: up to its uint8 pixels, and from these on."""

    pixels: Pipeline
    """The same pipeline, but its answer is the pixels: uint8 (C, H, W). Its draws are the same."""
    steps: tuple[Step, ...]
    """The pointwise steps that the pixels would be given to; the first is one of OPENS."""
    dtype: Value
    """Of the whole pipeline's answer, where its output names one."""
    channels: int
    """C: 1 or 3."""

    @property
    def digest(self) -> str:
        """16 hex digits of all that the table of these steps depends on; a request for pixels may name it."""
        text = repr(([(step.op, sorted(step.params.items())) for step in self.steps], self.channels, self.dtype))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parts(pipeline: Pipeline) -> Parts:
    """The pipeline in two, before its last step from image to tensor.

    Raises NotSplit where the answer is an image, where a later step is not pointwise, and where the answer is these
    pixels already.
    """
    if pipeline.output.format in IMAGE_FORMATS:
        raise NotSplit(f"needs a pipeline that ends in a tensor; this one gives {pipeline.output.format}")
    start = max((place for place, step in enumerate(pipeline.steps) if step.op in OPENS), default=-1)
    if start < 0:  # with boxes an image is answered as a tensor, too
        raise NotSplit("needs a pipeline that ends in a tensor; this one gives an image")
    before, steps = list(pipeline.steps[:start]), [pipeline.steps[start]]
    for place, step in enumerate(pipeline.steps[start + 1 :], start + 1):
        if row(step.op).image and step.op not in BETWEEN:
            may = " and ".join(BETWEEN)
            raise NotSplit(f"only {may} may follow step {start} ({steps[0].op}); step {place} is {step.op}")
        (steps if row(step.op).image else before).append(step)  # boxes are the same before and behind
    flow = forms(pipeline)[start:]
    if all(form.dtype == "uint8" for form in flow):
        raise NotSplit("the pipeline gives these pixels already")
    output = plain_output(pipeline.output.format)
    pixels = replace(pipeline, steps=(*before, Step("PILToTensor", {})), output=output)
    return Parts(pixels, tuple(steps), pipeline.output.options["dtype"], flow[0].channels)
