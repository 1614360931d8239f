"""What the jail costs: ``cd tests && python -m benchmarks.jail``; servers with and without it take turns.

Rates say little while the machine has other work, so the processor time of all of a server's processes stands beside
them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from support.processes import processes
from support.serving import Server, ask, by_name, start

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample"
PIPELINE = '{"steps": [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}]}'
#: Without a jail, with it, and with it and a secret that is laid aside: the program then starts twice.
SIDES: Mapping[str, Mapping[str, str]] = {
    "off": {"TVETL_JAIL": "off"},
    "require": {"TVETL_JAIL": "require"},
    "require, with a secret": {"TVETL_JAIL": "require", "AIS_TARGET_URL": "http://127.0.0.1:9/v1/etl/_object/x/y"},
}


def seconds_of(server: Server) -> float:
    """Processor time of all processes, with those that have ended: of the former to the nanosecond."""
    seconds = 0.0
    for process in processes(server):
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        seconds += sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")
        for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
            seconds += int(task.read_text(encoding="ascii").split()[0]) / 1e9
    return seconds


def turn(server: Server, targets: list[str]) -> tuple[float, float]:
    """Objects a second, and milliseconds of processor time an object."""
    connection = server.connect()
    before, began = seconds_of(server), time.perf_counter()
    for target in targets:
        assert ask(connection, "PUT", target, keep=True).status == 200
    took, spent = time.perf_counter() - began, seconds_of(server) - before
    connection.close()
    return len(targets) / took, 1000 * spent / len(targets)


def begun(log: Path, settings: Mapping[str, str]) -> tuple[float, float]:
    """Milliseconds until the first answer, and of processor time until then."""
    began = time.perf_counter()
    server = start(log, every=0.001, TVETL_PIPELINE=PIPELINE, **settings)
    took, spent = time.perf_counter() - began, seconds_of(server)
    server.stop()
    return 1000 * took, 1000 * spent


def shown(name: str, found: Mapping[str, list[tuple[float, float]]], units: tuple[str, str]) -> None:
    print(name)
    for side, values in found.items():
        words = []
        for at, unit in enumerate(units):
            median = statistics.median(value[at] for value in values)
            ratio = statistics.median(value[at] / base[at] for value, base in zip(values, found["off"], strict=True))
            words.append(f"{median:8.2f} {unit} ({ratio:.3f} times)")
        print(f"  {side:24} {', '.join(words)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jail", description="What the jail costs.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--objects", type=int, default=250, help="of a turn")
    asked = parser.parse_args()
    files = sorted(SAMPLE.glob("*.JPEG"))
    targets = [f"/src/{file.name}?{by_name(str(file))}" for file in files]
    targets = (targets * (1 + asked.objects // len(targets)))[: asked.objects]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        log = Path(folder) / "log"
        started: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(asked.starts):
            for side, settings in SIDES.items():
                started[side].append(begun(log, settings))
        shown("start", started, ("ms", "ms of CPU"))
        servers = {}
        for side in ("off", "require"):
            server = start(Path(folder) / side, TVETL_PIPELINE=PIPELINE, TVETL_ROOTS=str(SAMPLE), **SIDES[side])
            stack.callback(server.stop)
            servers[side] = server
            turn(server, targets)
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in servers}
        for round_ in range(asked.rounds):
            for side in [*servers] if round_ % 2 else [*reversed(servers)]:
                found[side].append(turn(servers[side], targets))
        shown("objects", found, ("a second", "ms of CPU each"))


if __name__ == "__main__":
    main()
