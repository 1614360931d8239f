"""``make bench-gpu``: tvetl-server with a GPU beside one CPU core, all cores, and torchvision on the same GPU.

As in ``make bench`` sides take turns, and beside a figure stands what the same run found of the side's pixels: their
distance from exact. What was found goes into docs/gpu.json, and from there into docs/performance.md and docs/gpu.md.
With ``--host`` everything runs on the CPU in the GPU's place. That tries the script, and measures the cost of the
exchange with decoders.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import check, inputs, ipc, measure
from benchmarks.__main__ import SAMPLE, WORK, Objects, machine, numbers, say
from benchmarks.measure import REPOSITORY, Broken, Loop, Sample, Server
from benchmarks.work import BUCKET, pipeline

from tvetl_server.engine.driver import DeviceError, check_driver

#: dB below which no image may fall, or a side's figures do not count.
LOWEST = 30.0
#: Share of the server's images that the device must have done for its figures to count.
MOSTLY = 0.99
#: Sides: name -> (a server's TVETL_DEVICE, or a loop's kind).
SERVERS = {"gpu": "", "cpu": "none"}
LOOPS = {"core": "engine", "torchvision": "torchvision", "device": "device", "pixels": "pixels"}
SIDES = (*SERVERS, *LOOPS)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gpu ARGS=", description="tvetl-server with a GPU, and its peers.")
    parser.add_argument(
        "--host", action="store_true", help="the CPU in the GPU's place: to try it, and for its overhead"
    )
    parser.add_argument("--quick", action="store_true", help="one short round, and nothing is kept in docs/")
    parser.add_argument("--without-http", action="store_true", help="where there is no wrk: the sides in loops alone")
    parser.add_argument("--data", type=Path, help="a folder of JPEG photographs of ImageNet's size")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"of {','.join(SIDES)} (all)")
    parser.add_argument("--inputs", default="imagenet,12mp", help="of imagenet,2mp,12mp (imagenet,12mp)")
    parser.add_argument("--connections", type=int, default=64, help="that push objects at a time (64)")
    parser.add_argument("--batch", type=int, default=32, help="TVETL_BATCH (32)")
    parser.add_argument("--rounds", type=int, help="(5; quick 1)")
    parser.add_argument("--seconds", type=int, default=2, help="of a side's turn (2; with 12 MP twice that)")
    parser.add_argument("--no-distances", action="store_true", help="leave out each op's distance from exact")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (1 if asked.quick else 5)
    asked.where = "host" if asked.host else "cuda"
    return asked


def ready(asked: argparse.Namespace) -> dict[str, str]:
    """What the GPU is. Raises DeviceError for the first thing that is missing, before anything is started."""
    if missing := [name for name in ("torch", "torchvision", "nvidia.nvimgcodec") if not _found(name)]:
        raise DeviceError(f"{', '.join(missing)} cannot be imported", hint="`make setup` installs them into .venv.")
    if not asked.without_http and shutil.which("wrk") is None:
        raise DeviceError(
            "there is no wrk, which drives the servers over HTTP",
            hint="Debian: apt-get install wrk; or put the program on PATH. --without-http leaves these sides out.",
        )
    if asked.host:
        return {"name": "none: the CPU in its place", "driver": "none"}
    # In a process of its own: who has CUDA may not fork, and the exchange with decoders is measured in forks.
    told: dict[str, Any] = _apart("from benchmarks import gpu; print(gpu.probed())")
    if "problem" in told:
        raise DeviceError(told["problem"], hint=told["hint"])
    if not _nvjpeg():
        raise DeviceError(
            "nvJPEG is not installed", hint="make bench-gpu does it; by hand: pip install -r locks/server-cuda.txt."
        )
    return told


def probed() -> str:
    """What the GPU is, as JSON; or the problem."""
    import torch

    try:
        if torch.version.cuda is None:
            raise DeviceError("this torch is built without CUDA", hint="pip's default index has it with CUDA.")
        major, minor = (int(part) for part in torch.version.cuda.split(".")[:2])
        check_driver(os.environ.get("CUDA_VISIBLE_DEVICES"), (major, minor))
        about = torch.cuda.get_device_properties(0)
    except (DeviceError, RuntimeError) as error:
        return json.dumps({"problem": str(error).split("\n")[0], "hint": getattr(error, "hint", None)})
    found = {
        "name": about.name,
        "memory_gb": f"{about.total_memory / 1e9:.0f}",
        "capability": f"{about.major}.{about.minor}",
        "driver": _driver(),
        "cuda": str(torch.version.cuda),
    }
    return json.dumps(found)


def _apart(code: str) -> Any:
    """What this prints last, from JSON, in a process of its own. Raises Broken."""
    env = measure.environment()
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken((done.stderr.strip() or "it ended without a word").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _nvjpeg() -> bool:
    spec = find_spec("nvidia.cu13")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return any(any(Path(place, "lib").glob("libnvjpeg.so*")) for place in places)


def _driver() -> str:
    try:
        found = re.search(r"\s(\d+\.\d+[.\d]*)\s", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
    except OSError:
        return "unknown"
    return found[1] if found else "unknown"


class Bench:
    """One run."""

    def __init__(self, asked: argparse.Namespace, stack: ExitStack) -> None:
        self.asked, self.stack = asked, stack
        cpus = sorted(os.sched_getaffinity(0))
        # wrk's own, out of the servers' way.
        self.cpus, self.driver = (cpus[:-1], cpus[-1:]) if len(cpus) > 1 else (cpus, cpus)
        self.root = WORK / "objects" / "@ais"
        self.sides = [side for side in asked.sides.split(",") if not (asked.without_http and side in SERVERS)]
        self.rates: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self._loops: dict[str, Loop] = {}

    def server(self, side: str, name: str, first: str) -> Server:
        """With this pipeline, and one answer given."""
        device = SERVERS[side] or self.asked.where
        log = WORK / "logs" / f"gpu-{side}-{name}.log"
        with measure.on(self.cpus):
            server = measure.ours(
                pipeline(name),
                self.root,
                len(self.cpus),
                log,
                side,
                TVETL_DEVICE=device,
                TVETL_BATCH=str(self.asked.batch),
            )
        self.stack.callback(server.stop)
        server.wait(first)
        return server

    def loop(self, side: str) -> Loop:
        """One process; that of one CPU core has one."""
        if side not in self._loops:
            with measure.on(self.cpus[:1] if side == "core" else self.cpus):
                more = {} if side == "core" else {"BENCH_DEVICE": self.asked.where}
                self._loops[side] = Loop(LOOPS[side], 1, WORK / "logs" / f"gpu-{side}.log", **more)
            self.stack.callback(self._loops[side].stop)
        return self._loops[side]

    def outputs(self, side: str, name: str, objects: Objects) -> dict[str, bytes]:
        """What a side makes of each object."""
        if side in SERVERS:
            server = self.server(side, name, measure.target(*objects[0]))
            try:
                return {key: server.put(measure.target(key, path)) for key, path in objects}
            finally:
                server.stop()
        into = WORK / "outputs" / f"gpu-{side}"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        listed = [(key, str(path)) for key, path in objects]
        self.loop(side).ask(do="check", pipeline=name, objects=listed, into=str(into))
        return {key: (into / str(at)).read_bytes() for at, (key, _) in enumerate(objects)}

    def checked(self, side: str, objects: Objects, wanted: dict[str, dict[str, bytes]]) -> dict[str, Any]:
        """How far its pixels are from exact, without loss and as JPEG; those that are timed wrap, and tell nothing."""
        found = {name: check.distance(self.outputs(side, name, objects), wanted[name]) for name in wanted}
        return {**found, "counts": all(check.good(each, LOWEST) for each in found.values())}

    def compare(self, kind: str, objects: Objects, label: str) -> None:
        """Every side in turns, on one input."""
        few = objects[:: max(1, len(objects) // 24)]
        say(f"{label}: {len(objects)} objects, the pixels of {len(few)} compared")
        wanted = {name: self.outputs("core", name, few) for name in ("lossless", "crop")}
        found: dict[str, dict[str, Any]] = {}
        ways: dict[str, Callable[[], Sample]] = {}
        seconds = self.asked.seconds * (2 if kind == "12mp" else 1)
        servers: dict[str, Server] = {}
        requests = measure.write_requests(WORK / "requests" / f"gpu-{kind}.txt", objects)
        for side in self.sides:
            try:
                found[side] = self.checked(side, few, wanted)
                if side in SERVERS:
                    servers[side] = self.server(side, "train", measure.target(*objects[0]))
                    ways[side] = self._driven(servers[side], requests, seconds)
                else:
                    ways[side] = self._looped(side, objects, seconds)
                ways[side]()  # warm: what is made once, and the memory of a whole batch
            except Broken as error:
                ways.pop(side, None)
                self.skipped.append({"side": side, "where": label, "reason": str(error)})
                say(f"  without {side}: {error}")
        rounds: dict[str, list[Sample]] = {side: [] for side in ways}
        for round_ in range(self.asked.rounds):
            for side in check.in_turns(list(ways), round_):
                rounds[side].append(ways[side]())
        for side, samples in rounds.items():
            row: dict[str, Any] = {"input": kind, "side": side, "checked": found[side]}
            row["rounds"] = [numbers(sample) for sample in samples]
            if side == "gpu":
                row["device"] = seen = _seen(servers[side])
                row["checked"]["counts"] &= seen["share"] >= MOSTLY
            self.rates.append(row)
            say(
                f"  {side:12} {[each['rate'] for each in row['rounds']]} images/s "
                f"{row['checked']} {row.get('device', '')}"
            )
        for server in servers.values():
            server.stop()

    def _driven(self, server: Server, requests: Path, seconds: int) -> Callable[[], Sample]:
        return lambda: server.load(requests, seconds, self.asked.connections, self.driver)

    def _looped(self, side: str, objects: Objects, seconds: int) -> Callable[[], Sample]:
        return lambda: self.loop(side).run("train", objects, seconds)


def _seen(server: Server) -> dict[str, float]:
    """What /metrics says of the device: the share of images that it did, the mean of a batch, of waits and of runs."""
    series = dict(line.rsplit(" ", 1) for line in server.get("/metrics").splitlines() if line[0] != "#")

    def mean(name: str, label: str = "") -> float:
        return float(series[f"{name}_sum{label}"]) / max(1.0, float(series[f"{name}_count{label}"]))

    ways = {key: float(value) for key, value in series.items() if key.startswith("tvetl_device_images_total")}
    return {
        "share": round(ways['tvetl_device_images_total{way="device"}'] / max(1.0, sum(ways.values())), 4),
        "batch": round(mean("tvetl_device_batch"), 1),
        "gather_ms": round(1000 * mean("tvetl_device_seconds", '{stage="gather"}'), 2),
        "run_ms": round(1000 * mean("tvetl_device_seconds", '{stage="run"}'), 2),
    }


def overhead(asked: argparse.Namespace) -> dict[str, Any]:
    """What the device's process costs beside the device."""
    counts: Sequence[int] = (1, 64) if asked.quick else (1, 16, 64)
    found: dict[str, Any] = {"ipc": []}
    for decoders in counts:
        rounds = [ipc.measured(decoders, asked.batch, 1.0) for _ in range(min(3, asked.rounds))]
        found["ipc"].append(sorted(rounds, key=lambda each: each["microseconds"])[len(rounds) // 2])
        say(f"exchange with decoders: {found['ipc'][-1]}")
    asking = f"ipc.of_a_batch({asked.where!r}, {pipeline('train')!r})"
    found["batch"] = _apart(f"import json; from benchmarks import ipc; print(json.dumps({asking}))")
    say(f"calls of a batch: {found['batch']} microseconds an image")
    return found


def versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "torchvision", "pillow", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg"):
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            found[name] = "none"
    return found


def main() -> int:
    asked, began = options(), time.monotonic()
    try:
        about = ready(asked)
    except DeviceError as error:
        if error.hint:
            say(f"  {error.hint}")
        say(f"make bench-gpu: nothing was measured: {error}")
        return error.exit_code
    WORK.mkdir(parents=True, exist_ok=True)
    folder = asked.data or (SAMPLE if SAMPLE.is_dir() else None)
    photographs = inputs.photographs(folder) if folder else inputs.own_sample(WORK / "sample")
    load = machine()
    with ExitStack() as stack:
        bench = Bench(asked, stack)
        costs = overhead(asked)
        made = inputs.make(photographs, bench.root / BUCKET / "%ob", quick=True)
        for kind in asked.inputs.split(","):
            objects = [(measure.object_name(name), path) for name, path in made[kind].files.items()]
            bench.compare(kind, objects, made[kind].label)
    results = {
        "gpu": about,
        "machine": load,
        "versions": versions(),
        "settings": {
            "cores": len(bench.cpus),
            "rounds": asked.rounds,
            "seconds": asked.seconds,
            "connections": asked.connections,
            "batch": asked.batch,
            "minutes": round((time.monotonic() - began) / 60, 1),
        },
        "inputs": {kind: {"label": made[kind].label, **inputs.facts(made[kind])} for kind in asked.inputs.split(",")},
        "skipped": bench.skipped,
        "overhead": costs,
        "rates": bench.rates,
    }
    sys.path.insert(0, str(REPOSITORY / "docs"))
    import gpu

    print(gpu.measured(results))
    if not asked.quick:
        gpu.keep(f"bench on {asked.where}", results)
        if not asked.no_distances:
            command = [
                sys.executable,
                str(REPOSITORY / "tests" / "benchmarks" / "distances.py"),
                "--where",
                asked.where,
            ]
            subprocess.run([*command, *(["--data", str(folder)] if folder else [])], check=True)
        subprocess.run([sys.executable, str(REPOSITORY / "docs" / "tables.py")], check=True)
    say(f"{time.monotonic() - began:.0f} s")
    return 0 if not bench.skipped else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as problem:
        sys.exit(f"make bench-gpu: {problem}")
