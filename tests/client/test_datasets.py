"""A dataset gives what the cluster makes: the same for the same seed and epoch, from any worker, from any place on."""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvetl.answers import read_answer
from tvetl.cluster import Cluster
from tvetl.errors import NotFound, ObjectFailed, UsageError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline, derive_seed, parse

torch = pytest.importorskip("torch", reason="datasets give torch's tensors")

from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from tvetl.datasets import TransformedImages, TransformedStream, read_labels, to_tensor  # noqa: E402

needs_torchdata = pytest.mark.skipif(importlib.util.find_spec("torchdata") is None, reason="needs torchdata")


@pytest.fixture(scope="module")
def pets(cluster: Cluster, photographs: list[Path]) -> str:
    """A bucket of 23 small photographs, pet_0.jpg to pet_22.jpg, no two alike."""
    cluster.create_bucket("pets")
    for at in range(23):
        with Image.open(photographs[at % len(photographs)]) as image:
            box = (at, 2 * at, at + 160, 2 * at + 120)
            made = io.BytesIO()
            image.convert("RGB").crop(box).save(made, "JPEG")
        cluster.put("pets", f"pet_{at}.jpg", made.getvalue())
    return "pets"


@pytest.fixture(scope="module")
def tensors(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[str]:
    """An ETL of float32 crops."""
    cluster.register(PodSpec("test-tensors", pipeline(32, "npy"), start_timeout=60))
    yield "test-tensors"
    cluster.unregister("test-tensors")


@pytest.fixture(scope="module")
def many(cluster: Cluster) -> Iterator[Callable[[str, str], str]]:
    """Registers crops with another output, and takes it down again."""
    made: list[str] = []

    def register(format: str, *steps: str) -> str:
        chain: list[dict[str, object]] = [{"op": "RandomResizedCrop", "size": 24}]
        data = {"steps": [*chain, *({"op": op} for op in steps)], "output": {"format": format}}
        name = f"test-as-{format}-{len(made)}"
        cluster.register(PodSpec(name, parse(data), start_timeout=60))
        made.append(name)
        return name

    yield register
    for name in made:
        cluster.unregister(name)


@pytest.fixture
def names(cluster: Cluster, images: str) -> list[str]:
    return [name for name in cluster.objects(images) if not name.endswith(".txt")]


def flat(loader: Any) -> list[tuple[str, Any]]:
    """Names and tensors of all samples, in the order they come."""
    return [(name, tensor) for batch, group in loader for name, tensor in zip(group, batch, strict=True)]


def same(one: list[tuple[str, Any]], other: list[tuple[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in zip(one, other, strict=True)
    )


# What comes


def test_a_loader_gets_batches_of_tensors(cluster: Cluster, images: str, tensors: str, names: list[str]) -> None:
    dataset = TransformedImages(cluster, images, tensors, names=names, seed=3)
    batches = list(DataLoader(dataset, batch_size=2))
    assert [name for _, group in batches for name in group] == names
    assert batches[0][0].dtype == torch.float32
    assert tuple(batches[0][0].shape) == (2, 3, 32, 32)


def test_a_sample_is_torchvisions_own_for_the_seed_epoch_and_name(
    cluster: Cluster, pets: str, tensors: str, pipeline: Callable[..., Pipeline]
) -> None:
    from tvetl.spec.compose import to_compose

    dataset = TransformedImages(cluster, pets, tensors, template="pet_{7..8}.jpg", seed=3)
    dataset.set_epoch(2)
    for data, name in dataset:
        torch.manual_seed(derive_seed(3, 2, 0, f"{pets}/{name}"))
        original = Image.open(io.BytesIO(cluster.get(pets, name))).convert("RGB")
        assert torch.equal(data, to_compose(pipeline(32, "npy"))(original))


@pytest.mark.parametrize("format", ["npy", "safetensors", "raw"])
def test_every_tensor_format_arrives_in_its_shape(
    cluster: Cluster, pets: str, many: Callable[..., str], format: str
) -> None:
    dataset = TransformedImages(cluster, pets, many(format, "PILToTensor"), names=["pet_1.jpg"], seed=1)
    assert (dataset[0][0].dtype, tuple(dataset[0][0].shape)) == (torch.uint8, (3, 24, 24))
    several = TransformedImages(cluster, pets, dataset._reader.etl, names=["pet_1.jpg"], seed=1, views=3)
    assert tuple(several[0][0].shape) == (3, 3, 24, 24)
    assert torch.equal(several[0][0][0], dataset[0][0])  # view 0 is the plain one
    assert not torch.equal(several[0][0][0], several[0][0][1])


def test_images_come_as_pixels_or_as_pil(cluster: Cluster, pets: str, many: Callable[..., str]) -> None:
    etl = many("png")
    pixels, _ = TransformedImages(cluster, pets, etl, names=["pet_2.jpg"], seed=1)[0]
    image, _ = TransformedImages(cluster, pets, etl, names=["pet_2.jpg"], seed=1, pil=True)[0]
    assert isinstance(image, Image.Image)
    assert torch.equal(pixels, torch.from_numpy(np.array(image)).permute(2, 0, 1))
    views, _ = TransformedImages(cluster, pets, etl, names=["pet_2.jpg"], seed=1, views=2, pil=True)[0]
    assert isinstance(views, list)
    assert [view.size for view in views] == [(24, 24), (24, 24)]
    assert np.array_equal(np.array(views[0]), np.array(image))
    stacked, _ = TransformedImages(cluster, pets, etl, names=["pet_2.jpg"], seed=1, views=2)[0]
    assert tuple(stacked.shape) == (2, 3, 24, 24)


def test_grey_images_have_one_channel() -> None:
    png = io.BytesIO()
    Image.new("L", (5, 4), 7).save(png, "PNG")
    assert tuple(to_tensor(png.getvalue()).shape) == (1, 4, 5)


def test_pixels_and_arrays_arrive_as_they_were() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    png, npy = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    assert torch.equal(to_tensor(png.getvalue()), torch.from_numpy(pixels).permute(2, 0, 1))
    np.save(npy, pixels.astype(np.float16))
    assert to_tensor(npy.getvalue()).dtype == torch.float16
    for bad in (b"neither", b"\x05\0\0\0\0\0\0\0{...}", b""):
        with pytest.raises(UsageError):
            read_answer(bad)


def test_what_a_job_wrote_is_read_without_an_etl(cluster: Cluster, pets: str) -> None:
    dataset = TransformedImages(cluster, pets, prefix="pet_22")
    assert torch.equal(dataset[0][0], to_tensor(cluster.get(pets, "pet_22.jpg")))
    with pytest.raises(UsageError, match="ETL"):
        TransformedImages(cluster, pets, views=2)


# Which, and their labels


def test_names_prefix_or_template_choose(cluster: Cluster, pets: str, images: str, tensors: str) -> None:
    chosen = TransformedImages(cluster, pets, tensors, template="pet_{8..30..2}.jpg").names
    assert chosen == ("pet_8.jpg", *(f"pet_{n}.jpg" for n in range(10, 23, 2)))
    dataset = TransformedImages(cluster, images, tensors, prefix="photo_1")
    assert dataset.names == tuple(name for name in cluster.objects(images) if name.startswith("photo_1"))
    for wrong in ({"prefix": "a", "template": "b"}, {"prefix": "nothing-like-it"}, {"names": []}):
        with pytest.raises(UsageError):
            TransformedImages(cluster, pets, tensors, **wrong)  # type: ignore[arg-type]


def test_a_missing_etl_is_said_when_the_dataset_is_made(cluster: Cluster, pets: str) -> None:
    with pytest.raises(NotFound):
        TransformedImages(cluster, pets, "not-there")


def test_labels_are_a_function_or_a_table(cluster: Cluster, pets: str, tensors: str) -> None:
    table = read_labels([f"pet_{n} {n} {n % 2 + 1}" for n in range(20)])
    known = [name for name in cluster.objects(pets) if name in table]
    dataset = TransformedImages(cluster, pets, tensors, names=known, labels=table)
    _, (numbers, species) = next(iter(DataLoader(dataset, batch_size=3)))
    assert numbers.tolist() == [table[name][0] for name in known[:3]]  # type: ignore[index]
    assert set(species.tolist()) <= {1, 2}
    lengths = TransformedImages(cluster, pets, tensors, names=["pet_10.jpg"], labels=len)
    assert lengths[0][1] == len("pet_10.jpg")
    with pytest.raises(UsageError, match=r"3 of 23 objects have no label, 'pet_20\.jpg' first") as raised:
        TransformedImages(cluster, pets, tensors, labels=table)
    assert "names=[name for name in cluster.objects(bucket) if name in labels]" in raised.value.hint


# Again the same


def test_four_workers_give_what_none_gives_and_epoch_2_differs(cluster: Cluster, pets: str, tensors: str) -> None:
    alone = TransformedStream(cluster, pets, tensors, seed=3, batch=4)
    alone.set_epoch(1)
    first = flat(DataLoader(alone, batch_size=4))
    shared = TransformedStream(cluster, pets, tensors, seed=3, batch=4)
    shared.set_epoch(1)
    assert same(first, flat(DataLoader(shared, batch_size=4, num_workers=4)))
    assert sorted(name for name, _ in first) == sorted(cluster.objects(pets))
    alone.set_epoch(2)
    second = flat(DataLoader(alone, batch_size=4))
    assert [name for name, _ in first] != [name for name, _ in second]
    once, again = dict(first), dict(second)
    assert not any(torch.equal(once[name], again[name]) for name in once)


def test_by_index_too_and_workers_that_live_on_hear_of_the_epoch(cluster: Cluster, pets: str, tensors: str) -> None:
    dataset = TransformedImages(cluster, pets, tensors, seed=3)
    loader = DataLoader(dataset, batch_size=4, num_workers=4, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        assert same(flat(loader), flat(DataLoader(dataset, batch_size=4)))
    first = dataset[0][0]
    dataset.set_epoch(0)
    assert not torch.equal(first, dataset[0][0])
    assert dataset.counts.given >= 4 * 23  # those that the workers gave are counted here


def test_spawned_workers_give_the_same(cluster: Cluster, pets: str, tensors: str) -> None:
    dataset = TransformedImages(cluster, pets, tensors, names=["pet_3.jpg", "pet_4.jpg"], seed=3)
    first = [tensor for tensor, _ in dataset]
    spawned = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert all(torch.equal(one, other) for one, (other, _) in zip(first, spawned, strict=True))
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own
    assert torch.equal(copy[0][0], first[0])


def test_without_a_seed_the_pipelines_own_or_a_drawn_one_is_told(
    cluster: Cluster, pets: str, tensors: str, crops: str
) -> None:
    assert TransformedImages(cluster, pets, crops).seed == 1
    drawn = TransformedImages(cluster, pets, tensors, names=["pet_0.jpg"])
    assert torch.equal(drawn[0][0], TransformedImages(cluster, pets, tensors, prefix="pet_0", seed=drawn.seed)[0][0])
    with pytest.raises(UsageError):
        drawn.set_epoch(-1)


def test_the_rest_of_an_epoch_follows_a_state(cluster: Cluster, pets: str, tensors: str) -> None:
    def stream() -> TransformedStream:
        return TransformedStream(cluster, pets, tensors, seed=3)

    whole = stream()
    whole.set_epoch(5)
    samples = [(name, tensor) for tensor, name in whole]
    broken = stream()
    broken.set_epoch(5)
    going = iter(broken)
    begun = [next(going) for _ in range(9)]
    resumed = stream()
    resumed.load_state_dict(pickle.loads(pickle.dumps(broken.state_dict())))  # noqa: S301 - our own
    rest = [(name, tensor) for tensor, name in resumed]
    assert same([(name, tensor) for tensor, name in begun] + rest, samples)
    assert same([(name, tensor) for tensor, name in resumed], samples)  # and then whole again
    with pytest.raises(UsageError, match="another dataset"):
        TransformedStream(cluster, pets, tensors, seed=4).load_state_dict(broken.state_dict())


@needs_torchdata
@pytest.mark.parametrize("workers", [0, 3])
def test_torchdatas_loader_resumes_in_the_middle_exactly(
    cluster: Cluster, pets: str, tensors: str, workers: int
) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> tuple[Any, Any]:
        dataset = TransformedStream(cluster, pets, tensors, seed=3, batch=2)
        return dataset, StatefulDataLoader(dataset, batch_size=2, num_workers=workers)

    dataset, broken = loader()
    dataset.set_epoch(1)
    whole = flat(broken)
    dataset.set_epoch(1)
    going = iter(broken)
    begun = flat([next(going) for _ in range(5)])
    state = pickle.loads(pickle.dumps(broken.state_dict()))  # noqa: S301 - our own
    del going
    fresh, resumed = loader()
    resumed.load_state_dict(state)
    assert same(begun + flat(resumed), whole)
    assert fresh._reader.epoch == 1
    fresh.set_epoch(2)
    assert len(flat(resumed)) == 23


@needs_torchdata
def test_a_shuffled_map_resumes_too(cluster: Cluster, pets: str, tensors: str) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> tuple[Any, Any]:
        dataset = TransformedImages(cluster, pets, tensors, seed=3)
        generator = torch.Generator().manual_seed(1)
        return dataset, StatefulDataLoader(dataset, batch_size=2, num_workers=2, shuffle=True, generator=generator)

    dataset, broken = loader()
    dataset.set_epoch(4)
    going = iter(broken)
    begun = flat([next(going) for _ in range(3)])
    state = broken.state_dict()
    left = flat(going)
    _, resumed = loader()
    resumed.load_state_dict(state)
    assert same(flat(resumed), left)
    assert len(begun) + len(left) == 23


# Shares


@pytest.mark.parametrize("even", [False, True])
def test_ranks_part_an_epoch_without_overlap_or_loss(cluster: Cluster, pets: str, tensors: str, even: bool) -> None:
    given = []
    for rank in range(3):
        part = TransformedStream(cluster, pets, tensors, seed=3, rank=rank, world=3, even=even)
        read = [name for name, _ in flat(DataLoader(part, batch_size=2, num_workers=2))]
        assert len(read) == len(part)
        given.append(read)
    together = [name for part in given for name in part]
    assert len(together) == len(set(together)) == (21 if even else 23)
    assert set(together) <= set(cluster.objects(pets))
    assert not even or len({*map(len, given)}) == 1
    sampled = DistributedSampler(TransformedImages(cluster, pets, tensors), num_replicas=3, rank=0)
    assert len(sampled) == 8  # the map-style one goes with torch's own


def test_torch_distributed_tells_the_rank(cluster: Cluster, pets: str, tensors: str, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert (TransformedStream(cluster, pets, tensors)._rank, len(TransformedStream(cluster, pets, tensors))) == (
            0,
            23,
        )
    finally:
        torch.distributed.destroy_process_group()
    for wrong in ({"rank": 0}, {"rank": 2, "world": 2}, {"batch": 0}):
        with pytest.raises(UsageError):
            TransformedStream(cluster, pets, tensors, **wrong)  # type: ignore[arg-type]


# What fails


def test_a_bad_object_is_raised_by_its_name(cluster: Cluster, images: str, tensors: str) -> None:
    dataset = TransformedImages(cluster, images, tensors)
    with pytest.raises(ObjectFailed, match=r"images/photo_1\.txt: .*not_an_image"):
        dataset[dataset.names.index("photo_1.txt")]
    with pytest.raises(ObjectFailed, match=r"images/photo_1\.txt"):
        list(DataLoader(TransformedStream(cluster, images, tensors), num_workers=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_objects_are_skipped_and_counted(
    cluster: Cluster, images: str, tensors: str, names: list[str], workers: int
) -> None:
    stream = TransformedStream(cluster, images, tensors, on_error="skip")
    assert sorted(name for name, _ in flat(DataLoader(stream, batch_size=2, num_workers=workers))) == names
    assert (stream.counts.given, stream.counts.failed, stream.counts.skipped) == (len(names), 1, 1)
    by_index = TransformedImages(cluster, images, tensors, on_error="skip", names=[*names, "gone.jpg"])
    assert [name for name, _ in flat(DataLoader(by_index, batch_size=10, num_workers=workers))] == names
    assert by_index.counts.skipped == 1


def test_a_batch_of_which_nothing_is_left_is_an_error(cluster: Cluster, images: str, tensors: str) -> None:
    alone = TransformedImages(cluster, images, tensors, on_error="skip", names=["photo_1.txt"])
    with pytest.raises(ObjectFailed, match="nothing is left"):
        alone[0]


def test_a_substitute_is_the_next_that_can_be_read(cluster: Cluster, images: str, tensors: str) -> None:
    dataset = TransformedImages(cluster, images, tensors, on_error="substitute", seed=1)
    at = dataset.names.index("photo_1.txt")
    assert dataset[at][1] == dataset.names[at + 1]
    assert torch.equal(dataset[at][0], dataset[at + 1][0])
    assert dataset.counts.substituted == 2
    assert len(flat(DataLoader(dataset, batch_size=4))) == len(dataset)
    with pytest.raises(ObjectFailed):
        TransformedImages(cluster, images, tensors, on_error="substitute", names=["photo_1.txt"])[0]


def test_an_etl_that_is_gone_is_never_skipped(cluster: Cluster, pets: str, pipeline: Callable[..., Pipeline]) -> None:
    cluster.register(PodSpec("test-to-go", pipeline(32, "npy"), start_timeout=60))
    dataset = TransformedStream(cluster, pets, "test-to-go", on_error="skip")
    cluster.unregister("test-to-go")
    with pytest.raises(NotFound):
        list(dataset)


def test_unknown_ways_with_errors_are_refused(cluster: Cluster, pets: str, tensors: str) -> None:
    for wrong in ({"on_error": "ignore"}, {"reads": 0}):
        with pytest.raises(UsageError):
            TransformedImages(cluster, pets, tensors, **wrong)  # type: ignore[arg-type]


# How it reads


def test_connections_are_kept_and_reads_run_ahead(
    cluster: Cluster, pets: str, tensors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib3.connection import HTTPConnection

    opened: list[tuple[str, int]] = []
    connect = HTTPConnection.connect

    def counted(connection: HTTPConnection) -> None:
        opened.append((connection.host, connection.port))
        connect(connection)

    monkeypatch.setattr(HTTPConnection, "connect", counted)
    stream = TransformedStream(cluster, pets, tensors, seed=1, reads=4)
    opened.clear()
    for epoch in range(3):
        stream.set_epoch(epoch)
        going = iter(stream)
        next(going)
        assert len(list(going)) == 22
    # 69 reads, each of the proxy and then of one of two targets: as many connections to each as reads are in flight.
    assert len(opened) <= 3 * 4
    assert all(opened.count(node) <= 4 for node in opened)


def test_a_read_waits_as_long_as_the_etl_may_take(
    cluster: Cluster, pets: str, pipeline: Callable[..., Pipeline]
) -> None:
    cluster.register(PodSpec("test-patient", pipeline(32, "npy"), start_timeout=60, object_timeout=150))
    try:
        assert cluster.object_seconds("test-patient") == 150
        assert TransformedImages(cluster, pets, "test-patient")._reader._patience > 150
    finally:
        cluster.unregister("test-patient")
