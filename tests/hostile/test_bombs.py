"""What promises too much is refused before it takes memory or time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.hostile.inputs import BOMBS
from support.serving import environment

#: What a refusal may cost.
SECONDS = 0.050
BYTES = 64 * 2**20


def test_refusing_a_bomb_costs_next_to_nothing(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    files = []
    for number, (_, make) in enumerate(BOMBS.values()):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(make())
    command = [sys.executable, "-m", "support.hostile.refusal_costs", *map(str, files)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=True)
    costs = dict(zip(BOMBS, map(json.loads, done.stdout.splitlines()), strict=True))
    assert {name: cost["code"] for name, cost in costs.items()} == {name: code for name, (code, _) in BOMBS.items()}
    slow = {name: cost["seconds"] for name, cost in costs.items() if cost["seconds"] >= SECONDS}
    large = {name: cost["bytes"] for name, cost in costs.items() if cost["bytes"] >= BYTES}
    assert not slow
    assert not large
    seconds, megabytes = (max(cost[what] for cost in costs.values()) for what in ("seconds", "bytes"))
    figure(
        "bad input: refusing a bomb, at most",
        f"{1000 * seconds:.0f} ms of CPU, {megabytes / 2**20:.0f} MiB ({len(costs)} kinds)",
    )
