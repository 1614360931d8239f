"""How many accelerators one core feeds: emulated ones, which take a batch, compute for a while, and take the next.

Their appetite is that of MLPerf Storage's resnet50 on an H100: 400 images every 0.224 s. This is no MLPerf result: no
storage is measured, the images are canned answers, and an accelerator is a sleep.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from benchmarks.training import canned

from tvetl.bench.apart import LIVE_CLOCKS, Apart, apart, clock
from tvetl.bench.sides import Task
from tvetl.cluster import Cluster
from tvetl.datasets import TransformedBatches
from tvetl.datasets.reader import pipeline_of
from tvetl.errors import TvetlError, UsageError

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

#: Images a batch, and seconds that it is computed on: MLPerf Storage's resnet50_h100.
BATCH, COMPUTING = 400, 0.224
#: Of its time an accelerator is to compute at least so much: MLPerf Storage's own limit for resnet50.
BUSY = 0.90
#: Seconds that nothing may come of one of them; and how many each takes before it is watched, so that neither the
#: start nor what was read ahead meanwhile counts.
_START, _BEFORE = 60.0, 4


@dataclass(frozen=True)
class Fed:
    """So many at once: the least share of its time that one of them computed, and what the two cores did meanwhile."""

    accelerators: int
    least_busy: float
    images_per_second: float
    #: CPU seconds a second: of all consumers together, which share one core, and of the server, which has another.
    consumers_cpu: float
    server_cpu: float

    @property
    def enough(self) -> bool:
        return self.least_busy >= BUSY


def feed(cluster: Cluster, bucket: str, name: str, etl: str, *, seconds: float = 6.0, most: int = 64) -> list[Fed]:
    """Each number of accelerators that was tried, in order: doubled until they starve, then halved between.

    Each for ``seconds``, and no more than ``most``. ``name`` is the object whose transformed answer is sent. Raises
    UsageError where there are no two cores.
    """
    cores = sorted(os.sched_getaffinity(0)) if LIVE_CLOCKS else []
    if len(cores) < 2:
        raise UsageError("one core is for the accelerators and another for the server: there are no two here")
    pipeline = pipeline_of(cluster, etl)
    assert pipeline is not None
    recorded = canned.record(cluster, bucket, name, etl, pipeline, pipeline.seed or 0)
    with apart(canned.serve, recorded) as server:
        os.sched_setaffinity(server.pid, cores[:1])
        task = Task(str(server.receive()), bucket, etl, (), pipeline.seed or 0, BATCH, 0)
        with apart(_consume, task, seconds, cores[1], server.pid) as consumers:
            return _search(lambda count: _ask(consumers, count), most)


def _ask(consumers: Apart, count: int) -> Fed:
    consumers.send(count)
    fed = consumers.receive()
    assert isinstance(fed, Fed)
    return fed


def _search(tried: Callable[[int], Fed], most: int) -> list[Fed]:
    """Double until there are too many, then halve between the last two."""
    found: list[Fed] = []
    fed, starving = 0, most + 1
    while starving - fed > 1:
        count = min(max(1, 2 * fed), most) if starving > most else (fed + starving) // 2
        found.append(tried(count))
        fed, starving = (count, starving) if found[-1].enough else (fed, count)
    return sorted(found, key=lambda one: one.accelerators)


# In the consumers' processes


@dataclass(frozen=True)
class _Consumed:
    busy: float
    images: int
    seconds: float
    cpu: float


def _consume(connection: Connection, task: Task, seconds: float, core: int, server: int) -> None:
    """Answer each number of accelerators asked for: fork them, all on one core, and wait for what they tell."""
    os.sched_setaffinity(0, [core])
    while True:
        connection.send(_run(task, seconds, connection.recv(), server))


def _run(task: Task, seconds: float, count: int, server: int) -> Fed:
    fork = multiprocessing.get_context("fork")
    begin, results = fork.Barrier(count + 1), fork.Queue()
    processes = [
        fork.Process(target=_accelerate, args=(task, seconds, begin, results), daemon=True) for _ in range(count)
    ]
    try:
        for process in processes:
            process.start()
        begin.wait(_START)
        began, cpu = time.perf_counter(), clock(server)
        told: list[_Consumed] = [results.get(timeout=_START) for _ in processes]
        server_cpu = (clock(server) - cpu) / (time.perf_counter() - began)
    except (threading.BrokenBarrierError, queue.Empty):
        raise TvetlError(f"one of {count} accelerators had no batch within {_START:.0f} s") from None
    finally:
        for process in processes:
            process.kill()
            process.join()
    rate, used = sum(one.images / one.seconds for one in told), sum(one.cpu / one.seconds for one in told)
    return Fed(count, min(one.busy for one in told), rate, used, server_cpu)


def _accelerate(task: Task, seconds: float, begin: Barrier, results: Queue[_Consumed]) -> None:
    """Take a batch, compute, take the next, and tell how it went after the first few."""
    batches = 10 + _BEFORE + int(seconds / COMPUTING)  # more than it can take in that time
    dataset = TransformedBatches(
        Cluster(task.endpoint), task.bucket, task.etl,
        names=[f"{at:06d}" for at in range(batches * task.batch)], seed=task.seed, batch=task.batch, shuffle=False,
    )  # fmt: skip
    given = iter(dataset)
    try:
        batch = next(given)
    except BaseException:
        begin.abort()
        raise
    begin.wait(_START)
    began, cpu, taken = 0.0, 0.0, -_BEFORE
    while taken < 1 or time.perf_counter() - began < seconds:
        if taken == 0:
            began, cpu = time.perf_counter(), time.process_time()
        time.sleep(COMPUTING)
        batch = next(given)
        taken += 1
    del batch
    took = time.perf_counter() - began
    results.put(_Consumed(taken * COMPUTING / took, taken * task.batch, took, time.process_time() - cpu))
