"""The command's output: answers to standard output; progress, notes, warnings and errors to standard error.

Progress is a bar on a terminal, and elsewhere a sentence now and then. With ``--json`` standard error has lines of JSON
alone.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tvetl.errors import ArgumentsError, PipelineError, TvetlError

if TYPE_CHECKING:
    from tvetl.cluster import ObjectError
    from tvetl.conformance import Report as Conformance
    from tvetl.jobs import Estimate, JobProgress, Report

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

#: What is done, how far, how fast; a line of JSON has the same members.
State = dict[str, str | int | float]

#: Seconds between two lines of progress for programs.
_LINES_EVERY = 1.0
#: Seconds between two sentences of progress: a twentieth of what it has taken so far, within these bounds.
_SENTENCES_EVERY = (10.0, 60.0)
#: Failed objects that are shown; the file has them all.
_SHOWN = 10


class Progress:
    """Progress of something: call it with the number done, or pass :meth:`job` to :func:`tvetl.jobs.wait`."""

    def __init__(self, what: str, total: int, show: Callable[[State], None]) -> None:
        self._what, self._total, self._show = what, total, show

    def __call__(self, done: int) -> None:
        self._show({"doing": self._what, "done": done, "total": self._total})

    def job(self, now: JobProgress) -> None:
        figures = {"seconds": round(now.seconds, 1), "rate": round(now.rate, 1), "bytes": now.bytes}
        left = {} if now.left is None or now.done == now.total else {"left": round(now.left, 1)}
        self._show({"doing": now.stage, "done": now.done, "total": now.total, **figures, **left})


class _Speech:
    """How this process writes on standard error: in JSON, or for people."""

    json = False


def speak(*, as_json: bool) -> None:
    """Choose how standard error is written from now on; warnings and logs of libraries are notes then, too."""
    _Speech.json = as_json
    warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
    logging.basicConfig(handlers=[_Notes()], level=logging.WARNING, force=True)
    # It warns of what becomes an error here, file by file, and quotes whole queries.
    logging.getLogger("aistore.sdk.request_client").setLevel(logging.ERROR)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {record.getMessage()}")


def note(text: str) -> None:
    """A sentence beside the answer."""
    _print_err({"note": text}, text)


@contextmanager
def working(doing: str) -> Iterator[None]:
    """Show that something of unknown length runs: by a spinner on a terminal, elsewhere by one line."""
    if err.is_terminal and not _Speech.json:
        with err.status(doing):
            yield
        return
    _print_err({"doing": doing}, f"{doing} ...")
    yield


def _print_err(data: Mapping[str, object], text: str) -> None:
    """Print one line on standard error: the data as JSON, or for people the text."""
    err.print(json.dumps(data) if _Speech.json else text)


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """Progress to call with the number done: a bar on a terminal, elsewhere sentences; lines of JSON for programs."""
    with _bar(what, total) if err.is_terminal and not _Speech.json else _lines() as show:
        yield Progress(what, total, show)


@contextmanager
def _lines() -> Iterator[Callable[[State], None]]:
    """A line of JSON every second, and after success a last one; for people a sentence every ten seconds.

    Of what takes long it is a sentence every minute, and none of what is done sooner.
    """
    began = printed = time.monotonic()
    pending = State()

    def show(state: State) -> None:
        nonlocal printed, pending
        now, pending = time.monotonic(), state
        sentences_every = min(max(_SENTENCES_EVERY[0], (now - began) / 20), _SENTENCES_EVERY[1])
        if now - printed > (_LINES_EVERY if _Speech.json else sentences_every):
            detail = "".join(f", {part}" for part in _details(state))
            _print_err(state, f"{state['doing']}: {state['done']} of {state['total']}{detail}")
            printed, pending = now, {}

    yield show
    if pending and _Speech.json:
        err.print(json.dumps(pending))


def _details(state: State) -> list[str]:
    """Speed, bytes and the time that is left, as far as they are known."""
    rate, size, left = state.get("rate"), state.get("bytes"), state.get("left")
    parts = [f"{rate:.0f}/s"] if rate else []
    parts += [size_of(int(size))] if size else []
    return parts + ([] if left is None else [f"{duration(float(left))} left"])


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[State], None]]:
    """rich's bar, with speed, bytes and the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bars(*columns, TextColumn("{task.fields[detail]}"), console=err) as bars:
        task = bars.add_task(what, total=total, detail="")

        def show(state: State) -> None:
            doing, done, total = str(state["doing"]), int(state["done"]), int(state["total"])
            bars.update(task, description=doing, completed=done, total=total, detail=", ".join(_details(state)))

        yield show


