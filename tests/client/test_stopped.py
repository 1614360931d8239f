"""An ETL that was stopped, or ended with one of its pods, is told from one that does not exist: since when, and why."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.cluster.snapshots import stopped
from tvetl.errors import EtlStopped, NotFound
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

#: A transformer that takes its time, and whose process ends of an object called die.
MORTAL = """
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.send_header("Content-Length", "0"), self.end_headers()
    def do_PUT(self):
        if "/die" in self.path:
            print("the last line, with \\"quotes\\"", flush=True)
            os._exit(7)
        time.sleep(0.05)
        self.send_response(200), self.send_header("Content-Length", "1"), self.end_headers(), self.wfile.write(b"x")
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
SINCE = r"is stopped, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


@pytest.fixture
def mortal(tmp_path: Path, pipeline: Callable[..., Pipeline]) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "root", targets=2, allow={"mortal:1": [sys.executable, "-c", MORTAL]}) as running:
        cluster = Cluster(running.endpoint)
        cluster.create_bucket("many")
        for at in range(300):
            cluster.put("many", f"{at:03}", b"x")
        cluster.put("many", "die", b"x")
        cluster.register(PodSpec("test-mortal", pipeline(), "mortal:1", start_timeout=60))
        yield running


def begin(cluster: Cluster) -> str:
    return cluster.start_job("many", "out", "test-mortal", prepend="", extensions={}, continue_on_error=True)


def asked(cluster: Cluster) -> dict[str, Callable[[], object]]:
    """All that names an ETL which must run for it."""
    return {
        "show": lambda: cluster.show("test-mortal"),
        "logs": lambda: cluster.logs("test-mortal"),
        "errors": lambda: cluster.errors("test-mortal"),
        "object_seconds": lambda: cluster.object_seconds("test-mortal"),
        "get": lambda: cluster.get("many", "001", "test-mortal"),
        "job": lambda: begin(cluster),
    }


def test_a_pod_that_ends_in_the_middle_of_a_job_is_told_with_its_target_and_its_last_line(
    mortal: LocalCluster, tvetl: Any
) -> None:
    cluster = Cluster(mortal.endpoint)
    assert cluster.stopped("test-mortal") is None
    job = begin(cluster)
    with pytest.raises(Exception, match="die"):
        cluster.get("many", "die", "test-mortal")
    deadline = time.monotonic() + 60
    while not (now := cluster.snapshot(job)).ended and time.monotonic() < deadline:
        time.sleep(0.05)
    assert now.aborted == "IC(notifications) abort", "AIStore's own words, which say nothing"
    why = cluster.stopped("test-mortal")
    assert why is not None
    pattern = rf"the ETL 'test-mortal' {SINCE}: its pod on the target \w+ ended: the last line, with \"quotes\""
    assert re.fullmatch(pattern, why.message), why.message
    assert "tvetl start test-mortal" in why.hint
    for name, ask in asked(cluster).items():
        with pytest.raises(EtlStopped) as told:
            ask()
        assert told.value.message == why.message, name
    done = tvetl("logs", "test-mortal", "-e", mortal.endpoint)
    assert done.returncode == 1
    assert why.message in done.stderr.decode() and b"does not exist" not in done.stderr
    cluster.start("test-mortal")
    assert cluster.stopped("test-mortal") is None
    assert cluster.get("many", "001", "test-mortal") == b"x"


def test_a_jobs_report_says_that_its_etl_ended_where_and_what_to_do(mortal: LocalCluster) -> None:
    cluster = Cluster(mortal.endpoint)
    job = jobs.transform_bucket(cluster, "many", "out", "test-mortal")
    with pytest.raises(Exception, match="die"):
        cluster.get("many", "die", "test-mortal")
    report = jobs.wait(cluster, job, timeout=60)
    assert re.search(rf"{SINCE}: its pod on the target \w+ ended: the last line", report.aborted), report.aborted
    assert "`tvetl start test-mortal`" in report.aborted
    cluster.delete("many", "die")
    cluster.start("test-mortal")
    again = jobs.wait(cluster, jobs.transform_bucket(cluster, "many", "out", "test-mortal"), timeout=60)
    assert (again.ok, again.done + again.kept) == (True, 300)


