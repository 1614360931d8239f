"""The ways to read an epoch that only this project compares: by the SDK, and without a cluster's work beside it.

Each is made, of a Task, in the process that reads it.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from aistore.pytorch import AISMapDataset
from aistore.sdk import Client
from benchmarks.training import canned
from torch.utils.data import Dataset

from tvetl.bench import sides
from tvetl.bench.apart import apart
from tvetl.bench.compare import OURS, Way
from tvetl.bench.sides import Batch, Epochs, Task
from tvetl.cluster import Cluster
from tvetl.datasets import to_tensor
from tvetl.datasets.reader import pipeline_of
from tvetl.spec.table import split

#: A round of answers without a cluster would be over in milliseconds: it reads so many images at least.
CANNED = 4096


class Decoded(Dataset[object]):
    """The SDK's own dataset, its answers decoded. It takes no etl_args: each epoch is epoch 0."""

    def __init__(self, task: Task) -> None:
        bucket = Client(task.endpoint).bucket(task.bucket)
        self._objects = AISMapDataset(ais_source_list=[bucket], etl_name=task.etl)
        places = {listed.name: at for at, listed in enumerate(self._objects.get_obj_list())}
        self._places = [places[name] for name in task.names]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        name, content = self._objects[self._places[index]]
        return torch.from_numpy(np.load(io.BytesIO(content))), name


def by_the_sdk(task: Task, workers: int) -> Epochs:
    loader = sides.loaded(Decoded(task), task, workers)
    return lambda epoch: loader


def bare(task: Task, shape: tuple[int, ...], dtype: torch.dtype) -> Epochs:
    """As many bytes from the socket at ``task.endpoint``, each image's over the one before: the least there can be."""

    def epoch(number: int) -> Iterator[Batch]:
        image = torch.empty(shape, dtype=dtype)
        room = image.view(-1).view(torch.uint8).numpy().data
        connection.sendall(len(task.names).to_bytes(canned.COUNT, "big"))
        for name in task.names:
            filled = 0
            while filled < len(room):
                filled += connection.recv_into(room[filled:])
            yield image[None], [name]

    host, _, port = task.endpoint.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    return epoch


@contextmanager
def without_cluster(cluster: Cluster, task: Task) -> Iterator[dict[str, Way]]:
    """TransformedBatches of canned answers, and a bare socket with as many bytes."""
    pipeline = pipeline_of(cluster, task.etl)
    assert pipeline is not None
    recorded = canned.record(cluster, task.bucket, task.names[0], task.etl, pipeline, task.seed)
    answer = to_tensor(recorded.values)
    size = answer.numel() * answer.itemsize
    with apart(canned.serve, recorded) as server, apart(canned.serve_bytes, size) as sender:
        names = task.names * -(-CANNED // len(task.names))
        again = replace(task, endpoint=str(server.receive()), names=names)
        floor = replace(task, endpoint=str(sender.receive()))
        by_values = Way(partial(sides.batches, wire="values"), again, same=True)
        floor_side = partial(bare, shape=tuple(answer.shape), dtype=answer.dtype)
        yield {
            f"{OURS}, canned answers": Way(sides.batches, again, same=True),
            **({f"{OURS}, canned answers, wire='values'": by_values} if split(pipeline) else {}),
            f"a bare socket, {size / 1000:.0f} kB an image": Way(floor_side, floor, compared=False),
        }
