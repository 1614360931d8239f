"""What a cluster says of ETLs and jobs, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aistore.sdk.types import JobSnap

#: Go's zero time: how AIStore writes "not yet".
_NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True)
class EtlInfo:
    """One ETL of the cluster: its stage is Initializing, Running or Aborted (which also means stopped)."""

    name: str
    stage: str
    objects: int = 0


@dataclass(frozen=True)
class Registered:
    """An ETL that runs: ``form`` says how it came to be (init_spec, spec, runtime), or "reused" that it ran already."""

    name: str
    form: str
    seconds: float

    @property
    def reused(self) -> bool:
        return self.form == "reused"


@dataclass(frozen=True)
class Snapshot:
    """What all targets together say of a job.

    ``done`` counts objects, each once, at the target that read it; ``bytes`` are those of the results stored. ``idle``
    says that a list job, which never ends, has nothing left to do.
    """

    known: bool
    done: int
    bytes: int
    idle: bool
    ended: bool
    aborted: str


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
