"""Begin a job: find what of the request is left to do, and start it, or find the job that is at work on it."""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress, islice

import numpy as np

from tvetl.cluster import Cluster, Names, Snapshot, Table
from tvetl.errors import ClusterError, TvetlError, UsageError
from tvetl.jobs import provenance
from tvetl.jobs.destination import Destination
from tvetl.jobs.provenance import Begun, Records
from tvetl.jobs.request import AS_IS, Rename, Request, url
from tvetl.jobs.results import Digests, digests, find
from tvetl.notation import iterate
from tvetl.spec.seed import warning_of

_log = logging.getLogger("tvetl.jobs")
#: Seconds that a job of another pipeline gets to end. AIStore calls a list job idle 4 s or more after its end.
_OTHERS = 15.0
_OTHERS_EVERY = 0.5
#: Names in one request for a list job, so that a request stays below a megabyte.
_NAMES = 10_000


@dataclass(frozen=True)
class Job:
    """A job that was begun, or found at work: ``wanted`` are the request's objects, with their sizes.

    ``left`` are the objects whose results were missing in the destination, or made by another pipeline: then ``tags``
    are digests of the old results' versions and checksums (0: none). ``ids`` are empty where nothing is left. ``found``
    means that the job was at work before: after its end a second one begins for what is left then. ``before`` is what
    each job had done earlier, as AIStore keeps one list job for several requests. ``record`` names the record that says
    that a job over a bucket may meet objects which came after ``wanted``.
    """

    request: Request
    ids: tuple[str, ...]
    wanted: Mapping[str, int]
    left: Sequence[str]
    absent: Sequence[str]
    tags: Digests | None = None
    idles: bool = False
    found: bool = False
    before: Mapping[str, int] = field(default_factory=dict)
    record: str = ""

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
    workers: int = 0,
) -> Job:
    """Begin to transform all objects of a bucket whose names begin with ``prefix``; see :func:`begin`."""
    return begin(
        cluster, Request(source, destination, etl, prefix, None, None, rename, continue_on_error, again, workers)
    )


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
    workers: int = 0,
) -> Job:
    """Begin to transform objects by their names, or by a template like ``photo_{0..100}.jpg``; see :func:`begin`."""
    if (names is None) == (template is None):
        raise UsageError("name the objects, or give one template")
    return begin(
        cluster, Request(source, destination, etl, "", names, template, rename, continue_on_error, again, workers)
    )


def begin(cluster: Cluster, request: Request) -> Job:
    """Start a job for the objects of the request that are left, or find the job that is at work on them.

    Makes the destination where it is an ais bucket and missing. Raises NotFound for a missing source or ETL, and
    UsageError where there is nothing to transform, two objects would have one result, or a result would overwrite what
    is another object's or nobody's. Raises ClusterError while a job of another pipeline is at work between the same
    buckets, or where a command that began in the same moment would make the same results otherwise.
    """
    request = without_results(cluster, request)
    wanted, absent = wanted_objects(cluster, request)
    for how in ("never", "changed"):
        if warning := warning_of(wanted.names, how):
            _log.warning("%s", warning)
    digest = provenance.digest_of(cluster.show(request.etl))
    destination = Destination(request, wanted.names, digest)
    cluster.create_bucket(request.destination)
    records = Records(cluster, request.destination)
    destination.read_records(records.load())
    jobs = _jobs_between(cluster, request, patient=destination.latest != digest)
    at_work = tuple(job for job, now in jobs.items() if not now.idle)
    destination.read_listing(cluster)
    destination.check(cluster)
    is_left = destination.left()
    left, tags = destination.chosen(is_left)
    job = Job(request, at_work, wanted, left, absent, tags, before={job: now.done for job, now in jobs.items()})
    if at_work or not left:
        return replace(job, found=bool(at_work), idles=bool(at_work))
    # A job over all of a bucket may meet objects that came after our listing. A record with ``beyond`` says so; that of
    # an earlier job with the same prefix is used again.
    all_of_it = request.whole and len(left) == len(wanted)
    settled = destination.settled()
    record = next((key for key, prefix in settled.items() if all_of_it and prefix == request.prefix), "")
    beyond = Begun(request.source, request.rename, digest, beyond=request.prefix)
    saved = records.save(chain(destination.records(is_left), [beyond] if all_of_it and not record else []))
    try:  # of two commands, each of which writes and then looks, at least one sees the other
        destination.check_meanwhile(records.since())
        destination.check(cluster)
    except TvetlError:
        records.take_back()
        raise
    for key in {*settled} - {record}:
        provenance.forget(cluster, key)
    return _start(cluster, replace(job, record=record or saved if all_of_it else ""))


