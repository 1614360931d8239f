"""Bucket and list jobs: begin one, watch it, and know afterwards what became of every object.

AIStore keeps at most 128 errors a target and ends a job without a word on the rest. So the report here is made by
comparing what was asked for with what lies in the destination; the cluster's errors, and a few reads of our own,
give the reasons. Not here: resuming a job.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tvetl.cluster import Cluster, ObjectError, Snapshot
from tvetl.errors import ClusterError, NotFound, ObjectFailed, TimedOut, TvetlError, UsageError
from tvetl.names import expand

#: Seconds between two looks at a job. The SDK looks so seldom that a job of 10 s is reported after 18.8 s.
INTERVAL = 0.3
#: A list job never ends, it becomes idle; two looks in a row, as the SDK asks for it too.
_IDLE_LOOKS = 2
#: Seconds until a job that was just started must be known to a target.
_START = 15.0
#: Failed objects beyond those AIStore kept that we read once more for their reason, and the seconds for all of it.
_ASKED_AGAIN = 32
_ASKING_SECONDS = 30.0

Progress = Callable[["JobProgress"], None]


@dataclass(frozen=True)
class Rename:
    """How a job names its results: ``prepend`` before the name, another extension where one is given."""

    prepend: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        stem, dot, extension = name.rpartition(".")
        return self.prepend + (stem + dot + self.extensions[extension] if extension in self.extensions else name)


@dataclass(frozen=True)
class Job:
    """A job that was started: ``wanted`` are the source's objects it shall transform.

    ``absent`` were asked for by a template and are not in the source: a range has gaps, that is no failure.
    """

    id: str
    etl: str
    source: str
    destination: str
    wanted: tuple[str, ...]
    absent: tuple[str, ...] = ()
    rename: Rename = field(default_factory=Rename)
    idles: bool = False


@dataclass(frozen=True)
class JobProgress:
    """Objects transformed so far, of how many, and seconds since we began to wait."""

    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """What became of a job. ``aborted`` is why it ended early, empty where it did not.

    ``unsure`` counts objects that lie in the destination from before, where this job's own count says that it did
    not write them all and no error names which: transform into an empty bucket to know.
    """

    job: str
    wanted: int
    failed: tuple[ObjectError, ...]
    absent: tuple[str, ...]
    seconds: float
    aborted: str = ""
    unsure: int = 0

    @property
    def done(self) -> int:
        return self.wanted - len(self.failed) - self.unsure

    @property
    def ok(self) -> bool:
        return not (self.failed or self.aborted or self.unsure)

    def to_data(self) -> dict[str, object]:
        """Plain data for JSON: the fields, and ``done``."""
        return {**asdict(self), "done": self.done}

    def write_errors(self, path: Path) -> None:
        """One line of JSON for each object that failed: object, code, message, status."""
        path.write_text("".join(json.dumps(asdict(error)) + "\n" for error in self.failed), encoding="utf-8")


def transform_bucket(
    cluster: Cluster,
    source: str,
    destination: str,
    etl: str,
    *,
    prefix: str = "",
    rename: Rename = Rename(),
    continue_on_error: bool = True,
) -> Job:
    """Start to transform all objects of a bucket whose names begin with ``prefix``.

    The destination is made where it is an ais bucket and missing. Raises NotFound for a source or ETL that is not
    there, UsageError where nothing has the prefix.
    """
    wanted = tuple(cluster.objects(source, prefix))
    if not wanted:
        raise UsageError(f"there is nothing to transform in {source!r}" + (f" under {prefix!r}" if prefix else ""))
    _check(cluster, etl, source, destination, rename)
    job = cluster.start_bucket_job(
        source,
        destination,
        etl,
        prefix=prefix,
        prepend=rename.prepend,
        extensions=rename.extensions,
        continue_on_error=continue_on_error,
    )
    return Job(job, etl, source, destination, wanted, rename=rename)


def transform_objects(
    cluster: Cluster,
    source: str,
    destination: str,
    etl: str,
    *,
    names: Sequence[str] | None = None,
    template: str | None = None,
    rename: Rename = Rename(),
    continue_on_error: bool = True,
) -> Job:
    """Start to transform objects by their names, or by a template like ``photo_{0..100}.jpg``.

    A name that is not in the source fails; what a template names beyond it is reported as absent.
    """
    if (names is None) == (template is None):
        raise UsageError("name the objects, or give one template")
    present = set(cluster.objects(source))
    asked = tuple(dict.fromkeys(expand(template) if template is not None else names or ()))
    absent = tuple(name for name in asked if name not in present) if template is not None else ()
    wanted = tuple(name for name in asked if template is None or name in present)
    if not wanted:
        raise UsageError(f"there is nothing to transform: {source!r} has none of {template or list(asked)}")
    _check(cluster, etl, source, destination, rename)
    job = cluster.start_list_job(
        source,
        destination,
        etl,
        names=names,
        template=template,
        prepend=rename.prepend,
        extensions=rename.extensions,
        continue_on_error=continue_on_error,
    )
    return Job(job, etl, source, destination, wanted, absent, rename, idles=True)


def wait(
    cluster: Cluster,
    job: Job,
    on_progress: Progress | None = None,
    *,
    timeout: float | None = None,
    interval: float = INTERVAL,
) -> Report:
    """Wait until the job has ended, and report on every object. ``timeout`` and ``interval`` are in seconds.

    Call it before the ETL is stopped: its errors are gone then. Raises TimedOut (the job runs on).
    """
    began = time.monotonic()
    last = _until_ended(cluster, job, on_progress, began, timeout, interval)
    seconds = time.monotonic() - began
    failed = _failed(cluster, job, ended_early=bool(last.aborted))
    unsure = max(0, len(job.wanted) - len(failed) - last.done) if not last.aborted else 0
    return Report(job.id, len(job.wanted), failed, job.absent, seconds, last.aborted, unsure)


def _check(cluster: Cluster, etl: str, source: str, destination: str, rename: Rename) -> None:
    if source == destination and rename == Rename():
        raise UsageError("source and destination are the same bucket", hint="Choose another, or prepend a folder.")
    cluster.show(etl)  # says NotFound before a bucket is made for nothing
    cluster.create_bucket(destination)


def _until_ended(
    cluster: Cluster, job: Job, on_progress: Progress | None, began: float, timeout: float | None, interval: float
) -> Snapshot:
    idle = 0
    while True:
        now = cluster.snapshot(job.id)
        seconds = time.monotonic() - began
        if on_progress:
            on_progress(JobProgress(now.done, len(job.wanted), seconds))
        idle = idle + 1 if job.idles and now.idle else 0
        if now.ended or now.aborted or idle >= _IDLE_LOOKS:
            return now
        if not now.known and seconds > _START:
            raise ClusterError(f"no target knows the job {job.id}")
        if timeout is not None and seconds > timeout:
            raise TimedOut(f"the job {job.id} is not done after {timeout:.0f} s", hint="It runs on in the cluster.")
        time.sleep(interval)


def _failed(cluster: Cluster, job: Job, *, ended_early: bool) -> tuple[ObjectError, ...]:
    """Every wanted object that is not in the destination, or that the cluster names as failed, in order of name."""
    known = _known_errors(cluster, job)
    present = set(cluster.objects(job.destination))
    missing = [name for name in job.wanted if name not in known and job.rename(name) not in present]
    if ended_early:
        left = [ObjectError(name, "not_transformed", "the job ended before this object") for name in missing]
    else:
        left = [*_ask_again(cluster, job, missing)]
    return tuple(sorted([*known.values(), *left], key=lambda error: error.object))


def _known_errors(cluster: Cluster, job: Job) -> dict[str, ObjectError]:
    """What AIStore kept, by name. It reports ``a//b`` as ``a/b``, and objects that a template names in vain."""
    wanted = {re.sub("/+", "/", name): name for name in job.wanted}
    try:
        errors = cluster.errors(job.etl, job.id)
    except NotFound:  # the ETL is gone, and with it the job
        return {}
    named = ((wanted.get(re.sub("/+", "/", error.object)), error) for error in errors)
    return {name: ObjectError(name, error.code, error.message, error.status) for name, error in named if name}


def _ask_again(cluster: Cluster, job: Job, missing: Sequence[str]) -> Iterator[ObjectError]:
    """Read the first of the missing objects inline, for their reasons; the rest is only named."""
    began = time.monotonic()
    for at, name in enumerate(missing):
        if at >= _ASKED_AGAIN or time.monotonic() - began > _ASKING_SECONDS:
            yield ObjectError(name, "unknown", "not in the destination; the cluster kept no reason")
        else:
            yield _ask(cluster, job, name)


def _ask(cluster: Cluster, job: Job, name: str) -> ObjectError:
    try:
        cluster.get(job.source, name, job.etl)
    except ObjectFailed as error:
        return ObjectError(name, error.code, error.message, error.status)
    except NotFound as error:
        return ObjectError(name, "not_found", error.message, 404)
    except TvetlError as error:
        return ObjectError(name, "unknown", error.message)
    return ObjectError(name, "not_stored", "not in the destination, though reading it works now")
