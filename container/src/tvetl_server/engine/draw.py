"""torch's random draws without torch: the same numbers, from the same seed, in the same order.

torch's CPU generator is MT19937 seeded by ``init_genrand`` (ATen/core/MT19937RNGEngine.h); numpy's legacy
seeding is the same. What is done to a raw 32-bit draw follows ATen/core/TransformationHelper.h. All of it is
compared with torch in tests/exactness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

from tvetl_server import plugin_ops

_F24 = 2.0**-24
_F53 = 2.0**-53

#: torch.log(torch.tensor(x)) for the bounds of ``ratio`` that people use, as float32. torch's last bit of a
#: logarithm is not the correctly rounded one and differs between processors (0.75 is such a case), so other
#: bounds are left to torch itself. These are what x86-64 without AVX-512 kernels for ``log`` gives, AMD included.
LOG_OF_RATIO: dict[float, float] = {
    3.0 / 4.0: -0.28768205642700195,
    4.0 / 3.0: 0.28768211603164673,
    1.0: 0.0,
}


class RandomStream(plugin_ops.Draw, Protocol):
    """The random numbers of ops, by :class:`Draw` or torch's own generator. Plugin ops are promised plugin_ops.Draw."""

    def exp_uniform(self, low: float, high: float) -> float: ...

    def choice(self, shares: Sequence[float]) -> int: ...


class _NoEntropy(ISeedSequence):
    """A state to begin with that costs nothing: gathering a random one takes 0.14 ms, and it is seeded over at once."""

    _state = np.ones(624, np.uint32)

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> npt.NDArray[np.uint32]:
        return self._state[:n_words]


_NO_ENTROPY = _NoEntropy()


class Draw:
    """One seeded stream of draws; each method takes as many raw draws as torch's takes."""

    #: Generators that nobody uses: to make one takes 20 us, to seed one that is there 1.
    _idle: ClassVar[list[np.random.MT19937]] = []

    def __init__(self, seed: int) -> None:
        """``seed`` in 0..2**32-1, as after ``torch.manual_seed(seed)``."""
        try:
            self._bits = self._idle.pop()
        except IndexError:
            self._bits = np.random.MT19937(_NO_ENTROPY)  # type: ignore[arg-type]  # the stubs know SeedSequence alone
        self._bits._legacy_seeding(seed)  # init_genrand(seed), as torch does
        self._raw = self._bits.random_raw

    def __del__(self) -> None:
        self._idle.append(self._bits)

    def rand(self) -> float:
        """``torch.rand(1).item()``: the low 24 bits, in [0, 1)."""
        return (int(self._raw()) & 0xFFFFFF) * _F24

    def uniform(self, low: float, high: float) -> float:
        """``torch.empty(1).uniform_(low, high).item()``: a float32, by one fused multiply-add.

        The product of two float32 is exact in a double, so rounding the double sum once more is the fused
        result. (torch on a processor without FMA rounds twice; none has been sold for a decade.)
        """
        low32, high32 = np.float32(low), np.float32(high)
        return float(np.float32(self.rand() * float(high32 - low32) + float(low32)))

    def below(self, n: int) -> int:
        """``torch.randint(0, n, ()).item()`` for 1 <= n < 2**32."""
        return int(self._raw()) % n

    def permutation(self, n: int) -> list[int]:
        """``torch.randperm(n).tolist()``: Fisher-Yates from the front, n - 1 draws."""
        order = list(range(n))
        for i in range(n - 1):
            j = i + self.below(n - i)
            order[i], order[j] = order[j], order[i]
        return order

    def choice(self, shares: Sequence[float]) -> int:
        """``int(torch.multinomial(torch.tensor(shares), 1))``: two raw draws each."""
        scores = []  # the largest of them, each divided by an exponential draw
        for share in shares:
            high, low = (int(raw) for raw in self._raw(2))
            uniform = ((high << 32 | low) & 2**53 - 1) * _F53
            scores.append(float(np.float32(share) / np.float32(max(-math.log1p(-uniform), _F53))))
        return scores.index(max(scores))

    def exp_uniform(self, low: float, high: float) -> float:
        """``torch.exp(torch.empty(1).uniform_(low, high)).item()``: a float32, correctly rounded.

        torch's own exp is off by the last bit for about one input in a hundred, and the processor decides for which.
        docs/exactness.md says what that means for a crop box.
        """
        return float(np.float32(math.exp(self.uniform(low, high))))