def print_report(report: Report, errors: str = "") -> None:
    """Print a job in a few lines: objects, speed, and the first that failed; ``errors`` is the file with all."""
    # The speed of a shorter job would be that of our own polling.
    rate = f" ({report.done / report.seconds:.0f} a second)" if report.seconds > 3 else ""
    print_line(f"{report.done} of {report.wanted} objects in {report.seconds:.1f} s{rate}")
    if report.kept:
        print_line(f"{report.kept} were there already, made by the same pipeline")
    if report.absent:
        print_line(f"{len(report.absent)} names of the template are not in the source")
    if report.aborted:
        err.print(f"the job was aborted: {report.aborted}")
    if report.failed:
        err.print(f"{len(report.failed)} failed{f'; {errors} names all of them' if errors else ''}:")
        _print_failed(report.failed)
        if len(report.failed) > _SHOWN:
            err.print(f"  and {len(report.failed) - _SHOWN} more")


def _print_failed(failed: Sequence[ObjectError]) -> None:
    for error in failed[:_SHOWN]:
        err.print(f"  {plain(f'{error.object}: {error.message} ({error.code})')}")


def print_estimate(found: Estimate) -> None:
    """Print a dry run in a few lines."""
    print_line(f"{found.objects} objects to transform" + (f", {found.kept} are there already" if found.kept else ""))
    if not found.sample:
        return
    print_line(f"{found.sample} of them transformed now, none of it stored: {len(found.failed)} failed")
    _print_failed(found.failed)
    if found.seconds is not None and found.bytes is not None:
        print_line(
            f"all of them: about {duration(found.seconds)} at the speed seen here, {size_of(found.bytes)} of results"
        )


def print_conformance(report: Conformance) -> None:
    """Print a table of all cases, and their counts."""
    cases = report.verdicts
    print_table(("case", "severity", "result", "why"), [(c.name, c.severity, c.result, c.reason) for c in cases])
    counts = [f"{report.count(result)} {result}" for result in ("passed", "failed", "skipped")]
    err.print(f"{len(cases)} cases: {', '.join(counts)}")
    if not report.comparable:
        err.print("The server answers the same request differently each time, so its bytes were not compared.")


def print_error(error: TvetlError, *, as_json: bool = False) -> None:
    """Print an error: its message, every place of it, and the hint; or one line of JSON."""
    problems = error.problems if isinstance(error, (PipelineError, ArgumentsError)) else ()
    if as_json:
        data = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        err.print(json.dumps({**data, "problems": [asdict(problem) for problem in problems]}))
        return
    if problems:
        err.print("tvetl: this cannot work:")
        for problem in problems:
            err.print(f"  {problem}")
    else:
        err.print("\n".join(map(plain, f"tvetl: {error.message}".split("\n"))))
    if error.hint:
        err.print(f"  {error.hint}")


def plain(text: str) -> str:
    """A text without the control characters that names may have: ``\\n`` in place of a line's end."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def print_line(text: str) -> None:
    """Print a line of the answer."""
    out.print(text)


def print_json(data: object) -> None:
    """Print the answer as one JSON value."""
    print_line(json.dumps(data, ensure_ascii=False))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns on a terminal; elsewhere lines with tabs, for ``cut`` and ``awk``. Titles come first."""
    rows = [[*map(plain, row)] for row in rows]
    if not out.is_terminal:
        for row in (titles, *rows):
            out.file.write("\t".join(row) + "\n")  # rich would make spaces of the tabs
        return
    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table)


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
