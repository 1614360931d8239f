"""The reader of all datasets: which objects, through which ETL, how they are read, and what their answers become."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import torch
from torch.utils.data import default_collate, get_worker_info

from tvetl.answers import read_answer
from tvetl.cluster import Cluster, Json, Names
from tvetl.datasets.annotations import AnnotationTable
from tvetl.datasets.decoding import decode, look_up, pixels_of, undecodable
from tvetl.errors import BrokenOff, ClusterFault, NotAllowed, NotFound, ObjectFailed, TvetlError, UsageError
from tvetl.fetch import Fetch, Fetcher
from tvetl.notation import iterate
from tvetl.spec import Pipeline
from tvetl.spec.limits import COUNTER, SEED, VIEWS
from tvetl.spec.pointwise import parts
from tvetl.spec.seed import warning_of
from tvetl.spec.table import split

OnError = Literal["raise", "skip", "substitute"]
#: An ETL's answer; None where it was received in place.
Body: TypeAlias = "bytearray | bytes | None"
#: Whether to read pixels and look the values up here, where a pipeline allows it, or the values themselves.
Wire = Literal["auto", "values"]
#: Labels, boxes or keypoints: a table by the object's name, or a function of it.
ByName: TypeAlias = "Callable[[str], object] | Mapping[str, object] | None"
#: Makes one tensor of several, in memory for batches.
Stack: TypeAlias = Callable[[Sequence[torch.Tensor]], torch.Tensor]
#: An image and its label; or by name the image, and all that belongs to it.
Sample: TypeAlias = "tuple[object, object] | dict[str, object]"

#: Seconds that a read waits beyond the ETL's own time for an object: the cluster then has said why it failed.
_GRACE = 15.0
#: Rows of the counters that workers share; worker 256 counts with worker 0.
_ROWS = 256
#: Objects whose targets are computed at once.
_BLOCK = 256
_OLDER = "The ETL's image is older than this client: register it anew, with `--replace`."
#: The arguments that an older image does not know.
_NEWER = re.compile("unknown key '(pixels|table|like|as|boxes|keypoints)'")
_ANEW = (
    "Make the dataset again: its values are looked up by the pipeline that the ETL had before, or that "
    "Cluster(..., pipelines=...) says wrongly."
)
_log = logging.getLogger("tvetl.datasets")


@dataclass(frozen=True)
class Counts:
    """Counts so far, in all workers: samples given, objects that failed, and of these those skipped and substituted."""

    given: int
    failed: int
    skipped: int
    substituted: int


class Attempt:
    """An object that is read: the one at ``index`` of the names, or where that failed, the next that can be read."""

    __slots__ = ("annotations", "done", "error", "failed", "fetches", "index", "missing", "samples", "where")

    def __init__(self, index: int) -> None:
        self.index = index
        #: The reads of it: its object's, and its mask's where there is one; and how many are not answered yet.
        self.fetches: Sequence[Fetch] = ()
        self.missing = 0
        #: The reader's: what belongs to the image, before it is read and after.
        self.annotations: object = None
        #: Where what is made of it goes: the caller's.
        self.where: object = None
        self.done = False
        #: None of them where it was skipped.
        self.samples: list[object] = []
        #: What failed on the way, a sentence an object.
        self.failed: list[str] = []
        #: Raised when its turn comes.
        self.error: TvetlError | None = None


class Reader:
    """Objects of a bucket through an ETL, from any number of processes and threads.

    A copy in another process opens connections of its own; epoch and counters are in shared memory, so that
    workers which live on from epoch to epoch see a new epoch, and their counts are seen outside. ``wire`` "auto" asks
    for pixels where the pipeline ends in steps that are a table, whose values :meth:`decoded` looks up.
    """

    #: Whether an answer is an image alone, which may be received where it is to lie.
    in_place = True

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str,
        names: Names,
        *,
        labels: ByName = None,
        seed: int | None,
        views: int | None = None,
        pil: bool = False,
        on_error: OnError,
        reads: int,
        wire: Wire = "values",
    ) -> None:
        if on_error not in ("raise", "skip", "substitute"):
            raise UsageError(f"on_error is {on_error!r}: expected raise, skip or substitute")
        if reads < 1:
            raise UsageError(f"reads is {reads}: at least one must be in flight")
        if seed is not None and not (isinstance(seed, int) and 0 <= seed <= SEED):
            raise UsageError(f"seed is {seed!r}: expected a whole number from 0 to {SEED}")
        if views is not None and not (isinstance(views, int) and 1 <= views <= VIEWS):
            raise UsageError(f"views is {views!r}: expected a whole number from 1 to {VIEWS}")
        if wire not in ("auto", "values"):
            raise UsageError(f"wire is {wire!r}: expected auto or values")
        self.bucket, self.etl, self.names = bucket, etl, names
        self.on_error, self.reads, self._pil = on_error, reads, pil
        self.pipeline = pipeline_of(cluster, etl) if etl else None
        if etl and (warning := warning_of(self.names, "never")):
            _log.warning("%s", warning)
        own = self.pipeline.seed if self.pipeline else None
        #: Given, else the pipeline's own, else drawn here: an epoch can always be made again.
        self.seed = seed if seed is not None else own if own is not None else secrets.randbelow(SEED)
        divided = split(self.pipeline) if self.pipeline and wire == "auto" and not pil else None
        #: (C, 256): what of each byte of a channel becomes, where pixels are read; else None.
        self.table = divided.table if divided else None
        self._arguments = self._etl_args(seed, views)
        self._endpoint, self._access = cluster.endpoint, cluster.access()
        self._patience = (cluster.object_seconds(etl) if etl else 45.0) + _GRACE
        #: The process, and its connections that no thread uses.
        self._idle: tuple[int, list[Fetcher]] | None = None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._counts = torch.zeros((_ROWS, 3), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._names_digest = _digest_of(names)
        self._label = itself if labels is None else by_name("labels", labels, names)

    def _etl_args(self, seed: int | None, views: int | None) -> dict[str, Json]:
        """The ``etl_args`` of every read, without the epoch."""
        if not self.etl:
            if views is not None:
                raise UsageError("views are made by an ETL", hint="Name one: etl=...")
            return {}
        arguments: dict[str, Json] = {}
        if self.pipeline or seed is not None:  # another's ETL may not know what a seed is
            arguments["seed"] = self.seed
        if views is not None:
            arguments["views"] = views
        if self.pipeline and self.pipeline.output.format in ("raw", "safetensors"):
            arguments["format"] = "npy"  # the same tensor, and it says its shape
        if self.table is not None:
            assert self.pipeline
            arguments |= {"pixels": True, "table": parts(self.pipeline).digest}
        return arguments

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if not 0 <= epoch <= COUNTER:
            raise UsageError(f"there is no epoch {epoch}", hint="They are counted from 0.")
        self._epoch.fill_(epoch)

    @property
    def counts(self) -> Counts:
        given, failed, substituted = map(int, self._counts.sum(0))
        # Whoever substitutes gives a sample for an object that failed; else what failed was left out.
        return Counts(given, failed, failed if self.on_error == "skip" else 0, substituted)

    def with_targets(self, fetcher: Fetcher, indices: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Each index with the target that its object lies on."""
        todo = map(int, indices)
        while block := [*islice(todo, _BLOCK)]:
            yield from zip(block, fetcher.homes([self.names[index] for index in block]), strict=True)

    @contextmanager
    def fetcher(self, epoch: int) -> Iterator[Fetcher]:
        """A fetcher that is this thread's meanwhile. Its connections are kept, unless it is left by an exception."""
        if self._idle is None or self._idle[0] != os.getpid():
            self._idle = os.getpid(), []
            weakref.finalize(self, _close, *self._idle).atexit = False
        idle = self._idle[1]
        try:
            fetcher = idle.pop()
        except IndexError:
            cluster = Cluster(self._endpoint, patience=self._patience, connections=self.reads, access=self._access)
            fetcher = Fetcher(cluster, self.bucket, self.etl, patience=self._patience, threads=self.reads)
        try:
            arguments = {**self._arguments, "epoch": epoch} if "seed" in self._arguments else self._arguments
            fetcher.ask(arguments, by_name=self.pipeline is not None)
            yield fetcher
        except BaseException:
            fetcher.close()
            raise
        fetcher.abandon()
        idle.append(fetcher)

    def fetches(self, name: str, attempt: Attempt, home: int | None) -> list[Fetch]:
        """The reads of an object."""
        return [Fetch(name, attempt, home)]

    def described(self, fetch: Fetch) -> str:
        """An object, in a sentence."""
        return f"{self.bucket}/{fetch.name}"

    def named(self, fetch: Fetch, error: TvetlError) -> TvetlError:
        """A failure that may be the object's alone, with its name, which it does not say itself."""
        message = f"{self.described(fetch)}: {error.message}"
        named: TvetlError
        if isinstance(error, ObjectFailed):
            older = error.code == "bad_arguments" and _NEWER.search(error.message)
            hint = _OLDER if older else _ANEW if "registered anew" in error.message else error.hint
            named = ObjectFailed(f"{message} ({error.code})", code=error.code, status=error.status, hint=hint)
        elif isinstance(error, (ClusterFault, BrokenOff)):
            named = type(error)(message, hint=error.hint)
        else:
            return error
        named.__cause__ = error
        return named

    def check_existence(self, error: TvetlError) -> None:
        """Raises NotFound where it is the bucket or the ETL that is gone, and not an object.

        Where only administrators may look at ETLs, ``error`` is believed, which tells of one that is gone.
        """
        cluster = Cluster(self._endpoint, access=self._access)
        try:
            cluster.bucket_id(self.bucket)
            if self.etl:
                with suppress(NotAllowed):
                    cluster.show(self.etl)
                    return
                if isinstance(error, NotFound) and self.etl in error.message:
                    raise error
        finally:
            cluster.close()

    def samples(self, name: str, data: Body, attempt: Attempt) -> list[object]:
        """The sample of an object, in a list. Raises ObjectFailed as :meth:`decoded`."""
        return [(self.decoded(name, data, attempt), self._label(name))]

    def rest(self, name: str, attempt: Attempt) -> object:
        """What belongs to an image in a batch, once it is decoded."""
        return self._label(name)

    def collated(self, several: Sequence[object], stack: Stack) -> object:
        """The same for a whole batch."""
        return default_collate([*several])

    def decoded(self, name: str, data: Body, attempt: Attempt, *, values: bool = True) -> object:
        """What was answered, as tensors, or with ``pil`` its images.

        Where it is pixels, the values that they stand for; without ``values`` the pixels. Raises ObjectFailed, with
        the name, where it cannot be decoded.
        """
        assert data is not None
        try:
            if self.table is None:
                return decode(data, pil=self._pil)
            pixels = pixels_of(read_answer(data))
            return look_up(pixels, self.table) if values else torch.from_numpy(pixels)
        except UsageError as error:
            raise undecodable(f"{self.bucket}/{name}", error) from error

    def tally(self, attempts: Sequence[Attempt]) -> list[object]:
        """Count them (in the consumer's thread, so that nobody counts beside us), and give their samples."""
        info = get_worker_info()
        row = self._counts[info.id % _ROWS if info else 0]
        samples = [sample for attempt in attempts for sample in attempt.samples]
        failed = [message for attempt in attempts for message in attempt.failed]
        substituted = sum(bool(attempt.failed and attempt.samples) for attempt in attempts)
        for message in failed:
            _log.warning("%s", message)
        row += torch.tensor([len(samples), len(failed), substituted])
        return samples

    def fingerprint(self, *more: object) -> str:
        """What two datasets share that read the same in the same order; asked for at every batch."""
        drawn = {name: self._arguments[name] for name in ("seed", "views") if name in self._arguments}
        return _digest((self.bucket, self.etl, self._names_digest, sorted(drawn.items()), *more))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_idle": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        for shared in (self._epoch, self._counts):
            if not shared.is_shared():  # a copy in the same process, whose workers are to hear of it too
                shared.share_memory_()


