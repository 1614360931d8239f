"""The comparison compares: the same values on all sides, and time and CPU of each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tvetl.cluster import Cluster
from tvetl.errors import UsageError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

pytest.importorskip("torch", reason="one side is torchvision itself")

from tvetl.bench import bench


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
    assert len(told["sides"]) == 3
    for side in told["sides"]:
        assert side["images_per_second"][0] > 0
        # A worker's start and a transform, at least; all of a worker's time is lost where it is not waited for.
        assert side["cpu_ms_per_image"][0] > 0
    with pytest.raises(UsageError, match="decoded"):
        bench(cluster, images, crops)
