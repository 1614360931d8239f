"""Jobs (AIStore calls them xactions): many objects, a few at a time, with the counts and errors of AIStore."""

from __future__ import annotations

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tvetl.local.http import ApiError, NodeServer, disk_error
from tvetl.local.object_names import shown
from tvetl.notation import bucket

WORKERS = 4  # objects of a job at once for each target, where it does not say; a transformer has two workers by default
_ERRORS_KEPT = 128  # errors of single objects for each target (recorded)
_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
_IC_ABORT = "IC(notifications) abort"  # the reason at targets that another one told to end a job (recorded)


@dataclass
class Snap:
    """One target's part of a job: its counts and errors."""

    loc: list[int] = field(default_factory=lambda: [0, 0])  # objects and bytes that stayed
    out: list[int] = field(default_factory=lambda: [0, 0])  # that went to another target
    came: list[int] = field(default_factory=lambda: [0, 0])  # that came from another target
    visited: int = 0
    failed: int = 0
    first_error: str = ""
    abort_error: str = ""
    objects: list[dict[str, object]] = field(default_factory=list)

    @property
    def error(self) -> str:
        return _more(self.first_error, self.failed - 1)


@dataclass
class Xaction:
    """A job. A job over a list of objects (``listrange``) never ends, it becomes idle."""

    id: str
    kind: str
    detail: str
    bucket: str
    source: str
    destination: str
    snaps: defaultdict[str, Snap]  # a target may come while it runs
    start: int = field(default_factory=time.time_ns)
    end: int = 0
    stopped: str = ""
    pending: int = 1
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, target: NodeServer, counter: Literal["loc", "out", "came"], size: int) -> None:
        with self.lock:
            objects_and_bytes: list[int] = getattr(self.snaps[target.id], counter)
            objects_and_bytes[0] += 1
            objects_and_bytes[1] += size

    def failed(self, target: NodeServer, name: str, error: ApiError, go_on: bool, dry: bool = False) -> None:
        """Keep an object's error. Without ``go_on`` it ends the job.

        404 is "object not found" and ends nothing. In a dry run a transformer's 404 is an error like others (recorded).
        """
        snap = self.snaps[target.id]
        missing = error.tcode == "ErrNotFound"
        found = error.status != 404 or (dry and not missing)
        code = 202 if missing else error.status  # recorded: 202 for an object, 404 where the transformer said so
        with self.lock:
            if len(snap.objects) < _ERRORS_KEPT:
                message = error.message if found else "object not found"
                snap.objects.append({"obj_name": f"{shown(self.source)}/{name}", "msg": message, "ecode": code})
            if found and go_on:
                snap.failed += 1
                snap.first_error = snap.first_error or error.message
        if found and not go_on:
            self.stop(error.message, target)

    def stop(self, reason: str, target: NodeServer | None = None) -> None:
        """End the job; of objects under way the results still count."""
        with self.lock:
            if self.end or self.stopped:
                return
            self.stopped = reason
            for key, snap in self.snaps.items():
                snap.abort_error = reason if target is None or key == target.id else _IC_ABORT
            if not self.pending:
                self.end = time.time_ns()

    def done(self, finishes: bool) -> None:
        with self.lock:
            self.pending -= 1
            if not self.pending and (finishes or self.stopped):
                self.end = time.time_ns()

    # -- as AIStore shows it ----------------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, object]:
        errors = [snap.error for snap in self.snaps.values() if snap.error]
        error = _more(errors[0], len(errors) - 1) if errors else ""
        reason = _more(self.stopped, len(self.snaps) - 1) if self.stopped.startswith("ETL error") else self.stopped
        return {
            "kind": self.kind, "uuid": self.id, "err": reason or error, "end_time": self.end,
            "aborted": bool(self.stopped),
        }  # fmt: skip

    def shown(self, target: NodeServer) -> dict[str, object]:
        """A target's snapshot of the job."""
        snap = self.snaps[target.id]
        counts = zip(("loc", "out", "in"), (snap.loc, snap.out, snap.came), strict=True)
        stats = {f"{key}-{u}": str(n) for key, both in counts for u, n in zip(("objs", "bytes"), both, strict=True)}
        work = (
            f"job:[ visited:{snap.visited} locally-processed:{snap.loc[0]} sent:{snap.out[0]} "
            f"received:{snap.came[0]} copy-err:{snap.failed} chan-full:0 pruned:0]"
        )
        return {
            "ext": None, "start-time": _time(self.start), "end-time": _time(self.end) if self.end else _NEVER,
            "bck": bck(self.bucket), "src-bck": bck(self.source if self.destination else ""),
            "dst-bck": bck(self.destination), "id": self.id, "kind": self.kind,
            "ctlmsg": f"{self.detail}; {target.label}: {work}" if self.destination else self.detail,
            "abort-err": snap.abort_error, "err": snap.error, "glob.id": "4", "stats": stats,
            "aborted": bool(self.stopped), "is_idle": self.pending == 0,
        }  # fmt: skip


