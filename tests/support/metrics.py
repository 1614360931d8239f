"""Reads the text that /metrics answers."""

from __future__ import annotations

import re


def counted(metrics: str, name: str) -> float:
    """The value of one series; ``name`` with its labels, as the text has it."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    assert found, f"{name} is not in {metrics}"
    return float(found[1])
