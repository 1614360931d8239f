"""A dataset gives what the cluster makes, and the same again for the same seed, epoch and name."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from tvetl.cluster import Cluster
from tvetl.datasets import TransformedImages, to_tensor
from tvetl.errors import ObjectFailed, UsageError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

torch = pytest.importorskip("torch", reason="datasets give torch's tensors")


@pytest.fixture(scope="module")
def tensors(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[str]:
    """An ETL of float32 crops."""
    cluster.register(PodSpec("test-tensors", pipeline(32, "npy"), start_timeout=60))
    yield "test-tensors"
    cluster.unregister("test-tensors")


@pytest.fixture
def names(cluster: Cluster, images: str) -> list[str]:
    return [name for name in cluster.objects(images) if not name.endswith(".txt")]


def test_a_loader_gets_batches_of_tensors(cluster: Cluster, images: str, tensors: str, names: list[str]) -> None:
    dataset = TransformedImages(cluster, images, tensors, names=names, seed=3)
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=2))
    assert [name for _, group in batches for name in group] == names
    assert batches[0][0].dtype == torch.float32
    assert tuple(batches[0][0].shape) == (2, 3, 32, 32)


def test_seed_and_epoch_decide_in_any_process(cluster: Cluster, images: str, tensors: str, names: list[str]) -> None:
    dataset = TransformedImages(cluster, images, tensors, names=names[:2], seed=3)
    first = [tensor for tensor, _ in dataset]
    workers = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert all(torch.equal(one, other) for one, (other, _) in zip(first, workers, strict=True))
    dataset.set_epoch(1)
    assert not any(torch.equal(one, other) for one, (other, _) in zip(first, dataset, strict=True))
    dataset.set_epoch(0)
    assert torch.equal(first[0], dataset[0][0])


def test_without_names_it_is_what_begins_with_the_prefix(cluster: Cluster, images: str, tensors: str) -> None:
    dataset = TransformedImages(cluster, images, tensors, prefix="photo_1")
    assert dataset.names == tuple(name for name in cluster.objects(images) if name.startswith("photo_1"))
    with pytest.raises(ObjectFailed):
        dataset[dataset.names.index("photo_1.txt")]


def test_a_copy_in_another_process_opens_its_own_connections(cluster: Cluster, images: str, tensors: str) -> None:
    dataset = TransformedImages(cluster, images, tensors, prefix="photo_0", seed=1)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own
    assert torch.equal(copy[0][0], dataset[0][0])


def test_without_a_seed_there_are_no_epochs(cluster: Cluster, images: str) -> None:
    with pytest.raises(UsageError):
        TransformedImages(cluster, images, "test-tensors").set_epoch(1)


def test_pixels_and_arrays_arrive_as_they_were() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    png, npy = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    assert torch.equal(to_tensor(png.getvalue()), torch.from_numpy(pixels).permute(2, 0, 1))
    np.save(npy, pixels.astype(np.float16))
    assert to_tensor(npy.getvalue()).dtype == torch.float16
    with pytest.raises(UsageError):
        to_tensor(b"neither")
