"""Counts of all workers in one piece of shared memory, shown as Prometheus text.

An anonymous mapping made before the workers are forked: no file (prometheus_client's multi-process mode
leaves 1 MiB in its folder for every worker that ever lived, and /dev/shm has 64 MiB), no lock between
processes. Each worker writes only its own row; a row outlives its worker, so counters never go back.
"""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import ParamSpec, TypeVar

from tvetl_server.problems import INTERNAL, METHOD_NOT_ALLOWED, PROBLEMS

__all__ = ["CONTENT_TYPE", "STAGES", "Metrics", "Threads"]

P = ParamSpec("P")
T = TypeVar("T")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: What a request's time is made of; the wait is that for a free thread, of /health and /metrics too, the queue that
#: for a free decoder, with the way there and back.
STAGES = ("wait", "read", "queue", "transform", "deliver")

#: Seconds. A photograph takes 1 to 10 ms, AIStore gives up at 45 s.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Images that went through the device together.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: What the time on the device is made of: waiting for others, and a batch's run.
DEVICE_STAGES = ("gather", "run")
#: Which way an image went where there is a device: there, or by the CPU, and why (tvetl_server.engine.NotByDevice).
WAYS = ("device", "format", "step", "refused", "late", "lost")

#: (status, code) of a request that went well: answered; stored by direct put; answered by the next stage.
_DONE = ((200, "answered"), (204, "delivered"), (200, "forwarded"))
#: What the next stage answered when it was an error: its own status and words are passed on.
_PASSED_ON = "next_stage"


def _outcomes() -> tuple[tuple[str, str], ...]:
    rows = [*PROBLEMS.values(), INTERNAL, METHOD_NOT_ALLOWED]
    pairs = [*_DONE, *((row.status, row.code) for row in rows)]
    unique = dict.fromkeys((str(status), code) for status, code in pairs)
    return (*unique, ("4xx", _PASSED_ON), ("5xx", _PASSED_ON))


OUTCOMES = _outcomes()


def _series() -> tuple[str, ...]:
    """The name of each cell of a row, as Prometheus writes it."""
    names = [f'tvetl_requests_total{{status="{status}",code="{code}"}}' for status, code in OUTCOMES]
    names += ["tvetl_bytes_in_total", "tvetl_bytes_out_total", "tvetl_requests_in_flight", "tvetl_requests_waiting"]
    for stage in STAGES:
        names += _histogram("tvetl_seconds", BUCKETS, f'stage="{stage}"')
    names += [*(f'tvetl_device_images_total{{way="{way}"}}' for way in WAYS), "tvetl_device_up"]
    names += ["tvetl_device_deaths_total", *_histogram("tvetl_device_batch", BATCHES)]
    for stage in DEVICE_STAGES:
        names += _histogram("tvetl_device_seconds", BUCKETS, f'stage="{stage}"')
    return tuple(names)


def _histogram(name: str, edges: Sequence[float], label: str = "") -> list[str]:
    before = f"{label}," if label else ""
    buckets = [f'{name}_bucket{{{before}le="{edge}"}}' for edge in (*(f"{edge:g}" for edge in edges), "+Inf")]
    return [*buckets, f"{name}_sum{{{label}}}" if label else f"{name}_sum"]


_SERIES = _series()
_CELL = {name: cell for cell, name in enumerate(_SERIES)}
_IN_FLIGHT = _CELL["tvetl_requests_in_flight"]
_WAITING = _CELL["tvetl_requests_waiting"]
_BYTES = _CELL["tvetl_bytes_in_total"], _CELL["tvetl_bytes_out_total"]
_ANSWERED = {
    (status, code): _CELL[f'tvetl_requests_total{{status="{status}",code="{code}"}}'] for status, code in OUTCOMES
}
#: Stage -> the cell of its first bucket, and that of its sum.
_STAGE = {
    stage: (_CELL[f'{family}_bucket{{stage="{stage}",le="{BUCKETS[0]:g}"}}'], _CELL[f'{family}_sum{{stage="{stage}"}}'])
    for family, stages in (("tvetl_seconds", STAGES), ("tvetl_device_seconds", DEVICE_STAGES))
    for stage in stages
}
_BATCH = _CELL[f'tvetl_device_batch_bucket{{le="{BATCHES[0]}"}}'], _CELL["tvetl_device_batch_sum"]
_WAY = {way: _CELL[f'tvetl_device_images_total{{way="{way}"}}'] for way in WAYS}
_HEAD = {
    "tvetl_requests_total": ("counter", "Requests for objects, by status and code of the answer."),
    "tvetl_bytes_in_total": ("counter", "Bytes of sources read."),
    "tvetl_bytes_out_total": ("counter", "Bytes of results handed on."),
    "tvetl_requests_in_flight": ("gauge", "Requests being worked on."),
    "tvetl_requests_waiting": ("gauge", "Requests that wait for a free thread, or for a free decoder."),
    "tvetl_seconds": ("histogram", "Seconds by stage of a request."),
    "tvetl_device_images_total": ("counter", "Images that went to the device, or to the CPU, by the reason."),
    "tvetl_device_up": ("gauge", "Whether the device works."),
    "tvetl_device_deaths_total": ("counter", "Deaths of the process that owns the device."),
    "tvetl_device_batch": ("histogram", "Images that went through the device together."),
    "tvetl_device_seconds": ("histogram", "Seconds that an image waits for others, and that a batch takes."),
}


