"""When a batch begins: when it is full, or when waiting for one more image would cost more than it gains.

Waiting for the next image delays all images that are there already. It saves one start of a batch, which the next
image's own batch would need. Both costs are learnt from measured times. One is the gap before an image: since the image
before it, or since the end of a batch, as decoders then send their next images. The other is the time of a batch, taken
to be ``start + each * n`` seconds for n images. The rule and its factors were found by simulation
(tests/device/test_batching.py).
"""

from __future__ import annotations

import math

__all__ = ["PATIENCE", "Batching"]

#: Seconds that a batch waits for others while it could run, at most.
PATIENCE = 0.005

#: The weight of the past when a new time is measured: the last twenty or so count.
_MEMORY = 0.95

#: Least ratio of gain to average cost for which a batch waits.
_WORTH = 2.0
#: Longest wait, in multiples of the gain: the next image may be late, and is worth more the fewer wait.
_LONGEST = 4.0


class Batching:
    """Counts images, and decides for them; times are seconds on any one clock."""

    def __init__(self, most: int) -> None:
        """``most`` images are a full batch."""
        self._most = most
        self._gap = PATIENCE
        #: When the last image arrived or the last batch ended; and since when a waiting batch could run.
        self._since = self._from = -math.inf
        # Decaying sums of 1, n, n * n, seconds and n * seconds over the batches, as least squares need them. They begin
        # with a batch of one image and one of two, so that there is always a line.
        self._sums = [2.0, 3.0, 5.0, 0.004, 0.006]
        self.waiting = 0

    def arrived(self, now: float, images: int = 1) -> None:
        self._gap = _MEMORY * self._gap + (1 - _MEMORY) * min(now - self._since, PATIENCE)
        self._since = now
        if not self.waiting:
            self._from = now
        self.waiting += images

    def removed(self, images: int = 1) -> None:
        """They are in a batch now, or their decoder has ended."""
        self.waiting -= images

    def finished(self, now: float) -> None:
        """A batch is done: the device is free, and the decoders in it may send their next images."""
        self._since = self._from = now

    def measured(self, images: int, seconds: float) -> None:
        """A batch of ``images`` took ``seconds``."""
        terms = (1, images, images**2, seconds, images * seconds)
        self._sums = [_MEMORY * old + new for old, new in zip(self._sums, terms, strict=True)]

    def estimate(self, images: int) -> float:
        """Seconds that a batch of ``images`` takes; of none, its start."""
        count, n, nn, t, nt = self._sums
        spread = count * nn - n * n
        each = (count * nt - n * t) / spread if spread > 1e-9 * nn else t / n
        each = min(max(0.0, each), t / n)  # neither the start nor an image takes less than nothing
        return (t - each * n) / count + each * images

    def begins(self, others: int) -> float:
        """When the batch begins; -inf: now, inf: no image waits. Only valid while the device is free.

        ``others`` is the number of images that could still arrive.
        """
        if not self.waiting:
            return math.inf
        gain = self.estimate(0) / self.waiting
        if self.waiting >= self._most or others <= 0 or _WORTH * self._gap > gain:
            return -math.inf
        return min(self._from + PATIENCE, self._since + _LONGEST * gain)
