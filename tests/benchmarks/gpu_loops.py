"""The sides of ``make bench-gpu`` without HTTP, for benchmarks.loops: batches of 32 on the GPU, in one process.

With ``BENCH_DEVICE=host`` all of them run on the CPU, to try the script.
"""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from benchmarks.loops import Object, Side
from benchmarks.work import MEAN, PIPELINES, SIZE, STD, pipeline, seed_of
from PIL import Image

from tvetl.spec import Arguments, parse
from tvetl_server.engine import DeviceRequest, Engine
from tvetl_server.engine.cuda import Gpu
from tvetl_server.limits import Limits

BATCH = 32
WHERE = os.environ.get("BENCH_DEVICE", "cuda")
DEVICE = "cpu" if WHERE == "host" else "cuda"
_VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")


def by_batches(work: Callable[[Sequence[Object], Sequence[bytes]], list[bytes]]) -> Side:
    """A batch's time is shared by its images; files are read beforehand."""

    def side(objects: Iterable[Object]) -> Iterator[tuple[bytes, float]]:
        numbers = iter(objects)
        while batch := list(itertools.islice(numbers, BATCH)):
            files = [path.read_bytes() for _, path in batch]
            start = time.perf_counter()
            results = work(batch, files)
            each = (time.perf_counter() - start) / len(batch)
            yield from ((result, each) for result in results)

    return side


def torchvision(name: str) -> Side:
    """torchvision's own decoder, transforms and encoder, all on the GPU."""
    from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
    from torchvision.transforms import v2

    crop = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()])
    table = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def work(batch: Sequence[Object], files: Sequence[bytes]) -> list[bytes]:
        given = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        images = []
        for (key, _), pixels in zip(batch, decode_jpeg(given, ImageReadMode.RGB, device=DEVICE), strict=True):
            torch.default_generator.manual_seed(seed_of(key))
            images.append(crop(pixels))
        if name == "train":  # together, as they have one size; what lies outside 0..1 wraps as in ToPILImage
            images = [*(table(torch.stack(images)) * 255).to(torch.int64).to(torch.uint8)]
        if PIPELINES[name][1] == "png":
            return [_png(pixels.permute(1, 2, 0).cpu().numpy()) for pixels in images]
        return [file.cpu().numpy().tobytes() for file in encode_jpeg(images, quality=75)]

    with_no_gradients = torch.inference_mode()(work)
    return by_batches(with_no_gradients)


def device(name: str) -> Side:
    """The device's batches alone: JPEGs in, JPEGs out."""
    return _batches(name, encodes=True)


def pixels(name: str) -> Side:
    """The same, but encoded by Pillow, on this one core."""
    return _batches(name, encodes=False)


def _batches(name: str, *, encodes: bool) -> Side:
    asked = parse(pipeline(name))
    gpu, recorder = Gpu(WHERE, asked, _VISIBLE), Recorder()  # type: ignore[arg-type]
    engine = Engine(asked, Limits(), device=recorder)
    ready: dict[str, DeviceRequest] = {}

    def order(key: str, data: bytes) -> DeviceRequest:
        try:
            engine.transform(data, key, Arguments())
        except Recorded as it:
            return it.order if encodes else DeviceRequest(it.order.data, it.order.size, it.order.steps, None, None)
        raise RuntimeError(f"{key} is not for the device")

    def side(objects: Iterable[Object]) -> Iterator[tuple[bytes, float]]:
        numbers = iter(objects)
        while batch := list(itertools.islice(numbers, BATCH)):
            for key, path in batch:
                if key not in ready:
                    ready[key] = order(key, path.read_bytes())
            start = time.perf_counter()
            results = []
            for found in gpu.run([ready[key] for key, _ in batch]):
                if found is None:
                    raise RuntimeError("the device refuses an image")
                results.append(found[0] if isinstance(found[0], bytes) else _file(found[0], PIPELINES[name][1]))
            each = (time.perf_counter() - start) / len(batch)
            yield from ((result, each) for result in results)

    return side


class Recorded(BaseException):
    """An order on its way to the device; no error that the engine would make one of its own of."""

    def __init__(self, order: DeviceRequest) -> None:
        self.order = order


class Recorder:
    """A device for an engine, which does nothing."""

    def transform(self, order: DeviceRequest) -> list[object]:
        raise Recorded(order)

    def cpu_slot(self) -> object:
        raise NotImplementedError


def _file(array: np.ndarray, form: str) -> bytes:
    if form == "png":
        return _png(array)
    Image.fromarray(array).save(buffer := io.BytesIO(), "JPEG", quality=75)
    return buffer.getvalue()


def _png(array: np.ndarray) -> bytes:
    Image.fromarray(array).save(buffer := io.BytesIO(), "PNG", compress_level=1)
    return buffer.getvalue()


KINDS: dict[str, Callable[[str], Side]] = {"torchvision": torchvision, "device": device, "pixels": pixels}
