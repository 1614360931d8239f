"""Begin a job: find what of the request is left to do, and start it, or find the job that is at work on it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tvetl.cluster import Cluster, Snapshot
from tvetl.errors import ClusterError, UsageError
from tvetl.jobs import provenance
from tvetl.jobs.provenance import Record
from tvetl.jobs.request import AS_IS, Rename, Request
from tvetl.notation import expand

#: Seconds that a job of another pipeline is given to end. AIStore calls a list job idle 4 s or more after its end.
_OTHERS = 15.0
_OTHERS_EVERY = 0.5
#: Names in one request for a list job, so that a request stays below a megabyte.
_NAMES = 10_000


@dataclass(frozen=True)
class Job:
    """A job that was begun, or found at work: ``wanted`` are the source's objects asked for, with their sizes.

    ``left`` are the objects that were missing in the destination, or made by another pipeline. ``ids`` are empty where
    nothing is left. ``found`` means that the job was at work before: after its end a second one begins for what is
    left then. ``before`` is what each job had done earlier, as AIStore keeps one list job for several requests.
    """

    request: Request
    ids: tuple[str, ...]
    wanted: Mapping[str, int]
    left: tuple[str, ...]
    absent: tuple[str, ...]
    record: Record
    idles: bool = False
    found: bool = False
    before: Mapping[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return ",".join(self.ids)

    @property
    def total(self) -> int:
        return len(self.left)


def transform_bucket(
    cluster: Cluster,
    source: str,
    destination: str,
    etl: str,
    *,
    prefix: str = "",
    rename: Rename = AS_IS,
    continue_on_error: bool = True,
    again: bool = False,
) -> Job:
    """Begin to transform all objects of a bucket whose names begin with ``prefix``; see :func:`begin`."""
    return begin(cluster, Request(source, destination, etl, prefix, None, None, rename, continue_on_error, again))


def transform_objects(
    cluster: Cluster,
    source: str,
    destination: str,
    etl: str,
    *,
    names: Sequence[str] | None = None,
    template: str | None = None,
    rename: Rename = AS_IS,
    continue_on_error: bool = True,
    again: bool = False,
) -> Job:
    """Begin to transform objects by their names, or by a template like ``photo_{0..100}.jpg``; see :func:`begin`."""
    if (names is None) == (template is None):
        raise UsageError("name the objects, or give one template")
    chosen = None if names is None else tuple(names)
    return begin(cluster, Request(source, destination, etl, "", chosen, template, rename, continue_on_error, again))


def begin(cluster: Cluster, request: Request) -> Job:
    """Start a job for what of the request is left to do, or find the job that is at work on it.

    Makes the destination where it is an ais bucket and missing. Raises NotFound for a missing source or ETL, and
    UsageError where there is nothing to transform. Raises ClusterError while a job of another pipeline is at work
    between the same buckets.
    """
    wanted, absent = wanted_objects(cluster, request)
    digest = provenance.digest_of(cluster.show(request.etl))
    key = record_key(request)
    cluster.create_bucket(request.destination)
    known = provenance.load(cluster, key, request.destination)
    jobs = _jobs_between(cluster, request, patient=known is None or known.digest != digest)
    at_work = {job: now for job, now in jobs.items() if not now.idle}
    record, made = current_record(cluster, request, known, digest, again=request.again and not at_work)
    if record != known:
        provenance.save(cluster, key, request.destination, record)
    left = tuple(name for name in wanted if request.rename(name) not in made)
    job = Job(request, (), wanted, left, absent, record, before={job: now.done for job, now in jobs.items()})
    if at_work:
        return replace(job, ids=tuple(at_work), found=True, idles=True)
    return _start(cluster, job) if left else job


def wanted_objects(cluster: Cluster, request: Request) -> tuple[dict[str, int], tuple[str, ...]]:
    """The source's objects that are asked for, with their sizes, and the names of a template that it has not."""
    if request.template is None and request.names is None:
        found = cluster.sizes(request.source, request.prefix)
        if not found:
            under = f" under {request.prefix!r}" if request.prefix else ""
            raise UsageError(f"there is nothing to transform in {request.source!r}{under}")
        return found, ()
    asked = tuple(dict.fromkeys(expand(request.template) if request.template is not None else request.names or ()))
    present = cluster.sizes(request.source, os.path.commonprefix(asked))  # noqa: RUF071  names are no paths
    absent = tuple(name for name in asked if name not in present)
    wanted = {name: present.get(name, 0) for name in asked if request.template is None or name in present}
    if not wanted:
        named = request.template or [*asked]
        raise UsageError(f"there is nothing to transform: {request.source!r} has none of {named}")
    return wanted, absent if request.template is not None else ()


def current_record(
    cluster: Cluster, request: Request, known: Record | None, digest: str, *, again: bool
) -> tuple[Record, set[str]]:
    """The record for the pipeline with this digest, and the names in the destination that the pipeline has made."""
    prefix = request.rename.prepend
    if known == Record(digest) and not again:  # the common case: nothing there is another's, so names are enough
        return known, set(cluster.objects(request.destination, prefix))
    present = cluster.tags(request.destination, prefix)
    record = (known or Record(provenance.UNKNOWN)).turned_to(digest, present)
    record = record.forgotten(present) if again else record.pruned(present)
    return record, record.made(present)


def record_key(request: Request) -> str:
    naming = (request.rename.prepend, sorted(request.rename.extensions.items()))
    return provenance.key_of(request.source, request.destination, naming)


def _jobs_between(cluster: Cluster, request: Request, *, patient: bool) -> dict[str, Snapshot]:
    """The jobs between the two buckets. ``patient`` waits until these are idle, as those of another pipeline must be.

    AIStore calls a list job idle only some seconds after its end. Raises ClusterError where one is still at work.
    """
    deadline = time.monotonic() + _OTHERS
    while True:
        jobs = cluster.transforming(request.source, request.destination)
        at_work = [job for job, now in jobs.items() if not now.idle]
        if not at_work or not patient:
            return jobs
        if time.monotonic() > deadline:
            hint = "Wait for it; or `tvetl stop` ends its ETL, and the job with it."
            raise ClusterError(f"another job is at work between these buckets: {', '.join(at_work)}", hint=hint)
        time.sleep(_OTHERS_EVERY)


def _start(cluster: Cluster, job: Job) -> Job:
    """Start a bucket job where all objects are left, else list jobs for those that are."""
    request, rename = job.request, job.request.rename
    ends = (request.source, request.destination, request.etl)
    if request.names is None and request.template is None and len(job.left) == len(job.wanted):
        started = cluster.start_bucket_job(
            *ends,
            prefix=request.prefix,
            prepend=rename.prepend,
            extensions=rename.extensions,
            continue_on_error=request.continue_on_error,
        )
        return replace(job, ids=(started,))
    ids = [
        cluster.start_list_job(
            *ends,
            names=job.left[at : at + _NAMES],
            prepend=rename.prepend,
            extensions=rename.extensions,
            continue_on_error=request.continue_on_error,
        )
        for at in range(0, len(job.left), _NAMES)
    ]
    return replace(job, ids=tuple(dict.fromkeys(ids)), idles=True)
