"""What the command writes: answers to standard output; progress, hints and errors to standard error.

Progress is a bar on a terminal, and elsewhere lines of JSON for programs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tvetl.errors import ArgumentsError, PipelineError, TvetlError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from tvetl.conformance import Report as Conformance
    from tvetl.jobs.report import Estimate, JobProgress, Report

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

#: Seconds between two lines of progress, where there is no terminal to draw a bar on.
_LINES_EVERY = 1.0
#: Failed objects that are shown; the file has them all.
_SHOWN = 10


class Progress:
    """How far something is: call it with how many are done, or give a job's own progress to :meth:`job`."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total

    def __call__(self, done: int) -> None:
        self._tell({"doing": self._what, "done": done, "total": self._total})

    def job(self, now: JobProgress) -> None:
        figures = {"seconds": round(now.seconds, 1), "rate": round(now.rate, 1), "bytes": now.bytes}
        left = {} if now.left is None or now.done == now.total else {"left": round(now.left, 1)}
        self._tell({"doing": now.stage, "done": now.done, "total": now.total, **figures, **left})

    def _tell(self, state: dict[str, str | int | float]) -> None:
        raise NotImplementedError


class _Lines(Progress):
    """A line of JSON every second, and a last one."""

    def __init__(self, what: str, total: int) -> None:
        super().__init__(what, total)
        self._said = time.monotonic()
        self._last: dict[str, str | int | float] = {}

    def _tell(self, state: dict[str, str | int | float]) -> None:
        self._last = state
        if time.monotonic() - self._said > _LINES_EVERY:
            self.say()

    def say(self) -> None:
        if self._last:
            self._said = time.monotonic()
            err.print(json.dumps(self._last), markup=False)
            self._last = {}


class _Bar(Progress):
    """rich's bar, with speed, bytes and the time that is left."""

    def __init__(self, what: str, total: int, bars: Bars) -> None:
        super().__init__(what, total)
        self._bars = bars
        self._task = bars.add_task(what, total=total, detail="")

    def _tell(self, state: dict[str, str | int | float]) -> None:
        parts = []
        if state.get("rate"):
            parts.append(f"{state['rate']:.0f}/s")
        if state.get("bytes"):
            parts.append(size_of(int(state["bytes"])))
        if "left" in state:
            parts.append(f"{duration(float(state['left']))} left")
        self._bars.update(
            self._task,
            description=str(state["doing"]),
            completed=int(state["done"]),
            total=int(state["total"]),
            detail=", ".join(parts),
        )


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """Something to call with how many are done: a bar on a terminal, elsewhere lines of JSON."""
    if not err.is_terminal:
        lines = _Lines(what, total)
        yield lines
        lines.say()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    described, detail = TextColumn("{task.description}"), TextColumn("{task.fields[detail]}")
    with Bars(described, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), detail, console=err) as bars:
        yield _Bar(what, total, bars)


def told(advance: Progress) -> Callable[[JobProgress], None]:
    """What :func:`tvetl.jobs.wait` calls, to show its progress through :func:`progress`."""
    return advance.job


def tell(report: Report, errors: str = "") -> None:
    """A job in a few lines: how many, how fast, and the first of what failed; ``errors`` is the file with all."""
    # We look several times a second: of a shorter job than this the speed would be our own.
    rate = f" ({report.done / report.seconds:.0f} a second)" if report.seconds > 3 else ""
    say(f"{report.done} of {report.wanted} objects in {report.seconds:.1f} s{rate}")
    if report.kept:
        say(f"{report.kept} were there already, made by the same pipeline")
    if report.absent:
        say(f"{len(report.absent)} names of the template are not in the source")
    if report.aborted:
        err.print(f"the job was aborted: {report.aborted}", markup=False)
    if report.failed:
        err.print(f"{len(report.failed)} failed{f'; {errors} names all of them' if errors else ''}:", markup=False)
        for error in report.failed[:_SHOWN]:
            err.print(f"  {error.object}: {error.message} ({error.code})", markup=False)
        if len(report.failed) > _SHOWN:
            err.print(f"  and {len(report.failed) - _SHOWN} more")


def tell_estimate(found: Estimate) -> None:
    """A dry run in a few lines."""
    say(f"{found.objects} objects to transform" + (f", {found.kept} are there already" if found.kept else ""))
    if not found.sample:
        return
    say(f"{found.sample} of them transformed now, none of it stored: {len(found.failed)} failed")
    for error in found.failed[:_SHOWN]:
        err.print(f"  {error.object}: {error.message} ({error.code})", markup=False)
    if found.seconds is not None and found.bytes is not None:
        say(f"all of them: about {duration(found.seconds)} at the speed seen here, {size_of(found.bytes)} of results")


def tell_conformance(report: Conformance) -> None:
    """A table of all cases, and their count."""
    cases = report.verdicts
    say_table(("case", "severity", "", "why"), [(c.name, c.severity, c.result, c.reason) for c in cases])
    counts = [f"{report.count(result)} {result}" for result in ("passed", "failed", "skipped")]
    err.print(f"{len(cases)} cases: {', '.join(counts)}")
    if not report.comparable:
        err.print("The server answers the same request differently each time, so its bytes were not compared.")


def complain(error: TvetlError, *, as_json: bool = False) -> None:
    """An error as people read it: what happened, every place of it, and what to try; or one line of JSON."""
    problems = error.problems if isinstance(error, (PipelineError, ArgumentsError)) else ()
    if as_json:
        data = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        err.print(json.dumps({**data, "problems": [asdict(problem) for problem in problems]}), markup=False)
        return
    if problems:
        err.print("tvetl: this cannot work:")
        for problem in problems:
            err.print(f"  {problem}", markup=False)
    else:
        err.print(f"tvetl: {error.message}", markup=False)
    if error.hint:
        err.print(f"  {error.hint}", markup=False)


def say(text: str) -> None:
    """A line of the answer."""
    out.print(text, markup=False)


def say_json(data: object) -> None:
    """The answer as one JSON value."""
    say(json.dumps(data, ensure_ascii=False))


def say_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns on a terminal; elsewhere lines with tabs, for ``cut`` and ``awk``."""
    if not out.is_terminal:
        for row in rows:
            out.file.write("\t".join(row) + "\n")  # rich would make spaces of the tabs
        return
    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table, markup=False)


def size_of(count: int) -> str:
    """Bytes as people read them, in powers of ten: 110 kB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds as people read them: 8 s, 3:20, 1:02:05."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
