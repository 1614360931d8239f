"""``precision: fast``: the exact plan, but a JPEG that is made much smaller is decoded small.

The draws, the boxes, the flips and all sizes are those of the exact plan. What differs, and how far, is in
docs/exactness.md, and tests/exactness/test_fast.py keeps it.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from tvetl_server.engine.decode import Source
from tvetl_server.engine.pixels import Box, Outcome
from tvetl_server.engine.plans.exact import ExactPlan
from tvetl_server.engine.plans.plan import Job
from tvetl_server.engine.resize import Resize

#: What a JPEG can be decoded at: a block of 8 x 8 pixels becomes 1, 2 or 4 of them.
_FACTORS = (8, 4, 2)


class FastPlan(ExactPlan):
    """Decodes at 1/2, 1/4 or 1/8 where the result is at least as large as the target; otherwise an ExactPlan."""

    def _resize(self, source: Source, box: Box | None, resize: Resize, job: Job) -> Outcome:
        box = box or (0, 0, *source.size)
        factor = _factor(box, resize)
        reduced = source.reduced(box, factor, keep=job.keep) if factor else None
        if reduced is None:
            return super()._resize(source, box, resize, job)
        pixels, part = reduced
        return replace(resize, part=part)(pixels)


def _factor(box: Box, resize: Resize) -> int | None:
    """The largest factor that leaves at least the target; none for nearest, which picks single pixels."""
    if resize.resample == Image.Resampling.NEAREST:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    return next((n for n in _FACTORS if width >= n * resize.size[0] and height >= n * resize.size[1]), None)
