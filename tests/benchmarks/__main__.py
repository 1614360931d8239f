"""``make bench``: tvetl-server beside its peers, on one machine in one run.

A figure is a ratio of two sides that took turns, the median over the rounds; and it counts only where this run found
that side's outputs equal to torchvision's (or told how far off they are, for sides that are not meant to be equal).
The results go into docs/performance.json, of which docs/performance.py makes the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path

from benchmarks import check, inputs, measure
from benchmarks.measure import REPOSITORY, Broken, Loop, Sample, Server, object_name
from benchmarks.work import BUCKET, pipeline

sys.path.insert(0, str(REPOSITORY / "docs"))
import performance

WORK = REPOSITORY / "build" / "bench"
KEPT = REPOSITORY / "docs" / "performance.json"
SAMPLE = REPOSITORY.parent / "shared" / "data" / "imagenet-sample"

#: Connections a worker: enough that it never waits for its next object.
CONNECTIONS = 4
#: dB below which no image of ``precision: fast`` may fall, or its figures do not count.
FAST_LOWEST = 30.0

Objects = list[tuple[str, Path]]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description="tvetl-server and its peers, side by side.")
    parser.add_argument("--quick", action="store_true", help="1 to 2 minutes, and nothing is kept in docs/")
    parser.add_argument("--data", type=Path, help="a folder of JPEG photographs of ImageNet's size")
    parser.add_argument("--workers", type=int, help="of each side (the processors but one, which is the driver's)")
    parser.add_argument("--rounds", type=int, help="of each comparison (5; quick 2)")
    parser.add_argument("--seconds", type=int, help="of a side's turn (1; with 12 MP twice that)")
    parser.add_argument("--shard-mb", type=int, help="size of the shard (1024; quick 32)")
    parser.add_argument("--parts", default="", help="of rates,crop,start,stages,views,shard (all; quick not crop)")
    parser.add_argument("--inputs", default="", help="which inputs of: imagenet,2mp,12mp,444,gray,progressive (all)")
    parser.add_argument("--keep", type=Path, help="where the results go (docs/performance.json; quick build/bench/)")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (2 if asked.quick else 5)
    asked.seconds = asked.seconds or 1
    asked.shard_mb = asked.shard_mb or (32 if asked.quick else 1024)
    asked.keep = asked.keep or (WORK / "quick.json" if asked.quick else KEPT)
    return asked


class Bench:
    """One run: what is started, and what was found so far."""

    def __init__(self, asked: argparse.Namespace, stack: ExitStack) -> None:
        self.asked, self.stack = asked, stack
        cpus = sorted(os.sched_getaffinity(0))
        self.workers = asked.workers or max(1, len(cpus) - 1)
        self.cpus = cpus[: self.workers]
        self.driver = cpus[self.workers :] or cpus
        self.root = WORK / "objects" / "@ais"  # as a target's mount
        self.results: dict[str, object] = {}
        self.skipped: list[dict[str, str]] = []
        self.rates: list[dict[str, object]] = []
        self.loops: dict[str, Loop] = {}
        self.wanted: dict[object, dict[str, bytes]] = {}
        self.made: dict[str, inputs.Input] = {}

    # --- sides ----------------------------------------------------------------------------------------------------

    def start(self, side: str, name: str, **settings: str) -> Server:
        """A server of this side with this pipeline, which has answered."""
        log = WORK / "logs" / f"{side}-{name}.log"
        with measure.on(self.cpus):
            if side == "fastapi":
                server = measure.fastapi(name, self.workers, log)
            elif side == "flask":
                server = measure.flask(name, self.workers, log)
            else:
                precision = "fast" if side == "fast" else "exact"
                server = measure.ours(pipeline(name, precision), self.root, self.workers, log, side, **settings)
        self.stack.callback(server.stop)
        server.wait(measure.target(*self.objects("imagenet")[0]))
        return server

    def loop(self, kind: str) -> Loop:
        if kind not in self.loops:
            with measure.on(self.cpus):
                self.loops[kind] = Loop(kind, self.workers, WORK / "logs" / f"loop-{kind}.log")
            self.stack.callback(self.loops[kind].stop)
        return self.loops[kind]

    def objects(self, kind: str) -> Objects:
        return [(object_name(name), path) for name, path in self.made[kind].files.items()]

    def looped(self, kind: str, name: str, objects: Objects) -> dict[str, bytes]:
        """What a loop makes of each object; torchvision's results are kept, as every side is compared with them."""
        key = (kind, name, tuple(objects))
        if key in self.wanted:
            return self.wanted[key]
        into = WORK / "outputs" / kind
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        listed = [(each, str(path)) for each, path in objects]
        self.loop(kind).ask(everyone=False, do="check", pipeline=name, objects=listed, into=str(into))
        found = {each: (into / str(at)).read_bytes() for at, (each, _) in enumerate(objects)}
        if kind == "reference":
            self.wanted[key] = found
        return found

    def available(self, servers: Sequence[str], loops: Sequence[str], name: str) -> tuple[dict[str, Server], list[str]]:
        """The sides that run here; why one does not stands in ``skipped``."""
        running: dict[str, Server] = {}
        for side in servers:
            if side == "fast" and (reason := refused(pipeline(name, "fast"))):
                self.skip(side, reason)
                continue
            running[side] = self.start(side, name)
        there = []
        for kind in loops:
            try:
                self.looped(kind, name, self.objects("imagenet")[:1])
                there.append(kind)
            except Broken as error:
                self.skip(kind, str(error))
        return running, there

    def skip(self, side: str, reason: str, where: str = "") -> None:
        """Leave a side out, and say so in the table."""
        if side in self.loops:
            self.loops.pop(side).stop()
        if (entry := {"side": side, "where": where, "reason": reason}) not in self.skipped:
            self.skipped.append(entry)
            say(f"  without {side}{f' for {where}' if where else ''}: {reason}")

    # --- parts ----------------------------------------------------------------------------------------------------

    def compare(self, name: str, kinds: Sequence[str], servers: Sequence[str], loops: Sequence[str]) -> None:
        """Images a second and what they cost: every side in turns, for each input, by file name and by body."""
        running, looping = self.available(servers, loops, name)
        for kind in kinds:
            objects = self.objects(kind)
            wanted = self.looped("reference", name, objects)
            say(f"{self.made[kind].label}, {name}: {len(objects)} objects, checking")
            found = {
                f"name:{side}": self.checked_server(side, name, running[side], objects, wanted) for side in running
            }
            for side in looping:
                try:
                    found[f"loop:{side}"] = self.checked_loop(side, name, objects, wanted)
                except Broken as error:
                    self.skip(side, str(error), self.made[kind].label)
            seconds = self.asked.seconds * (2 if kind == "12mp" else 1)
            ways = {f"name:{side}": self.by_server(running[side], kind, objects, seconds) for side in running}
            ways |= {key: self.by_loop(key[5:], name, objects, seconds) for key in found if key.startswith("loop:")}
            if name == "train" and kind in (("imagenet",) if self.asked.quick else ("imagenet", "2mp", "12mp")):
                for side in running:
                    ways[f"body:{side}"] = self.by_server(running[side], kind, objects, seconds, by_body=True)
                    found[f"body:{side}"] = self.checked_server(
                        side, name, running[side], objects, wanted, by_body=True
                    )
            rounds: dict[str, list[Sample]] = {key: [] for key in ways}
            for round_ in range(
                self.asked.rounds if kind in performance.JUDGED and name == "train" else min(3, self.asked.rounds)
            ):
                for key in check.in_turns(list(ways), round_):
                    rounds[key].append(ways[key]())
            for side, server in running.items():  # still right after all that?
                again = self.checked_server(side, name, server, objects, wanted)
                if "of" in again and not check.good(again):
                    found[f"name:{side}"] = found[f"body:{side}"] = again
            for key, samples in rounds.items():
                way, _, side = key.partition(":")
                row = {"pipeline": name, "input": kind, "way": way, "side": side, "checked": found[key]}
                row["rounds"] = [numbers(sample) for sample in samples]
                if way == "name":  # a turn of its own: looking costs time
                    with measure.peak(running[side].process.pid) as held:
                        ways[key]()
                    row["megabytes"] = round(held[-1] / self.workers, 1)
                self.rates.append(row)
                say(f"  {key:16} {performance.spread([r['rate'] for r in row['rounds']])} images/s  {row['checked']}")  # type: ignore[index,union-attr]
        for server in running.values():
            server.stop()

    def checked_server(
        self, side: str, name: str, server: Server, objects: Objects, wanted: Mapping[str, bytes], by_body: bool = False
    ) -> dict[str, float]:
        outputs = {
            key: server.put(measure.target(key, None if by_body else path), path.read_bytes() if by_body else b"")
            for key, path in objects
        }
        if side == "fast":  # over HTTP as in the loop, whose distance from torchvision is known
            same = check.equal(outputs, self.looped(side, name, objects))
            return self.distance(objects) if check.good(same) else dict(same)
        return dict(check.equal(outputs, wanted))

    def checked_loop(self, side: str, name: str, objects: Objects, wanted: Mapping[str, bytes]) -> dict[str, float]:
        if side == "limit":
            return dict(check.equal(self.looped(side, name, objects), self.looped("regions", name, objects)))
        return dict(check.equal(self.looped(side, name, objects), wanted))

    def distance(self, objects: Objects) -> dict[str, float]:
        """How far ``precision: fast`` is from torchvision."""
        found = check.distance(self.looped("fast", "lossless", objects), self.looped("reference", "lossless", objects))
        return {**found, "counts": check.good(found, FAST_LOWEST)}

    def by_server(
        self, server: Server, kind: str, objects: Objects, seconds: int, by_body: bool = False
    ) -> Callable[[], Sample]:
        way = "body" if by_body else "name"
        requests = measure.write_requests(WORK / "requests" / f"{kind}-{way}.txt", objects, by_body=by_body)
        return lambda: server.load(requests, seconds, CONNECTIONS * self.workers, self.driver)

    def by_loop(self, side: str, name: str, objects: Objects, seconds: int) -> Callable[[], Sample]:
        return lambda: self.loop(side).run(name, objects, seconds)

    def starts(self) -> None:
        """Seconds from starting a server to its first answer."""
        found: dict[str, list[float]] = {"tvetl": [], "fastapi": [], "flask": []}
        for round_ in range(1 if self.asked.quick else 3):
            for side in check.in_turns(list(found), round_):
                began = time.perf_counter()
                server = self.start(side, "train")
                found[side].append(round(time.perf_counter() - began, 3))
                server.stop()
        self.results["start"] = found
        say(f"start: {found}")

    def stages(self, kinds: Sequence[str]) -> None:
        """Where the engine's time goes, in CPU time of its thread."""
        found = {}
        for kind in kinds:
            rounds = [
                self.loop("engine").ask(
                    everyone=False,
                    do="stages",
                    pipeline="train",
                    objects=[(key, str(path)) for key, path in self.objects(kind)],
                    root=str(self.root),
                    seconds=self.asked.seconds,
                )[0]
                for _ in range(min(3, self.asked.rounds))
            ]
            found[kind] = {stage: [round(each[stage], 4) for each in rounds] for stage in rounds[0]}
            say(f"stages, {kind}: {found[kind]}")
        self.results["stages"] = found

    def views(self, kinds: Sequence[str]) -> None:
        """Eight views of an object in one request, and in eight."""
        server = self.start("tvetl", "train")
        found = {}
        for kind in kinds:
            one = [(key, path, '{"views": 8}') for key, path in self.objects(kind)]
            eight = [(key, path, json.dumps({"view": view})) for key, path in self.objects(kind) for view in range(8)]
            lists = {}
            for label, wanted in (("one", one), ("eight", eight)):
                lists[label] = WORK / "requests" / f"views-{kind}-{label}.txt"
                lists[label].write_text("".join(f"{measure.target(*each)}\t\n" for each in wanted), encoding="utf-8")
            same = 0
            for at, each in enumerate(one):
                with tarfile.open(fileobj=io.BytesIO(server.put(measure.target(*each)))) as tar:
                    together = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
                same += together == [server.put(measure.target(*view)) for view in eight[8 * at : 8 * at + 8]]
            rates: dict[str, list[float]] = {"one": [], "eight": []}
            for round_ in range(self.asked.rounds):
                for label in check.in_turns(["one", "eight"], round_):
                    sample = server.load(lists[label], self.asked.seconds, CONNECTIONS * self.workers, self.driver)
                    rates[label].append(round(sample.images / sample.seconds * (8 if label == "one" else 1), 2))
            found[kind] = {**rates, "checked": {"equal": same, "of": len(one)}}
            say(f"views, {kind}: {found[kind]}")
        self.results["views"] = found
        server.stop()

    def shard(self, megabytes: int) -> None:
        """A tar of photographs in one request, and the same photographs one by one; by one worker."""
        objects = self.objects("imagenet")
        path, count = WORK / "objects" / "@ais" / BUCKET / "%ob" / "shard.tar", 0
        name = object_name("shard.tar")
        with tarfile.open(path, "w") as tar:
            while path.stat().st_size < megabytes * 2**20:
                tar.add(objects[count % len(objects)][1], f"{count:06d}.jpg")
                count += 1
        single = [(f"{name}/{at:06d}.jpg", objects[at % len(objects)][1]) for at in range(count)]
        requests = measure.write_requests(WORK / "requests" / "shard-single.txt", single)
        workers, self.workers = self.workers, 1
        try:
            server = self.start("tvetl", "train", TVETL_MAX_BYTES=str(2**34), TVETL_SECONDS="3600")
        finally:
            self.workers = workers
        pid = server.process.pid
        found: dict[str, list[float]] = {"single": [], "shard": []}
        peaks: dict[str, float] = {}
        same = 0
        for round_ in range(2):
            with measure.on(self.driver), measure.peak(pid) as held:
                sample = server.load(requests, 5 * self.asked.seconds, CONNECTIONS, self.driver)
            found["single"].append(round(sample.images / sample.seconds, 2))
            peaks.setdefault("single", round(held[-1], 1))
            with measure.on(self.driver), measure.peak(pid) as held:
                seconds, answers = shard_answers(server, measure.target(name, path), keep=500 if round_ == 0 else 0)
            found["shard"].append(round(count / seconds, 2))
            peaks.setdefault("shard", round(held[-1], 1))
            if round_ == 0:
                same = sum(server.put(measure.target(*single[at])) == answer for at, answer in enumerate(answers))
                compared = len(answers)
            say(f"shard of {path.stat().st_size / 1e6:.0f} MB, {count} images: {found}, peaks {peaks}")
        self.results["shard"] = {
            "megabytes": round(path.stat().st_size / 1e6),
            "images": count,
            **found,
            "peak_mb": peaks,
            "checked": {"equal": same, "of": compared},
        }
        server.stop()
        path.unlink()


