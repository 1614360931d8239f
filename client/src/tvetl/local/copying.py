"""Objects copied or transformed from bucket to bucket, one by one or as a job, with direct put between targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

from tvetl.fetch.places import unique_name
from tvetl.local import object_names
from tvetl.local.etl import Etl, Etls
from tvetl.local.http import ApiError, NodeServer
from tvetl.local.messages import Value
from tvetl.local.store import Store
from tvetl.local.xactions import Xaction, Xactions
from tvetl.notation import path_escape


class Copying:
    """Copies and transforms objects; ``home(bucket, name)`` is the target that an object belongs to."""

    def __init__(
        self, store: Store, etls: Etls, xactions: Xactions, proxy: NodeServer, home: Callable[[str, str], NodeServer]
    ) -> None:  # fmt: skip
        self._store, self._etls, self._xactions, self._proxy, self._home = store, etls, xactions, proxy, home

    def start(self, kind: str, bucket: str, to: str, value: Value, found: Iterable[str], detail: str) -> Xaction:
        """Start a job that copies or transforms the objects found to the bucket ``to``, made where it is missing."""
        etls = [self._etls.running(name, self._proxy) for name in [value.etl, *(value.pipeline or [])] if name]
        if not self._store.has(to) and not value.dry_run:
            self._store.create(to)

        def work(job: Xaction, name: str) -> None:
            target = self._home(bucket, name)
            job.snaps[target.id].visited += 1
            new = to, object_names.renamed(name, value.ext, value.prepend)
            try:
                self.copy(target, (bucket, name), new, etls, latest=value.latest, dry=value.dry_run, job=job)
            except ApiError as error:
                job.failed(target, name, error, value.coer, value.dry_run)

        into = object_names.shown(to) + (f"/{value.prepend}" if value.prepend else "")
        summary = f"{'etl' if etls else 'cp'} {detail}=>{into}"
        where = bucket if kind.endswith("listrange") else to
        return self._xactions.start(
            kind, found, work, detail=summary, bucket=where, source=bucket, destination=to, workers=value.workers
        )

    def copy(
        self, target: NodeServer, source: tuple[str, str], to: tuple[str, str], etls: Sequence[Etl], *,
        latest: bool = False, args: str = "", dry: bool = False, job: Xaction | None = None,
    ) -> int:  # fmt: skip
        """Copy or transform one object as its target does; returns 204 where a transformer put the result itself."""
        home = target if dry else self._home(*to)
        if etls:
            query = f"?owt=3&uuid={job.id}" if job else ""
            address = "" if home is target else f"{home.url}/{path_escape(unique_name(*to))}{query}"
            answer = self._etls.push(etls, target, *source, latest=latest, args=args, destination=address)
            with closing(answer):
                if answer.status == 204 or dry:
                    answer.rest()
                else:
                    self._store.put(*to, answer)
            status, size = answer.status, answer.size
        else:
            stat, file = self._store.open(*source, f"{target.label}: ")
            status, size = 200, stat.size
            with file:
                if not dry:
                    self._store.put(*to, file)
        if job:
            job.count(target, "loc" if home is target else "out", size)
            if home is not target and status != 204:
                job.count(home, "came", size)
        return status