class Xactions:
    """All jobs of a cluster, by id."""

    def __init__(self, targets: Sequence[NodeServer]) -> None:
        self._targets = targets
        self._xactions: dict[str, Xaction] = {}

    def start(
        self, kind: str, names: Iterable[str], work: Callable[[Xaction, str], None], *,
        detail: str, bucket: str, source: str, destination: str = "", workers: int = 0,
    ) -> Xaction:  # fmt: skip
        """Start ``work(job, name)`` for every name, on ``workers`` threads for each target (0: four, -1: one)."""
        listed = kind.endswith("listrange") and kind != "delete-listrange"
        job_id = f"tco-{new_id()}" if listed else new_id()
        job = self.add(job_id, kind, detail, bucket, source, destination)
        rest, lock = iter(names), threading.Lock()

        def work_on() -> None:
            try:
                while not job.stopped:
                    with lock:
                        name = next(rest, None)
                    if name is None:
                        break
                    work(job, name)
            except OSError as error:  # a full disk is no one object's failure
                job.stop(disk_error(error).message)
            except ApiError as error:  # a bucket deleted meanwhile
                job.stop(error.message)
            finally:
                job.done(finishes=not listed)

        job.pending = (max(workers, 1) if workers else WORKERS) * len(self._targets)
        for _ in range(job.pending):
            threading.Thread(target=work_on, name=job_id, daemon=True).start()
        return job

    def find(self, job_id: str = "", kind: str = "") -> list[Xaction]:
        """The jobs of an id or a kind, the latest last; 404 for an unknown id."""
        if job_id and job_id not in self._xactions:
            raise ApiError(404, f"xaction {kind}[{job_id}] not found", "ErrXactNotFound")
        return [job for job in list(self._xactions.values()) if job_id in ("", job.id) and kind in ("", job.kind)]

    def add(
        self, job_id: str, kind: str, detail: str, bucket: str = "", source: str = "", destination: str = ""
    ) -> Xaction:
        """A job that others count and end, as that of an ETL from its start to its end."""
        snaps = defaultdict(Snap, {target.id: Snap() for target in self._targets})
        job = self._xactions[job_id] = Xaction(job_id, kind, detail, bucket, source, destination, snaps)
        return job

    def end_etl(self, job_id: str, reason: str, target: NodeServer | None, ran: bool) -> None:
        """An ETL ends: by a user, or for a reason at one target. All bucket jobs end, those of other ETLs too.

        Jobs over chosen objects go on, and each of their objects fails. All of it as AIStore 5.0 does.
        """
        if own := self._xactions.get(job_id):
            own.pending = 0
            if reason:
                own.stop(reason, target)
            own.end = own.end or time.time_ns()
        for job in self.find(kind="etl-bck") if ran else ():
            job.stop(_IC_ABORT if reason else "user abort")

    def query(self, job_id: str, kind: str) -> dict[str, list[dict[str, object]]]:
        jobs = self.find(job_id, kind)
        return {target.id: [job.shown(target) for job in jobs] for target in self._targets}


def new_id() -> str:
    """An id like AIStore's: nine letters and digits."""
    return secrets.token_urlsafe(16).replace("-", "").replace("_", "")[:9]


def bck(name: str) -> dict[str, object]:
    """A bucket in JSON."""
    if not name:
        return {"name": "", "provider": "", "namespace": {"uuid": "", "name": ""}}
    found = bucket(name)
    space = {"uuid": found.cluster, "name": found.namespace}
    return {"name": found.name, "provider": found.provider, "namespace": space}


def _time(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09}Z"


def _more(text: str, count: int) -> str:
    """An error and the number of further ones, as AIStore writes it."""
    return text if count < 1 else f"{text} (and {count} more error{'s' if count > 1 else ''})"
