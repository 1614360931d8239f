"""Requests that wait for a thread are counted, and their waiting time is measured."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tvetl_server.metrics import Metrics
from tvetl_server.serving.worker import CountedThreadPool


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, series
    return float(found[1])


def test_a_request_is_counted_as_waiting_until_it_begins() -> None:
    metrics = Metrics()
    busy, begun = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return busy.wait(60)

    with CountedThreadPool(1, metrics) as threads:
        tasks = [threads.submit(work) for _ in range(4)]
        assert begun.wait(60)
        assert value(metrics.text(), "tvetl_requests_waiting") == 3
        busy.set()
        assert all(task.result(60) for task in tasks)
    text = metrics.text()
    assert value(text, "tvetl_requests_waiting") == 0
    assert value(text, 'tvetl_seconds_count{stage="wait"}') == 4
    assert value(text, 'tvetl_seconds_sum{stage="wait"}') > 0
    with pytest.raises(RuntimeError):
        threads.submit(work)
    assert value(metrics.text(), "tvetl_requests_waiting") == 0


def test_the_waiting_requests_of_a_dead_worker_are_not_counted() -> None:
    metrics = Metrics(rows=2)
    metrics.use_row(1)
    metrics.waits(1)
    assert value(metrics.text(), "tvetl_requests_waiting") == 1
    metrics.clear_in_flight(1)
    assert value(metrics.text(), "tvetl_requests_waiting") == 0


def test_a_server_counts_its_waiting_requests(run_server: Callable[..., Any]) -> None:
    server = run_server()
    for _ in range(3):
        assert server.get("/health").status == 200
    text = server.get("/metrics").body.decode()
    assert value(text, 'tvetl_seconds_count{stage="wait"}') >= 4
    assert value(text, "tvetl_requests_waiting") >= 0
