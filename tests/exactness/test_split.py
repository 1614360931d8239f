"""The pixels that a request may ask for, looked up in the contract's table, are the whole answer, bit for bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load

from tvetl.spec import Arguments, Pipeline, derive_seed, parse, parse_arguments
from tvetl.spec.compose import to_compose
from tvetl.spec.table import split
from tvetl_server.engine import Engine, has_torch
from tvetl_server.limits import Limits

Array = npt.NDArray[np.generic]

CROP = [{"op": "RandomResizedCrop", "size": 96}, {"op": "RandomHorizontalFlip"}]
EVALUATION = [{"op": "Resize", "size": 128}, {"op": "CenterCrop", "size": [112, 96]}]
NORMALIZE = {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TO_TENSOR = [{"op": "ToTensor"}, NORMALIZE]


def to(dtype: str) -> dict[str, object]:
    return {"op": "ToDtype", "dtype": dtype, "scale": True}


PIPELINES: dict[str, dict[str, Any]] = {
    "training": {"steps": [*CROP, *TO_TENSOR]},
    "evaluation": {"steps": [*EVALUATION, *TO_TENSOR], "output": {"format": "safetensors"}},
    "v2": {"steps": [*CROP, {"op": "ToImage"}, to("float32"), NORMALIZE]},
    "float16 at the output": {"steps": [*CROP, *TO_TENSOR], "output": {"format": "npy", "dtype": "float16"}},
    "float16 in the steps": {"steps": [*EVALUATION, {"op": "ToImage"}, to("float16"), NORMALIZE]},
    "float16, then float32": {
        "steps": [*CROP, {"op": "ToImage"}, to("float16"), NORMALIZE],
        "output": {"format": "npy", "dtype": "float32"},
    },
    "bytes again": {"steps": [*CROP, *TO_TENSOR, to("uint8")]},
    "not scaled": {"steps": [*CROP, {"op": "PILToTensor"}, {"op": "ToDtype", "dtype": "float32"}, NORMALIZE]},
    "gray": {
        "steps": [*CROP, {"op": "Grayscale"}, {"op": "ToTensor"}, {"op": "Normalize", "mean": [0.45], "std": [0.2]}]
    },
    "gray of three channels": {
        "steps": [{"op": "Grayscale"}, {"op": "Grayscale", "num_output_channels": 3}, *CROP, *TO_TENSOR]
    },
    "no resize": {"steps": [{"op": "RandomCrop", "size": 80, "pad_if_needed": True}, *TO_TENSOR]},
    "two tables": {"steps": [*CROP, *TO_TENSOR, {"op": "ToPILImage"}, {"op": "RandomInvert"}, *TO_TENSOR]},
    "fast": {"steps": [*CROP, *TO_TENSOR], "precision": "fast"},
    "colour": {"steps": [*CROP, {"op": "ColorJitter", "brightness": 0.4, "hue": 0.1}, *TO_TENSOR]},
    "RandAugment": {"steps": [*CROP, {"op": "RandAugment"}, *TO_TENSOR]},
    "gray blur as float16": {
        "steps": [
            *CROP,
            {"op": "GaussianBlur", "kernel_size": 3},
            {"op": "Grayscale"},
            {"op": "ToImage"},
            to("float16"),
            {"op": "Normalize", "mean": [0.45], "std": [0.2]},
        ]
    },
}
NEEDS_TORCH = ("RandAugment", "gray blur as float16")


def read(body: object) -> Array:
    assert isinstance(body, bytes)
    tensor: Array = np.load(io.BytesIO(body)) if body.startswith(b"\x93NUMPY") else load(body)["image"]
    return tensor


def looked_up(table: Array, pixels: Array) -> Array:
    return np.stack([table[c][pixels[c]] for c in range(len(table))])


def same(ours: Array, theirs: Array) -> bool:
    return (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def pipeline(name: str) -> Pipeline:
    if name in NEEDS_TORCH and not has_torch():
        pytest.skip(f"{name} needs torchvision, which is not installed")
    return parse(PIPELINES[name])


@pytest.mark.parametrize("name", PIPELINES)
def test_looked_up_pixels_are_the_whole_answer(name: str, sample: list[bytes], limits: Limits) -> None:
    engine, found = Engine(whole := pipeline(name), limits), split(pipeline(name))
    assert found is not None
    alone = Engine(found.pipeline, limits)
    for number, data in enumerate(sample):
        asked = {"seed": number, "epoch": 2, "view": number % 3}
        answers = [
            each.transform(data, f"b/{number}", parse_arguments({**asked, **more})).body
            for each, more in ((engine, {}), (engine, {"pixels": True}), (alone, {}))
        ]
        assert answers[1] == answers[2]
        pixels = read(answers[1])
        assert pixels.dtype == np.uint8
        assert same(looked_up(found.table, pixels), read(answers[0])), (whole, number)


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "fast"])
def test_they_are_torchvisions_own_tensors(name: str, sample: list[bytes], limits: Limits) -> None:
    torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
    engine, found, compose = Engine(pipeline(name), limits), split(pipeline(name)), to_compose(pipeline(name))
    assert found is not None
    for number, data in enumerate(sample[:25]):
        torch.manual_seed(derive_seed(number, 0, 0, "b/o"))
        theirs = compose(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
        answer = engine.transform(data, "b/o", Arguments(seed=number, pixels=True)).body
        assert same(looked_up(found.table, read(answer)), theirs.astype(found.table.dtype, copy=False)), number


def test_they_are_that_in_views_sizes_and_every_format(sample: list[bytes], limits: Limits) -> None:
    engine, found = Engine(pipeline("training"), limits), split(pipeline("training"))
    assert found is not None
    for number, data in enumerate(sample[:25]):
        for asked in ({"views": 3}, {"size": [40, 56]}, {"size": 33, "views": 2}, {"format": "safetensors"}):
            whole, pixels = (
                read(engine.transform(data, f"b/{number}", parse_arguments({"seed": 1, **asked, **more})).body)
                for more in ({}, {"pixels": True})
            )
            planes = looked_up(found.table, np.moveaxis(pixels, -3, 0))
            assert same(np.ascontiguousarray(np.moveaxis(planes, 0, -3)), whole), asked
        raw, npy = (
            engine.transform(data, "b/o", parse_arguments({"seed": 1, "pixels": True, "format": format})).body
            for format in ("raw", "npy")
        )
        assert raw == read(npy).tobytes()
