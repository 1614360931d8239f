"""Wait for a job and report on every object, or estimate a job from a sample of it.

AIStore keeps at most 128 errors a target, and names no other object that failed. So the report compares the request
with the destination. The reasons are the cluster's errors, and one inline read of each object without one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np

from tvetl.cluster import Cluster, ObjectError, Snapshot
from tvetl.errors import (
    ClusterError,
    NotAllowed,
    NotFound,
    NotReachable,
    ObjectFailed,
    TimedOut,
    TokenRefused,
    TvetlError,
    Unavailable,
)
from tvetl.jobs import provenance
from tvetl.jobs.begin import Job, begin, wanted_objects, without_results
from tvetl.jobs.destination import Destination
from tvetl.jobs.provenance import Records
from tvetl.jobs.report import Estimate, JobProgress, Report
from tvetl.jobs.request import Request
from tvetl.jobs.results import Results, digests

#: Seconds between two polls of a job: a twentieth of its age, within these bounds. So a job of 10 s is reported within
#: half a second of its end (by the SDK's own wait after 18.8 s). One of hours is polled seldom.
_POLLS = (0.1, 2.0)
#: A list job never ends, it becomes idle: in two polls in a row, as the SDK demands too.
_IDLE_POLLS = 2
#: Polls that an aborted job gets to finish the objects under way.
_ABORTED_POLLS = 10
#: Seconds until a target must know a job that was just started.
_START = 15.0
#: Seconds that a cluster may be unreachable while a job is waited for: a gateway that restarts is no end of a job.
_AWAY = 60.0
_AWAY_EVERY = 0.5
#: Objects read at once, for their errors and in a dry run; the SDK keeps ten connections to a node.
_READS = 8

Progress = Callable[[JobProgress], None]


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

    Call it before the ETL is stopped: its errors are gone then. Objects that failed without an error in AIStore are
    read once more for the reason, all of them or at most ``reasons``. Raises TimedOut (the job runs on). A
    KeyboardInterrupt leaves the job running, or stops it. A token that ends leaves it running (TokenRefused), unless
    AIS_AUTHN_TOKEN_FILE has another one in time. An unreachable cluster is polled for a minute; then its
    error is raised (NotReachable, TimedOut, Unavailable).
    """
    began = time.monotonic()
    kept, ids, last = len(job.wanted) - len(job.left), "", None
    try:
        while job.ids:
            ids = job.id
            last = _until_ended(cluster, job, on_progress, began, timeout)
            if not job.found:
                break
            job, last = begin(cluster, replace(job.request, again=False)), None
    except KeyboardInterrupt:
        for each in job.ids if on_interrupt == "stop" else ():
            cluster.abort(each)
        raise
    except TokenRefused as error:
        error.hint += f" The job {job.id} runs on in the cluster: the same again waits for it, and does what is left."
        raise
    short = last and (last.aborted or last.done < len(job.left))  # AIStore goes on with a list though its ETL ended
    aborted = _why_aborted(cluster, job.request.etl, last.aborted) if last and short else ""
    failed = _failed(cluster, job, began, on_progress, reasons, ended_early=bool(aborted))
    if job.record and last and last.done <= len(job.left) - len(failed):  # it met no object that came meanwhile
        provenance.forget(cluster, job.record)
    absent = tuple(job.absent)
    return Report(ids, len(job.wanted), kept, failed, absent, time.monotonic() - began, aborted)


