"""The ways to read an epoch. Each is made, of a :class:`Task`, in the process that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tvetl.bench.apart import LIVE_CLOCKS
from tvetl.cluster import Cluster
from tvetl.datasets import TransformedBatches, TransformedImages, TransformedStream
from tvetl.datasets.reader import Wire, pipeline_of
from tvetl.spec import Pipeline, derive_seed
from tvetl.spec.compose import to_compose

#: Images (B, C, H, W), and their names.
Batch: TypeAlias = tuple[torch.Tensor, Sequence[str]]
#: The batches of an epoch, in the order of the task's names.
Epochs: TypeAlias = Callable[[int], Iterable[Batch]]


@dataclass(frozen=True)
class Task:
    """What each side reads: these objects, through this ETL, with this seed, in batches of ``batch``."""

    endpoint: str
    bucket: str
    etl: str
    names: tuple[str, ...]
    seed: int
    batch: int
    workers: int


Make: TypeAlias = Callable[[Task], Epochs]


def loaded(dataset: Dataset[object], task: Task, workers: int) -> Iterable[Batch]:
    """A DataLoader whose workers live on from epoch to epoch, where their CPU time can be read meanwhile."""
    lives_on = workers > 0 and LIVE_CLOCKS
    return DataLoader(dataset, batch_size=task.batch, num_workers=workers, persistent_workers=lives_on)


def torchvision_here(task: Task) -> Epochs:
    """Originals over the network, torchvision in the workers."""
    pipeline = pipeline_of(Cluster(task.endpoint), task.etl)
    assert pipeline is not None
    dataset = _TorchvisionHere(task, pipeline)
    loader = loaded(dataset, task, task.workers)
    return _each_epoch(dataset.set_epoch, loader)


def images(task: Task) -> Epochs:
    """TransformedImages in the workers."""
    dataset = TransformedImages(Cluster(task.endpoint), task.bucket, task.etl, names=task.names, seed=task.seed)
    return _each_epoch(dataset.set_epoch, loaded(dataset, task, task.workers))  # type: ignore[arg-type]


def stream(task: Task) -> Epochs:
    """TransformedStream in one worker."""
    dataset = TransformedStream(
        Cluster(task.endpoint), task.bucket, task.etl, names=task.names, seed=task.seed, shuffle=False
    )
    return _each_epoch(dataset.set_epoch, loaded(dataset, task, 1))


def batches(task: Task, wire: Wire = "auto") -> Epochs:
    """TransformedBatches, without a DataLoader."""
    dataset: IterableDataset[object] = TransformedBatches(
        Cluster(task.endpoint), task.bucket, task.etl,
        names=task.names, seed=task.seed, shuffle=False, batch=task.batch, wire=wire,
    )  # fmt: skip
    return _each_epoch(dataset.set_epoch, dataset)  # type: ignore[attr-defined, arg-type]


def _each_epoch(set_epoch: Callable[[int], None], batches: Iterable[Batch]) -> Epochs:
    def epoch(number: int) -> Iterable[Batch]:
        set_epoch(number)
        return batches

    return epoch


class _TorchvisionHere(Dataset[object]):
    """What training does without an ETL: the original over the network, torchvision here, under the same seed."""

    def __init__(self, task: Task, pipeline: Pipeline) -> None:
        self._originals = TransformedImages(Cluster(task.endpoint), task.bucket, names=task.names, pil=True)
        self._transform = to_compose(pipeline)
        self._upright = pipeline.orientation == "apply"
        dtype = pipeline.output.options.get("dtype")
        self._dtype = None if dtype is None else getattr(torch, str(dtype))
        self._bucket, self._seed = task.bucket, task.seed

    def set_epoch(self, epoch: int) -> None:
        self._originals.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._originals)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, object]:
        reader = self._originals._reader
        opened, name = self._originals[index]
        assert isinstance(opened, Image.Image)
        image = (ImageOps.exif_transpose(opened) if self._upright else opened).convert("RGB")
        torch.manual_seed(derive_seed(self._seed, reader.epoch, 0, f"{self._bucket}/{name}"))
        tensor: torch.Tensor = self._transform(image)
        return tensor if self._dtype is None else tensor.to(self._dtype), name
