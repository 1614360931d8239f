"""Masks, boxes and keypoints move as torchvision moves them with their image: values and coordinates, bit for bit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tvetl.answers import read_sample
from tvetl.spec import derive_seed, parse, parse_arguments
from tvetl_server.engine import Engine
from tvetl_server.errors import TransformFailed
from tvetl_server.limits import Limits

torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
v2 = pytest.importorskip("torchvision.transforms.v2", reason="compares with torchvision, which is not installed")
compose = pytest.importorskip("tvetl.spec.compose")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")

pytestmark = pytest.mark.filterwarnings("ignore:The transform `ToTensor", "ignore:RandomErasing")

Array = npt.NDArray[Any]
Data = dict[str, Any]

SEEDS = 20
TENSOR: Data = {"op": "PILToTensor"}

FLIP: Data = {"op": "RandomHorizontalFlip"}
FLOAT: Data = {"op": "ToDtype", "dtype": "float32", "scale": True}
END: list[Data] = [TENSOR, FLOAT, {"op": "SanitizeBoundingBoxes"}]
NORMALIZED: list[Data] = [
    TENSOR,
    FLOAT,
    {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
]

#: Every op that moves something, and some that must leave annotations alone.
OPS: Mapping[str, list[Data]] = {
    "Resize": [{"op": "Resize", "size": 96}],
    "Resize up": [{"op": "Resize", "size": [501, 333]}],
    "Resize by nearest-exact": [{"op": "Resize", "size": [77, 300], "interpolation": "nearest-exact"}],
    "CenterCrop": [{"op": "CenterCrop", "size": [96, 101]}],
    "CenterCrop of more than there is": [{"op": "CenterCrop", "size": [703, 731]}],
    "RandomCrop": [{"op": "RandomCrop", "size": 64}],
    "RandomCrop, padded": [
        {"op": "RandomCrop", "size": [601, 602], "pad_if_needed": True, "padding": [3, 4, 1, 2], "fill": 7}
    ],
    "RandomResizedCrop": [{"op": "RandomResizedCrop", "size": 64}],
    "RandomResizedCrop by nearest-exact": [
        {"op": "RandomResizedCrop", "size": [64, 90], "interpolation": "nearest-exact"}
    ],
    "Pad": [{"op": "Pad", "padding": [3, 4, 1, 2], "fill": 9}],
    "RandomHorizontalFlip": [{"op": "RandomHorizontalFlip"}],
    "RandomVerticalFlip": [{"op": "RandomVerticalFlip"}],
    "RandomRotation": [{"op": "RandomRotation", "degrees": 30, "fill": 3}],
    "RandomRotation, expanded": [{"op": "RandomRotation", "degrees": 30, "expand": True}],
    "RandomAffine": [{"op": "RandomAffine", "degrees": 9, "translate": [0.1, 0.2], "scale": [0.8, 1.2], "shear": 5}],
    "RandomPerspective": [{"op": "RandomPerspective"}],
    "RandomApply": [
        {"op": "RandomApply", "transforms": [{"op": "RandomCrop", "size": 64}, {"op": "Resize", "size": 96}]}
    ],
    "on a tensor": [TENSOR, {"op": "RandomResizedCrop", "size": 50}, {"op": "RandomHorizontalFlip"}],
    "colours between": [
        {"op": "ColorJitter", "brightness": 0.5, "hue": 0.1},
        {"op": "RandomGrayscale", "p": 0.5},
        {"op": "RandomPosterize", "bits": 3},
        {"op": "RandomHorizontalFlip"},
    ],
    "colours between, by torch": [
        {"op": "GaussianBlur", "kernel_size": 5},
        {"op": "RandomEqualize"},
        {"op": "Grayscale"},
        {"op": "RandomRotation", "degrees": 5},
        {"op": "ToTensor"},
        {"op": "RandomErasing", "p": 0.7, "value": "random"},
        {"op": "Normalize", "mean": [0.5], "std": [0.5]},
        {"op": "RandomHorizontalFlip"},
    ],
    "a training pipeline": [
        {"op": "RandomResizedCrop", "size": 224},
        {"op": "RandomHorizontalFlip"},
        {"op": "ToTensor"},
        {"op": "Normalize", "mean": [0.5], "std": [0.5]},
    ],
    "boxes that are left": [{"op": "RandomCrop", "size": 100}, {"op": "SanitizeBoundingBoxes", "min_size": 9}],
    "boxes that end at the edges": [{"op": "ClampBoundingBoxes"}, {"op": "RandomHorizontalFlip"}],
    "boxes that end at the edges, after a flip": [{"op": "RandomVerticalFlip"}, {"op": "ClampBoundingBoxes"}],
    "a crop at the left, after a flip": [FLIP, {"op": "RandomResizedCrop", "size": 64, "scale": [0.99, 1.0]}],
    "boxes that are left beyond the edges": [{"op": "ClampBoundingBoxes", "clamping_mode": None}],
    "a crop drawn by the boxes that are left": [
        {"op": "RandomCrop", "size": 100},
        {"op": "SanitizeBoundingBoxes", "min_size": 30},
        {"op": "RandomIoUCrop"},
    ],
    "RandomZoomOut": [{"op": "RandomZoomOut", "fill": [123, 117, 104], "mask_fill": 0, "side_range": [1, 2]}],
    "ScaleJitter": [{"op": "ScaleJitter", "target_size": [300, 301]}],
    "RandomShortestSize": [{"op": "RandomShortestSize", "min_size": [100, 200, 300], "max_size": 333}],
    "RandomResize": [{"op": "RandomResize", "min_size": 100, "max_size": 300}],
    "RandomChoice": [
        {
            "op": "RandomChoice",
            "transforms": [{"op": "CenterCrop", "size": 99}, {"op": "RandomVerticalFlip"}],
            "p": [1, 2],
        }
    ],
    "RandomOrder": [
        {"op": "RandomOrder", "transforms": [{"op": "CenterCrop", "size": 99}, {"op": "Resize", "size": 201}]}
    ],
    "RandomPhotometricDistort": [{"op": "RandomPhotometricDistort"}, {"op": "RandomCrop", "size": 64}],
    "fills of their own": [
        {"op": "Pad", "padding": 9, "fill": [1, 2, 3], "mask_fill": 7},
        {"op": "RandomRotation", "degrees": 9, "fill": 50, "mask_fill": 0},
        {"op": "RandomCrop", "size": [601, 602], "pad_if_needed": True, "fill": 5, "mask_fill": 255},
    ],
    # torchvision's references (references/detection and references/segmentation), as they are for training.
    "detection hflip": [FLIP, *END],
    "detection lsj": [
        {"op": "ScaleJitter", "target_size": [256, 256]},
        {"op": "RandomCrop", "size": 256, "pad_if_needed": True, "fill": [123, 117, 104], "mask_fill": 0},
        FLIP,
        *END,
    ],
    "detection multiscale": [
        {"op": "RandomShortestSize", "min_size": [120, 132, 150, 201], "max_size": 333},
        FLIP,
        *END,
    ],
    "detection ssd": [
        {"op": "RandomPhotometricDistort"},
        {"op": "RandomZoomOut", "fill": [123, 117, 104], "mask_fill": 0},
        {"op": "RandomIoUCrop"},
        FLIP,
        *END,
    ],
    "detection ssdlite": [{"op": "RandomIoUCrop"}, FLIP, *END],
    "segmentation, training": [
        {"op": "RandomResize", "min_size": 130, "max_size": 520},
        FLIP,
        {"op": "RandomCrop", "size": 240, "pad_if_needed": True, "fill": 0, "mask_fill": 255},
        *NORMALIZED,
    ],
    "segmentation, evaluation": [{"op": "Resize", "size": [260, 260]}, *NORMALIZED],
}


def pipeline(steps: list[Data]) -> Data:
    ends = any(step["op"] in ("PILToTensor", "ToTensor") for step in steps)
    return {"steps": steps if ends else [*steps, TENSOR], "seed": 3}


def drawn(size: tuple[int, int], seed: int) -> tuple[Array, Array]:
    """20 boxes and 30 keypoints somewhere in an image of (width, height), some at its edges."""
    rng = np.random.default_rng(seed)
    ends = rng.uniform(0, 1, (20, 2, 2)) * size
    boxes = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)
    boxes[0], boxes[1] = (0, 0, *size), (size[0], size[1], size[0] + 0.75, size[1] + 0.5)
    return boxes.astype(np.float32), (rng.uniform(0, 1, (30, 2)) * size).astype(np.float32)


def png(pixels: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sample_of(image: Image.Image, mask: Array | None, boxes: Array, keypoints: Array) -> Data:
    """What is given to torchvision."""
    canvas = (image.height, image.width)
    found = {
        "image": image,
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes.copy()), format="XYXY", canvas_size=canvas),
        "labels": torch.arange(len(boxes)),
        "keypoints": tv_tensors.KeyPoints(torch.from_numpy(keypoints.copy()), canvas_size=canvas),
    }
    return found if mask is None else {**found, "mask": tv_tensors.Mask(torch.from_numpy(mask.copy()))}


@pytest.fixture(scope="module")
def images(sample: list[bytes]) -> list[bytes]:
    """Four photographs of several shapes, made small to be quick."""
    found = []
    for data in sample[:: max(1, len(sample) // 4)][:4]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((260, 260))
        found.append(png(np.asarray(image)))
    return found


def asked(engine: Engine, data: bytes, name: str, arguments: Data) -> Data:
    tensors, size = read_sample(engine.transform(data, name, parse_arguments(json.dumps(arguments))).body)  # type: ignore[arg-type]
    return {**tensors, "of": size}


def cases(images: list[bytes]) -> Iterator[tuple[Image.Image, bytes, str]]:
    for place, data in enumerate(images):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for seed in range(SEEDS // len(images)):
            yield image, data, f"b/{place}/{seed}.jpg"


@pytest.mark.parametrize("op", OPS)
def test_boxes_and_keypoints_are_torchvisions(images: list[bytes], op: str) -> None:
    data = parse(pipeline(OPS[op]))
    engine, transforms = Engine(data, Limits()), compose.to_compose(data)
    for number, (image, file, name) in enumerate(cases(images)):
        boxes, keypoints = drawn(image.size, number)
        torch.manual_seed(derive_seed(3, 0, 0, name))
        expected = transforms(sample_of(image, None, boxes, keypoints))
        found = asked(engine, file, name, {"boxes": boxes.tolist(), "keypoints": keypoints.tolist()})
        assert found["of"] == (image.height, image.width)
        assert np.array_equal(found["image"], np.asarray(expected["image"])), name
        assert found["image"].dtype == np.asarray(expected["image"]).dtype
        assert found["boxes"].tobytes() == np.asarray(expected["boxes"]).tobytes(), name
        assert found["keypoints"].tobytes() == np.asarray(expected["keypoints"]).tobytes(), name
        assert (found["kept"] == np.asarray(expected["labels"])).all() and found["kept"].dtype == np.int64


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("most", [255, 60_000], ids=["classes", "instances"])
def test_masks_are_torchvisions(images: list[bytes], op: str, most: int) -> None:
    data = parse(pipeline(OPS[op]))
    engine, transforms = Engine(data, Limits()), compose.to_compose(data)
    for number, (image, _, name) in enumerate(cases(images)):
        rng = np.random.default_rng(number)
        kind = np.uint8 if most == 255 else np.uint16
        stored = rng.integers(0, most, (image.height, image.width)).astype(kind)
        mask = stored if kind is np.uint8 else stored.astype(np.int32)
        boxes, keypoints = drawn(image.size, number)
        torch.manual_seed(derive_seed(3, 0, 0, name))
        # With boxes, as some draws depend on them.
        expected = np.asarray(transforms(sample_of(image, mask, boxes, keypoints))["mask"])
        asks = {"as": "mask", "like": name, "format": "safetensors", "of": [image.height, image.width]}
        asks["boxes"] = boxes.tolist()
        found = asked(engine, png(stored), f"b/masks/{number}.png", asks)["mask"]
        assert np.array_equal(found, expected), name
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("number", [2**24 + 1, -(2**24) - 1])
def test_a_masks_number_that_float32_has_not_is_exact_or_refused(number: int) -> None:
    mask = io.BytesIO()
    Image.fromarray(np.full((8, 8), number, np.int32)).save(mask, "TIFF")
    asks = parse_arguments({"as": "mask", "format": "npy"})
    exact = Engine(parse({"steps": [{"op": "CenterCrop", "size": 4}]}), Limits())
    assert (np.load(io.BytesIO(exact.transform(mask.getvalue(), "b/0", asks).body)) == number).all()  # type: ignore[arg-type]
    by_torch = Engine(parse({"steps": [{"op": "RandomRotation", "degrees": 9}], "seed": 1}), Limits())
    with pytest.raises(TransformFailed, match="up to 16,777,216"):
        by_torch.transform(mask.getvalue(), "b/0", asks)
