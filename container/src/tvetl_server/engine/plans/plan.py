"""What all plans have in common: the view that they make, their methods, and the errors of their steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tvetl_server.engine.annotations import Annotations
from tvetl_server.engine.decode import Source
from tvetl_server.engine.device_request import DeviceSteps
from tvetl_server.engine.pixels import Outcome, Size
from tvetl_server.errors import ObjectError, OutOfTime, TooManyPixels, TransformFailed, first_line
from tvetl_server.limits import Limits


@dataclass(frozen=True)
class View:
    """One view of one image: its seed and its limits."""

    seed: int
    limits: Limits
    #: time.monotonic() when to give up, or None.
    deadline: float | None = None
    #: Whether other views of the image follow, so that its decoded pixels are kept.
    keep: bool = False

    def check(self, size: Size) -> None:
        """Raises TooManyPixels before a step makes them, and OutOfTime between steps."""
        if size[0] * size[1] > self.limits.max_output_pixels:
            raise TooManyPixels(
                f"A step would make {size[0]} x {size[1]} pixels, "
                f"more than the {self.limits.max_output_pixels:,} allowed."
            )
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime(f"The object took longer than the {self.limits.seconds:g} seconds allowed.")


class Plan(Protocol):
    """The steps of a pipeline, between opened and encoded."""

    def __call__(self, source: Source, view: View) -> Outcome: ...

    def sample(self, source: Source | None, annotations: Annotations, view: View) -> tuple[Outcome | None, Annotations]:
        """An image with its annotations; without ``source`` a mask alone, and the outcome is None."""
        ...

    def device_steps(self, size: Size, view: View) -> DeviceSteps | None:
        """What the same seed draws for a source of ``size``; None where only this plan itself can do it."""
        ...


def execute(plan: Plan, source: Source, views: Sequence[View]) -> list[Outcome]:
    """One outcome for each view."""
    with step_errors():
        return [plan(source, view) for view in views]


@contextlib.contextmanager
def step_errors() -> Iterator[None]:
    """Whatever a step throws, other than an ObjectError, becomes one."""
    try:
        yield
    except ObjectError:
        raise
    except MemoryError as error:
        raise TooManyPixels("There is not enough memory for what a step makes of this image.") from error
    except Exception as error:
        # PIL, numpy and torch say in their own classes that an image does not suit a step.
        raise TransformFailed(f"A step cannot take this image: {first_line(error)}.") from error
