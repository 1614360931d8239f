"""All sides read the same objects with the same seeds: first their values are compared, then they are timed in turns.

Each side has a process of its own: what is counted is that process and its DataLoader workers, which is what the
training machine pays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from statistics import median

from tvetl.bench import sides
from tvetl.bench.apart import Apart, apart, cpu_seconds
from tvetl.bench.sides import Epochs, Make, Task
from tvetl.cluster import Cluster
from tvetl.datasets.reader import pipeline_of
from tvetl.errors import UsageError
from tvetl.preview.moved import digest
from tvetl.spec import IMAGE_FORMATS, Pipeline
from tvetl.spec.table import split

#: The side that the ratios are to.
OURS = "TransformedBatches"
#: The columns of :meth:`Comparison.rows`.
TITLES = ("side", "images/s", "CPU ms an image", f"times that of {OURS}")


@dataclass(frozen=True)
class Side:
    """One way to read an epoch: what of each round, images a second and CPU milliseconds an image."""

    name: str
    images_per_second: tuple[float, ...]
    cpu_ms_per_image: tuple[float, ...]
    #: Whether its values were compared.
    compared: bool = True


@dataclass(frozen=True)
class Comparison:
    """All sides; ``equal`` counts the images whose every value was the same on all of them, of ``images``."""

    images: int
    equal: int
    rounds: int
    workers: int
    batch: int
    sides: tuple[Side, ...]

    def times(self, side: Side) -> float:
        """Its CPU time over that of TransformedBatches: the median of the rounds' ratios."""
        ours = next(one for one in self.sides if one.name == OURS)
        pairs = zip(side.cpu_ms_per_image, ours.cpu_ms_per_image, strict=True)
        return median(one / other for one, other in pairs)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """For each side its name, median (least to most) of both figures, and its ratio."""
        return [
            (side.name, spread(side.images_per_second), spread(side.cpu_ms_per_image), f"{self.times(side):.3g}")
            for side in self.sides
        ]


@dataclass(frozen=True)
class Way:
    """How a side is made, and of which task.

    With ``same`` all its objects are the first one's of epoch 0; one that is not ``compared`` gives no images.
    """

    make: Make
    task: Task
    compared: bool = True
    same: bool = False


#: Gives further sides for a task, and keeps what they read from running meanwhile.
More = Callable[[Task], AbstractContextManager[Mapping[str, Way]]]


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
    more: More = lambda task: nullcontext({}),
) -> Comparison:
    """Read ``most`` objects ``rounds`` times on each side. Raises UsageError where the sides cannot be the same.

    Sides: torchvision in ``workers`` processes on originals; the ETL by the map-style dataset in as many; by the
    stream in one worker; by TransformedBatches without any; and those that ``more`` gives.
    """
    pipeline = _comparable(cluster, etl)
    names = tuple(cluster.objects(bucket, prefix)[:most])
    if not names:
        raise UsageError(f"there is nothing to read in {bucket!r}", hint="`--prefix` chose nothing.")
    task = Task(cluster.endpoint, bucket, etl, names, pipeline.seed or 0, batch, workers)
    with ExitStack() as stack:
        ways = {**_ways(task, pipeline), **stack.enter_context(more(task))}
        running = {name: stack.enter_context(apart(_measure, way)) for name, way in ways.items()}
        equal = _compare(task, ways, running)
        timed = _take_turns(running, rounds)
    measured = []
    for name, way in ways.items():
        rates, milliseconds = zip(*timed[name], strict=True)
        measured.append(Side(name, rates, milliseconds, way.compared))
    return Comparison(len(names), equal, rounds, workers, batch, tuple(measured))


def spread(values: Sequence[float]) -> str:
    """Median (least to most)."""
    return f"{_short(median(values))} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _comparable(cluster: Cluster, etl: str) -> Pipeline:
    pipeline = pipeline_of(cluster, etl)
    if pipeline is None:
        raise UsageError(f"{etl!r} was not registered with a pipeline, so torchvision cannot do the same")
    if pipeline.output.format in IMAGE_FORMATS:
        raise UsageError("images would be decoded on one side only", hint="Take a pipeline that ends in a tensor.")
    if (pipeline.depth, pipeline.truncated, pipeline.background) != ("refuse", "refuse", None):
        raise UsageError(
            "images would be opened otherwise on one side only",
            hint="Take a pipeline without depth, truncated and background.",
        )
    return pipeline


def _ways(task: Task, pipeline: Pipeline) -> dict[str, Way]:
    """The sides that read from the cluster."""
    by_values = Way(partial(sides.batches, wire="values"), task)
    return {
        f"torchvision in {task.workers} workers": Way(sides.torchvision_here, task),
        f"TransformedImages in {task.workers} workers": Way(sides.images, task),
        "TransformedStream in 1 worker": Way(sides.stream, task),
        OURS: Way(sides.batches, task),
        **({f"{OURS}, wire='values'": by_values} if split(pipeline) else {}),
    }


def _compare(task: Task, ways: Mapping[str, Way], running: Mapping[str, Apart]) -> int:
    """How many images have the same name and the same values on every side, in epoch 0."""
    compared = {name: way for name, way in ways.items() if way.compared}
    for name in compared:
        running[name].send(("digests", 0))
    digests = {name: running[name].receive() for name in compared}
    reference = next(iter(digests.values()))
    assert isinstance(reference, list)
    equal = 0
    for at, name in enumerate(task.names):
        wanted = {one: (name, reference[0 if way.same else at][1]) for one, way in compared.items()}
        equal += all(digests[one][at] == wanted[one] for one in compared)  # type: ignore[index]
    return equal


def _take_turns(running: Mapping[str, Apart], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """All sides once a round, forwards and backwards, so that a slow minute is everyone's."""
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for epoch in range(1, rounds + 1):
        for name in [*running][:: 1 if epoch % 2 else -1]:
            running[name].send(("times", epoch))
            timed[name].append(running[name].receive())  # type: ignore[arg-type]
    return timed


# In a side's own process


def _measure(connection: Connection, way: Way) -> None:
    """Make the side, and answer each request with the digests of an epoch, or with its times."""
    epochs = way.make(way.task)
    if not way.compared:
        _times(epochs, 0)  # the others are warm from being compared
    while True:
        request, epoch = connection.recv()
        connection.send(_digests(epochs, epoch) if request == "digests" else _times(epochs, epoch))


def _digests(epochs: Epochs, epoch: int) -> list[tuple[str, str]]:
    """Of each image its name, and what is the same only where dtype, shape and each bit of the values are."""
    return [
        (str(name), digest(image.numpy()))
        for images, names in epochs(epoch)
        for image, name in zip(images, names, strict=True)
    ]


def _times(epochs: Epochs, epoch: int) -> tuple[float, float]:
    """Images a second, and CPU milliseconds an image of this process and its workers."""
    began, cpu = time.perf_counter(), cpu_seconds()
    images = sum(len(names) for _, names in epochs(epoch))
    seconds = time.perf_counter() - began
    return images / seconds, (cpu_seconds() - cpu) * 1000 / images
