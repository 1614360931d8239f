"""Batches of samples of which each has as many boxes as its image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import default_collate


def collate_annotated(samples: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """A DataLoader's ``collate_fn`` for samples with masks, boxes or keypoints, which torch's own cannot stack.

    Gives a dict with the samples' keys: ``image`` and ``mask`` as one tensor (B, ...), or as a list of B where the
    images of the batch are not of one shape; masks as int32 where one of them is. ``label``, that of the image, as
    ``default_collate`` gives it. Everything else is a list of B: ``boxes``, ``labels``, ``keypoints``, ``name``.
    Raises ValueError where there are no samples, or not the same keys in all of them.
    """
    if not samples or any(sample.keys() != samples[0].keys() for sample in samples):
        raise ValueError(f"expected samples with the same keys, got {[sorted(sample) for sample in samples][:2]}")
    batch: dict[str, object] = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key in {"image", "mask"} & batch.keys():
        batch[key] = _stacked([sample[key] for sample in samples])
    if "label" in batch:
        batch["label"] = default_collate([sample["label"] for sample in samples])
    return batch


def _stacked(images: Sequence[object]) -> torch.Tensor | list[object]:
    tensors = [image for image in images if isinstance(image, torch.Tensor)]
    if len(tensors) != len(images) or any(image.shape != tensors[0].shape for image in tensors):
        return [*images]
    dtype = torch.int32 if any(image.dtype == torch.int32 for image in tensors) else tensors[0].dtype
    return torch.stack([image.to(dtype) for image in tensors])
