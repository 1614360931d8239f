"""How long the device's processes wait, in seconds; read at each use, so that tests can set shorter times."""

from __future__ import annotations

#: The device's start: torch and CUDA take 3 to 10 s, more on nodes of many GPUs.
START = 180.0
#: One batch; the device's process is ended where it takes longer.
HANG = 10.0
#: Deaths within these seconds after which the device is lost.
DEATHS, DEATHS_WITHIN = 5, 60.0
#: Until a lost device is started again.
RETRY = 30.0
#: Between two checks of whether the parent is still there.
POLL = 1.0
