"""Batches are what a DataLoader makes of the stream, bit for bit, and nothing is left of them when they are over."""

from __future__ import annotations

import copy
import gc
import importlib.util
import io
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvetl.cluster import Cluster
from tvetl.errors import ObjectFailed, UsageError
from tvetl.pod import PodSpec
from tvetl.spec import parse

torch = pytest.importorskip("torch", reason="datasets give torch's tensors")

from torch.utils.data import DataLoader  # noqa: E402

from tvetl.datasets import TransformedBatches, TransformedStream  # noqa: E402
from tvetl.datasets.decoding import look_up, look_up_on_device  # noqa: E402
from tvetl.datasets.rows import Layout, Memory  # noqa: E402

NORMALIZE = {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
ENDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "uint8": ([{"op": "PILToTensor"}], {"format": "npy"}),
    "float32": ([{"op": "ToTensor"}, NORMALIZE], {"format": "npy"}),
    "float16": ([{"op": "ToTensor"}, NORMALIZE], {"format": "raw", "dtype": "float16"}),
    "safetensors": ([{"op": "ToTensor"}, NORMALIZE], {"format": "safetensors"}),
    "grey": ([{"op": "Grayscale"}, {"op": "ToTensor"}], {"format": "npy"}),
    "erased": ([{"op": "ToTensor"}, {"op": "RandomErasing", "p": 1.0}], {"format": "npy"}),
    "jpeg": ([], {"format": "jpeg"}),
}
#: What is looked up here; the rest comes as it is.
SPLIT = {"float32", "float16", "safetensors", "grey"}


@pytest.fixture(scope="module")
def etl(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """Registers crops that end in one of ENDS, once."""
    made: dict[str, str] = {}

    def register(end: str) -> str:
        if end not in made:
            steps, output = ENDS[end]
            chain = [{"op": "RandomResizedCrop", "size": 24}, {"op": "RandomHorizontalFlip"}, *steps]
            made[end] = f"batches-{end}"
            cluster.register(PodSpec(made[end], parse({"steps": chain, "output": output}), start_timeout=60))
        return made[end]

    yield register
    for name in made.values():
        cluster.unregister(name)


@pytest.fixture(scope="module")
def pets(cluster: Cluster, photographs: list[Path]) -> str:
    """A bucket of 23 photographs, two texts among them that call themselves photographs."""
    cluster.create_bucket("batches")
    for at in range(23):
        cluster.put("batches", f"pet_{at:02d}.jpg", photographs[at % len(photographs)].read_bytes())
    for at in (3, 11):
        cluster.put("batches", f"pet_{at:02d}.jpg", b"no photograph\n")
    return "batches"


@pytest.fixture(scope="module")
def good(cluster: Cluster, pets: str) -> list[str]:
    return [name for name in cluster.objects(pets) if name not in ("pet_03.jpg", "pet_11.jpg")]


def number(name: str) -> int:
    return int(name[4:6])


def held(batches: Any) -> list[tuple[Any, Any]]:
    """All batches of an epoch, copied."""
    return [(images.clone(), labels) for images, labels in batches]


def same(one: list[tuple[Any, Any]], other: list[tuple[Any, Any]]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a, b) and list(x) == list(y)
        for (a, x), (b, y) in zip(one, other, strict=True)
    )


def collated(cluster: Cluster, bucket: str, etl: str, *, epoch: int = 0, **options: Any) -> list[tuple[Any, Any]]:
    """What a DataLoader makes of the stream."""
    stream = TransformedStream(cluster, bucket, etl, **options)
    stream.set_epoch(epoch)
    return [(images, labels) for images, labels in DataLoader(stream, batch_size=options["batch"])]


# The same as the stream's


@pytest.mark.parametrize("end", ENDS)
def test_an_epoch_is_the_streams_collated(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str], end: str
) -> None:
    options: dict[str, Any] = {"batch": 4, "names": good, "seed": 5, "labels": number}
    feed = TransformedBatches(cluster, pets, etl(end), **options)
    assert feed.wire == ("pixels" if end in SPLIT else "values")
    assert len(feed) == 6
    for epoch in (0, 1):
        feed.set_epoch(epoch)
        assert same(held(feed), collated(cluster, pets, etl(end), epoch=epoch, **options))
    assert feed.counts.given == 2 * len(good)
    plain = TransformedBatches(cluster, pets, etl(end), **options, wire="values")
    assert plain.wire == "values"
    assert same(held(plain), collated(cluster, pets, etl(end), **options))


