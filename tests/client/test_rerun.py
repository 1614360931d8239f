"""The same job again does what is missing or was made by another pipeline, and nothing else."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.errors import ClusterError, UsageError
from tvetl.jobs import provenance
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

#: Seconds that no job may take here; only a hang would.
LONG = 120


@pytest.fixture
def results(cluster: Cluster) -> Iterator[str]:
    """The name of a bucket that is not there yet, and is deleted afterwards."""
    yield "rerun-results"
    cluster.delete_bucket("rerun-results")


@pytest.fixture(scope="module")
def larger(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[str]:
    """Another pipeline than ``crops``."""
    cluster.register(PodSpec("test-larger", pipeline(size=40, seed=1), start_timeout=60))
    yield "test-larger"
    cluster.unregister("test-larger")


def run(cluster: Cluster, source: str, destination: str, etl: str, **options: bool) -> jobs.Report:
    return jobs.wait(cluster, jobs.transform_bucket(cluster, source, destination, etl, **options), timeout=LONG)


def versions(cluster: Cluster, bucket: str) -> dict[str, int]:
    """How often each object was written."""
    return {name: int(tag.partition(":")[0]) for name, tag in cluster.tags(bucket).items()}


def test_what_is_there_is_kept_and_what_is_missing_is_made(
    cluster: Cluster, images: str, crops: str, results: str
) -> None:
    first = run(cluster, images, results, crops)
    cluster._bucket(results).object("photo_0.png").delete()
    again = run(cluster, images, results, crops)
    assert (again.kept, again.done, again.wanted) == (first.done - 1, 1, first.wanted)
    assert [error.object for error in again.failed] == ["photo_1.txt"]  # tried again
    assert set(versions(cluster, results).values()) == {1}


def test_what_another_pipeline_made_is_made_anew_and_its_own_is_known_again(
    cluster: Cluster, images: str, crops: str, larger: str, results: str
) -> None:
    good = run(cluster, images, results, crops).done
    small = cluster.get(results, "photo_0.png")
    assert (run(cluster, images, results, larger).done, run(cluster, images, results, larger).done) == (good, 0)
    assert cluster.get(results, "photo_0.png") != small
    # A part of it back by the first pipeline: the other part stays the second's.
    back = jobs.transform_bucket(cluster, images, results, crops, prefix="photo_0")
    assert jobs.wait(cluster, back, timeout=LONG).done == 1
    assert cluster.get(results, "photo_0.png") == small
    once_more = run(cluster, images, results, larger)
    assert (once_more.done, once_more.kept) == (1, good - 1)


def test_again_makes_all_of_it_anew(cluster: Cluster, images: str, crops: str, results: str) -> None:
    good = run(cluster, images, results, crops).done
    assert run(cluster, images, results, crops, again=True).done == good
    assert set(versions(cluster, results).values()) == {2}
    assert run(cluster, images, results, crops).done == 0


def test_a_bucket_that_was_deleted_and_made_again_is_another(
    cluster: Cluster, images: str, crops: str, results: str
) -> None:
    run(cluster, images, results, crops)
    cluster.delete_bucket(results)
    cluster.create_bucket(results)
    cluster.put(results, "photo_0.png", b"by another hand")
    with pytest.raises(UsageError, match=r"'photo_0\.png'.*no record"):
        run(cluster, images, results, crops)
    cluster.delete(results, "photo_0.png")
    assert run(cluster, images, results, crops).kept == 0
    assert len(cluster.objects(provenance.BUCKET, f"ais:{results}<")) == 1  # and that of the first bucket is deleted


def test_results_of_other_names_have_a_record_of_their_own(
    cluster: Cluster, images: str, crops: str, larger: str, results: str
) -> None:
    good = run(cluster, images, results, crops).done
    rename = jobs.Rename("t/", {"png": "jpg"})
    job = jobs.transform_bucket(cluster, images, results, larger, rename=rename)
    assert jobs.wait(cluster, job, timeout=LONG).done == good
    assert run(cluster, images, results, crops).kept == good


def test_the_records_lie_beside_the_results_and_not_among_them(
    cluster: Cluster, images: str, crops: str, results: str
) -> None:
    made = run(cluster, images, results, crops)
    assert not [name for name in cluster.objects(results) if not name.startswith("photo_")]
    ((key, record),) = provenance.Records(cluster, results).load()
    assert (record.source, record.digest) == (f"ais://{images}", provenance.digest_of(cluster.show(crops)))
    assert (len(record.results), len(record.origins), record.tags) == (made.wanted, made.wanted, None)
    data = cluster.get(provenance.BUCKET, key)
    for spoilt in (data.replace(b'"version": 2', b'"version": 99'), data[:-1], b"", b"[1]\n"):
        cluster.put(provenance.BUCKET, key, spoilt)
        with pytest.raises(ClusterError, match=re.escape(key)):
            run(cluster, images, results, crops)
    provenance.forget(cluster, key)
    provenance.forget(cluster, key)  # which is no error


def test_a_dry_run_estimates_and_stores_nothing(cluster: Cluster, images: str, crops: str, results: str) -> None:
    request = jobs.Request(images, results, crops)
    found = jobs.estimate(cluster, request)
    names = cluster.objects(images)
    assert (found.objects, found.kept, found.sample) == (len(names), 0, len(names))
    assert [error.object for error in found.failed] == ["photo_1.txt"]
    assert found.seconds is not None
    assert found.seconds > 0
    assert results not in [bucket.name for bucket in cluster._reads.cluster().list_buckets()]
    assert len(jobs.estimate(cluster, request, sample=3).failed) <= 3
    assert jobs.estimate(cluster, request, sample=3).sample <= 3

    run(cluster, images, results, crops)
    left = jobs.estimate(cluster, request)
    assert (left.objects, left.kept) == (1, len(names) - 1)  # the one that fails
    stored = sum(cluster.sizes(results).values())
    assert found.bytes is not None
    assert abs(found.bytes - stored) <= 1  # a sample of all of them is exact


def test_an_errors_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    for text in ("", "no json\n", '{"code": "x"}\n', "[1]\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError):
            jobs.failed_names(path)


#: A transformer of a few objects a second.
SLOW = """
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.send_header("Content-Length", "0"), self.end_headers()
    def do_PUT(self):
        time.sleep(0.1)
        self.send_response(200), self.send_header("Content-Length", "1"), self.end_headers(), self.wfile.write(b"x")
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def slow(tmp_path: Path, pipeline: Callable[..., Pipeline]) -> Iterator[Cluster]:
    """A cluster with 40 objects in ``many`` and the ETLs test-slow and slow-other, which take a second for them."""
    with LocalCluster(tmp_path / "root", allow={"slow:1": [sys.executable, "-c", SLOW]}) as running:
        cluster = Cluster(running.endpoint)
        cluster.create_bucket("many")
        for at in range(40):
            cluster.put("many", f"{at:02}", b"x")
        cluster.register(PodSpec("test-slow", pipeline(), "slow:1", start_timeout=60))
        cluster.register(PodSpec("slow-other", pipeline(size=9), "slow:1", start_timeout=60))
        yield cluster


