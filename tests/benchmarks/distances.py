"""How far the device's pixels are from exact: each op on its own, and whole pipelines, on photographs.

``.venv/bin/python tests/benchmarks/distances.py`` measures what TVETL_DEVICE=host makes, and keeps it in docs/gpu.json.
``make tables`` writes the table in docs/gpu.md of it; ``make bench-gpu`` does the same on a GPU, with ``--where cuda``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tvetl.spec import Arguments, Pipeline, forms, parse
from tvetl_server.engine import DeviceRequest, Engine, NotByDevice
from tvetl_server.engine.pixels import Array, Encoded
from tvetl_server.limits import Limits
from tvetl_server.settings import DeviceKind

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "docs"))
import gpu  # noqa: E402

os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
from tvetl_server.engine.cuda import Gpu  # noqa: E402  reads the variable

SAMPLE = REPOSITORY.parent / "shared" / "data" / "imagenet-sample"

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Steps = list[dict[str, object]]

_CROP: Steps = [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}]
_NORMALIZE: Steps = [{"op": "ToTensor"}, {"op": "Normalize", "mean": MEAN, "std": STD}]

#: What the table calls it -> its steps. What is done now and then is done always.
CASES: Mapping[str, Steps] = {
    "RandomResizedCrop, flip": _CROP,
    "RandomResizedCrop, flip, ToTensor, Normalize": [*_CROP, *_NORMALIZE],
    "RandomResizedCrop, flip, ToTensor, Normalize, ToPILImage": [*_CROP, *_NORMALIZE, {"op": "ToPILImage"}],
    "Resize": [{"op": "Resize", "size": 256}],
    "Resize, bicubic": [{"op": "Resize", "size": 256, "interpolation": "bicubic"}],
    "Resize, nearest": [{"op": "Resize", "size": 256, "interpolation": "nearest"}],
    "CenterCrop": [{"op": "CenterCrop", "size": 224}],
    "RandomCrop": [{"op": "RandomCrop", "size": 224, "padding": 9, "pad_if_needed": True, "fill": [1, 2, 3]}],
    "Pad": [{"op": "Pad", "padding": 20, "padding_mode": "reflect"}],
    "ScaleJitter": [{"op": "ScaleJitter", "target_size": [300, 400]}],
    "RandomShortestSize": [{"op": "RandomShortestSize", "min_size": [200, 320, 480], "max_size": 640}],
    "RandomResize": [{"op": "RandomResize", "min_size": 200, "max_size": 480}],
    "RandomZoomOut": [{"op": "RandomZoomOut", "side_range": [1, 2], "p": 1}],
    "RandomHorizontalFlip": [{"op": "RandomHorizontalFlip", "p": 1}],
    "RandomVerticalFlip": [{"op": "RandomVerticalFlip", "p": 1}],
    "RandomRotation, bilinear": [{"op": "RandomRotation", "degrees": 30, "interpolation": "bilinear"}],
    "RandomAffine": [{"op": "RandomAffine", "degrees": 15, "translate": [0.1, 0.2], "scale": [0.8, 1.2], "shear": 5}],
    "RandomPerspective": [{"op": "RandomPerspective", "p": 1}],
    "ColorJitter: brightness": [{"op": "ColorJitter", "brightness": 0.4}],
    "ColorJitter: contrast": [{"op": "ColorJitter", "contrast": 0.4}],
    "ColorJitter: saturation": [{"op": "ColorJitter", "saturation": 0.4}],
    "ColorJitter: hue": [{"op": "ColorJitter", "hue": 0.1}],
    "Grayscale": [{"op": "Grayscale"}],
    "RandomGrayscale": [{"op": "RandomGrayscale", "p": 1}],
    "GaussianBlur": [{"op": "GaussianBlur", "kernel_size": 5}],
    "RandomInvert": [{"op": "RandomInvert", "p": 1}],
    "RandomPosterize": [{"op": "RandomPosterize", "bits": 3, "p": 1}],
    "RandomSolarize": [{"op": "RandomSolarize", "threshold": 128, "p": 1}],
    "RandomAdjustSharpness": [{"op": "RandomAdjustSharpness", "sharpness_factor": 1.7, "p": 1}],
    "RandomPhotometricDistort": [{"op": "RandomPhotometricDistort", "p": 1}],
    "RandomAutocontrast": [{"op": "RandomAutocontrast", "p": 1}],
    "RandomEqualize": [{"op": "RandomEqualize", "p": 1}],
    "AutoAugment": [{"op": "AutoAugment"}],
    "RandAugment": [{"op": "RandAugment"}],
    "TrivialAugmentWide": [{"op": "TrivialAugmentWide"}],
    "AugMix": [{"op": "AugMix"}],
    "RandomErasing": [{"op": "ToTensor"}, {"op": "RandomErasing", "p": 1, "value": "random"}],
    "RandomApply: saturation": [
        {"op": "RandomApply", "p": 1, "transforms": [{"op": "ColorJitter", "saturation": 0.4}]}
    ],
    "RandomChoice: brightness or saturation": [
        {
            "op": "RandomChoice",
            "transforms": [{"op": "ColorJitter", "brightness": 0.4}, {"op": "ColorJitter", "saturation": 0.4}],
        }
    ],
    "RandomOrder: crop, flip": [
        {"op": "RandomOrder", "transforms": [{"op": "RandomCrop", "size": 96}, {"op": "RandomHorizontalFlip", "p": 1}]}
    ],
    "ToTensor": [{"op": "ToTensor"}],
    "PILToTensor": [{"op": "PILToTensor"}],
    "ToImage, ToDtype, Normalize": [
        {"op": "ToImage"},
        {"op": "ToDtype", "dtype": "float32", "scale": True},
        {"op": "Normalize", "mean": MEAN, "std": STD},
    ],
}


class InProcess:
    """A Gpu as an engine's device, with no process and no batch between them."""

    def __init__(self, where: DeviceKind, pipeline: Pipeline) -> None:
        self.gpu = Gpu(where, pipeline, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def transform(self, order: DeviceRequest) -> list[Array | Encoded]:
        (results,) = self.gpu.run([order])
        if results is None:
            raise NotByDevice("refused")
        return results

    def cpu_slot(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Distance:
    """What many pairs of images are apart; tensors of floats in 255ths."""

    def __init__(self) -> None:
        self._decibels: list[float] = []
        self._largest = 0.0
        self._differ = self._values = 0
        self.images = self.by_cpu = 0

    def add(self, exact: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
        assert exact.shape == other.shape and exact.dtype == other.dtype
        factor = 255 if exact.dtype.kind == "f" else 1
        apart = np.abs(exact.astype(np.float64) - other.astype(np.float64)) * factor
        self.images += 1
        # What torch and numpy round otherwise in the last bit is no difference of a pixel.
        self._differ += int(np.count_nonzero(apart > 1e-4))
        self._values += apart.size
        self._largest = max(self._largest, float(apart.max()))
        mean = float(np.mean(apart**2))
        self._decibels.append(99.0 if mean == 0 else min(99.0, 10 * math.log10(255**2 / mean)))

    def figures(self) -> dict[str, float]:
        """As they are kept; without the rest where the device did none."""
        found: dict[str, float] = {"images": self.images, "by_cpu": self.by_cpu}
        if self.images:
            found |= {
                "largest": round(self._largest, 1),
                "differ": round(self._differ / self._values, 4),
                "median": round(statistics.median(self._decibels), 1),
                "lowest": round(min(self._decibels), 1),
            }
        return found


def measured(where: DeviceKind, steps: Steps, files: Mapping[int, bytes]) -> Distance:
    """Exact and device, each photograph with its number for a seed."""
    pipeline = parse({"steps": steps, "output": {"format": "png" if _ends_in_image(steps) else "npy"}})
    exact, device = Engine(pipeline, Limits()), Engine(pipeline, Limits(), device=InProcess(where, pipeline))
    distance = Distance()
    for number, data in files.items():
        arguments = Arguments(seed=number)
        answer = device.transform(data, f"b/{number}.jpg", arguments)
        if "device" in answer.ways:
            distance.add(_pixels(exact.transform(data, f"b/{number}.jpg", arguments).body), _pixels(answer.body))
        else:
            distance.by_cpu += 1
    return distance


def _ends_in_image(steps: Steps) -> bool:
    return [*forms(parse({"steps": steps}))][-1].kind == "pil"


def _pixels(answer: Any) -> npt.NDArray[Any]:
    return np.load(io.BytesIO(answer)) if answer[:6] == b"\x93NUMPY" else np.asarray(Image.open(io.BytesIO(answer)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", choices=("host", "cuda"), default="host")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="a folder of JPEG photographs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    files = [path.read_bytes() for path in sorted(asked.data.glob("*.[jJ][pP]*"))]
    found = {}
    for name, steps in CASES.items():
        found[name] = measured(asked.where, steps, dict(enumerate(files))).figures()
        sys.stderr.write(f"{name}: {found[name]}\n")
    gpu.keep(f"distance on {asked.where}", found)


if __name__ == "__main__":
    main()