@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("end", ["uint8", "float32"])
@pytest.mark.parametrize("on_error", ["skip", "substitute"])
def test_with_bad_objects_too(
    cluster: Cluster, pets: str, etl: Callable[[str], str], end: str, on_error: str, workers: int
) -> None:
    options: dict[str, Any] = {"batch": 3, "seed": 5, "on_error": on_error}
    feed = TransformedBatches(cluster, pets, etl(end), **options)
    stream = TransformedStream(cluster, pets, etl(end), **options)
    ours = held(DataLoader(feed, batch_size=None, num_workers=workers))
    assert same(ours, [*DataLoader(stream, batch_size=3, num_workers=workers)])
    assert feed.counts == stream.counts
    assert feed.counts.failed >= 2


def test_several_views_come_stacked(cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]) -> None:
    options: dict[str, Any] = {"batch": 4, "names": good, "seed": 5, "views": 3}
    feed = held(TransformedBatches(cluster, pets, etl("float32"), **options))
    assert feed[0][0].shape == (4, 3, 3, 24, 24)
    assert same(feed, collated(cluster, pets, etl("float32"), **options))


@pytest.mark.parametrize("even", [False, True])
def test_ranks_read_disjoint_parts(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str], even: bool
) -> None:
    for rank in range(4):
        options: dict[str, Any] = {"batch": 2, "names": good, "seed": 5, "rank": rank, "world": 4, "even": even}
        feed = TransformedBatches(cluster, pets, etl("uint8"), **options)
        ours = held(feed)
        assert same(ours, collated(cluster, pets, etl("uint8"), **options))
        assert len(ours) == len(feed)


@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("on_error", ["skip", "substitute"])
def test_an_epoch_goes_on_at_any_place(
    cluster: Cluster, pets: str, etl: Callable[[str], str], on_error: str, workers: int
) -> None:
    options: dict[str, Any] = {"batch": 2, "seed": 5, "labels": number, "on_error": on_error}
    whole = held(TransformedBatches(cluster, pets, etl("float32"), **options))
    choose = random.Random(7)
    for place in [choose.randrange(len(whole) + 1) for _ in range(20)]:
        feed = TransformedBatches(cluster, pets, etl("float32"), **options)
        begun = iter(feed)
        first = held(itertools.islice(begun, place))
        other = TransformedBatches(cluster, pets, etl("float32"), **options)
        other.load_state_dict(feed.state_dict())
        begun.close()  # type: ignore[attr-defined]
        assert same(first + held(other), whole)
        if workers:
            break
    if workers:
        assert same(
            held(DataLoader(TransformedBatches(cluster, pets, etl("float32"), **options), batch_size=None)), whole
        )


def test_the_state_of_an_epoch_that_is_over_does_not_hide_the_next(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    def new() -> Any:
        return TransformedBatches(cluster, pets, etl("uint8"), batch=4, names=good, seed=3)

    done = new()
    first = held(done)
    done.set_epoch(1)
    before_second = done.state_dict()
    second = held(done)
    after_second = done.state_dict()
    for state in (before_second, after_second):
        resumed = new()
        resumed.load_state_dict(state)
        rest = held(resumed)
        assert same(rest, second if state is before_second else [])
        resumed = new()
        resumed.set_epoch(2)  # set before the state is loaded, as torchdata's loader does, or after
        resumed.load_state_dict(state)
        later = held(resumed)
        resumed = new()
        resumed.load_state_dict(state)
        resumed.set_epoch(2)
        assert len(later) == len(first)
        assert same(held(resumed), later)
    middle = new()
    begun = iter(middle)
    next(begun)
    middle.set_epoch(5)
    state = middle.state_dict()
    assert (state["epoch"], state["units"]) == (5, 0)


@pytest.mark.skipif(importlib.util.find_spec("torchdata") is None, reason="needs torchdata")
@pytest.mark.parametrize("workers", [0, 3])
def test_torchdatas_loader_resumes(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str], workers: int
) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> Any:
        feed = TransformedBatches(cluster, pets, etl("float32"), batch=2, names=good, seed=3)
        return StatefulDataLoader(feed, batch_size=None, num_workers=workers)

    whole, first = held(loader()), loader()
    begun = iter(first)
    before = held(itertools.islice(begun, 4))
    state = first.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert same(before + held(again), whole)


def test_spawned_workers_give_the_same(cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]) -> None:
    feed = TransformedBatches(cluster, pets, etl("float32"), batch=4, names=good, seed=3)
    spawned = DataLoader(feed, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert same(held(spawned), held(feed))


def test_drop_last_leaves_out_the_smaller_one(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    feed = TransformedBatches(cluster, pets, etl("uint8"), batch=4, names=good, seed=3, drop_last=True)
    whole = TransformedBatches(cluster, pets, etl("uint8"), batch=4, names=good, seed=3)
    assert len(feed) == 5
    assert same(held(feed), held(whole)[:5])


# Formats


@pytest.mark.parametrize("end", ["uint8", "float32"])
@pytest.mark.parametrize("wire", ["auto", "values"])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float64])
def test_values_in_any_dtype_layout_and_place(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str], end: str, wire: Any, dtype: Any
) -> None:
    options: dict[str, Any] = {"batch": 4, "names": good, "seed": 5}
    plain = collated(cluster, pets, etl(end), **options)
    expected = [(images.to(dtype or images.dtype), labels) for images, labels in plain]
    options |= {"wire": wire, "dtype": dtype}
    assert same(held(TransformedBatches(cluster, pets, etl(end), **options)), expected)
    assert same(held(TransformedBatches(cluster, pets, etl(end), **options, device="cpu")), expected)
    for device in (None, "cpu"):
        feed = TransformedBatches(cluster, pets, etl(end), **options, channels_last=True, device=device)
        last = [*feed]
        assert same(last, expected)
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in last)