def _close(process: int, fetchers: list[Fetcher]) -> None:
    """End the connections of a reader that nobody has any more, in the process that made them."""
    while fetchers and os.getpid() == process:
        fetchers.pop().close()


def _digest(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _digest_of(names: Names) -> str:
    """As of a tuple of them, whose text is never there as a whole."""
    digest, before, todo = hashlib.sha256(b"("), "", iter(names)
    while block := [*islice(todo, 1 << 12)]:
        digest.update((before + ", ".join(map(repr, block))).encode())
        before = ", "
    digest.update(b",)" if len(names) == 1 else b")")
    return digest.hexdigest()[:16]


def choose(cluster: Cluster, bucket: str, prefix: str, names: Sequence[str] | None, template: str) -> Names:
    """The objects to read: by name, by a range like ``Bengal_{0..100}.jpg`` (gaps are left out), or by prefix.

    Raises UsageError for more than one of them, and where nothing is left.
    """
    if sum((bool(prefix), names is not None, bool(template))) > 1:
        raise UsageError("prefix, names and template exclude one another")
    if isinstance(names, str):
        raise UsageError(f"names is {names!r}: expected a list of names", hint="One object is names=[...].")
    if names is not None:
        chosen = names if isinstance(names, Names) else Names(names)
    elif template:
        ranged = iterate(template)
        present = cluster.names(bucket, template.partition("{")[0])
        chosen = Names(name for name in ranged if name in present)
    else:
        chosen = cluster.names(bucket, prefix)
    if not chosen:
        raise UsageError(
            f"there is nothing to read in {bucket!r}", hint="`prefix`, `names` or `template` chose nothing."
        )
    return chosen


def by_name(kind: str, values: ByName, names: Names) -> Callable[[str], object]:
    """A function of the name for labels, boxes or keypoints. Raises UsageError where a table lacks some names."""
    if not isinstance(values, Mapping):
        if not callable(values):
            raise UsageError(f"{kind} is {values!r}: expected a table by object name, or a function of it")
        return values
    if isinstance(values, AnnotationTable):
        values.check(names)
    elif missing := Names(name for name in names if name not in values):
        noun, hint = kind, "An image that has none needs an empty list; or leave it out, by names=[...]."
        if kind == "labels":
            noun, hint = "label", "Leave them out: names=[name for name in cluster.objects(bucket) if name in labels]"
        raise UsageError(f"{len(missing)} of {len(names)} objects have no {noun}, {missing[0]!r} first", hint=hint)
    return values.__getitem__


def itself(name: str) -> str:
    """The label of an object that has none."""
    return name


def pipeline_of(cluster: Cluster, etl: str) -> Pipeline | None:
    """The pipeline that a running ETL was registered with; None where it is not one of ours. Raises NotFound."""
    container = cluster.show(etl)
    return container.pipeline if container else None
