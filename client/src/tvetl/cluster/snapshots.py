"""The state of ETLs and jobs as data, and why an ETL does not run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aistore.sdk.namespace import Namespace
from aistore.sdk.types import BucketModel, JobSnap

from tvetl.cluster.error_mapping import Json, container_end, row, rows, without_node
from tvetl.errors import EtlStopped, UsageError
from tvetl.notation import BucketName, bucket
from tvetl.pod import PIPELINE_VARIABLE, Container, check_name
from tvetl.spec import Pipeline, canonical

#: Go's zero time: how AIStore writes "not yet".
_NEVER = "0001-01-01T00:00:00Z"
#: AIStore's reasons where another node, or a user, ended something.
_NO_REASON = ("", "IC(notifications) abort", "user abort")


@dataclass(frozen=True)
class EtlInfo:
    """One ETL of the cluster: its stage is Initializing, Running or Aborted (which also means stopped)."""

    name: str
    stage: str
    objects: int = 0


@dataclass(frozen=True)
class Registered:
    """An ETL that runs: ``form`` is how it was sent (init_spec, spec, runtime), or "reused" where it ran already."""

    name: str
    form: str
    seconds: float

    @property
    def reused(self) -> bool:
        return self.form == "reused"


@dataclass(frozen=True)
class Snapshot:
    """The state of a job, of all targets together.

    ``done`` counts objects, each once, at the target that read it; ``bytes`` are those of the results stored. ``idle``
    means that a list job, which never ends, has nothing left to do.
    """

    known: bool
    done: int
    bytes: int
    idle: bool
    ended: bool
    aborted: str


def given(pipelines: Mapping[str, object]) -> dict[str, Container]:
    """ETLs by name, of which only the user's pipelines are known. Raises UsageError for anything else."""
    containers = {}
    for name, pipeline in pipelines.items():
        check_name(name)
        if not isinstance(pipeline, Pipeline):
            hint = "Read it by tvetl.spec.parse(text)."
            raise UsageError(f"the pipeline of {name!r} is {type(pipeline).__name__}: expected a Pipeline", hint=hint)
        containers[name] = Container("", (), {PIPELINE_VARIABLE: canonical(pipeline)})
    return containers


def summed(snaps: Sequence[JobSnap]) -> Snapshot:
    stats = [snap.stats for snap in snaps if snap.stats]
    return Snapshot(
        known=bool(snaps),
        done=sum(s.objects + s.out_objects for s in stats),
        bytes=sum(s.bytes + s.in_bytes for s in stats),  # at the target that stored them; out_bytes may say 0
        idle=bool(snaps) and all(s.is_idle for s in snaps),
        ended=bool(snaps) and all(s.end_time not in ("", _NEVER) for s in snaps),
        aborted=next((s.abort_err or "aborted" for s in snaps if s.aborted or s.abort_err), ""),
    )


def between(snaps: Sequence[JobSnap], source: str, destination: str) -> bool:
    """Whether the job reads the one bucket and writes the other."""
    ends = {tuple(bucket and _url(bucket) for bucket in (s.source_bck, s.destination_bck)) for s in snaps}
    return ends == {(str(bucket(source)), str(bucket(destination)))}


def _url(model: BucketModel) -> str:
    space = model.namespace or Namespace()
    return str(BucketName(model.provider, space.uuid, space.name, model.name))


def stopped(name: str, stage: str, runs: Json) -> EtlStopped | None:
    """Why an ETL does not run; None where it does.

    ``runs`` is AIStore's answer about all ETLs' own jobs (``etl-inline``, one for each start), by target. The stage of
    an ETL follows the end of its job by some moments.
    """
    hint = f"`tvetl start {name}` starts it again."
    own = re.compile(rf"\[{re.escape(name)}-\w+:|pod=\"{re.escape(name)}-")  # in ctlmsg, "init-spec[NAME-hpush://]"
    starts = [
        (target, snap)
        for target, snaps in row(runs).items()
        for snap in rows(snaps)
        if own.search(f"{snap.get('ctlmsg')} {snap.get('abort-err')}")
    ]
    last = max(starts, key=lambda each: str(each[1].get("start-time")), default=("", {}))[1].get("id")
    ended = [(t, s) for t, s in starts if s.get("id") == last and s.get("end-time") not in ("", None, _NEVER)]
    if not ended:
        if stage == "Running":
            return None
        if stage == "Initializing":
            return EtlStopped(f"the ETL {name!r} is starting", hint="`tvetl list` shows when it is Running.")
        return EtlStopped(f"the ETL {name!r} is stopped", hint=hint)
    since = min(str(snap["end-time"]) for _, snap in ended)
    message = f"the ETL {name!r} is stopped, since {re.sub(r'T|[.][0-9]+', ' ', since).replace(' Z', ' UTC')}"
    for target, snap in ended:
        if (reason := str(snap.get("abort-err") or "")) not in _NO_REASON:
            how = container_end(reason)
            message += f": its pod on the target {target} ended" if how else ""
            message += f": {how or without_node(reason)[:500]}"
            break
    return EtlStopped(message, hint=hint)
