"""How much one object may cost: its bytes, its pixels and its time."""

from __future__ import annotations

from dataclasses import dataclass

from tvetl.spec.limits import EDGE

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What one object may cost. Beyond a limit the answer is 413 or 422, before the cost is paid."""

    max_bytes: int = 256 * 2**20
    """Bytes of a source; 256 MiB. Photographs are far below. The source is held in memory; a shard that comes in a
    request is, too."""

    max_shard_bytes: int = 8 * 2**30
    """Bytes of a shard read by file name, of what its members say to hold, and of its result; 8 GiB. It is not held in
    memory, so this bounds time and the room for temporary files; shards are commonly cut at 0.1 to 4 GB."""

    max_pixels: int = 178_956_970
    """Pixels of a source; 178,956,970, where Pillow itself refuses (twice its MAX_IMAGE_PIXELS), so that
    what plain Pillow opens is opened here. One such image takes up to 4 GiB (docs/server.md, Memory)."""

    max_frames: int = 1000
    """Frames of an animation, pages of a TIFF; 1,000. Only the first is used, but telling how many there
    are walks the file. Set 1 to refuse animations."""

    max_members: int = 100_000
    """Members of a shard; 100,000. Shards are commonly cut at some thousands of samples of two or three members;
    each costs a look at its header."""

    max_output_pixels: int = EDGE**2
    """Pixels of a result; 67,108,864 = 8192 x 8192, the largest ``size`` a pipeline may name. Steps such as
    Pad or a Resize of a long thin image reach it without a large ``size``."""

    seconds: float = 30.0
    """Seconds for reading and transforming one object; 30. AIStore gives up after ``obj_timeout``, 45 by
    default, and shows no reason; this and ``delivery_seconds`` together stay below it."""

    @property
    def result(self) -> int:
        """Bytes of a result, at most: of all views together, three channels of float64, and a header."""
        return 24 * self.max_output_pixels + 2**20

    @property
    def memory(self) -> int:
        """Bytes that a decoder may take for one object: the formula of docs/server.md, of all views together."""
        return 3 * self.max_bytes + 24 * self.max_pixels + 56 * self.max_output_pixels
