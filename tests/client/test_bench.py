"""The comparison compares: the same values on all sides, and time and CPU of the training side alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tvetl.cluster import Cluster
from tvetl.errors import TvetlError, UsageError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

pytest.importorskip("torch", reason="one side is torchvision itself")

import torch

from tvetl.bench import sides
from tvetl.bench.apart import apart
from tvetl.bench.compare import Way, _compare, _measure, _times, bench
from tvetl.bench.sides import Task, loaded

#: Seconds of CPU that tests burn.
BURNT = 0.5
BURN = f"import time\nwhile time.process_time() < {BURNT}: pass"


@pytest.fixture
def tensors(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[str]:
    cluster.register(PodSpec("test-bench", pipeline(32, "npy", seed=4), start_timeout=60))
    yield "test-bench"
    cluster.unregister("test-bench")


def test_all_sides_give_the_same_and_are_counted(
    cluster: Cluster, images: str, crops: str, tensors: str, tvetl: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    options = ("--images", "2", "--workers", "1", "--batch", "2", "--rounds", "1", "--prefix", "photo_0")
    done = tvetl("bench", images, "--etl", tensors, *options, "--endpoint", cluster.endpoint, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["images"], told["equal"]) == (1, 1)
    assert [side["compared"] for side in told["sides"]] == [True] * 5
    for side in told["sides"]:
        assert side["images_per_second"][0] > 0
        assert side["cpu_ms_per_image"][0] > 0
    with pytest.raises(UsageError, match="decoded"):
        bench(cluster, images, crops)


def test_a_side_that_gives_other_values_is_not_equal(cluster: Cluster, images: str, tensors: str) -> None:
    task = Task(cluster.endpoint, images, tensors, ("photo_0.png", "photo_1.png"), seed=4, batch=2, workers=1)
    assert compared(task, Way(sides.batches, task), Way(sides.batches, replace(task, seed=5))) == 0


def compared(task: Task, one: Way, other: Way) -> int:
    with apart(_measure, one) as first, apart(_measure, other) as second:
        return _compare(task, {"one": one, "other": other}, {"one": first, "other": second})


def test_what_a_side_raises_is_told(cluster: Cluster, images: str, tensors: str) -> None:
    task = Task(cluster.endpoint, images, tensors, ("photo_1.txt",), seed=4, batch=2, workers=1)
    with pytest.raises(TvetlError, match=r"photo_1\.txt"):
        compared(task, Way(sides.batches, task), Way(sides.batches, task))


def test_another_process_time_is_not_the_training_sides() -> None:
    def epoch(number: int) -> Iterator[sides.Batch]:
        with subprocess.Popen([sys.executable, "-c", f"{BURN}\nprint()\ninput()"], stdin=-1, stdout=-1) as cluster:
            assert cluster.stdin
            assert cluster.stdout
            cluster.stdout.read(1)
            yield torch.zeros(1), ["name"]
            ended.append(cluster)
            cluster.stdin.close()

    ended: list[subprocess.Popen[bytes]] = []
    given = epoch(0)
    rate, milliseconds = _times(lambda number: [next(given)], 0)
    assert 1 / rate > BURNT
    assert milliseconds < BURNT * 1000 / 2
    given.close()


def test_a_workers_time_is_the_training_sides() -> None:
    class Burning(torch.utils.data.Dataset[object]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
            until = time.process_time() + BURNT
            while time.process_time() < until:
                pass
            return torch.zeros(1), "name"

    loader = loaded(Burning(), Task("", "", "", (), 0, batch=1, workers=1), 1)
    for _ in range(2):  # also of a worker that lives on, and has ended nothing
        _, milliseconds = _times(lambda epoch: loader, 0)
        assert BURNT * 1000 <= milliseconds < BURNT * 3000
