"""Bucket and list jobs: begin what is left to do, watch it, and know afterwards what became of every object.

AIStore keeps at most 128 errors a target and ends a job without a word on the rest. So the report is made by comparing
what was asked for with what lies in the destination; the cluster's errors, and one read of each object that it kept no
error of, give the reasons. What is there already, made by the same pipeline, is not made again: :mod:`tvetl.records`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Literal

from tvetl import records
from tvetl.cluster import Cluster, ObjectError, Snapshot
from tvetl.errors import (
    ClusterError,
    NotFound,
    NotReachable,
    ObjectFailed,
    TimedOut,
    TvetlError,
    Unavailable,
    UsageError,
)
from tvetl.names import expand
from tvetl.records import Record
from tvetl.report import AS_IS, Estimate, JobProgress, Rename, Report, Request, failed_names

#: Seconds between two looks at a job: a twentieth of its age, within these bounds. So a job of 10 s is reported within
#: half a second of its end (the SDK's own wait reports it after 18.8 s), and one of hours is not asked every moment.
_LOOKS = (0.1, 2.0)
#: A list job never ends, it becomes idle; two looks in a row, as the SDK asks for it too.
_IDLE_LOOKS = 2
#: An aborted job is given so many looks to finish the objects under way.
_ABORTED_LOOKS = 10
#: Seconds that a job of another pipeline is given to end. AIStore calls a list job idle 4 s or more after its end.
_OTHERS = 15.0
#: Seconds until a job that was just started must be known to a target.
_START = 15.0
#: Seconds that a cluster may be away while a job is waited for: a gateway that restarts is no end of a job.
_AWAY = 60.0
#: Names in one request for a list job, so that a request stays below a megabyte.
_NAMES = 10_000
#: Objects read at once, for their errors and in a dry run; the SDK keeps ten connections to a node.
_READS = 8

Progress = Callable[[JobProgress], None]

__all__ = [
    "Estimate", "Job", "JobProgress", "Progress", "Rename", "Report", "Request",
    "begin", "estimate", "expand", "failed_names", "transform_bucket", "transform_objects", "wait",
]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job that was begun, or found at work: ``wanted`` are the source's objects asked for, with their sizes.

    ``ids`` are empty where nothing is left to do; ``left`` are the objects that were not in the destination, or were
    made by another pipeline. ``found`` says that the job was at work before: when it has ended, a second one begins for
    what is left then. ``before`` is what each job had done earlier, as AIStore keeps one list job for several requests.
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
    request = Request(
        source, destination, etl, prefix=prefix, rename=rename, continue_on_error=continue_on_error, again=again
    )
    return begin(cluster, request)


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
    request = Request(
        source, destination, etl, "", chosen, template, rename, continue_on_error=continue_on_error, again=again
    )
    return begin(cluster, request)


def begin(cluster: Cluster, request: Request) -> Job:
    """Begin what of the request is left to do, or find the job that is at it.

    The destination is made where it is an ais bucket and missing. Raises NotFound for a source or ETL that is not
    there, UsageError where there is nothing to transform, ClusterError while a job of another pipeline is at work
    between the same buckets.
    """
    wanted, absent = _wanted(cluster, request)
    digest = records.digest_of(cluster.show(request.etl))
    key = _key(request)
    cluster.create_bucket(request.destination)
    known = records.load(cluster, key, request.destination)
    jobs = _others_ended(cluster, request, patient=known is None or known.digest != digest)
    at_work = {job: now for job, now in jobs.items() if not now.idle}
    record, made = _record(cluster, request, known, digest, again=request.again and not at_work)
    if record != known:
        records.save(cluster, key, request.destination, record)
    left = tuple(name for name in wanted if request.rename(name) not in made)
    job = Job(request, (), wanted, left, absent, record, before={job: now.done for job, now in jobs.items()})
    if at_work:
        return replace(job, ids=tuple(at_work), found=True, idles=True)
    return _start(cluster, job) if left else job


def wait(
    cluster: Cluster,
    job: Job,
    on_progress: Progress | None = None,
    *,
    timeout: float | None = None,
    reasons: int | None = None,
    on_interrupt: Literal["leave", "stop"] = "leave",
) -> Report:
    """Wait until the job has ended, and report on every object. ``timeout`` is in seconds.

    Call it before the ETL is stopped: its errors are gone then. Objects that failed and of which AIStore kept no error
    are read once more for it, all of them or at most ``reasons``. Raises TimedOut (the job runs on). A
    KeyboardInterrupt leaves the job running, or stops it. A cluster that cannot be asked for a minute is waited for;
    then what it raised is raised (NotReachable, TimedOut, Unavailable).
    """
    began = time.monotonic()
    kept, ids, aborted = len(job.wanted) - len(job.left), "", ""
    try:
        while job.ids:
            ids = job.id
            aborted = _until_ended(cluster, job, on_progress, began, timeout).aborted
            if not job.found:
                break
            job, aborted = begin(cluster, replace(job.request, again=False)), ""
    except KeyboardInterrupt:
        for each in job.ids if on_interrupt == "stop" else ():
            cluster.abort(each)
        raise
    failed = _failed(cluster, job, began, on_progress, reasons, ended_early=bool(aborted))
    return Report(ids, len(job.wanted), kept, failed, job.absent, time.monotonic() - began, aborted)


def estimate(cluster: Cluster, request: Request, sample: int = 20) -> Estimate:
    """Transform a sample of what a job would, evenly over the names, and store nothing.

    Raises what :func:`begin` does for a source or ETL that is not there, and for nothing to transform.
    """
    wanted, _ = _wanted(cluster, request)
    digest = records.digest_of(cluster.show(request.etl))
    try:
        known = records.load(cluster, _key(request), request.destination)
        made = _record(cluster, request, known, digest, again=request.again)[1]
    except NotFound:  # there is no destination yet
        made = set()
    left = [name for name in wanted if request.rename(name) not in made]
    chosen = left[:: -(-len(left) // sample)] if left else []
    began = time.monotonic()
    answers = [*_read_all(cluster, request, chosen, wanted)]
    seconds = time.monotonic() - began
    failed = tuple(sorted((a for a in answers if isinstance(a, ObjectError)), key=lambda error: error.object))
    sizes = [a for a in answers if isinstance(a, int)]
    if not sizes:
        return Estimate(len(left), len(wanted) - len(left), len(chosen), failed, None, None)
    all_bytes = round(sum(sizes) / len(answers) * len(left))
    all_seconds = seconds / len(answers) * len(left)
    return Estimate(len(left), len(wanted) - len(left), len(chosen), failed, all_seconds, all_bytes)


# What is asked for, and what of it is there


def _wanted(cluster: Cluster, request: Request) -> tuple[dict[str, int], tuple[str, ...]]:
    """The source's objects that are asked for, with their sizes, and what a template names in vain."""
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
        raise UsageError(
            f"there is nothing to transform: {request.source!r} has none of {request.template or [*asked]}"
        )
    return wanted, absent if request.template is not None else ()


