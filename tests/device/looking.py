"""Looks at a device's processes from outside: /proc and metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0


def children(process: int) -> list[int]:
    """The ids of its children that run."""
    try:
        started = [
            int(child)
            for thread in Path(f"/proc/{process}/task").iterdir()
            for child in (thread / "children").read_text(encoding="ascii").split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child in started if runs(child)]


def runs(process: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def counted(metrics: str, name: str) -> float:
    """The value of one series of the metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    assert found, f"{name} is not in {metrics}"
    return float(found[1])


def until(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a condition that must come true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
