"""The objects of a destination with the names of a request's results, and their sources. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tvetl.cluster import Cluster, Names
from tvetl.errors import ClusterError, UsageError
from tvetl.jobs.provenance import BUCKET, UNKNOWN, Begun
from tvetl.jobs.request import Request, url
from tvetl.jobs.results import Chosen, Digests, Results, digests, origins

#: Results in one record, which is then of 20 MB at most, however many objects a job has.
_ROWS = 1_000_000


class Destination:
    """The objects of the destination with the names of a request's results, and of which objects they were made.

    Its arrays have a value for each object of the request. ``_latest_of`` is the index in ``_heads`` of the latest
    record with its result's name (-1: none has it), and ``_ours`` whether that is of the same object. ``_there`` means
    that the destination has an object of that name, ``_unchanged`` that it had the same one when that record was
    written. ``_tags`` are digests of its version and checksum, where they are needed. Raises UsageError where two of
    the objects would have one result.
    """

    def __init__(self, request: Request, names: Names, digest: str) -> None:
        if url(request.destination) == url(BUCKET):
            raise UsageError(f"{BUCKET!r} has the records of jobs, and takes no results", hint="Choose another bucket.")
        self._request, self._names, self._digest = request, names, digest
        self._results = Results(names, request.rename)
        for one, other, result in self._results.shared():
            hint = "Take them apart: other extensions, or a command for each (--prefix, --list) with another --prepend."
            raise UsageError(f"{one!r} and {other!r} would both become {result!r}", hint=hint)
        self._latest_of = np.full(len(names), -1, np.int32)
        self._ours, self._there, self._unchanged = (np.zeros(len(names), bool) for _ in range(3))
        self._tags: Digests | None = None
        #: The records that were read, without their columns.
        self._heads: list[Begun] = []
        #: Records of jobs over all of a bucket, by name, with the prefixes of the objects that these may have met.
        self._beyond: dict[str, str] = {}
        #: The pipeline of the latest job between the buckets with results named alike.
        self.latest = ""

    def read_records(self, records: Iterator[tuple[str, Begun]]) -> None:
        """Take in the destination's records, the oldest first."""
        for key, record in records:
            alike = url(record.source) == url(self._request.source) and record.rename == self._request.rename
            if alike:
                self.latest = record.digest
                self._beyond |= {key: record.beyond} if record.beyond is not None else {}
            known, at = self._results.find(record.results)
            self._latest_of[at] = len(self._heads)
            self._ours[at] = self._of_same_objects(record, at, known)
            if record.tags is not None or self._tags is not None:
                self._needed_tags()[at] = 0 if record.tags is None else record.tags[known]
            self._heads.append(Begun(record.source, record.rename, record.digest, record.before, record.beyond))

    def read_listing(self, cluster: Cluster) -> None:
        """Take in the destination's listing. Raises NotFound where it is not there."""
        other = any(head.digest != self._digest for head in self._heads)
        needed = self._request.again or other or bool(self._beyond) or self._tags is not None
        for page in cluster.pages(self._request.destination, self._request.rename.prepend, "tag" if needed else ""):
            known, at = self._results.find(digests((name for name, _ in page), len(page)))
            first = ~self._there[at]  # a name may be listed twice
            known[known], at = first, at[first]
            self._there[at] = True
            if needed:
                now, tags = digests((tag for _, tag in page), len(page))[known], self._needed_tags()
                self._unchanged[at] = tags[at] == now
                tags[at] = now
        if self._beyond:  # what came while a bucket job ran has no record of its own
            unknown = np.flatnonzero(self._there & (self._latest_of < 0))
            met = tuple(self._beyond.values())
            self._ours[unknown] = [self._names[place].startswith(met) for place in unknown.tolist()]

    def check(self, cluster: Cluster) -> None:
        """Raises UsageError where a result would overwrite that of another object, or an object of no record."""
        strange = np.flatnonzero(self._there & ~self._ours)
        if len(strange):
            raise self._refused(int(strange[0]), "is there already", len(strange))
        shared = np.flatnonzero((self._latest_of >= 0) & ~self._ours)
        for source in {self._heads[head].source for head in np.unique(self._latest_of[shared])}:
            jobs = cluster.transforming(source, self._request.destination).values()
            if not all(now.idle for now in jobs):
                raise self._refused(int(shared[0]), "is being made", len(shared))

    def check_meanwhile(self, records: Iterator[tuple[str, Begun]]) -> None:
        """Raises ClusterError where one of these makes a result of another object, or by another pipeline."""
        for _, record in records:
            known, at = self._results.find(record.results)
            others = at if record.digest != self._digest else at[~self._of_same_objects(record, at, known)]
            if len(others):
                result = f"{self._request.rename(self._names[int(others[0])])!r} in {self._request.destination!r}"
                raise ClusterError(
                    f"another command, which began in the same moment, makes {result}, too, from {record.source!r}",
                    hint="Nothing was started. Begin once more, if it is still wanted.",
                )

    def settled(self) -> dict[str, str]:
        """Records of jobs over a bucket that those of this request replace, by name, with their prefixes.

        Only while no such job is at work.
        """
        request = self._request
        return {
            key: prefix for key, prefix in self._beyond.items() if request.whole and prefix.startswith(request.prefix)
        }

    def left(self) -> npt.NDArray[np.bool_]:
        """Whether each object's result is missing, or made by another pipeline."""
        # The False behind each column is what index -1 finds: no record.
        now, before = (
            np.array([*(self._digest == digest for digest in column), False])
            for column in ([head.digest for head in self._heads], [head.before for head in self._heads])
        )
        latest = self._latest_of
        left: npt.NDArray[np.bool_] = ~(self._there & np.where(self._unchanged, before[latest], now[latest]))
        return left | self._request.again

    def chosen(self, left: npt.NDArray[np.bool_]) -> tuple[Sequence[str], Digests | None]:
        """The objects that are left, and the tags of what is there under their results' names (0: nothing), if any."""
        places = np.flatnonzero(left).astype(np.uint32)
        names = self._names if len(places) == len(left) else Chosen(self._names, places)
        if self._tags is None or not (left & self._there).any():
            return names, None
        self._tags[~self._there] = 0
        return names, self._tags if names is self._names else self._tags[left]

    def records(self, left: npt.NDArray[np.bool_]) -> Iterator[Begun]:
        """The records that a job for the objects that are left needs before it begins, as none has them yet."""
        source, rename = self._request.source, self._request.rename
        now = np.array([*(head.digest == self._digest for head in self._heads), False])
        fresh = np.array([*(not head.before for head in self._heads), False])
        pipelines = sorted({UNKNOWN, *(head.digest for head in self._heads), *(head.before for head in self._heads)})
        numbers = [[pipelines.index(each) for each in (head.digest, head.before)] for head in self._heads]
        made_by = np.array([*numbers, [pipelines.index(UNKNOWN)] * 2], np.int32)  # again with a row for index -1
        for at in range(0, len(left), _ROWS):
            places = self._results.places[at : at + _ROWS]
            row, there, unchanged = self._latest_of[places], self._there[places], self._unchanged[places]
            known = self._ours[places] & now[row] & np.where(there, unchanged, fresh[row])
            # The pipeline of what is there now; -1: nothing is there; -2: no new record is needed.
            by = np.where(there, made_by[row, unchanged.astype(int)], -1)
            if self._request.again:
                by[there] = pipelines.index(UNKNOWN)
            by[known | ~left[places]] = -2
            for pipeline in np.unique(by[by > -2]):
                rows = by == pipeline
                names = (self._names[place] for place in places[rows].tolist())
                yield Begun(
                    source, rename, self._digest, pipelines[pipeline] if pipeline >= 0 else "",
                    results=self._results.sorted[at : at + _ROWS][rows],
                    origins=origins(source, names, int(rows.sum())),
                    tags=self._needed_tags()[places[rows]] if pipeline >= 0 else None,
                )  # fmt: skip

    def _of_same_objects(
        self, record: Begun, places: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        if url(record.source) != url(self._request.source):
            return np.zeros(len(places), bool)
        names = (self._names[place] for place in places.tolist())
        same: npt.NDArray[np.bool_] = origins(self._request.source, names, len(places)) == record.origins[known]
        return same

    def _needed_tags(self) -> Digests:
        if self._tags is None:
            self._tags = np.zeros(len(self._names), np.uint64)
        return self._tags

    def _refused(self, place: int, why: str, count: int) -> UsageError:
        name, source = self._names[place], self._request.source
        result = self._request.rename(name)
        made = "and no record says that tvetl made it"
        if self._latest_of[place] >= 0:
            head = self._heads[self._latest_of[place]]
            others = [each for each in head.rename.sources(result) if (url(head.source), each) != (url(source), name)]
            made = f"made of {' or '.join(map(repr, others))} in {head.source!r}"
        more = f" (and {count - 1} more so)" if count > 1 else ""
        hint = "Choose another destination, or --prepend; or delete there what is not wanted any more."
        where = f"{why} in {self._request.destination!r}"
        return UsageError(f"{name!r} of {source!r} would become {result!r}, which {where}, {made}{more}", hint=hint)