def estimate(cluster: Cluster, request: Request, sample: int = 20) -> Estimate:
    """Transform a sample of a job's objects, spread evenly over the names, and store nothing.

    Raises what :func:`begin` does for a source or ETL that is not there, and for nothing to transform.
    """
    request = without_results(cluster, request)
    wanted, _ = wanted_objects(cluster, request)
    destination = Destination(request, wanted.names, provenance.digest_of(cluster.show(request.etl)))
    with suppress(NotFound):  # there is no destination yet
        destination.read_records(Records(cluster, request.destination).load())
        destination.read_listing(cluster)
    destination.check(cluster)
    left, _ = destination.chosen(destination.left())
    chosen = [*left[:: -(-len(left) // sample)]] if left else []
    began = time.monotonic()
    answers = [*_read_all(cluster, request, chosen, wanted)]
    seconds = time.monotonic() - began
    failed = tuple(sorted((a for a in answers if isinstance(a, ObjectError)), key=lambda error: error.object))
    sizes = [a for a in answers if isinstance(a, int)]
    kept = len(wanted) - len(left)
    if not sizes:
        return Estimate(len(left), kept, len(chosen), failed, None, None)
    scale = len(left) / len(answers)
    return Estimate(len(left), kept, len(chosen), failed, seconds * scale, round(sum(sizes) * scale))


def _until_ended(
    cluster: Cluster, job: Job, on_progress: Progress | None, began: float, timeout: float | None
) -> Snapshot:
    idle = aborted = 0
    answered = time.monotonic()
    while True:
        try:
            now = _poll(cluster, job)
        except (NotReachable, TimedOut, Unavailable) as error:
            _still_away(job, error, began, answered, timeout)
            continue
        answered = time.monotonic()
        seconds = time.monotonic() - began
        if on_progress:
            on_progress(JobProgress(min(now.done, job.total), job.total, seconds, now.bytes))
        idle = idle + 1 if job.idles and now.idle else 0
        aborted = aborted + 1 if now.aborted else 0
        complete = job.idles and not job.found and now.done >= job.total
        if now.ended or aborted >= _ABORTED_POLLS or idle >= _IDLE_POLLS or complete:
            return now
        if not now.known and seconds > _START:
            raise ClusterError(f"no target knows the job {job.id}")
        if timeout is not None and seconds > timeout:
            raise TimedOut(f"the job {job.id} is not done after {timeout:.0f} s", hint="It runs on in the cluster.")
        time.sleep(min(max(_POLLS[0], seconds / 20), _POLLS[1]))


def _still_away(job: Job, error: TvetlError, began: float, answered: float, timeout: float | None) -> None:
    """Wait a moment for an unreachable cluster. Raises its error ``_AWAY`` seconds after it last answered."""
    now = time.monotonic()
    if now - answered > _AWAY or (timeout is not None and now - began > timeout):
        error.hint = f"The job {job.id} may run on in the cluster: the same again waits for it, and does what is left."
        raise error
    time.sleep(_AWAY_EVERY)


def _why_aborted(cluster: Cluster, etl: str, reason: str) -> str:
    """Why a job was aborted: AIStore's ``reason`` is none where the ETL ended with one of its pods."""
    with suppress(TvetlError):
        if stopped := cluster.stopped(etl):
            return f"{stopped.message}. {stopped.hint}"
    return reason


def _poll(cluster: Cluster, job: Job) -> Snapshot:
    """All jobs of the request together, without the objects that they had done before it."""
    polls = [cluster.snapshot(each) for each in job.ids]
    return Snapshot(
        known=all(poll.known for poll in polls),
        done=sum(poll.done for poll in polls) - sum(job.before.get(each, 0) for each in job.ids),
        bytes=sum(poll.bytes for poll in polls),
        idle=all(poll.idle or poll.ended for poll in polls),
        ended=all(poll.ended for poll in polls),
        aborted=next((poll.aborted for poll in polls if poll.aborted), ""),
    )


def _failed(
    cluster: Cluster,
    job: Job,
    began: float,
    on_progress: Progress | None,
    reasons: int | None,
    *,
    ended_early: bool,
) -> tuple[ObjectError, ...]:
    """Every object of the job whose result is not in the destination now, in order of name."""
    sizes = {name: job.wanted.get(name, 0) for name in _missing(cluster, job)}
    if not sizes:
        return ()
    known = _known_errors(cluster, job, sizes)
    others = [name for name in sizes if name not in known]
    if ended_early:
        code, message = "not_transformed", "the job ended before this object"
        errors = [ObjectError(name, code, message, size=sizes[name]) for name in others]
    else:
        most = len(others) if reasons is None else reasons
        errors = _read_reasons(cluster, job.request, others, sizes, began, on_progress, most)
    return tuple(sorted([*known.values(), *errors], key=lambda error: error.object))


def _missing(cluster: Cluster, job: Job) -> Iterator[str]:
    """The objects of which the result is not in the destination, or is what was there before the job."""
    if not job.left:
        return
    results = Results(job.left, job.request.rename)
    made = np.zeros(len(job.left), bool)
    for page in cluster.pages(job.request.destination, job.request.rename.prepend, "" if job.tags is None else "tag"):
        known, at = results.find(digests((name for name, _ in page), len(page)))
        made[at] = True if job.tags is None else job.tags[at] != digests(tag for _, tag in page)[known]
    yield from (job.left[int(place)] for place in np.flatnonzero(~made))


def _known_errors(cluster: Cluster, job: Job, sizes: Mapping[str, int]) -> dict[str, ObjectError]:
    """AIStore's errors by name. It reports ``a//b`` as ``a/b``, and other objects of the same list job."""
    wanted = {re.sub("/+", "/", name): name for name in sizes}
    try:
        errors = [error for each in job.ids for error in cluster.errors(job.request.etl, each)]
    except (NotFound, NotAllowed):  # the ETL is gone, and with it the job; or only administrators may look
        return {}
    named = ((wanted.get(re.sub("/+", "/", error.object)), error) for error in errors)
    return {name: replace(error, object=name, size=sizes[name]) for name, error in named if name}


def _read_reasons(
    cluster: Cluster,
    request: Request,
    names: Sequence[str],
    sizes: Mapping[str, int],
    began: float,
    on_progress: Progress | None,
    most: int,
) -> list[ObjectError]:
    """Read the missing objects inline for their reasons, at most ``most`` of them; the others are "unknown"."""
    code, message = "unknown", "not in the destination; AIStore kept no reason"
    errors = [ObjectError(name, code, message, size=sizes[name]) for name in names[most:]]
    names = names[:most]
    for done, answer in enumerate(_read_all(cluster, request, names, sizes, stored=True), start=1):
        if on_progress:
            on_progress(JobProgress(done, len(names), time.monotonic() - began, stage="reading errors"))
        if isinstance(answer, ObjectError):
            errors.append(answer)
    return errors


def _read_all(
    cluster: Cluster, request: Request, names: Collection[str], sizes: Mapping[str, int], *, stored: bool = False
) -> Iterable[int | ObjectError]:
    """Read objects through the ETL, several at once. Yields the size of each result in bytes, or its error."""

    def read(name: str) -> int | ObjectError:
        why = ObjectError(name, "not_stored", "not in the destination, though reading it works now", 0, sizes[name])
        try:
            data = cluster.get(request.source, name, request.etl)
            if not stored or _is_stored(cluster, request, name, data):
                return len(data)
        except ObjectFailed as error:
            why = replace(why, code=error.code, message=error.message, status=error.status)
        except NotFound as error:
            why = replace(why, code="not_found", message=error.message, status=404)
        except TvetlError as error:
            why = replace(why, code="unknown", message=error.message)
        return why

    pool = ThreadPoolExecutor(_READS, thread_name_prefix="tvetl-read")
    try:
        for answer in as_completed([pool.submit(read, name) for name in names]):
            yield answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _is_stored(cluster: Cluster, request: Request, name: str, data: bytes) -> bool:
    """Whether the result is there although no listing has it.

    AIStore lists no ``a//b``. In a bucket without versions, the same bytes written again do not show.
    """
    result = request.rename(name)
    return cluster.has(request.destination, result) and cluster.get(request.destination, result) == data
