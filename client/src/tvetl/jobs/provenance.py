"""Provenance: records of the results that jobs set out to make, with their sources and the pipeline.

AIStore keeps of a result only its name, size, version and checksum. So each job writes records before it begins: small
objects in the bucket ``tvetl-jobs`` of the same cluster. Any machine finds them there, and readers of the destination
do not meet them. This holds at any moment, wherever a client was killed: **an object of the destination was made of the
object, and by the pipeline, that the latest record with its name says, unless it is unchanged since before that job;
one that no record names was not made by a job.**

A record is a line of JSON and columns of numbers: 12 bytes for each result, 20 where something lay under its name.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tvetl.cluster import Cluster
from tvetl.errors import ClusterError, NotFound, PipelineError
from tvetl.jobs.request import Rename, url
from tvetl.jobs.results import Digests
from tvetl.pod import Container
from tvetl.spec import digest

BUCKET = "tvetl-jobs"
_VERSION = 2
#: The digest of objects whose pipeline no record names.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Begun:
    """The results that a job set out to make of a bucket's objects, with the pipeline of this ``digest``.

    ``results`` are digests of the results' names, ``origins`` those of the objects. Where ``before`` names a pipeline,
    it had made the objects of these names that were there, and ``tags`` are digests of their versions and checksums,
    which change when an object is written anew. ``beyond`` is the prefix of a job over all objects of the bucket that
    may have met more of them than its records name: those that came while it ran.
    """

    source: str
    rename: Rename
    digest: str
    before: str = ""
    beyond: str | None = None
    results: Digests = field(default_factory=lambda: np.zeros(0, np.uint64))
    origins: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    tags: Digests | None = None

    def encode(self, bucket: str) -> bytes:
        head = {
            "version": _VERSION, "bucket": bucket, "source": url(self.source), "prepend": self.rename.prepend,
            "extensions": dict(self.rename.extensions), "digest": self.digest, "before": self.before,
            "beyond": self.beyond, "results": len(self.results), "tags": self.tags is not None,
        }  # fmt: skip
        columns = [self.results.astype("<u8"), self.origins.astype("<u4")]
        columns += [] if self.tags is None else [self.tags.astype("<u8")]
        return b"".join([json.dumps(head).encode(), b"\n", *(column.tobytes() for column in columns)])


class Records:
    """The records of a destination. Those of an earlier bucket with its name do not count.

    Raises NotFound for a destination that is not there.
    """

    def __init__(self, cluster: Cluster, destination: str) -> None:
        self._cluster = cluster
        self._bucket = cluster.bucket_id(destination)
        self._start = url(destination).replace("://", ":").replace("/", "_") + "<"
        self._keys = self._listed()
        self._stale: list[str] = []
        self._saved: list[str] = []
        self._since: list[str] = []

    def load(self) -> Iterator[tuple[str, Begun]]:
        """The records and their names, the oldest first. Raises ClusterError for one that a newer tvetl wrote."""
        return self._load(self._keys)

    def since(self) -> Iterator[tuple[str, Begun]]:
        """The same of those that others wrote between our first look and the end of :meth:`save`."""
        return self._load(self._since)

    def _load(self, keys: Sequence[str]) -> Iterator[tuple[str, Begun]]:
        for key in keys:
            with suppress(NotFound):  # forgotten since
                if record := _decoded(key, self._cluster.get(BUCKET, key), self._bucket):
                    yield key, record
                else:
                    self._stale.append(key)

    def save(self, begun: Iterable[Begun]) -> str:
        """Write records, later than all that were there; gives the last one's name. Makes their bucket, if need be.

        Deletes those that :meth:`load` found to be of an earlier bucket. Raises ClusterError where a new one is not
        there then: a gateway in between may have answered in AIStore's place.
        """
        self._cluster.create_bucket(BUCKET)
        last = max(self._keys, default="").removeprefix(self._start).partition(".")[0]
        order = max(time.time_ns(), int(last) + 1 if last.isdecimal() else 0)
        keys = self._saved
        for number, record in enumerate(begun):
            keys.append(f"{self._start}{order + number:020}.{secrets.token_hex(4)}")
            self._cluster.put(BUCKET, keys[-1], record.encode(self._bucket))
        listed = self._listed()
        self._since = sorted({*listed} - {*self._keys, *keys})
        if missing := {*keys} - {*listed}:
            raise ClusterError(f"{BUCKET}/{min(missing)} was not stored", hint="Begin once more. Nothing was started.")
        for key in self._stale:
            forget(self._cluster, key)
        return keys[-1] if keys else ""

    def take_back(self) -> None:
        """Delete what :meth:`save` wrote: nothing was begun."""
        for key in self._saved:
            forget(self._cluster, key)

    def _listed(self) -> Sequence[str]:
        try:
            return self._cluster.objects(BUCKET, self._start)
        except NotFound:
            return ()


def forget(cluster: Cluster, key: str) -> None:
    """Delete a record, if it is there."""
    with suppress(NotFound):
        cluster.delete(BUCKET, key)


def digest_of(container: Container | None) -> str:
    """The digest of the pipeline that a container runs, else of the whole container, where it is no server of ours."""
    with suppress(PipelineError):
        if container and (pipeline := container.pipeline):
            return digest(pipeline)
    text = json.dumps(container and [container.image, container.command, sorted(container.env.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _decoded(key: str, data: bytes, bucket: str) -> Begun | None:
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        if head["version"] == _VERSION:
            if head["bucket"] != bucket:
                return None
            count = head["results"]
            results = np.frombuffer(rest, "<u8", count)
            origins = np.frombuffer(rest, "<u4", count, 8 * count)
            tags = np.frombuffer(rest, "<u8", count, 12 * count) if head["tags"] else None
            rename = Rename(head["prepend"], head["extensions"])
            return Begun(head["source"], rename, head["digest"], head["before"], head["beyond"], results, origins, tags)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        hint = "A gateway in between may garble answers. Else choose another destination."
        raise ClusterError(f"{BUCKET}/{key} is not a record of tvetl's", hint=hint) from error
    raise ClusterError(f"{BUCKET}/{key} was written by another version of tvetl", hint="Choose another destination.")
