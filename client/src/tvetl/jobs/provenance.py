"""Provenance: the record of which pipeline made the objects of a destination, so that a job can be repeated.

AIStore keeps of a result only its name, size, version and checksum. So each pair of source and destination has a
record: a small JSON object in the bucket ``tvetl-jobs`` of the same cluster. Any machine finds it there, and readers of
the destination do not meet it. It holds a pipeline's digest, and this holds at any moment: **an object of the
destination was made by that pipeline, unless the record lists it, unchanged, as another's.** The record is written
before a job begins, so that a client may be killed at any point.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from tvetl.cluster import Cluster
from tvetl.errors import ClusterError, NotFound, PipelineError
from tvetl.pod import Container
from tvetl.spec import digest

BUCKET = "tvetl-jobs"
_VERSION = 1
#: The digest of objects whose pipeline no record names.
UNKNOWN = "unknown"

Tags = Mapping[str, str]


@dataclass(frozen=True)
class Record:
    """``digest`` made the destination's objects, except ``others``: digest -> name in the destination -> tag.

    A tag (:meth:`tvetl.cluster.Cluster.tags`) changes when the object is written anew: then it is no other's any more.
    """

    digest: str
    others: Mapping[str, Tags] = field(default_factory=dict)

    def made(self, present: Tags) -> set[str]:
        """The names of the present objects that the record's pipeline made."""
        return {name for name, tag in present.items() if all(tags.get(name) != tag for tags in self.others.values())}

    def turned_to(self, digest: str, present: Tags) -> Record:
        """The record for another pipeline, to which all present objects are another's."""
        if digest == self.digest:
            return self
        others = {key: tags for key, tags in self.pruned(present).others.items() if key != digest}
        before = {name: present[name] for name in self.made(present)}
        return Record(digest, {**others, self.digest: before} if before else others)

    def forgotten(self, present: Tags) -> Record:
        """The record after which all present objects are made anew."""
        return Record(self.digest, {UNKNOWN: dict(present)})

    def pruned(self, present: Tags) -> Record:
        """The record without objects that were written anew, or are gone."""
        still = {
            key: {name: tag for name, tag in tags.items() if present.get(name) == tag}
            for key, tags in self.others.items()
        }
        return Record(self.digest, {key: tags for key, tags in still.items() if tags})


def load(cluster: Cluster, key: str, destination: str) -> Record | None:
    """The record of that key, if any. A record of an earlier bucket with the destination's name does not count.

    Raises NotFound for a destination that is not there, ClusterError for a record that a newer tvetl wrote.
    """
    bucket = cluster.bucket_id(destination)
    try:
        text = cluster.get(BUCKET, key)
    except NotFound:
        return None
    try:
        data = json.loads(text)
        if data["version"] == _VERSION:
            return Record(data["digest"], data["others"]) if data["bucket"] == bucket else None
    except (ValueError, LookupError, TypeError) as error:
        hint = "Delete it to begin anew, unless a gateway in between garbles answers."
        raise ClusterError(f"{BUCKET}/{key} is not a record of tvetl's", hint=hint) from error
    raise ClusterError(f"{BUCKET}/{key} was written by another version of tvetl", hint="Delete it to begin anew.")


def save(cluster: Cluster, key: str, destination: str, record: Record) -> None:
    """Write the record. Makes the bucket for records where it is missing."""
    bucket = cluster.bucket_id(destination)
    data = {"version": _VERSION, "bucket": bucket, "digest": record.digest, "others": record.others}
    cluster.create_bucket(BUCKET)
    cluster.put(BUCKET, key, json.dumps(data).encode())


def key_of(source: str, destination: str, naming: object) -> str:
    """The record's name: readable by its ends, and different for another way of naming the results."""
    ends = f"{source}>{destination}".replace("://", ":").replace("/", "_")
    return f"{ends}.{hashlib.sha256(repr((source, destination, naming)).encode()).hexdigest()[:12]}.json"


def digest_of(container: Container | None) -> str:
    """The digest of the pipeline that a container runs, else of the whole container, where it is no server of ours."""
    with suppress(PipelineError):
        if container and (pipeline := container.pipeline):
            return digest(pipeline)
    text = json.dumps(container and [container.image, container.command, sorted(container.env.items())])
    return hashlib.sha256(text.encode()).hexdigest()