def shard_answers(server: Server, target: str, keep: int) -> tuple[float, list[bytes]]:
    """Seconds for a whole answer, which is read as it comes and not kept; and its first ``keep`` members."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=3600)
    began = time.perf_counter()
    connection.request("PUT", target, headers={"Content-Length": "0"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise Broken(f"the shard is answered with {answer.status}: {answer.read()[:300]!r}")
    kept = []
    with tarfile.open(fileobj=answer, mode="r|") as tar:
        for member in tar:
            if len(kept) < keep:
                kept.append(tar.extractfile(member).read())  # type: ignore[union-attr]
    while answer.read(1 << 20):
        pass
    seconds = time.perf_counter() - began
    connection.close()
    return seconds, kept


def refused(text: str) -> str:
    """Why tvetl-server does not take this pipeline; nothing where it does."""
    command = [str(Path(sys.executable).parent / "tvetl-server"), "--check"]
    env = measure.environment(TVETL_PIPELINE=text)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def written(results: Mapping[str, object]) -> str:
    """JSON with a line for each entry, and in ``rates`` for each side, so that a change can be read."""
    entries = {name: json.dumps(value) for name, value in results.items() if name != "rates"}
    entries["rates"] = "[\n  " + ",\n  ".join(json.dumps(row) for row in results["rates"]) + "\n ]"  # type: ignore[attr-defined]
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {text}" for name, text in entries.items()) + "\n}\n"


def numbers(sample: Sample) -> dict[str, float | None]:
    """A round as it is kept."""
    return {
        "rate": round(sample.images / sample.seconds, 2),
        "p50": sample.p50,
        "p99": sample.p99,
        "cpu": round(1000 * sample.cpu / sample.images, 3),
    }


def machine() -> dict[str, object]:
    """The machine in neutral words."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    names = ("pillow", "torch", "torchvision", "aistore", "uvicorn", "gunicorn", "nvidia-nvimgcodec-cu13")
    return {name: version(name) for name in names}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    asked, began = options(), time.monotonic()
    if shutil.which("wrk") is None:
        sys.exit("make bench needs wrk, the HTTP load driver: apt-get install wrk")
    WORK.mkdir(parents=True, exist_ok=True)
    folder = asked.data or (SAMPLE if SAMPLE.is_dir() else None)
    photographs = inputs.photographs(folder) if folder else inputs.own_sample(WORK / "sample")
    with ExitStack() as stack:
        bench = Bench(asked, stack)
        bench.made = inputs.make(photographs, bench.root / BUCKET / "%ob", quick=asked.quick)
        kinds = [kind for kind in bench.made if not asked.inputs or kind in asked.inputs.split(",")]
        load = machine()
        parts: dict[str, Callable[[], None]] = {
            "rates": lambda: bench.compare(
                "train",
                kinds,
                ("tvetl", "fast", "fastapi", "flask"),
                ("reference", "engine", "limit"),
            ),
            "crop": lambda: bench.compare("crop", kinds[:1], ("tvetl", "fast", "fastapi"), ("engine",)),
            "start": bench.starts,
            "stages": lambda: bench.stages(kinds),
            "views": lambda: bench.views(kinds[: 1 if asked.quick else 2]),
            "shard": lambda: bench.shard(asked.shard_mb),
        }
        for part in (asked.parts or ("rates,start,stages,views,shard" if asked.quick else ",".join(parts))).split(","):
            since = time.monotonic()
            parts[part]()
            say(f"== {part} took {time.monotonic() - since:.0f} s")
        facts = {kind: {"label": made.label, **inputs.facts(made)} for kind, made in bench.made.items()}
        results = {
            "quick": asked.quick,
            "machine": load,
            "versions": versions(),
            "settings": {
                "workers": bench.workers,
                "rounds": asked.rounds,
                "seconds": asked.seconds,
                "connections": CONNECTIONS * bench.workers,
                "minutes": round((time.monotonic() - began) / 60, 1),
            },
            "inputs": facts,
            "skipped": bench.skipped,
            "rates": bench.rates,
            **bench.results,
        }
    asked.keep.write_text(written(results), encoding="utf-8")
    print(performance.everything(results))
    say(f"results in {asked.keep}; {time.monotonic() - began:.0f} s")
    if asked.keep == KEPT:
        subprocess.run([sys.executable, str(REPOSITORY / "docs" / "tables.py")], check=True)


if __name__ == "__main__":
    try:
        main()
    except Broken as error:
        sys.exit(f"make bench: {error}")
