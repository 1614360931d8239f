"""What waits for a free thread is counted, and how long it waited."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tvetl_server.metrics import Metrics, Threads


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, series
    return float(found[1])


def test_what_waits_for_a_thread_is_counted_until_it_begins() -> None:
    counts = Metrics()
    busy, begun = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return busy.wait(60)

    with Threads(1, counts) as threads:
        tasks = [threads.submit(work) for _ in range(4)]
        assert begun.wait(60)
        assert value(counts.text(), "tvetl_requests_waiting") == 3
        busy.set()
        assert all(task.result(60) for task in tasks)
    text = counts.text()
    assert value(text, "tvetl_requests_waiting") == 0
    assert value(text, 'tvetl_seconds_count{stage="wait"}') == 4
    assert value(text, 'tvetl_seconds_sum{stage="wait"}') > 0
    with pytest.raises(RuntimeError):
        threads.submit(work)
    assert value(counts.text(), "tvetl_requests_waiting") == 0


def test_what_a_dead_worker_left_waiting_is_forgotten() -> None:
    counts = Metrics(rows=2)
    counts.use_row(1)
    counts.waits(1)
    assert value(counts.text(), "tvetl_requests_waiting") == 1
    counts.clear_in_flight(1)
    assert value(counts.text(), "tvetl_requests_waiting") == 0


def test_a_server_counts_the_waits_of_its_requests(run_server: Callable[..., Any]) -> None:
    server = run_server()
    for _ in range(3):
        assert server.get("/health").status == 200
    text = server.get("/metrics").body.decode()
    assert value(text, 'tvetl_seconds_count{stage="wait"}') >= 4
    assert value(text, "tvetl_requests_waiting") >= 0
