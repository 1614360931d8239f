"""What only ``make training`` compares: the SDK's dataset, canned answers, a bare socket, and accelerators."""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from tvetl.cluster import Cluster
from tvetl.errors import UsageError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

pytest.importorskip("torch", reason="one side is torchvision itself")

from benchmarks.training import accelerators, canned, ways
from benchmarks.training.accelerators import Fed

from tvetl.bench.apart import apart
from tvetl.bench.compare import Way, bench
from tvetl.bench.sides import Task


@pytest.fixture
def tensors(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[str]:
    cluster.register(PodSpec("test-training", pipeline(32, "npy", seed=4), start_timeout=60))
    yield "test-training"
    cluster.unregister("test-training")


def test_its_sides_give_the_same(cluster: Cluster, images: str, tensors: str) -> None:
    @contextmanager
    def more(task: Task) -> Iterator[Mapping[str, Way]]:
        with ways.without_cluster(cluster, task) as without_cluster:
            yield {"the SDK": Way(partial(ways.by_the_sdk, workers=1), task), **without_cluster}

    done = bench(cluster, images, tensors, prefix="photo_0", most=1, workers=1, batch=1, rounds=1, more=more)
    assert (done.images, done.equal) == (1, 1)
    assert [side.compared for side in done.sides] == [True] * 8 + [False]
    assert done.sides[-1].name.startswith("a bare socket, 12 kB")


def npy(values: np.ndarray) -> bytes:
    np.save(data := io.BytesIO(), values)
    return data.getvalue()


VALUES = npy(np.ones((3, 224, 224), np.float32))
PIXELS = npy(np.ones((3, 224, 224), np.uint8))


@pytest.fixture
def recorded() -> Iterator[str]:
    details = {"name": "an-etl", "runtime": {"image": "an-image", "env": []}, "obj_timeout": "7.0s"}
    with apart(canned.serve, canned.Recorded({"init_msg": details}, VALUES, PIXELS)) as server:
        yield str(server.receive())


def test_canned_answers_are_a_clusters(recorded: str) -> None:
    cluster = Cluster(recorded)
    assert [target.url for target in cluster.targets()] == [recorded]
    assert cluster.object_seconds("an-etl") == 7.0
    container = cluster.show("an-etl")
    assert container is not None
    assert container.image == "an-image"
    assert cluster.get("photos", "any", "an-etl", {"seed": 1}) == VALUES
    assert cluster.get("photos", "any", "an-etl", {"seed": 1, "pixels": True}) == PIXELS


def test_canned_answers_come_in_aistores_chunks_over_one_connection(recorded: str) -> None:
    connection = http.client.HTTPConnection(recorded.removeprefix("http://"), timeout=10)
    for _ in range(2):
        connection.request("GET", "/v1/objects/photos/any?etl_name=an-etl")
        answer = connection.getresponse()
        assert answer.getheader("Transfer-Encoding") == "chunked"
        assert len(answer.peek(1)) <= 128 << 10
        assert answer.read() == VALUES
    connection.request("GET", "/v1/buckets/photos")
    assert connection.getresponse().status == 404
    connection.close()


def test_an_accelerator_is_fed(cluster: Cluster, images: str, tensors: str) -> None:
    try:
        (fed,) = accelerators.feed(cluster, images, "photo_0.png", tensors, seconds=0.5, most=1)
    except UsageError as error:
        pytest.skip(error.message)
    assert fed.accelerators == 1
    assert 0 < fed.least_busy <= 1
    assert 0 < fed.consumers_cpu <= 1.1


@pytest.mark.parametrize(("enough", "tried"), [(5, [1, 2, 4, 5, 6, 8]), (0, [1]), (64, [1, 2, 4, 8, 16, 32, 64])])
def test_the_most_that_is_fed_is_found(enough: int, tried: list[int]) -> None:
    found = accelerators._search(lambda count: Fed(count, float(count <= enough), 0, 0, 0), 64)
    assert [fed.accelerators for fed in found] == tried
