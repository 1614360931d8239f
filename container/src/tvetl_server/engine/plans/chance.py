"""Whether steps are done, which of them, and in which order: as torchvision draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from tvetl.spec import Step, Value


class Draw(Protocol):
    """A stream of draws: torch's own, or :class:`tvetl_server.engine.draw.Draw`'s, which is equal to it."""

    def rand(self) -> float: ...

    def uniform(self, low: float, high: float) -> float: ...

    def exp_uniform(self, low: float, high: float) -> float: ...

    def below(self, n: int) -> int: ...

    def permutation(self, n: int) -> list[int]: ...

    def choice(self, shares: Sequence[float]) -> int: ...


def happens(params: Mapping[str, Value], draw: Draw) -> bool:
    """Whether a step that is done with probability ``p`` is done, as ``torch.rand(1) < p`` says: in float32."""
    return draw.rand() < float(np.float32(_float(params["p"])))


def chosen(step: Step, draw: Draw) -> list[int]:
    """The places of the steps that are done, of those that ``step`` holds, in the order in which they are done."""
    count = len(step.inner)
    if step.op == "RandomApply":
        return list(range(count)) if happens(step.params, draw) else []
    if step.op == "RandomOrder":
        return draw.permutation(count)
    given = step.params["p"]
    shares = [_float(share) for share in given] if isinstance(given, tuple) else [1.0] * count
    return [draw.choice([share / sum(shares) for share in shares])]


def _float(value: Value) -> float:
    assert isinstance(value, (int, float))
    return float(value)
