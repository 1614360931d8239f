"""Training input, side by side: torchvision in DataLoader workers, and the same tensors made by the cluster.

Both sides read the same objects in the same order with the same seeds, through torch's DataLoader and the same SDK;
the first round compares every value, the others are timed in turns. Counted are images a second, and the CPU seconds
of this process and its workers: what the training machine pays. Needs torch.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from tvetl.cluster import Cluster
from tvetl.datasets import TransformedImages, TransformedStream
from tvetl.datasets.reader import pipeline_of
from tvetl.errors import UsageError
from tvetl.spec import IMAGE_FORMATS, Pipeline, derive_seed
from tvetl.spec.compose import to_compose

Loader = Callable[[int], "DataLoader[object]"]


@dataclass(frozen=True)
class Side:
    """One way to read an epoch: what of each round, images a second and CPU milliseconds an image."""

    name: str
    images_per_second: tuple[float, ...]
    cpu_ms_per_image: tuple[float, ...]

    def row(self) -> tuple[str, str, str]:
        """Name, and median (least to most) of both."""
        return self.name, _spread(self.images_per_second), _spread(self.cpu_ms_per_image)


@dataclass(frozen=True)
class Comparison:
    """All sides; ``equal`` counts the images whose every value was the same on all of them, of ``images``."""

    images: int
    equal: int
    rounds: int
    workers: int
    batch: int
    sides: tuple[Side, ...]


def bench(
    cluster: Cluster,
    bucket: str,
    etl: str,
    *,
    prefix: str = "",
    most: int = 512,
    workers: int = 2,
    batch: int = 32,
    rounds: int = 5,
) -> Comparison:
    """Read ``most`` objects ``rounds`` times on each side. Raises UsageError where the sides cannot be the same.

    Sides: torchvision in ``workers`` processes on originals; the ETL by the map-style dataset in as many processes;
    the ETL by the stream in one process, its reads in threads.
    """
    pipeline = pipeline_of(cluster, etl)
    if pipeline is None:
        raise UsageError(f"{etl!r} was not registered with a pipeline, so torchvision cannot do the same")
    if pipeline.output.format in IMAGE_FORMATS:
        raise UsageError("images would be decoded on one side only", hint="Take a pipeline that ends in a tensor.")
    names = cluster.objects(bucket, prefix)[:most]
    seed = pipeline.seed or 0
    here = _ClientSide(cluster, bucket, names, pipeline, seed)
    mapped = TransformedImages(cluster, bucket, etl, names=names, seed=seed)
    stream = TransformedStream(cluster, bucket, etl, names=names, seed=seed, shuffle=False)

    def loader(dataset: object, processes: int) -> Loader:
        def at(epoch: int) -> DataLoader[object]:
            dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            return DataLoader(dataset, batch_size=batch, num_workers=processes)  # type: ignore[arg-type]

        return at

    loaders = {
        f"torchvision in {workers} workers, originals": loader(here, workers),
        f"ETL, map-style in {workers} workers": loader(mapped, workers),
        "ETL, stream in 1 worker": loader(stream, 1),
    }
    equal = _compare([make(0) for make in loaders.values()])
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for epoch in range(1, rounds + 1):
        for name in sorted(loaders, reverse=bool(epoch % 2)):  # in turns, so that a slow minute is everyone's
            timed[name].append(_timed(loaders[name](epoch), len(names)))
    sides = tuple(Side(name, *map(tuple, zip(*timed[name], strict=True))) for name in loaders)
    return Comparison(len(names), equal, rounds, workers, batch, sides)


class _ClientSide(Dataset[object]):
    """What training does without an ETL: the original over the network, torchvision here, under the same seed."""

    def __init__(self, cluster: Cluster, bucket: str, names: Sequence[str], pipeline: Pipeline, seed: int) -> None:
        self._originals = TransformedImages(cluster, bucket, names=names, pil=True)
        self._transform = to_compose(pipeline)
        self._upright = pipeline.orientation == "apply"
        self._dtype = getattr(torch, str(pipeline.output.options.get("dtype") or "float32"))
        self._cast = pipeline.output.options.get("dtype") is not None
        self._bucket, self._seed = bucket, seed

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
        return tensor.to(self._dtype) if self._cast else tensor, name


def _compare(loaders: Sequence[DataLoader[object]]) -> int:
    """How many images have the same name and the same values on every side."""
    equal = 0
    for batches in zip(*loaders, strict=True):
        (first, names), *others = batches
        for at, name in enumerate(names):
            equal += all(group[at] == name and torch.equal(data[at], first[at]) for data, group in others)
    return equal


def _timed(loader: DataLoader[object], images: int) -> tuple[float, float]:
    """Images a second, and CPU milliseconds an image of this process and of the workers it waited for."""
    began, cpu = time.perf_counter(), _cpu()
    given = sum(len(batch[1]) for batch in loader)
    seconds = time.perf_counter() - began
    assert given == images
    return images / seconds, (_cpu() - cpu) * 1000 / images


def _cpu() -> float:
    """CPU seconds so far. Workers count once they have ended, which they have when a loader's iteration is over."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