def test_a_job_over_chosen_objects_says_so_too_though_aistore_goes_on_with_it(mortal: LocalCluster) -> None:
    cluster = Cluster(mortal.endpoint)
    names = ("die", *(f"{at:03}" for at in range(40)))
    job = jobs.begin(cluster, jobs.Request("many", "out", "test-mortal", names=names))
    report = jobs.wait(cluster, job, timeout=60)
    assert re.match(rf"the ETL 'test-mortal' {SINCE}: its pod on the target \w+ ended: the last line", report.aborted)
    assert {error.code for error in report.failed} == {"not_transformed"}
    assert "die" in {error.object for error in report.failed}


def test_an_etl_that_a_user_stopped_is_told_as_such_and_one_that_is_not_there_too(mortal: LocalCluster) -> None:
    cluster = Cluster(mortal.endpoint)
    cluster.stop("test-mortal")
    for name, ask in asked(cluster).items():
        with pytest.raises(EtlStopped) as told:
            ask()
        assert re.fullmatch(rf"the ETL 'test-mortal' {SINCE}", told.value.message), (name, told.value.message)
    cluster.unregister("test-mortal")
    for name, ask in asked(cluster).items():
        with pytest.raises(NotFound) as told:
            ask()
        assert not isinstance(told.value, EtlStopped), name
    assert cluster.stopped("test-mortal") is None


def test_an_object_that_is_not_there_is_no_stopped_etl(mortal: LocalCluster) -> None:
    with pytest.raises(NotFound) as told:
        Cluster(mortal.endpoint).get("many", "test-mortal", "test-mortal")
    assert not isinstance(told.value, EtlStopped)
    assert "many/test-mortal" in told.value.message


def snap(name: str, **fields: Any) -> dict[str, Any]:
    times = {"start-time": "2026-11-23T02:59:39.478647886Z", "end-time": "0001-01-01T00:00:00Z"}
    what = {"id": "etl-1", "ctlmsg": f"init-spec[{name}-hpush://], timeout=(5m0s, 45s)", "abort-err": ""}
    return {**times, **what, **fields}


ENDED = {"end-time": "2026-11-23T03:00:01.5Z"}
POD = "container: server, state: Terminated, reason: OOMKilled, message: , exitCode: 137"
KILLED = f'[pod="crops-1-t1",pod_status={json.dumps(POD)}] {POD}'


@pytest.mark.parametrize(
    ("stage", "runs", "words"),
    [
        ("Running", None, None),
        ("Running", {"t1": [snap("crops-1")]}, None),
        ("Running", {"t1": [snap("crops-10", **ENDED)], "t2": None}, None),  # another's
        ("Aborted", None, "the ETL 'crops-1' is stopped"),
        ("Aborted", {"t1": []}, "the ETL 'crops-1' is stopped"),
        ("Initializing", None, "the ETL 'crops-1' is starting"),
        ("Aborted", {"t1": [snap("crops-1", **ENDED)]}, "the ETL 'crops-1' is stopped, since 2026-11-23 03:00:01 UTC"),
        (
            "Running",  # not yet, but its job says so
            {"t2": [snap("crops-1", **ENDED, **{"abort-err": "IC(notifications) abort"})],
             "t1": [snap("crops-1", **ENDED, **{"abort-err": KILLED})]},
            "the ETL 'crops-1' is stopped, since 2026-11-23 03:00:01 UTC: its pod on the target t1 ended: "
            "its container ended with status 137 (OOMKilled)",
        ),
        (
            "Aborted",
            {"t1": [snap("crops-1", **ENDED, **{"abort-err": "t[t1]: targets have changed, aborting..."})]},
            "the ETL 'crops-1' is stopped, since 2026-11-23 03:00:01 UTC: targets have changed, aborting...",
        ),
        (
            "Running",  # started again since
            {"t1": [snap("crops-1", **ENDED, **{"abort-err": KILLED}),
                    snap("crops-1", id="etl-2", **{"start-time": "2026-11-23T04:00:00Z"})]},
            None,
        ),
    ],
)  # fmt: skip
def test_what_aistore_tells_of_an_etls_own_job_is_read(stage: str, runs: Any, words: str | None) -> None:
    told = stopped("crops-1", stage, runs)
    assert (told and told.message) == words
