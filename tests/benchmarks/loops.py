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
from benchmarks.work import MEAN, PIPELINES, SIZE, STD, pipeline, seed_of
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


def opencv(name: str) -> Side:
    """The way fast loaders do it: decoded at 1/2, 1/4 or 1/8 where the crop allows, then INTER_AREA."""
    import cv2

    cv2.setNumThreads(1)
    ending = f".{PIPELINES[name][1]}"
    options = [cv2.IMWRITE_JPEG_QUALITY, 75] if ending == ".jpeg" else []
    table = _table()[None, :, ::-1]  # OpenCV's channels are blue, green, red
    scales = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    scales[8] = cv2.IMREAD_REDUCED_COLOR_8

    def work(data: bytes, object_name: str) -> bytes:
        box, flip = _drawn(object_name, Image.open(io.BytesIO(data)).size)
        shorter = min(box[2] - box[0], box[3] - box[1])
        scale = max(scale for scale in scales if scale == 1 or shorter >= SIZE * scale)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), scales[scale] | cv2.IMREAD_IGNORE_ORIENTATION)
        left, top, right, bottom = (round(edge / scale) for edge in box)
        image = cv2.resize(image[top:bottom, left:right], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        image = cv2.flip(image, 1) if flip else image
        return cv2.imencode(ending, cv2.LUT(image, table) if name == "train" else image, options)[1].tobytes()

    return one_by_one(work)


_BATCH = 8


def dali(name: str) -> Side:
    """DALI's CPU operators, in batches; it writes no JPEGs on the CPU, so Pillow does."""
    from nvidia.dali import fn, pipeline_def, types

    waiting: list[Object] = []

    def feed() -> tuple[list[Any], ...]:
        raw, anchors, shapes, flips = [], [], [], []
        for object_name, path in waiting:
            data = path.read_bytes()
            (left, top, right, bottom), flip = _drawn(object_name, Image.open(io.BytesIO(data)).size)
            raw.append(np.frombuffer(data, np.uint8))
            anchors.append(np.array([top, left], np.int32))
            shapes.append(np.array([bottom - top, right - left], np.int32))
            flips.append(np.array(flip, np.int32))
        return raw, anchors, shapes, flips

    @pipeline_def(batch_size=_BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def steps() -> Any:
        raw, anchor, shape, flip = fn.external_source(source=feed, num_outputs=4)
        image = fn.decoders.image_slice(
            raw, anchor, shape, axes=(0, 1), device="cpu", output_type=types.RGB, adjust_orientation=False
        )
        image = fn.resize(image, size=[SIZE, SIZE], interp_type=types.INTERP_LINEAR, antialias=True)
        if name != "train":
            return fn.flip(image, horizontal=flip)
        # What lies beyond 0..1 is cut here, and wraps in torchvision's ToPILImage.
        mean, std = ([255 * value for value in values] for values in (MEAN, STD))
        return fn.crop_mirror_normalize(
            image, mirror=flip, mean=mean, std=std, scale=255.0, output_layout="HWC", dtype=types.UINT8
        )

    built = None

    def side(objects: Iterable[Object]) -> Iterator[tuple[bytes, float]]:
        nonlocal built
        numbers = iter(objects)
        while batch := list(itertools.islice(numbers, _BATCH)):
            start = time.perf_counter()
            waiting[:] = batch + [batch[-1]] * (_BATCH - len(batch))
            if built is None:
                built = steps(exec_pipelined=False, exec_async=False)
                built.build()
            (images,) = built.run()
            results = []
            for at in range(len(batch)):
                Image.fromarray(np.asarray(images[at])).save(buffer := io.BytesIO(), PIPELINES[name][1])
                results.append(buffer.getvalue())
            each = (time.perf_counter() - start) / len(batch)
            yield from ((result, each) for result in results)

    return side


KINDS: dict[str, Callable[[str], Side]] = {
    "reference": reference,
    "regions": regions,
    "engine": engine,
    "fast": fast,
    "limit": limit,
    "opencv": opencv,
    "dali": dali,
}

_PARAMS = parse(pipeline("crop")).steps[0].params


def _drawn(name: str, size: tuple[int, int]) -> tuple[tuple[int, int, int, int], bool]:
    """The box and the flip that torchvision draws for this object; drawn by our engine, as that costs the least."""
    draw = Draw(seed_of(name))
    return ops.random_box(_PARAMS, draw, size), draw.rand() < 0.5


def _table() -> np.ndarray:
    """(256, 3): what ToTensor, Normalize, ToPILImage make of each value; values wrap."""
    values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    normalised = (values - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.trunc(normalised * 255).astype(np.int64).astype(np.uint8)


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
