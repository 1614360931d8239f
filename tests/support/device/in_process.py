"""The device's code on the CPU, in this process and one image at a time: what it makes, without how it gets there."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from benchmarks.distances import InProcess
from PIL import Image

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine
from tvetl_server.errors import ObjectError
from tvetl_server.limits import Limits


class Both:
    """A pipeline with the device and without."""

    def __init__(self, steps: list[dict[str, Any]], format: str = "png", seed: int | None = 3, **more: Any) -> None:
        output = more.pop("output", {"format": format})
        self.pipeline = parse({"steps": steps, "output": output, "seed": seed, **more})
        self.device = Engine(self.pipeline, Limits(), device=InProcess("host", self.pipeline))
        self.cpu = Engine(self.pipeline, Limits())

    def ask(self, data: bytes, name: str, arguments: Arguments | None = None) -> tuple[Any, Any, dict[str, int]]:
        """What both answer, or its error in words, and which way the images went."""
        arguments = arguments or Arguments()
        ways: dict[str, int] = {}
        found: list[Any] = []
        for engine in (self.device, self.cpu):
            try:
                result = engine.transform(data, name, arguments)
                body = result.body if isinstance(result.body, bytes) else result.body.read()
                found.append((body, result.content_type))
                ways = ways or dict(result.ways)
            except ObjectError as error:
                found.append((type(error).__name__, str(error)))
        return found[0], found[1], ways


def pixels(body: bytes) -> np.ndarray[Any, Any]:
    """Of an image, or of a tensor as npy."""
    if body.startswith(b"\x93NUMPY"):
        return np.asarray(np.load(io.BytesIO(body)), np.float64)
    return np.asarray(Image.open(io.BytesIO(body)), np.float64)


def distance(one: bytes, other: bytes) -> tuple[float, float]:
    """The largest difference of a value, in levels of 255, and the PSNR in dB; inf where they are equal."""
    a, b = pixels(one), pixels(other)
    assert a.shape == b.shape
    top = 1.0 if one.startswith(b"\x93NUMPY") else 255.0
    square = float(((a - b) ** 2).mean())
    return float(np.abs(a - b).max()) * 255 / top, 10 * np.log10(top**2 / square) if square else float("inf")