def _record(
    cluster: Cluster, request: Request, known: Record | None, digest: str, *, again: bool
) -> tuple[Record, set[str]]:
    """The record as this pipeline needs it, and the names in the destination of what the pipeline has made."""
    prefix = request.rename.prepend
    if known == Record(digest) and not again:  # the common case: nothing there is another's, so names are enough
        return known, set(cluster.objects(request.destination, prefix))
    present = cluster.tags(request.destination, prefix)
    record = (known or Record(records.UNKNOWN)).turned_to(digest, present)
    record = record.forgotten(present) if again else record.pruned(present)
    return record, record.made(present)


def _key(request: Request) -> str:
    naming = (request.rename.prepend, sorted(request.rename.extensions.items()))
    return records.key_of(request.source, request.destination, naming)


# At work


def _others_ended(cluster: Cluster, request: Request, *, patient: bool) -> dict[str, Snapshot]:
    """The jobs between the two buckets. Where these are another pipeline's, wait: AIStore calls a list job idle only
    some seconds after its end. Raises ClusterError where they are at work still."""
    deadline = time.monotonic() + _OTHERS
    while True:
        jobs = cluster.transforming(request.source, request.destination)
        at_work = [job for job, now in jobs.items() if not now.idle]
        if not at_work or not patient:
            return jobs
        if time.monotonic() > deadline:
            hint = "Wait for it; or `tvetl stop` ends its ETL, and the job with it."
            raise ClusterError(f"another job is at work between these buckets: {', '.join(at_work)}", hint=hint)
        time.sleep(_LOOKS[1] / 4)


