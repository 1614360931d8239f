"""torchvision as one would write it: what the peers' servers run, and what exact means."""

from __future__ import annotations

import io

import torch
from benchmarks.work import MEAN, PIPELINES, SIZE, STD, seed_of
from PIL import Image
from torchvision import transforms

_CROP = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
_TABLE = [transforms.ToTensor(), transforms.Normalize(MEAN, STD), transforms.ToPILImage()]


class Reference:
    """``Image.open``, ``Compose``, ``save``, with an object's draws set by its seed; one thread."""

    def __init__(self, pipeline: str) -> None:
        torch.set_num_threads(1)
        self._compose = transforms.Compose(_CROP + _TABLE if pipeline == "train" else _CROP)
        self._format = PIPELINES[pipeline][1]

    def __call__(self, data: bytes, name: str) -> bytes:
        """``name`` is ``<bucket>/<object>``."""
        torch.default_generator.manual_seed(seed_of(name))  # torch.manual_seed also looks for every kind of device
        image = Image.open(io.BytesIO(data))
        # convert() copies an image that is RGB already; a transformer in a hurry would not.
        image = self._compose(image if image.mode == "RGB" else image.convert("RGB"))
        image.save(buffer := io.BytesIO(), self._format)
        return buffer.getvalue()
