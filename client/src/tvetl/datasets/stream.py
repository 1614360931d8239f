"""Iterable datasets: an order drawn for each epoch, shared out over ranks and workers, resumed anywhere in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tvetl.cluster import Cluster
from tvetl.datasets.annotated import MasksBy, reader_of
from tvetl.datasets.flight import in_order
from tvetl.datasets.images import SeededDataset
from tvetl.datasets.reader import Attempt, Body, ByName, OnError, Reader
from tvetl.errors import UsageError
from tvetl.spec import derive_seed

#: Places in ``names``, of 4 bytes each: a list of ten million takes 400 MB.
Places: TypeAlias = "npt.NDArray[np.uint32]"


class Stream(SeededDataset, IterableDataset[object]):
    """The base of :class:`TransformedStream` and :class:`Shards`: order, shares of ranks and workers, and resuming.

    A unit is what one read gives: an image, or a shard with its samples.
    """

    #: What the names are of.
    _unit = "object"

    def __init__(
        self, reader: Reader, *, shuffle: bool, batch: int, rank: int | None, world: int | None, even: bool
    ) -> None:
        super().__init__(reader)
        self._shuffle, self._batch, self._even = shuffle, batch, even
        self._rank, self._world = _place(rank, world)
        if len(self.names) < self._world:
            raise UsageError(
                f"{len(self.names)} {self._unit}s are too few for {self._world} ranks: some would have nothing to read",
                hint=f"Read them with fewer ranks, or make more {self._unit}s.",
            )
        if not isinstance(batch, int) or batch < 1:
            raise UsageError(f"batch is {batch!r}: expected how many samples make a batch")
        #: Where the last iteration is: its epoch, the units done, and samples given of the one after them.
        self._done = (0, 0, 0)
        self._resume: tuple[int, int, int] | None = None

    def make(self, name: str, data: Body, attempt: Attempt) -> list[object]:
        """The samples of one unit."""
        return self._reader.samples(name, data, attempt)

    def set_epoch(self, epoch: int) -> None:
        """Another order and other draws: call it before each epoch, counted from 0. Workers that live on hear of it.

        A place in another epoch, loaded or left, is forgotten.
        """
        self._reader.epoch = epoch
        if self._done[0] != epoch:
            self._done = (epoch, 0, 0)
        if self._resume and self._resume[0] != epoch:
            self._resume = None

    def order(self, epoch: int | None = None) -> Places:
        """This rank's places in ``names``, in the order of an epoch (the one that is set), for all its workers."""
        count = len(self.names)
        places: Places = np.arange(count, dtype=np.uint32)
        if self._shuffle:
            # RandomState, for numpy promises that its numbers never change (NEP 19).
            seed = derive_seed(
                self.seed, self._reader.epoch if epoch is None else epoch, 0, f"order of {self._reader.bucket}"
            )
            np.random.RandomState(seed).shuffle(places)
        if self._even:
            places = places[: count - count % self._world]
        return places[self._rank :: self._world].copy() if self._world > 1 else places

    def _units(self) -> int:
        """How many places :meth:`order` has."""
        return len(range(self._rank, len(self.names) - len(self.names) % self._world * self._even, self._world))

    def _share(self, epoch: int | None = None) -> Places:
        """This worker's part of the rank's order: every n-th batch, as a DataLoader takes from its workers in turn."""
        order, (worker, workers) = self.order(epoch), _worker()
        if workers == 1:
            return order
        blocks = np.arange(len(order), dtype=np.uint32)
        blocks //= max(1, min(self._batch, len(order)))
        blocks %= workers
        share: Places = order[blocks == worker]
        return share

    def __iter__(self) -> Iterator[object]:
        # Not a generator itself: what was loaded counts for the iterator that is made next, begun or not.
        epoch, units, within = self._resume or (self._reader.epoch, 0, 0)
        self._done, self._resume = (epoch, units, within), None
        return self._samples(epoch, self._share(epoch), units, within)

    def _samples(self, epoch: int, share: Places, units: int, within: int) -> Iterator[object]:
        for at, attempt in enumerate(in_order(self._reader, share[units:], epoch, self.make), start=units):
            samples = self._reader.tally([attempt])
            skip = within if at == units else 0
            for given, sample in enumerate(samples[skip:], start=skip + 1):
                self._done = (epoch, at, given) if given < len(samples) else (epoch, at + 1, 0)
                yield sample
            self._done = (epoch, at + 1, 0)

    def state_dict(self) -> dict[str, object]:
        """Where this worker is: what was read ahead and not given is read again."""
        epoch, units, within = self._resume or self._done
        if not units and not within:
            epoch = self._reader.epoch
        return {"seed": self.seed, "epoch": epoch, "units": units, "within": within, "of": self._fingerprint()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """The next iteration gives what was left of that epoch. Raises UsageError for the state of another dataset.

        An epoch that had not begun, or was over, is nothing to go back to: a later one that was set stays.
        """
        self._check_state(state)
        epoch, units, within = (int(str(state[name])) for name in ("epoch", "units", "within"))
        whole = (not units and not within) or units >= len(self._share(epoch))
        if not whole or epoch > self._reader.epoch:
            self._reader.epoch = epoch
        self._resume = (epoch, units, within) if epoch == self._reader.epoch else None

    def _fingerprint(self) -> str:
        parts = (self._shuffle, self.seed, self._batch, self._rank, self._world, self._even)
        return self._reader.fingerprint(*parts, *_worker())


class TransformedStream(Stream):
    """The objects of a bucket, read inline through an ETL, as ``(data, label)``, ``reads`` in flight in each worker.

    Arguments as of :class:`TransformedImages`, and: ``shuffle`` draws the order of each epoch from seed and epoch.
    ``rank`` of ``world`` processes (torch.distributed's where it is initialised) read disjoint parts; ``even`` leaves
    out the last few so that all have as many. ``batch`` is the DataLoader's batch_size: with it, batches come in the
    same order from any number of workers. With ``on_error="skip"`` the parts stay disjoint, batches may shift.
    """

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str = "",
        *,
        prefix: str = "",
        names: Sequence[str] | None = None,
        template: str = "",
        labels: ByName = None,
        masks: MasksBy = None,
        boxes: ByName = None,
        keypoints: ByName = None,
        seed: int | None = None,
        views: int | None = None,
        pil: bool = False,
        on_error: OnError = "raise",
        reads: int = 8,
        shuffle: bool = True,
        batch: int = 1,
        rank: int | None = None,
        world: int | None = None,
        even: bool = False,
    ) -> None:
        reader = reader_of(
            cluster, bucket, etl, prefix=prefix, names=names, template=template,
            labels=labels, masks=masks, boxes=boxes, keypoints=keypoints,
            seed=seed, views=views, pil=pil, on_error=on_error, reads=reads,
        )  # fmt: skip
        super().__init__(reader, shuffle=shuffle, batch=batch, rank=rank, world=world, even=even)

    def __len__(self) -> int:
        """Samples of this rank in an epoch, if none is skipped."""
        return self._units()


def _worker() -> tuple[int, int]:
    """Which of how many DataLoader workers this is; the only one outside of a worker."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    """As given, else of torch.distributed, else alone. Asked once, for a worker process is in no group."""
    if (rank is None) != (world is None):
        raise UsageError("rank and world go together")
    if not all(each is None or hasattr(each, "__index__") for each in (rank, world)):  # the environment's are text
        raise UsageError(f"rank and world are whole numbers, got {rank!r} and {world!r}")
    if rank is None or world is None:
        group = torch.distributed
        joined = group.is_available() and group.is_initialized()
        return (group.get_rank(), group.get_world_size()) if joined else (0, 1)
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} of {world}: ranks are counted from 0")
    return rank, world