def _start(cluster: Cluster, job: Job) -> Job:
    """A bucket job where all is left, else list jobs for what is."""
    request = job.request
    if request.names is None and request.template is None and len(job.left) == len(job.wanted):
        started = cluster.start_bucket_job(
            request.source,
            request.destination,
            request.etl,
            prefix=request.prefix,
            prepend=request.rename.prepend,
            extensions=request.rename.extensions,
            continue_on_error=request.continue_on_error,
        )
        return replace(job, ids=(started,))
    ids = [
        cluster.start_list_job(
            request.source,
            request.destination,
            request.etl,
            names=job.left[at : at + _NAMES],
            prepend=request.rename.prepend,
            extensions=request.rename.extensions,
            continue_on_error=request.continue_on_error,
        )
        for at in range(0, len(job.left), _NAMES)
    ]
    return replace(job, ids=tuple(dict.fromkeys(ids)), idles=True)


def _until_ended(
    cluster: Cluster, job: Job, on_progress: Progress | None, began: float, timeout: float | None
) -> Snapshot:
    idle = aborted = 0
    seen = time.monotonic()
    while True:
        try:
            now = _look(cluster, job)
        except (NotReachable, TimedOut, Unavailable) as error:
            _still_away(job, error, began, seen, timeout)
            continue
        seen = time.monotonic()
        seconds = time.monotonic() - began
        if on_progress:
            on_progress(JobProgress(min(now.done, job.total), job.total, seconds, now.bytes))
        idle = idle + 1 if job.idles and now.idle else 0
        aborted = aborted + 1 if now.aborted else 0
        complete = job.idles and not job.found and now.done >= job.total
        if now.ended or aborted >= _ABORTED_LOOKS or idle >= _IDLE_LOOKS or complete:
            return now
        if not now.known and seconds > _START:
            raise ClusterError(f"no target knows the job {job.id}")
        if timeout is not None and seconds > timeout:
            raise TimedOut(f"the job {job.id} is not done after {timeout:.0f} s", hint="It runs on in the cluster.")
        time.sleep(min(max(_LOOKS[0], seconds / 20), _LOOKS[1]))


def _still_away(job: Job, error: TvetlError, began: float, seen: float, timeout: float | None) -> None:
    """Wait a moment for a cluster that cannot be asked. Raises its error after too many of them."""
    now = time.monotonic()
    if now - seen > _AWAY or (timeout is not None and now - began > timeout):
        error.hint = f"The job {job.id} may run on in the cluster: the same again waits for it, and does what is left."
        raise error
    time.sleep(_LOOKS[1] / 4)


def _look(cluster: Cluster, job: Job) -> Snapshot:
    """All jobs of the request together, without what they had done before."""
    looks = [cluster.snapshot(each) for each in job.ids]
    return Snapshot(
        known=all(look.known for look in looks),
        done=sum(look.done for look in looks) - sum(job.before.get(each, 0) for each in job.ids),
        bytes=sum(look.bytes for look in looks),
        idle=all(look.idle or look.ended for look in looks),
        ended=all(look.ended for look in looks),
        aborted=next((look.aborted for look in looks if look.aborted), ""),
    )


