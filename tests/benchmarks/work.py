"""What every side of the benchmark does: the same steps on the same objects, with the same draws."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tvetl.spec import derive_seed

BUCKET = "photos"
SEED = 2023
SIZE = 224
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]

_CROP: list[dict[str, object]] = [{"op": "RandomResizedCrop", "size": SIZE}, {"op": "RandomHorizontalFlip"}]
_TABLE: list[dict[str, object]] = [{"op": "ToTensor"}, {"op": "Normalize", "mean": MEAN, "std": STD}]

#: Name -> steps and output: the blog post's pipeline; that without what works on values alone; and the latter without
#: loss, for telling how far inexact pixels are (normalised values wrap, so no distance can be told from them).
PIPELINES: Mapping[str, tuple[list[dict[str, object]], str]] = {
    "train": ([*_CROP, *_TABLE, {"op": "ToPILImage"}], "jpeg"),
    "crop": (_CROP, "jpeg"),
    "lossless": (_CROP, "png"),
}


def pipeline(name: str, precision: str = "exact") -> str:
    """The pipeline as tvetl-server takes it (TVETL_PIPELINE)."""
    steps, form = PIPELINES[name]
    return json.dumps({"version": 1, "steps": steps, "output": {"format": form}, "seed": SEED, "precision": precision})


def seed_of(name: str) -> int:
    """The seed of an object, ``<bucket>/<object>``; for ``torch.manual_seed``."""
    return derive_seed(SEED, 0, 0, name)
