"""When a batch for the device closes: full, or where waiting for one more would cost more than it gains.

To wait for one more image costs the time until it comes, to each that is there already. It gains what this batch takes:
so long the newcomer would have to wait for a batch of its own. Both are learnt from the times seen: images come so
often, and n of them take ``start + each * n`` seconds.
"""

from __future__ import annotations

import math

__all__ = ["PATIENCE", "Gathering"]

#: Seconds that the first of a batch waits for others, at most.
PATIENCE = 0.005

#: How much of what was learnt is left when one more is seen: the last twenty or so count.
_MEMORY = 0.95


class Gathering:
    """The images that wait, by number; times are seconds on any one clock."""

    def __init__(self, most: int, patience: float = PATIENCE) -> None:
        """``most`` images go together."""
        self._most = most
        self._patience = patience
        self._first = self._last = -math.inf
        self._gap = patience
        # Decaying sums of 1, n, n * n, seconds and n * seconds over the batches: what least squares need. As if one
        # batch of one image and one of two had been seen, so that there is a line from the first on.
        self._seen = [2.0, 3.0, 5.0, 0.004, 0.006]
        self.waiting = 0

    def came(self, now: float, images: int = 1) -> None:
        """More wait."""
        self._gap = _MEMORY * self._gap + (1 - _MEMORY) * min(now - self._last, self._patience)
        self._last = now
        if not self.waiting:
            self._first = now
        self.waiting += images

    def went(self, images: int = 1) -> None:
        """So many of them are in a batch now, or gave up."""
        self.waiting -= images
        self._first = self._last  # of those that are left, as far as anybody knows

    def ran(self, images: int, seconds: float) -> None:
        """A batch took so long."""
        self._seen = [
            _MEMORY * old + new
            for old, new in zip(self._seen, (1, images, images**2, seconds, images * seconds), strict=True)
        ]

    def seconds(self, images: int) -> float:
        """What a batch of so many takes, as far as learnt."""
        count, n, nn, t, nt = self._seen
        spread = count * nn - n * n
        each = (count * nt - n * t) / spread if spread > 1e-9 * nn else t / n
        each = min(max(0.0, each), t / n)  # neither part below nothing
        return (t - each * n) / count + each * images

    def closes(self, others: int) -> float:
        """When to stop waiting: -inf is now, inf that none waits. ``others`` is how many more could come at all."""
        if not self.waiting:
            return math.inf
        worth = self.seconds(self.waiting) / self.waiting
        if self.waiting >= self._most or others <= 0 or self._gap > worth:
            return -math.inf
        return min(self._first + self._patience, self._last + worth)
