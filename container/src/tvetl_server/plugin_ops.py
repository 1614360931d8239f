"""Ops of your own: what an installed package declares, how the server finds it, and what its steps may say.

A package names a qualifier and its ops in the entry point group ``tvetl.ops``::

    [project.entry-points."tvetl.ops"]
    acme = "acme_ops:OPS"

where ``OPS`` is a list of :class:`OwnOp`; a pipeline then says ``{"op": "acme.Vignette", ...}``. Nothing is looked up
by a pipeline's string: all that the installed packages declare is loaded, once, before the server listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Protocol

from PIL import Image

from tvetl.errors import PipelineError, TvetlError
from tvetl.spec import Param, Pipeline, Step, Value
from tvetl.spec.ops import is_own
from tvetl.spec.parse import Problems, read_params
from tvetl_server.errors import TransformFailed

__all__ = ["GROUP", "NONE", "Do", "Draw", "OwnOp", "OwnOpsError", "Size", "installed", "prepare", "settled"]

GROUP = "tvetl.ops"

Size = tuple[int, int]
"""width, height in pixels, as Pillow has it."""

Do = Callable[[Image.Image], Image.Image]


class Draw(Protocol):
    """The pipeline's seeded stream of random numbers; an op that takes no others gives the same for the same seed.

    The numbers are torch's, and the steps before and after draw from the same stream.
    """

    def rand(self) -> float:
        """``torch.rand(1).item()``: in [0, 1)."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """``torch.empty(1).uniform_(low, high).item()``."""
        ...

    def below(self, n: int) -> int:
        """``torch.randint(0, n, ()).item()``."""
        ...

    def permutation(self, n: int) -> list[int]:
        """``torch.randperm(n).tolist()``."""
        ...


@dataclass(frozen=True)
class OwnOp:
    """One op: it takes a PIL image (RGB, or L after a Grayscale) and gives one of the same mode.

    ``plan`` gets the parameters (checked, defaults filled in), the stream of draws and the size of the image to come;
    it draws whatever is random and answers with the function that does it, and the size that comes out.
    """

    name: str
    params: Mapping[str, Param]
    plan: Callable[[Mapping[str, Value], Draw, Size], tuple[Do, Size]]


#: No own ops: what a server of our own image has.
NONE: Mapping[str, OwnOp] = {}


class OwnOpsError(TvetlError):
    """A package of own ops that is not as it must be."""

    exit_code = 2


def installed() -> dict[str, OwnOp]:
    """Every own op by its qualified name. Runs the code of the packages that declare them; raises OwnOpsError."""
    found: dict[str, OwnOp] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.value
        try:
            declared = point.load()
        except Exception as error:  # whatever a module may throw when it is imported
            raise OwnOpsError(f"the ops of {package} cannot be loaded: {type(error).__name__}: {error}") from error
        for op in declared if isinstance(declared, Iterable) else [declared]:
            name = f"{point.name}.{op.name}" if isinstance(op, OwnOp) else ""
            if not is_own(name):
                raise OwnOpsError(f"{package}: expected {point.value} to be a list of OwnOp, with names like acme.Blur")
            if name in found:
                raise OwnOpsError(f"{package}: {name} is declared twice")
            found[name] = op
    return found


def settled(pipeline: Pipeline, own: Mapping[str, OwnOp]) -> Pipeline:
    """The pipeline with the parameters of own steps checked and their defaults filled in; raises PipelineError."""
    problems = Problems()
    steps = tuple(_settled(step, f"$.steps[{place}]", own, problems) for place, step in enumerate(pipeline.steps))
    if problems:
        raise PipelineError(problems.listed(), hint="tvetl-server --ops lists what this container can do.")
    return replace(pipeline, steps=steps)


def _settled(step: Step, path: str, own: Mapping[str, OwnOp], problems: Problems) -> Step:
    if not is_own(step.op):
        return step
    if step.op not in own:
        have = f"it has {', '.join(sorted(own))}" if own else "it has none of that kind"
        problems.add(f"{path}.op", f"{step.op} is not installed in this container; {have}")
        return step
    return replace(step, params=read_params(step.params, own[step.op].params, path, problems))


def prepare(name: str, op: OwnOp, params: Mapping[str, Value], draw: Draw, size: Size) -> tuple[Do, Size]:
    """Ask the op what it will do; whatever it does is held to the promised size and the mode that came."""
    do, promised = op.plan(params, draw, size)

    def kept(image: Image.Image) -> Image.Image:
        done = do(image.copy())  # the decoded image may serve other views: an op that draws on it must not spoil these
        if not isinstance(done, Image.Image) or (done.mode, done.size) != (image.mode, promised):
            what = f"{done.mode} of {done.size}" if isinstance(done, Image.Image) else type(done).__name__
            raise TransformFailed(f"{name} promised an image {image.mode} of {promised}, and gave {what}.")
        return done

    return kept, promised