# What failed, and why


def _failed(
    cluster: Cluster,
    job: Job,
    began: float,
    on_progress: Progress | None,
    reasons: int | None,
    *,
    ended_early: bool,
) -> tuple[ObjectError, ...]:
    """Every object left whose result is not in the destination now, in order of name."""
    request = job.request
    made = _record(cluster, request, job.record, job.record.digest, again=False)[1]
    missing = [name for name in job.left if request.rename(name) not in made]
    if not missing:
        return ()
    known = _known_errors(cluster, job, missing)
    asked = [name for name in missing if name not in known]
    if ended_early:
        left = [_error(job, name, "not_transformed", "the job ended before this object") for name in asked]
    else:
        left = _ask(cluster, job, asked, began, on_progress, len(asked) if reasons is None else reasons)
    return tuple(sorted([*known.values(), *left], key=lambda error: error.object))


def _known_errors(cluster: Cluster, job: Job, missing: Iterable[str]) -> dict[str, ObjectError]:
    """What AIStore kept, by name. It reports ``a//b`` as ``a/b``, and other objects of the same list job."""
    wanted = {re.sub("/+", "/", name): name for name in missing}
    try:
        errors = [error for each in job.ids for error in cluster.errors(job.request.etl, each)]
    except NotFound:  # the ETL is gone, and with it the job
        return {}
    named = ((wanted.get(re.sub("/+", "/", error.object)), error) for error in errors)
    return {name: _error(job, name, error.code, error.message, error.status) for name, error in named if name}


def _ask(
    cluster: Cluster, job: Job, names: Sequence[str], began: float, on_progress: Progress | None, most: int
) -> list[ObjectError]:
    """Read what is missing inline, for its reason; beyond ``most`` it is only named."""
    found = [_error(job, name, "unknown", "not in the destination; AIStore kept no reason") for name in names[most:]]
    asked = names[:most]
    for at, answer in enumerate(_read_all(cluster, job.request, asked, job.wanted, stored=True), start=1):
        if on_progress:
            on_progress(JobProgress(at, len(asked), time.monotonic() - began, stage="reading errors"))
        if isinstance(answer, ObjectError):
            found.append(answer)
    return found


def _read_all(
    cluster: Cluster, request: Request, names: Collection[str], sizes: Mapping[str, int], *, stored: bool = False
) -> Iterable[int | ObjectError]:
    """Read objects through the ETL, several at once: the size of each result in bytes, or its error, as they come."""

    def read(name: str) -> int | ObjectError:
        told = ObjectError(name, "not_stored", "not in the destination, though reading it works now", 0, sizes[name])
        try:
            data = cluster.get(request.source, name, request.etl)
            if not stored or _is_stored(cluster, request, name, data):
                return len(data)
        except ObjectFailed as error:
            told = replace(told, code=error.code, message=error.message, status=error.status)
        except NotFound as error:
            told = replace(told, code="not_found", message=error.message, status=404)
        except TvetlError as error:
            told = replace(told, code="unknown", message=error.message)
        return told

    pool = ThreadPoolExecutor(_READS, thread_name_prefix="tvetl-read")
    try:
        for answer in as_completed([pool.submit(read, name) for name in names]):
            yield answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _is_stored(cluster: Cluster, request: Request, name: str, data: bytes) -> bool:
    """Whether the result is there although no listing said so: AIStore lists no ``a//b``, and where a bucket has no
    versions, the same bytes written again do not show."""
    result = request.rename(name)
    return cluster.has(request.destination, result) and cluster.get(request.destination, result) == data


def _error(job: Job, name: str, code: str, message: str, status: int = 0) -> ObjectError:
    return ObjectError(name, code, message, status, job.wanted.get(name, 0))
