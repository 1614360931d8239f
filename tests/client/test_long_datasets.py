"""Datasets over millions of names: one listing, little memory in every process, and the order that was promised."""

from __future__ import annotations

import hashlib
import pickle
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks import listing
from benchmarks.listing import ETL, Played, name_of

from tvetl.cluster import Cluster
from tvetl.spec import derive_seed

torch = pytest.importorskip("torch", reason="datasets give torch's tensors")

from torch.utils.data import DataLoader  # noqa: E402

from tvetl.datasets import TransformedBatches, TransformedImages, TransformedStream  # noqa: E402

#: Bytes a name of 36 characters may take: its text and 4, room to grow, the order of an epoch, and a table to find it.
A_NAME = 75


@contextmanager
def playing(names: int, page: int) -> Iterator[Played]:
    with Played(names, page) as played:
        threading.Thread(target=played.serve_forever, args=(0.05,), daemon=True).start()
        yield played
        played.shutdown()


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    """2,500 names on pages of 1,000."""
    with playing(2500, 1000) as found:
        yield found


def made(kind: str, played: Played, **options: Any) -> Any:
    of = {"images": TransformedImages, "stream": TransformedStream, "batches": TransformedBatches}[kind]
    return of(Cluster(played.url), "images", ETL, seed=1, **({"batch": 32} if kind == "batches" else {}), **options)


@pytest.mark.parametrize("kind", ["images", "stream", "batches"])
@pytest.mark.parametrize("chosen", [{}, {"template": "train/n00000000/n00000000_{00000..09999}.JPEG"}])
def test_there_is_one_listing_whoever_reads(played: Played, kind: str, chosen: dict[str, str]) -> None:
    played.pages.clear()
    dataset = made(kind, played, **chosen)
    for epoch, workers in enumerate((0, 2)):
        dataset.set_epoch(epoch)
        assert next(iter(DataLoader(dataset, None if kind == "batches" else 32, num_workers=workers)))
    assert played.pages == {"images": 3}
    assert dataset.names == [name_of(at) for at in range(1300 if chosen else 2500)]


@pytest.mark.parametrize("kind", ["images", "stream", "batches"])
def test_a_dataset_takes_little_more_than_its_names(played: Played, kind: str) -> None:
    next(iter(made(kind, played)))  # what is loaded only once
    with playing(20_000, 1000) as many:
        tracemalloc.start()
        dataset = made(kind, many, rank=1, world=2) if kind != "images" else made(kind, many)
        next(iter(dataset))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(dataset.names) == 20_000
    assert most < 20_000 * A_NAME + (2 << 20), "with a page of the listing, and a batch"


@pytest.mark.parametrize("kind", ["images", "stream", "batches"])
def test_what_a_spawned_worker_gets_is_as_small_as_the_names(played: Played, kind: str) -> None:
    assert len(pickle.dumps(made(kind, played))) < 2500 * (36 + 4) + 30_000


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 7, 10**20])
@pytest.mark.parametrize("even", [False, True])
def test_an_epochs_order_is_the_one_promised(
    played: Played, monkeypatch: pytest.MonkeyPatch, workers: int, batch: int, even: bool
) -> None:
    drawn = np.random.RandomState(derive_seed(1, 4, 0, "order of images")).permutation(2500)
    order = [int(place) for place in (drawn[: 2500 - 2500 % 3] if even else drawn)[1::3]]
    stream = made("stream", played, batch=batch, rank=1, world=3, even=even)
    assert [*stream.order(4)] == order
    for worker in range(workers):
        info = SimpleNamespace(id=worker, num_workers=workers)
        monkeypatch.setattr("tvetl.datasets.stream.get_worker_info", lambda info=info: info)
        assert [*stream._share(4)] == [place for at, place in enumerate(order) if at // batch % workers == worker]
    assert [*made("stream", played, shuffle=False, rank=1, world=3).order()] == [*range(1, 2500, 3)]


@pytest.mark.parametrize("names", [["a.jpg"], ["a'\"\\.jpg", "é\n.jpg", "\udc80"], [str(at) for at in range(70_000)]])
def test_a_state_of_an_earlier_release_is_gone_on_with(played: Played, names: list[str]) -> None:
    def digest(what: object) -> str:
        return hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    stream = TransformedStream(Cluster(played.url), "images", names=names, seed=3, rank=0, world=1)
    of = digest(("images", "", digest(tuple(names)), [], True, 3, 1, 0, 1, False, 0, 1))
    assert stream.state_dict()["of"] == of


def test_the_benchmark_measures_each_subject(played: Played) -> None:
    for subject in listing.SUBJECTS:
        played.pages.clear()
        played.began = ""
        found = listing.measure(subject, played.url)
        assert found["pages"]["images"] == 3
        told = listing.row(subject, found, 2500, 1000)
        assert len(told) == len(listing.COLUMNS)
        assert told[0] == subject
        assert told[-1].startswith("1 of images")


def test_the_benchmark_measures_in_a_process_of_its_own() -> None:
    found = listing.measured("a job, from its start to its report", 300, 100)
    assert found["pages"]["images"] == 3
    assert found["peak"] >= found["before"] > 10