def test_the_table_goes_to_a_device_once(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    monkeypatch.setattr(
        "tvetl.datasets.batches.look_up_on_device", lambda images, table: tables.append(table) or images
    )
    feed = TransformedBatches(cluster, pets, etl("float32"), batch=2, names=good[:6], device="meta")
    assert [images.device.type for images, _ in feed] == ["meta"] * 3
    assert len(tables) == 3
    assert all(table is tables[0] and table.is_meta for table in tables)


def test_a_look_up_is_the_tables_own() -> None:
    choose = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.float16, torch.uint8):
        for shape in ((3, 5, 7), (2, 3, 4, 1), (1, 6, 6)):
            pixels = torch.randint(0, 256, shape, generator=choose, dtype=torch.uint8)
            table = torch.rand((shape[-3], 256), generator=choose).mul(200).to(dtype)
            expected = torch.stack(
                [table[channel][pixels[..., channel, :, :].long()] for channel in range(shape[-3])], dim=-3
            )
            assert torch.equal(look_up(pixels.numpy(), table.numpy()), expected)
            assert torch.equal(look_up_on_device(pixels, table), expected)


# What goes wrong


def test_a_bad_object_is_raised_after_the_batches_before_it(
    cluster: Cluster, pets: str, etl: Callable[[str], str]
) -> None:
    feed = TransformedBatches(cluster, pets, etl("float32"), batch=1, shuffle=False, seed=1)
    given: list[str] = []
    with pytest.raises(ObjectFailed, match=r"batches/pet_03\.jpg: .* \(not_an_image\)"):
        given.extend(labels[0] for _, labels in feed)
    assert given == ["pet_00.jpg", "pet_01.jpg", "pet_02.jpg"]


def test_where_all_are_bad_there_is_no_batch(cluster: Cluster, pets: str, etl: Callable[[str], str]) -> None:
    bad = ["pet_03.jpg", "pet_11.jpg"]
    feed = TransformedBatches(cluster, pets, etl("float32"), batch=2, names=bad, on_error="skip")
    assert not [*feed]
    assert (feed.counts.given, feed.counts.skipped) == (0, 2)


def test_what_no_object_is_to_blame_for_is_never_skipped(
    cluster: Cluster, pets: str, etl: Callable[[str], str]
) -> None:
    for options in (
        {"views": 1000},
        {"seed": -1},
        {"seed": 2**70},
        {"seed": "1"},
        {"names": "pet_00.jpg"},
        {"batch": "4"},
    ):
        with pytest.raises(UsageError):
            TransformedBatches(cluster, pets, etl("uint8"), **{"batch": 4, "on_error": "skip", **options})
    feed = TransformedBatches(cluster, pets, etl("uint8"), batch=4, on_error="skip")
    feed._reader._arguments["views"] = 1000
    with pytest.raises(ObjectFailed, match="bad_arguments"):
        next(iter(feed))


def test_stored_objects_that_are_no_tensors_are_named_and_skipped(cluster: Cluster) -> None:
    cluster.create_bucket("stored")
    values = {"a": np.arange(4.0), "b": np.arange(4.0).astype(">f8"), "c": np.array(["x"] * 4), "d": None}
    for name, array in values.items():
        made = io.BytesIO(b"")
        if array is not None:
            np.save(made, array)
        cluster.put("stored", f"{name}.npy", made.getvalue())
    feed = TransformedBatches(cluster, "stored", batch=2, on_error="skip", shuffle=False)
    ((images, names),) = feed
    assert (images.tolist(), list(names)) == ([[0.0, 1.0, 2.0, 3.0]] * 2, ["a.npy", "b.npy"])
    assert feed.counts.skipped == 2
    with pytest.raises(ObjectFailed, match=r"stored/c\.npy: torch has no tensors of <U1"):
        [*TransformedBatches(cluster, "stored", batch=1, names=["c.npy"])]


