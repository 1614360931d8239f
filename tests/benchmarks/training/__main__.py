"""Training input, side by side: ``make training``. Each table is Markdown.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.training [FOLDER]

FOLDER holds JPEG photographs; without it, some are made of scikit-image's. The cluster is the stand-in, in a process of
its own on this machine, so images a second are those of processors that do both sides' work. CPU time is that of the
training side alone: of one process and its DataLoader workers.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.training import accelerators, ways
from PIL import Image

from tvetl.bench import sides
from tvetl.bench.apart import apart
from tvetl.bench.compare import TITLES, Comparison, Way, bench
from tvetl.bench.sides import Task
from tvetl.cluster import Cluster
from tvetl.command import terminal
from tvetl.errors import UsageError
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import parse

#: What leaves normalising to the GPU, a quarter of the bytes; and what ends in the normalised tensor.
ENDS = {
    "uint8": [{"op": "PILToTensor"}],
    "float32": [
        {"op": "ToTensor"},
        {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ],
}
IMAGES = 256
SDK = "the SDK's AISMapDataset"


def photographs(folder: str) -> list[bytes]:
    """JPEG files of the folder; else parts of scikit-image's photographs, of ImageNet's usual 500 x 375."""
    if folder:
        return [path.read_bytes() for path in sorted(Path(folder).rglob("*.[jJ]*[gG]"))]
    package = find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    made = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        with Image.open(Path(package.origin).parent / "data" / name) as image:
            for step in range(8):
                left, top = 8 * step, 6 * step
                part = image.convert("RGB").crop((left, top, image.width, image.height)).resize((500, 375))
                part.save(buffer := io.BytesIO(), "JPEG", quality=90)
                made.append(buffer.getvalue())
    return made


def serve(connection: Connection, root: str, direct: bool) -> None:
    """The stand-in, in a process of its own, until the connection ends; ``direct`` reads are served or refused."""
    with LocalCluster(Path(root), targets=2, direct=direct) as local:
        connection.send(local.endpoint)
        connection.recv()


@contextmanager
def cluster_of(sources: Sequence[bytes], *, direct: bool) -> Iterator[Cluster]:
    """A cluster with these photographs, again and again under other names."""
    with tempfile.TemporaryDirectory() as root, apart(serve, root, direct) as process:
        cluster = Cluster(str(process.receive()))
        cluster.create_bucket("photos")
        for at in range(IMAGES):
            cluster.put("photos", f"photo_{at:04d}.jpg", sources[at % len(sources)])
        yield cluster


def main() -> None:
    sources = photographs(sys.argv[1] if len(sys.argv) > 1 else "")
    size = sum(map(len, sources)) / len(sources) / 1000
    terminal.out.print(f"{IMAGES} images, {len(sources)} different ones, {size:.0f} kB each on average")
    with cluster_of(sources, direct=True) as cluster, cluster_of(sources, direct=False) as refusing:

        @contextmanager
        def more(task: Task) -> Iterator[Mapping[str, Way]]:
            """The sides that `tvetl bench` leaves out."""
            by_proxy = replace(task, endpoint=refusing.endpoint)
            with ways.without_cluster(cluster, task) as without_cluster:
                yield {
                    f"{SDK} in {task.workers} workers": Way(partial(ways.by_the_sdk, workers=task.workers), task),
                    f"{SDK} without workers": Way(partial(ways.by_the_sdk, workers=0), task),
                    "TransformedBatches by the proxy, direct reads refused": Way(sides.batches, by_proxy),
                    **without_cluster,
                }

        for name, end in ENDS.items():
            steps = [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}, *end]
            pod = PodSpec(f"train-{name}", parse({"steps": steps, "output": {"format": "npy"}, "seed": 1}))
            for each in (cluster, refusing):
                each.register(pod)
            show(name, bench(cluster, "photos", pod.name, most=IMAGES, more=more))
            if name == "uint8":
                show_accelerators(cluster, "photos", "photo_0000.jpg", pod.name)
            for each in (cluster, refusing):
                each.unregister(pod.name)


def show(name: str, done: Comparison) -> None:
    terminal.out.print(
        f"\n{name} (3, 224, 224), batches of {done.batch}, median (range) of {done.rounds} rounds in turns; "
        f"{done.equal} of {done.images} images equal on all sides\n"
    )
    show_table(TITLES, done.rows())


def show_accelerators(cluster: Cluster, bucket: str, name: str, etl: str) -> None:
    batch, computing = accelerators.BATCH, accelerators.COMPUTING
    terminal.out.print(
        f"\nEmulated accelerators on one core, each {batch} canned images every {computing} s: MLPerf Storage's "
        "resnet50_h100.\nThis is no MLPerf result: it measures no storage.\n"
    )
    try:
        tried = accelerators.feed(cluster, bucket, name, etl)
    except UsageError as error:
        terminal.out.print(f"left out: {error.message}")
        return
    titles = ("accelerators", "busy, the least", "images/s", "consumers' core, CPU s/s", "server's core, CPU s/s")
    rows = [
        (str(t.accelerators), f"{t.least_busy:.1%}", f"{t.images_per_second:,.0f}",
         f"{t.consumers_cpu:.2f}", f"{t.server_cpu:.2f}")
        for t in tried
    ]  # fmt: skip
    show_table(titles, rows)
    fed = max((t.accelerators for t in tried if t.enough), default=0)
    terminal.out.print(f"\n{fed} of them at {accelerators.BUSY:.0%} or more")


def show_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Markdown, its columns in line."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminal.out.print(f"| {' | '.join(cells)} |", markup=False)


if __name__ == "__main__":
    main()