def test_a_job_found_at_work_is_waited_for_and_what_it_leaves_is_done(slow: Cluster) -> None:
    jobs.transform_bucket(slow, "many", "out", "test-slow", prefix="0")  # and its client is gone
    job = jobs.transform_bucket(slow, "many", "out", "test-slow")
    assert job.found
    seen: list[jobs.JobProgress] = []
    report = jobs.wait(slow, job, seen.append, timeout=LONG)
    assert report.ok
    assert report.done + report.kept == 40
    assert set(versions(slow, "out").values()) == {1}
    assert all(now.done <= now.total for now in seen)


def test_a_job_of_another_pipeline_at_work_is_not_mixed_with(slow: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    first = jobs.transform_bucket(slow, "many", "out", "test-slow")
    monkeypatch.setattr(sys.modules["tvetl.jobs.begin"], "_OTHERS", 0.1)
    with pytest.raises(ClusterError, match=first.id):
        jobs.transform_bucket(slow, "many", "out", "slow-other")
    assert jobs.wait(slow, first, timeout=LONG).ok
    assert jobs.wait(slow, jobs.transform_bucket(slow, "many", "out", "slow-other"), timeout=LONG).done == 40


def test_an_interrupt_leaves_the_job_or_stops_it(slow: Cluster) -> None:
    def interrupted(now: jobs.JobProgress) -> None:
        if now.done:
            raise KeyboardInterrupt

    job = jobs.transform_bucket(slow, "many", "out", "test-slow")
    with pytest.raises(KeyboardInterrupt):
        jobs.wait(slow, job, interrupted, timeout=LONG)
    assert slow.transforming("many", "out")
    assert jobs.wait(slow, jobs.transform_bucket(slow, "many", "out", "test-slow"), timeout=LONG).ok

    job = jobs.transform_bucket(slow, "many", "out2", "test-slow")
    with pytest.raises(KeyboardInterrupt):
        jobs.wait(slow, job, interrupted, timeout=LONG, on_interrupt="stop")
    deadline = time.monotonic() + LONG
    while slow.transforming("many", "out2"):
        assert time.monotonic() < deadline
    assert 0 < len(slow.objects("out2")) < 40
    assert jobs.wait(slow, jobs.transform_bucket(slow, "many", "out2", "test-slow"), timeout=LONG).ok
    assert set(versions(slow, "out2").values()) == {1}
