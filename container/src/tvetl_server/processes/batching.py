"""When a batch for the device closes: full, or where waiting for one more would cost more than it gains.

To wait for one more image costs the time until it comes, to each that is there already. It gains a batch's start, which
the newcomer's batch then has not. Both are learnt from the times seen: an image comes so long after the one before, or
after a batch that ended, as those whom that answered send their next; and n of them take ``start + each * n`` seconds.
The factors were found by simulation (tests/device/test_gathering.py), as was the whole rule.
"""

from __future__ import annotations

import math

__all__ = ["PATIENCE", "Gathering"]

#: Seconds that a batch waits for others while it could run, at most.
PATIENCE = 0.005

#: How much of what was learnt is left when one more is seen: the last twenty or so count.
_MEMORY = 0.95

#: To wait at all must gain so many times what it costs on average,
_WORTH = 2.0
#: and then it may last so many times what it gains: the next may be late, and is worth more the fewer wait.
_LONGEST = 4.0


class Gathering:
    """The images that wait, by number; times are seconds on any one clock."""

    def __init__(self, most: int, patience: float = PATIENCE) -> None:
        """``most`` images go together."""
        self._most = most
        self._patience = patience
        self._gap = patience
        #: When the last image came or the last batch ended; and since when a batch that waits could run.
        self._since = self._from = -math.inf
        # Decaying sums of 1, n, n * n, seconds and n * seconds over the batches: what least squares need. As if one
        # batch of one image and one of two had been seen, so that there is a line from the first on.
        self._seen = [2.0, 3.0, 5.0, 0.004, 0.006]
        self.waiting = 0

    def came(self, now: float, images: int = 1) -> None:
        """More wait."""
        self._gap = _MEMORY * self._gap + (1 - _MEMORY) * min(now - self._since, self._patience)
        self._since = now
        if not self.waiting:
            self._from = now
        self.waiting += images

    def went(self, images: int = 1) -> None:
        """So many of them are in a batch now, or gave up."""
        self.waiting -= images

    def ended(self, now: float) -> None:
        """A batch is done: the device is free, and whoever was in it may send the next."""
        self._since = self._from = now

    def ran(self, images: int, seconds: float) -> None:
        """A batch took so long."""
        self._seen = [
            _MEMORY * old + new
            for old, new in zip(self._seen, (1, images, images**2, seconds, images * seconds), strict=True)
        ]

    def seconds(self, images: int) -> float:
        """What a batch of so many takes, as far as learnt; of none, its start."""
        count, n, nn, t, nt = self._seen
        spread = count * nn - n * n
        each = (count * nt - n * t) / spread if spread > 1e-9 * nn else t / n
        each = min(max(0.0, each), t / n)  # neither part below nothing
        return (t - each * n) / count + each * images

    def closes(self, others: int) -> float:
        """When to stop waiting: -inf is now, inf that none waits. ``others`` is how many more could come at all.

        To be asked only while the device is free.
        """
        if not self.waiting:
            return math.inf
        gain = self.seconds(0) / self.waiting
        if self.waiting >= self._most or others <= 0 or _WORTH * self._gap > gain:
            return -math.inf
        return min(self._from + self._patience, self._since + _LONGEST * gain)
