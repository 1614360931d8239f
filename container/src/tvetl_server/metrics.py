"""Metrics of all workers in one piece of shared memory, shown as Prometheus text.

The memory is an anonymous mapping, made before the workers are forked. It needs no file: prometheus_client's
multi-process mode leaves 1 MiB in /dev/shm for every worker that ever lived, and a pod has 64 MiB there. It needs no
lock between processes: each worker writes only its own row. A row outlives its worker, so counters never decrease.
"""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from tvetl_server.problems import INTERNAL, METHOD_NOT_ALLOWED, PROBLEMS

__all__ = ["CONTENT_TYPE", "STAGES", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: The stages of a request: waiting for a thread (/health and /metrics too), reading the source, queueing for a decoder
#: (with the way there and back), transforming, delivering.
STAGES = ("wait", "read", "queue", "transform", "deliver")

#: Seconds. A photograph takes 1 to 10 ms, AIStore gives up at 45 s.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Images of one batch on the device.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: The stages of an image on the device: waiting for its batch, and the batch's run.
DEVICE_STAGES = ("gather", "run")
#: Where there is a device: ``device`` for an image that it transformed, else the reason why the CPU did
#: (tvetl_server.engine.NotByDevice).
WAYS = ("device", "format", "step", "refused", "late", "lost")

#: (status, code) of a success: result in the response; stored by direct put; answered by the next stage.
_DONE = ((200, "answered"), (204, "delivered"), (200, "forwarded"))
#: The code of an error that the next stage answered: its status and body are passed on.
_PASSED_ON = "next_stage"

_FAILED = ((row.status, row.code) for row in (*PROBLEMS.values(), INTERNAL, METHOD_NOT_ALLOWED))
OUTCOMES = (
    *dict.fromkeys((str(status), code) for status, code in (*_DONE, *_FAILED)),
    ("4xx", _PASSED_ON),
    ("5xx", _PASSED_ON),
)

#: The name of each cell of a row, as Prometheus writes it.
_SERIES: list[str] = []


def _cell(name: str) -> int:
    """The cell of a new series."""
    _SERIES.append(name)
    return len(_SERIES) - 1


def _histogram(name: str, edges: Sequence[float], label: str = "") -> tuple[int, int]:
    """The cell of its first bucket, which the others follow, and that of its sum."""
    before = f"{label}," if label else ""
    first, *_ = [_cell(f'{name}_bucket{{{before}le="{edge}"}}') for edge in (*(f"{edge:g}" for edge in edges), "+Inf")]
    return first, _cell(f"{name}_sum{{{label}}}" if label else f"{name}_sum")


_OUTCOME = {
    (status, code): _cell(f'tvetl_requests_total{{status="{status}",code="{code}"}}') for status, code in OUTCOMES
}
_BYTES_IN, _BYTES_OUT = _cell("tvetl_bytes_in_total"), _cell("tvetl_bytes_out_total")
_IN_FLIGHT, _WAITING = _cell("tvetl_requests_in_flight"), _cell("tvetl_requests_waiting")
_STAGE = {stage: _histogram("tvetl_seconds", BUCKETS, f'stage="{stage}"') for stage in STAGES}
_WAY = {way: _cell(f'tvetl_device_images_total{{way="{way}"}}') for way in WAYS}
_DEVICE_UP, _DEVICE_DEATHS = _cell("tvetl_device_up"), _cell("tvetl_device_deaths_total")
_BATCH = _histogram("tvetl_device_batch", BATCHES)
_STAGE |= {stage: _histogram("tvetl_device_seconds", BUCKETS, f'stage="{stage}"') for stage in DEVICE_STAGES}
_NO_JAIL: Mapping[str, bool] = {}
_HEAD = {
    "tvetl_requests_total": ("counter", "Requests for objects, by status and code of the answer."),
    "tvetl_bytes_in_total": ("counter", "Bytes of sources read."),
    "tvetl_bytes_out_total": ("counter", "Bytes of results."),
    "tvetl_requests_in_flight": ("gauge", "Requests for objects in progress."),
    "tvetl_requests_waiting": ("gauge", "Requests waiting for a thread or a decoder."),
    "tvetl_seconds": ("histogram", "Seconds by stage of a request."),
    "tvetl_device_images_total": ("counter", "Images transformed by the device, or by the CPU for this reason."),
    "tvetl_device_up": ("gauge", "Whether the device is up."),
    "tvetl_device_deaths_total": ("counter", "Deaths of the process that owns the device."),
    "tvetl_device_batch": ("histogram", "Images in a batch on the device."),
    "tvetl_device_seconds": ("histogram", "Seconds that an image waits for its batch, and that a batch runs."),
}


def hide_from_children(memory: mmap.mmap) -> None:
    """Processes that this one forks will not have it."""
    if hasattr(mmap, "MADV_DONTFORK"):  # Linux
        memory.madvise(mmap.MADV_DONTFORK)


class Metrics:
    """``rows`` rows of float64 cells. A process writes one row, and reads all."""

    def __init__(self, rows: int = 1, *, device: bool = False, jail: Mapping[str, bool] = _NO_JAIL) -> None:
        """``device``: whether :meth:`text` shows the device's metrics; ``jail``: which parts of it hold."""
        self._jail = jail
        self._device = device
        self._memory = mmap.mmap(-1, rows * len(_SERIES) * 8)
        self._cells = memoryview(self._memory).cast("d")
        self._start = 0
        self._lock = threading.Lock()

    def hide_from_children(self) -> None:
        """Decoders must not count. Called in a worker, which alone forks any."""
        hide_from_children(self._memory)

    def use_row(self, row: int) -> None:
        """Write to ``row`` from now on; called after a fork."""
        self._start = row * len(_SERIES)
        self._lock = threading.Lock()

    def clear_in_flight(self, row: int) -> None:
        """Set the gauges of a dead worker's row to zero."""
        for cell in (_IN_FLIGHT, _WAITING):
            self._cells[row * len(_SERIES) + cell] = 0.0

    def _add(self, cell: int, amount: float) -> None:
        self._cells[self._start + cell] += amount

    def count(self, status: int, code: str, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Count one response. A status of the next stage is counted by its class, 4xx or 5xx."""
        cell = _OUTCOME.get((str(status), code))
        if cell is None:
            cell = _OUTCOME[f"{status // 100}xx", _PASSED_ON]
        with self._lock:
            self._add(cell, 1)
            self._add(_BYTES_IN, bytes_in)
            self._add(_BYTES_OUT, bytes_out)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        self._change(_IN_FLIGHT, 1)
        try:
            yield
        finally:
            self._change(_IN_FLIGHT, -1)

    def waits(self, change: int) -> None:
        """Count one more waiting request (1), or one less (-1)."""
        self._change(_WAITING, change)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one of STAGES, whether it fails or not."""
        start = perf_counter()
        try:
            yield
        finally:
            self.spent(name, perf_counter() - start)

    def spent(self, stage: str, seconds: float) -> None:
        """Count the seconds of one of STAGES, or of DEVICE_STAGES."""
        first, total = _STAGE[stage]
        with self._lock:
            self._add(first + bisect_left(BUCKETS, seconds), 1)
            self._add(total, seconds)

    def ways(self, images: Mapping[str, int]) -> None:
        """Count images by WAYS."""
        for way, number in images.items():
            self._change(_WAY[way], number)

    def batch(self, images: int, seconds: float) -> None:
        """Count a batch on the device."""
        first, total = _BATCH
        self._change(first + bisect_left(BATCHES, images), 1)
        self._change(total, images)
        self.spent("run", seconds)

    def device_is(self, *, up: bool) -> None:
        """Set the gauge in this process's row."""
        self._cells[self._start + _DEVICE_UP] = up

    def device_died(self) -> None:
        self._change(_DEVICE_DEATHS, 1)

    def _change(self, cell: int, amount: float) -> None:
        with self._lock:
            self._add(cell, amount)

    def text(self) -> str:
        """The sum of all rows in Prometheus' text format. Buckets are stored separately, and shown cumulative."""
        lines = ["# HELP tvetl_jail Whether a part of the decoders' jail holds.", "# TYPE tvetl_jail gauge"]
        lines += [f'tvetl_jail{{part="{part}"}} {holds:d}' for part, holds in self._jail.items()]
        totals = [sum(self._cells[cell :: len(_SERIES)]) for cell in range(len(_SERIES))]
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
