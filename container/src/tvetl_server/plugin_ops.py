"""Plugin ops: ops that an installed package declares, how the server finds them, and the check of their parameters.

A package names a qualifier and its ops in the entry point group ``tvetl.ops``::

    [project.entry-points."tvetl.ops"]
    acme = "acme_ops:OPS"

where ``OPS`` is a list of :class:`PluginOp`; a pipeline then has ``{"op": "acme.Vignette", ...}``. No string of a
pipeline is ever imported: all ops of the installed packages are loaded once, before the server listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Protocol

from PIL import Image

from tvetl.errors import PipelineError, TvetlError
from tvetl.spec import Param, Pipeline, Step, Value
from tvetl.spec.ops import is_plugin
from tvetl.spec.parse import Problems, read_params
from tvetl_server.errors import TransformFailed

__all__ = ["NO_PLUGINS", "Do", "Draw", "OwnOp", "PluginError", "PluginOp", "Size", "checked", "installed", "prepare"]

_GROUP = "tvetl.ops"

Size = tuple[int, int]
"""width, height in pixels, as Pillow has it."""

Do = Callable[[Image.Image], Image.Image]


class Draw(Protocol):
    """The pipeline's seeded random stream. An op that takes no other numbers is repeatable by its seed.

    The numbers are torch's. The steps before and after draw from the same stream.
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
class PluginOp:
    """One op: it takes a PIL image (RGB, or L after a Grayscale) and returns one of the same mode.

    ``plan`` gets the parameters (checked, with defaults), the random stream and the size of the coming image. It draws
    all random numbers, and returns the function that transforms the image, and the size of its result.
    """

    name: str
    params: Mapping[str, Param]
    plan: Callable[[Mapping[str, Value], Draw, Size], tuple[Do, Size]]


#: The name that derived images may use: it was public before.
OwnOp = PluginOp

#: The plugins of an image that no package was added to.
NO_PLUGINS: Mapping[str, PluginOp] = {}


class PluginError(TvetlError):
    """A plugin that cannot be loaded, or that declares anything but ops."""

    exit_code = 2


def installed() -> dict[str, PluginOp]:
    """Every plugin op by its qualified name. Runs the code of the packages that declare them; raises PluginError."""
    ops: dict[str, PluginOp] = {}
    for point in sorted(entry_points(group=_GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.value
        try:
            declared = point.load()
        except Exception as error:  # a module may raise anything when it is imported
            raise PluginError(f"the ops of {package} cannot be loaded: {type(error).__name__}: {error}") from error
        for op in declared if isinstance(declared, Iterable) else [declared]:
            name = f"{point.name}.{op.name}" if isinstance(op, PluginOp) else ""
            if not is_plugin(name):
                raise PluginError(f"{package}: expected {point.value} to be a list of PluginOp, named like acme.Blur")
            if name in ops:
                raise PluginError(f"{package}: {name} is declared twice")
            ops[name] = op
    return ops


def checked(pipeline: Pipeline, plugins: Mapping[str, PluginOp]) -> Pipeline:
    """The pipeline with the parameters of plugin ops checked, and their defaults filled in; raises PipelineError."""
    problems = Problems()
    steps = tuple(_checked(step, f"$.steps[{at}]", plugins, problems) for at, step in enumerate(pipeline.steps))
    if problems:
        raise PipelineError(problems.listed(), hint="tvetl-server --ops lists the ops of this container.")
    return replace(pipeline, steps=steps)


def _checked(step: Step, path: str, plugins: Mapping[str, PluginOp], problems: Problems) -> Step:
    if not is_plugin(step.op):
        return step
    if step.op not in plugins:
        have = f"it has {', '.join(sorted(plugins))}" if plugins else "it has none"
        problems.add(f"{path}.op", f"{step.op} is not installed in this container; {have}")
        return step
    return replace(step, params=read_params(step.params, plugins[step.op].params, path, problems))


def prepare(name: str, op: PluginOp, params: Mapping[str, Value], draw: Draw, size: Size) -> tuple[Do, Size]:
    """Plan the op; its function then fails unless its result has the planned size and the mode of its input."""
    do, promised = op.plan(params, draw, size)

    def verified(image: Image.Image) -> Image.Image:
        result = do(image.copy())  # other views may share the decoded image: an op may draw on its copy
        if not isinstance(result, Image.Image) or (result.mode, result.size) != (image.mode, promised):
            actual = f"{result.mode} of {result.size}" if isinstance(result, Image.Image) else type(result).__name__
            raise TransformFailed(f"{name} promised an image {image.mode} of {promised}, and gave {actual}.")
        return result

    return verified, promised
