"""The sides without HTTP: a process that does one thing in a loop, told by lines of JSON: ``-m benchmarks.loops KIND``.

It is started once and asked in turns, so that its start counts in no round:

- ``{"do": "check", "pipeline": P, "objects": [[NAME, FILE], ...], "into": FOLDER}`` writes each to FOLDER/<number>.
- ``{"do": "run", "pipeline": P, "objects": [...], "seconds": S}`` works for so long.
- ``{"do": "stages", ...}`` as run, of the engine alone: where the time goes.

Each answer is a line of JSON.
"""

from __future__ import annotations

import io
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.work import pipeline, seed_of
from PIL import Image

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine
from tvetl_server.engine.draw import Draw
from tvetl_server.engine.plans import ops
from tvetl_server.limits import Limits

Object = tuple[str, Path]
Side = Callable[[Sequence[Object]], Iterator[tuple[bytes, float]]]
"""Objects to results, each with the seconds it took; endless where the objects are."""


# --- what is done to each -----------------------------------------------------------------------------------------


def one_by_one(work: Callable[[bytes, str], bytes]) -> Side:
    def side(objects: Iterable[Object]) -> Iterator[tuple[bytes, float]]:
        for name, path in objects:
            start = time.perf_counter()
            result = work(path.read_bytes(), name)
            yield result, time.perf_counter() - start

    return side


def reference(name: str) -> Side:
    """torchvision alone."""
    from benchmarks.reference import Reference

    return one_by_one(Reference(name))


def regions(name: str) -> Side:
    """Not a side: what the limit must equal. Decoded by Pillow, then cropped to the drawn box."""

    def work(data: bytes, name: str) -> bytes:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return image.crop(_drawn(name, image.size)[0]).tobytes()

    return one_by_one(work)


def engine(name: str, precision: str = "exact") -> Side:
    """tvetl-server's engine, without its HTTP."""
    ours, arguments = Engine(parse(pipeline(name, precision)), Limits()), Arguments()
    return one_by_one(lambda data, name: ours.transform(data, name, arguments).body)


def fast(name: str) -> Side:
    return engine(name, "fast")


def limit(name: str) -> Side:
    """libjpeg-turbo decoding only the drawn region, by nvImageCodec as our engine calls it; boxes drawn, files read."""
    from nvidia import nvimgcodec

    decoder = nvimgcodec.Decoder(
        device_id=-99999,  # NVIMGCODEC_DEVICE_CPU_ONLY
        backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],
        max_num_cpu_threads=1,
        options=":fancy_upsampling=1",
    )
    params = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)
    ready: dict[str, tuple[bytes, nvimgcodec.Region]] = {}

    def side(objects: Iterable[Object]) -> Iterator[tuple[bytes, float]]:
        for name, path in objects:
            if name not in ready:
                data = path.read_bytes()
                left, top, right, bottom = _drawn(name, Image.open(io.BytesIO(data)).size)[0]
                ready[name] = data, nvimgcodec.Region(top, left, bottom, right)
            data, region = ready[name]
            start = time.perf_counter()
            decoded = decoder.decode(nvimgcodec.CodeStream(data).get_sub_code_stream(region=region), params=params)
            pixels = np.asarray(decoded.cpu())
            seconds = time.perf_counter() - start
            yield memoryview(pixels), seconds  # type: ignore[misc]

    return side


KINDS: dict[str, Callable[[str], Side]] = {
    "reference": reference,
    "regions": regions,
    "engine": engine,
    "fast": fast,
    "limit": limit,
}

_PARAMS = parse(pipeline("crop")).steps[0].params


def _drawn(name: str, size: tuple[int, int]) -> tuple[tuple[int, int, int, int], bool]:
    """The box and the flip that torchvision draws for this object; drawn by our engine, as that costs the least."""
    draw = Draw(seed_of(name))
    return ops.random_box(_PARAMS, draw, size), draw.rand() < 0.5


# --- where the engine's time goes -----------------------------------------------------------------------------------


def stages(name: str, objects: Sequence[Object], root: Path, seconds: float) -> dict[str, float]:
    """Milliseconds of this thread's CPU time an image, by stage; "rest" is what the engine does between them."""
    import tvetl_server.engine.engine as module
    from tvetl_server.engine import decode, resize
    from tvetl_server.engine.plans.exact import ExactPlan
    from tvetl_server.serving.source import Files

    ours, arguments, files = Engine(parse(pipeline(name)), Limits()), Arguments(), Files((root,), Limits().max_bytes)
    clock = _Clock()
    with ExitStack() as stack:
        for owner, function, stage in (
            (Files, "read", "read"),
            (module, "open_source", "header"),
            (ExactPlan, "_draw", "draw"),
            # One stage, as most regions are resized while they are decoded.
            (decode.Source, "pixels", "decode, resize, flip, table"),
            (decode.Source, "array", "decode, resize, flip, table"),
            (resize.Resize, "of_coded", "decode, resize, flip, table"),
            (resize.Resize, "__call__", "decode, resize, flip, table"),
            (module, "encode", "encode"),
        ):
            stack.enter_context(clock.around(owner, function, stage))
        images, start, end = 0, time.thread_time(), time.monotonic() + seconds
        for object_name, path in itertools.cycle(objects):
            ours.transform(files.read(str(path)), object_name, arguments)
            images += 1
            if time.monotonic() > end:
                break
        spent = time.thread_time() - start
    clock.times["rest"] = spent - sum(clock.times.values())
    return {stage: 1000 * each / images for stage, each in clock.times.items()}


class _Clock:
    """Adds up the CPU time of functions while they are called as they are."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._inside = False

    @contextmanager
    def around(self, owner: Any, function: str, stage: str) -> Iterator[None]:
        inner = getattr(owner, function)

        def outer(*args: Any, **more: Any) -> Any:
            if self._inside:  # one stage that calls another is one
                return inner(*args, **more)
            self._inside, start = True, time.thread_time()
            try:
                return inner(*args, **more)
            finally:
                self.times[stage] = self.times.get(stage, 0) + time.thread_time() - start
                self._inside = False

        setattr(owner, function, outer)
        try:
            yield
        finally:
            setattr(owner, function, inner)


# --- the process ----------------------------------------------------------------------------------------------------


def main() -> None:
    kind = sys.argv[1]
    kinds = KINDS if kind in KINDS else import_module("benchmarks.gpu_loops").KINDS
    made: dict[str, Side] = {}
    at = 0
    # Whatever a library prints goes to the log; the answers have the real standard output.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        name, objects = asked["pipeline"], [(str(key), Path(path)) for key, path in asked["objects"]]
        side = made.setdefault(name, kinds[kind](name)) if name not in made else made[name]
        answer: dict[str, object] = {}
        if asked["do"] == "check":
            for number, (result, _) in enumerate(side(objects)):
                (Path(asked["into"]) / str(number)).write_bytes(result)
            answer = {"images": len(objects)}
        elif asked["do"] == "stages":
            answer = {**stages(name, objects, Path(asked["root"]), asked["seconds"])}
        else:
            # Where the last round ended: every photograph gets its turn, however short the rounds.
            turns = itertools.cycle(objects[at % len(objects) :] + objects[: at % len(objects)])
            took, cpu, start = [], _cpu(), time.perf_counter()
            for _, seconds in side(turns):
                took.append(seconds)
                if time.perf_counter() - start > asked["seconds"]:
                    break
            elapsed = sum(took)
            at += len(took)
            answer = {"images": len(took), "seconds": elapsed, "cpu": _cpu() - cpu}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