class Metrics:
    """``rows`` rows of float64 cells; this process writes ``row``, everyone reads all."""

    def __init__(self, rows: int = 1, *, device: bool = False) -> None:
        """``device`` shows what is about one, too."""
        self._device = device
        self._cells = memoryview(mmap.mmap(-1, rows * len(_SERIES) * 8)).cast("d")
        self._start = 0
        self._lock = threading.Lock()

    def use_row(self, row: int) -> None:
        """From now on this process writes ``row`` (called after a fork)."""
        self._start = row * len(_SERIES)
        self._lock = threading.Lock()

    def clear_in_flight(self, row: int) -> None:
        """Forget what a worker that died had in flight, or waiting."""
        for cell in (_IN_FLIGHT, _WAITING):
            self._cells[row * len(_SERIES) + cell] = 0.0

    def _add(self, cell: int, amount: float) -> None:
        self._cells[self._start + cell] += amount

    def count(self, status: int, code: str, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """One request answered. A status of the next stage's own is counted by its hundred."""
        cell = _ANSWERED.get((str(status), code))
        if cell is None:
            cell = _ANSWERED[f"{status // 100}xx", _PASSED_ON]
        with self._lock:
            self._add(cell, 1)
            self._add(_BYTES[0], bytes_in)
            self._add(_BYTES[1], bytes_out)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        self._change(_IN_FLIGHT, 1)
        try:
            yield
        finally:
            self._change(_IN_FLIGHT, -1)

    def waits(self, change: int) -> None:
        """One more request waits for a thread (1), or one less (-1)."""
        self._change(_WAITING, change)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one of STAGES, failed or not."""
        start = perf_counter()
        try:
            yield
        finally:
            self.spent(name, perf_counter() - start)

    def spent(self, stage: str, seconds: float) -> None:
        """Count so many seconds of one of STAGES, or of DEVICE_STAGES."""
        first, total = _STAGE[stage]
        with self._lock:
            self._add(first + bisect_left(BUCKETS, seconds), 1)
            self._add(total, seconds)

    def ways(self, images: Mapping[str, int]) -> None:
        """So many images went these of WAYS."""
        for way, number in images.items():
            self._change(_WAY[way], number)

    def batch(self, images: int, seconds: float) -> None:
        """A batch of so many images took so long on the device."""
        first, total = _BATCH
        self._change(first + bisect_left(BATCHES, images), 1)
        self._change(total, images)
        self.spent("run", seconds)

    def device_is(self, *, up: bool) -> None:
        """Whether it works, in this process's row."""
        self._cells[self._start + _CELL["tvetl_device_up"]] = up

    def device_died(self) -> None:
        self._change(_CELL["tvetl_device_deaths_total"], 1)

    def _change(self, cell: int, amount: float) -> None:
        with self._lock:
            self._add(cell, amount)

    def text(self) -> str:
        """All rows added up, in Prometheus' text format (buckets are stored apart, and shown summed up)."""
        totals = [sum(self._cells[cell :: len(_SERIES)]) for cell in range(len(_SERIES))]
        lines: list[str] = []
        seen = ""
        running = 0.0
        for name, total in zip(_SERIES, totals, strict=True):
            family = name.partition("{")[0].removesuffix("_bucket").removesuffix("_sum")
            if family.startswith("tvetl_device") and not self._device:
                continue
            if family != seen:
                kind, words = _HEAD[family]
                lines += [f"# HELP {family} {words}", f"# TYPE {family} {kind}"]
                seen = family
            if "_bucket" in name:
                running += total
                lines.append(f"{name} {running:g}")
            elif "_sum" in name:
                lines.append(f"{name} {total:.6f}")
                lines.append(f"{name.replace('_sum', '_count')} {running:.0f}")
                running = 0.0
            else:
                lines.append(f"{name} {total:.0f}")
        return "\n".join(lines) + "\n"


class Threads(ThreadPoolExecutor):
    """The threads of a worker, and a count of what waits for one of them: gunicorn hands each request in here."""

    def __init__(self, threads: int, counts: Metrics) -> None:
        super().__init__(max_workers=threads)
        self._counts = counts

    def waiting(self) -> bool:
        """Whether something waits for a thread."""
        return not self._work_queue.empty()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        submitted = perf_counter()

        def begin() -> T:
            self._counts.waits(-1)
            self._counts.spent("wait", perf_counter() - submitted)
            return fn(*args, **kwargs)

        self._counts.waits(1)
        try:
            return super().submit(begin)
        except RuntimeError:  # shut down: it will not begin
            self._counts.waits(-1)
            raise
