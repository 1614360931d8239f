"""Waits for a condition, often looked at, and fails where it does not come."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds. Generous: a hang is a failure, slowness of a busy machine is not.
PATIENCE = 60.0


def until(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a condition that must come true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