def wanted_objects(cluster: Cluster, request: Request) -> tuple[Table[int], Sequence[str]]:
    """The objects of the request, with their sizes, and the names of its template that the source has not.

    Raises UsageError where there is no object.
    """
    absent: Sequence[str] = ()
    if request.template is not None:
        wanted, absent = _in_template(cluster, request.source, request.template)
    elif request.names is not None:
        names = Names(dict.fromkeys(request.names))
        sizes = cluster.sizes(request.source, os.path.commonprefix(names))  # noqa: RUF071  names are no paths
        wanted = Table(names, array("Q", (sizes.get(name, 0) for name in names)))
    else:
        wanted = cluster.sizes(request.source, request.prefix)
    if not wanted:
        of = f" of {request.template!r}" if request.template else f" under {request.prefix!r}" if request.prefix else ""
        raise UsageError(f"there is nothing to transform in {request.source!r}{of}")
    return wanted, absent


def _in_template(cluster: Cluster, source: str, template: str) -> tuple[Table[int], Sequence[str]]:
    wanted = np.unique(digests(iterate(template)))
    seen = np.zeros(len(wanted), bool)
    names, sizes = Names(), array("Q")
    for page in cluster.pages(source, template.partition("{")[0], "size"):
        at = find(wanted, digests((name for name, _ in page), len(page)))
        new = (at >= 0) & ~seen[at]
        seen[at[new]] = True
        names.extend(name for name, _ in compress(page, new))
        sizes.extend(int(size) for _, size in compress(page, new))
    absent = wanted[~seen]
    return Table(names, sizes), Names(_named(iterate(template), absent)).in_order() if len(absent) else ()


def _named(names: Iterator[str], known: Digests) -> Iterator[str]:
    """Those names of which the digests are known."""
    while some := [*islice(names, 10_000)]:
        yield from compress(some, find(known, digests(some)) >= 0)


def without_results(cluster: Cluster, request: Request) -> Request:
    """Of a bucket that is its own destination, the objects that the same request did not make, by their names.

    A job over the bucket would meet its own results, and make results of these.
    """
    if not request.whole or url(request.source) != url(request.destination):
        return request
    names = cluster.names(request.source, request.prefix)
    own = np.zeros(len(names), bool)
    for _, record in Records(cluster, request.destination).load():
        if record.rename == request.rename:
            own |= find(np.sort(record.results), digests(names, len(names))) >= 0
    return replace(request, prefix="", names=[*compress(names, ~own)])


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
    request = job.request

    def start(names: Sequence[str] | None) -> str:
        return cluster.start_job(
            request.source,
            request.destination,
            request.etl,
            names=names,
            prefix=request.prefix,
            prepend=request.rename.prepend,
            extensions=request.rename.extensions,
            continue_on_error=request.continue_on_error,
            workers=request.workers,
        )

    if request.whole and len(job.left) == len(job.wanted):
        return replace(job, ids=(start(None),))
    ids = [start([*job.left[at : at + _NAMES]]) for at in range(0, len(job.left), _NAMES)]
    return replace(job, ids=tuple(dict.fromkeys(ids)), idles=True)
