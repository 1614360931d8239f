"""What all datasets share: which objects, through which ETL, over connections of this process, and what went wrong."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from tvetl.answers import Answer, read_answer
from tvetl.cluster import Cluster, Json
from tvetl.errors import NotFound, ObjectFailed, UsageError
from tvetl.names import expand
from tvetl.pod import PIPELINE_VARIABLE
from tvetl.spec import Pipeline, parse
from tvetl.spec.limits import COUNTER, SEED

OnError = Literal["raise", "skip", "substitute"]
#: What is trained towards: by default the object's name.
LabelsBy: TypeAlias = "Callable[[str], object] | Mapping[str, object] | None"
Sample: TypeAlias = tuple[object, object]
T = TypeVar("T")
R = TypeVar("R")

#: Seconds that a read waits beyond the ETL's own time for an object: the cluster then has said why it failed.
_GRACE = 15.0
#: Rows of the counters that workers share; worker 256 counts with worker 0.
_ROWS = 256
_log = logging.getLogger("tvetl.datasets")


@dataclass(frozen=True)
class Counts:
    """What became of reading so far, in all workers: samples given, objects that failed, and what was done of it."""

    given: int
    failed: int
    skipped: int
    substituted: int


@dataclass
class Read:
    """One read object: its samples (none where it was skipped), and what failed on the way."""

    samples: list[object] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Reader:
    """Objects of a bucket through an ETL, from any number of processes and threads.

    A copy in another process opens connections of its own; epoch and counters are in shared memory, so that
    workers which live on from epoch to epoch see a new epoch, and their counts are seen outside.
    """

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str,
        names: Sequence[str],
        *,
        seed: int | None,
        views: int | None,
        on_error: OnError,
        reads: int,
    ) -> None:
        if on_error not in ("raise", "skip", "substitute"):
            raise UsageError(f"on_error is {on_error!r}: expected raise, skip or substitute")
        if reads < 1:
            raise UsageError(f"reads is {reads}: at least one must be in flight")
        self.bucket, self.etl, self.names = bucket, etl, tuple(names)
        self.on_error, self.reads = on_error, reads
        self.pipeline = pipeline_of(cluster, etl) if etl else None
        own = self.pipeline.seed if self.pipeline else None
        #: Given, else the pipeline's own, else drawn here: an epoch can always be made again.
        self.seed = seed if seed is not None else own if own is not None else secrets.randbelow(SEED)
        self._arguments = self._asked(seed, views)
        self._endpoint = cluster.endpoint
        self._patience = (cluster.object_seconds(etl) if etl else 45.0) + _GRACE
        self._here: tuple[int, Cluster, ThreadPoolExecutor] | None = None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._counts = torch.zeros((_ROWS, 3), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._names_digest = _digest(self.names)

    def _asked(self, seed: int | None, views: int | None) -> dict[str, Json]:
        """The ``etl_args`` of every read, without the epoch."""
        if not self.etl:
            if views is not None or self.on_error == "substitute":
                raise UsageError("views and substitutes are made by an ETL", hint="Name one: etl=...")
            return {}
        asked: dict[str, Json] = {}
        if self.pipeline or seed is not None:  # another's ETL may not know what a seed is
            asked["seed"] = self.seed
        if views is not None:
            asked["views"] = views
        if self.pipeline and self.pipeline.output.format == "raw":
            asked["format"] = "npy"  # the same tensor, and it says its shape
        return asked

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

    def get(self, name: str, epoch: int) -> bytes:
        """The object as the ETL answers it. Raises ObjectFailed (naming it), NotFound, TimedOut, NotReachable."""
        arguments = {**self._arguments, "epoch": epoch} if "seed" in self._arguments else self._arguments
        try:
            return self._local()[0].get(self.bucket, name, self.etl, arguments)
        except ObjectFailed as error:
            message = f"{self.bucket}/{name}: {error.message} ({error.code})"
            raise ObjectFailed(message, code=error.code, status=error.status) from error

    def attempt(self, index: int, make: Callable[[str], list[object]]) -> Read:
        """``make`` the samples of the object at ``index``, doing with a failure what ``on_error`` says.

        A substitute is the next name of the list that can be read: the same one in every worker and run.
        Raises what was raised where ``on_error`` is "raise", and always what is not one object's own fault.
        """
        failed: list[str] = []
        tries = len(self.names) if self.on_error == "substitute" else 1
        for step in range(tries):
            try:
                return Read(make(self.names[(index + step) % len(self.names)]), failed)
            except (ObjectFailed, NotFound) as error:
                if self.on_error == "raise" or (self.on_error == "substitute" and step == tries - 1):
                    raise
                if isinstance(error, NotFound) and self.etl:
                    self._local()[0].show(self.etl)  # raises where it is the ETL that is gone
                failed.append(error.message)
        return Read([], failed)

    def tally(self, read: Read) -> list[object]:
        """Count it (in the consumer's thread, so that nobody counts beside us), and give its samples."""
        info = get_worker_info()
        row = self._counts[info.id % _ROWS if info else 0]
        for message in read.failed:
            _log.warning("%s", message)
        row += torch.tensor([len(read.samples), len(read.failed), int(bool(read.failed and read.samples))])
        return read.samples

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``work`` on each item, ``reads`` of them in flight, the results in order. Reads on while it is consumed."""
        pool = self._local()[1]
        todo = iter(items)
        pending: deque[Future[R]] = deque()
        try:
            pending.extend(pool.submit(work, item) for item in islice(todo, self.reads))
            while pending:
                done = pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(todo, 1))
                yield done
        finally:
            for future in pending:
                future.cancel()

    def fingerprint(self, *more: object) -> str:
        """What two datasets share that read the same in the same order; asked for at every batch."""
        return _digest((self.bucket, self.etl, self._names_digest, sorted(self._arguments.items()), *more))

    def _local(self) -> tuple[Cluster, ThreadPoolExecutor]:
        """This process' own connections and threads: neither survives a fork."""
        if self._here is None or self._here[0] != os.getpid():
            cluster = Cluster(self._endpoint, patience=self._patience, connections=self.reads)
            self._here = os.getpid(), cluster, ThreadPoolExecutor(self.reads, thread_name_prefix="tvetl-read")
        return self._here[1], self._here[2]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_here": None}


def _digest(what: object) -> str:
    return hashlib.sha256(repr(what).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def choose(cluster: Cluster, bucket: str, prefix: str, names: Sequence[str] | None, template: str) -> tuple[str, ...]:
    """The objects to read: by name, by a range like ``Bengal_{0..100}.jpg`` (gaps are left out), or by prefix.

    Raises UsageError for more than one of them, and where nothing is left.
    """
    if sum((bool(prefix), names is not None, bool(template))) > 1:
        raise UsageError("prefix, names and template exclude one another")
    if names is not None:
        chosen = tuple(names)
    elif template:
        present = set(cluster.objects(bucket, template.partition("{")[0]))
        chosen = tuple(name for name in expand(template) if name in present)
    else:
        chosen = tuple(cluster.objects(bucket, prefix))
    if not chosen:
        raise UsageError(
            f"there is nothing to read in {bucket!r}", hint="`prefix`, `names` or `template` chose nothing."
        )
    return chosen


def labelled(labels: LabelsBy, names: Sequence[str]) -> Callable[[str], object]:
    """The label of a name. Raises UsageError at once where a table of labels lacks some of the names."""
    if labels is None:
        return _itself
    if not isinstance(labels, Mapping):
        return labels
    if missing := [name for name in names if name not in labels]:
        hint = "Leave them out: names=[name for name in cluster.objects(bucket) if name in labels]"
        raise UsageError(f"{len(missing)} of {len(names)} objects have no label, {missing[0]!r} first", hint=hint)
    return labels.__getitem__


def _itself(name: str) -> str:
    return name


def pipeline_of(cluster: Cluster, etl: str) -> Pipeline | None:
    """The pipeline that a running ETL was registered with; None where it is not one of ours. Raises NotFound."""
    container = cluster.show(etl)
    text = container.env.get(PIPELINE_VARIABLE, "") if container else ""
    return parse(text) if text and not text.startswith("@") else None


def decode(data: bytes, *, pil: bool) -> object:
    """What an ETL answered as tensors, or with ``pil`` its images as they are (a list of them for several views)."""
    answer = read_answer(data)
    return answer if pil and not isinstance(answer, np.ndarray) else _tensor(answer)


def to_tensor(data: bytes) -> torch.Tensor:
    """Decode what an ETL answered: a tensor as it was sent, an image as uint8 (C, H, W), views as (N, C, H, W).

    Raises UsageError for other formats, and for views that are images of different sizes.
    """
    return _tensor(read_answer(data))


def _tensor(answer: Answer) -> torch.Tensor:
    if isinstance(answer, np.ndarray):
        return torch.from_numpy(answer)
    if isinstance(answer, Image.Image):
        pixels = np.array(answer)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(planes))
    try:
        return torch.stack([_tensor(image) for image in answer])
    except RuntimeError as error:
        hint = "Resize them in the pipeline, or ask for images with pil=True."
        raise UsageError("the views differ in size, so they are no one tensor", hint=hint) from error