def test_samples_that_are_left_out_do_not_count_as_given(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    feed = TransformedBatches(cluster, pets, etl("uint8"), batch=4, names=good, drop_last=True)
    assert sum(len(images) for images, _ in feed) == feed.counts.given == 20


def test_images_of_two_sizes_are_told(cluster: Cluster, pets: str, good: list[str]) -> None:
    steps = [{"op": "Resize", "size": 16}, {"op": "PILToTensor"}]
    cluster.put(pets, "wide.jpg", cluster.get(pets, good[0]))
    cluster.register(PodSpec("batches-sizes", parse({"steps": steps, "output": {"format": "npy"}}), start_timeout=60))
    try:
        with pytest.raises(UsageError, match=r"is uint8 \(3, \d+, \d+\), the others uint8 \(3, \d+, \d+\)"):
            [*TransformedBatches(cluster, pets, "batches-sizes", batch=len(good), names=good)]
    finally:
        cluster.unregister("batches-sizes")
        cluster.delete_bucket("wide")


def test_what_cannot_work_is_said_at_once(cluster: Cluster, pets: str, etl: Callable[[str], str]) -> None:
    for options, words in [
        ({"batch": 0}, "batch is 0"),
        ({"batch": 2, "ahead": 0}, "ahead is 0"),
        ({"batch": 2, "reads": 0}, "reads is 0"),
        ({"batch": 2, "wire": "bytes"}, "wire is 'bytes'"),
        ({"batch": 2, "on_error": "ignore"}, "on_error is 'ignore'"),
    ]:
        with pytest.raises(UsageError, match=words):
            TransformedBatches(cluster, pets, etl("uint8"), **options)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="pin_memory"):
            TransformedBatches(cluster, pets, etl("uint8"), batch=2, pin_memory=True)


# Copies, threads and the end of the process


def test_a_copy_has_an_epoch_of_its_own_that_workers_hear_of(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    feed = TransformedBatches(cluster, pets, etl("uint8"), batch=4, names=good, seed=3)
    copied = copy.deepcopy(feed)
    loader = DataLoader(copied, batch_size=None, num_workers=2, persistent_workers=True)
    first = held(loader)
    copied.set_epoch(1)
    assert not same(held(loader), first)
    assert copied.counts.given == 2 * len(good)
    assert same(held(feed), first)


def test_several_threads_iterate_one_feed(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    feed = TransformedBatches(cluster, pets, etl("uint8"), batch=4, names=good, seed=3)
    whole, found = held(feed), []
    threads = [threading.Thread(target=lambda: found.extend([held(feed), held(feed)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(same(each, whole) for each in found)


END = """
import sys
from tvetl.cluster import Cluster
from tvetl.datasets import TransformedBatches
names = sys.argv[4:] * 100
feed = TransformedBatches(Cluster(sys.argv[1]), sys.argv[2], sys.argv[3], batch=4, names=names, ahead=20)
it = iter(feed)
next(it)
print("first", flush=True)
"""


def test_a_process_ends_well_while_batches_are_read_ahead(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    for _ in range(5):
        argv = [sys.executable, "-c", END, cluster.endpoint, pets, etl("float32"), *good]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "first\n", "")


# What is left


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(("tvetl-read", "tvetl-batches"))}


def test_whoever_breaks_off_leaves_no_thread(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    before = readers()
    feed = TransformedBatches(cluster, pets, etl("float32"), batch=2, names=good, seed=1)
    for _ in feed:
        break
    assert readers() <= before
    with pytest.raises(ZeroDivisionError):
        print([1 // (1 - at) for at, _ in enumerate(feed)])
    assert readers() <= before
    assert len([*feed]) == len(feed)  # and it can begin again
    assert readers() <= before


def test_at_most_two_batches_more_than_ahead_are_held(
    cluster: Cluster, pets: str, good: list[str], etl: Callable[[str], str]
) -> None:
    for ahead in (1, 3):
        feed = TransformedBatches(cluster, pets, etl("uint8"), batch=2, names=good, ahead=ahead, reads=40)
        for epoch in range(3):
            feed.set_epoch(epoch)
            for images, _ in feed:
                time.sleep(0.01)  # the thread reads ahead as far as it may
                assert len(images) <= 2
            del images
        gc.collect()
        # Memory that is free is used again before more is taken: so much was in use at once.
        assert 1 < sum(map(len, feed._rows._memory._free.values())) <= ahead + 2


def test_memory_is_used_again_only_when_nothing_refers_to_it() -> None:
    memory, layout = Memory(), Layout((1, 2, 2), torch.float32)
    first = layout.tensor(memory.take(2 * layout.row_bytes), 2)
    assert first.shape == (2, 1, 2, 2)
    part = first[1].fill_(7)
    address = first.data_ptr()
    del first
    other = layout.tensor(memory.take(2 * layout.row_bytes), 2).fill_(1)
    assert other.data_ptr() != address
    assert bool((part == 7).all())
    del part
    assert layout.tensor(memory.take(2 * layout.row_bytes), 2).data_ptr() == address
