"""A job's report names every object that failed, with its reason, and no other."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aistore.sdk.utils import expand_braces
from PIL import Image

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.errors import NotFound, ObjectFailed, TimedOut, UsageError

#: Seconds that no job may take here; only a hang would.
LONG = 120


@pytest.fixture
def results(cluster: Cluster) -> Iterator[str]:
    """The name of a bucket that is not there yet, and is deleted afterwards."""
    yield "results"
    cluster.delete_bucket("results")


def test_one_object_is_read_transformed(cluster: Cluster, images: str, crops: str) -> None:
    name = cluster.objects(images)[0]
    with Image.open(io.BytesIO(cluster.get(images, name, crops))) as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))


def test_arguments_reach_the_server(cluster: Cluster, images: str, crops: str) -> None:
    name = cluster.objects(images)[0]
    first, again, other = (cluster.get(images, name, crops, {"seed": 5, "epoch": epoch}) for epoch in (1, 1, 2))
    assert first == again != other


def test_an_object_that_the_etl_refuses_is_told_with_its_code(cluster: Cluster, images: str, crops: str) -> None:
    with pytest.raises(ObjectFailed) as failed:
        cluster.get(images, "photo_1.txt", crops)
    assert (failed.value.code, failed.value.status, failed.value.exit_code) == ("not_an_image", 415, 4)


@pytest.mark.parametrize(("bucket", "name", "etl"), [("images", "none.jpg", ""), ("no-bucket", "x.jpg", "")])
def test_what_is_not_there_is_not_found(cluster: Cluster, images: str, bucket: str, name: str, etl: str) -> None:
    with pytest.raises(NotFound):
        cluster.get(bucket, name, etl)


def test_an_etl_that_is_not_there_is_not_found(cluster: Cluster, images: str, results: str) -> None:
    with pytest.raises(NotFound, match="no-such-etl"):
        cluster.get(images, cluster.objects(images)[0], "no-such-etl")
    with pytest.raises(NotFound, match="no-such-etl"):
        jobs.transform_bucket(cluster, images, results, "no-such-etl")
    with pytest.raises(NotFound):
        cluster.objects(results)  # and no bucket was made for nothing


def test_a_bucket_is_transformed_and_what_failed_is_named(
    cluster: Cluster, images: str, crops: str, results: str, tmp_path: Path
) -> None:
    names = cluster.objects(images)
    seen: list[jobs.JobProgress] = []
    rename = jobs.Rename("t/", {"png": "jpg"})
    job = jobs.transform_bucket(cluster, images, results, crops, rename=rename)
    report = jobs.wait(cluster, job, seen.append, timeout=LONG)

    assert (report.wanted, report.done, report.kept, report.aborted) == (len(names), len(names) - 1, 0, "")
    assert [(error.object, error.code, error.status) for error in report.failed] == [
        ("photo_1.txt", "not_an_image", 415)
    ]
    assert not report.ok
    good = [name for name in names if name != "photo_1.txt"]
    assert cluster.objects(results) == sorted("t/" + name.replace(".png", ".jpg") for name in good)
    assert (seen[-1].done, seen[-1].total) == (len(good), len(names))

    report.write_errors(tmp_path / "errors.jsonl")
    (line,) = (tmp_path / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "object": "photo_1.txt",
        "code": "not_an_image",
        "message": report.failed[0].message,
        "status": 415,
        "size": len(cluster.get(images, "photo_1.txt")),
    }


def test_a_prefix_chooses(cluster: Cluster, images: str, crops: str, results: str) -> None:
    job = jobs.transform_bucket(cluster, images, results, crops, prefix="photo_2")
    report = jobs.wait(cluster, job, timeout=LONG)
    assert report.ok
    assert cluster.objects(results) == [name for name in cluster.objects(images) if name.startswith("photo_2")]


def test_the_gaps_of_a_range_are_no_failures(cluster: Cluster, images: str, crops: str, results: str) -> None:
    job = jobs.transform_objects(cluster, images, results, crops, template="photo_{0..9}.png")
    report = jobs.wait(cluster, job, timeout=LONG)
    present = [name for name in cluster.objects(images) if name.endswith(".png")]
    assert report.ok
    assert cluster.objects(results) == present
    assert len(report.absent) == 10 - len(present)
    assert not {*report.absent} & {*present}


def test_a_name_that_is_not_there_is_a_failure(cluster: Cluster, images: str, crops: str, results: str) -> None:
    names = ["photo_0.png", "photo_1.txt", "gone.jpg"]
    report = jobs.wait(cluster, jobs.transform_objects(cluster, images, results, crops, names=names), timeout=LONG)
    assert [(error.object, error.code) for error in report.failed] == [
        ("gone.jpg", "not_found"),
        ("photo_1.txt", "not_an_image"),
    ]
    assert cluster.objects(results) == ["photo_0.png"]


def test_a_job_told_to_stop_at_an_error_says_that_it_did(
    cluster: Cluster, images: str, crops: str, results: str
) -> None:
    job = jobs.transform_bucket(cluster, images, results, crops, continue_on_error=False)
    report = jobs.wait(cluster, job, timeout=LONG)
    assert "not_an_image" in report.aborted
    assert "photo_1.txt" in [error.object for error in report.failed]
    assert {error.code for error in report.failed} <= {"not_an_image", "not_transformed"}


def test_more_failures_than_aistore_keeps_are_all_named(cluster: Cluster, crops: str, results: str) -> None:
    texts = [f"text_{at:03}.txt" for at in range(300)]  # AIStore keeps 128 a target, and there are two
    cluster.create_bucket("texts")
    for name in texts:
        cluster.put("texts", name, b"no image")
    report = jobs.wait(cluster, jobs.transform_bucket(cluster, "texts", results, crops), timeout=LONG)
    assert [error.object for error in report.failed] == texts
    assert len(cluster.errors(crops, report.job)) < 300
    assert {error.code for error in report.failed} == {"not_an_image"}  # the rest was read again for its reason
    assert {error.size for error in report.failed} == {len(b"no image")}

    report = jobs.wait(cluster, jobs.transform_bucket(cluster, "texts", results, crops), timeout=LONG, reasons=1)
    codes = [error.code for error in report.failed]
    assert [error.object for error in report.failed] == texts
    assert codes.count("unknown") == 300 - 256 - 1


def test_a_wait_that_is_too_long_ends_and_leaves_the_job(script: Any) -> None:
    snap = {"id": "J", "kind": "etl-bck", "start-time": "2026-11-23T03:01:27Z", "end-time": "0001-01-01T00:00:00Z"}
    script.answer = lambda method, path, body: (200, json.dumps({"t1": [snap]}))
    request = jobs.Request("a", "b", "test-etl")
    job = jobs.Job(request, ("J",), {"x.jpg": 1}, ("x.jpg",), ())
    with pytest.raises(TimedOut, match="J"):
        jobs.wait(Cluster(script.endpoint), job, timeout=0.1)
    assert {method for method, path, body in script.asked} == {"GET"}


def test_recorded_errors_of_a_real_cluster_are_read(shared: Path, script: Any) -> None:
    bodies = {}
    for line in (shared / "wire" / "sdk-2.0-client.jsonl").read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        bodies.setdefault(exchange["step"], exchange["response"]["body"].get("text", ""))
    script.answer = lambda method, path, body: (200, bodies["etl-view-job" if "etl" in path else "job-wait"])
    recorded = Cluster(script.endpoint)
    errors = {error.object: (error.code, error.message, error.status) for error in recorded.errors("rec-etl", "J")}
    assert errors["st422.jpg"] == ("recorded 422", "recorded 422", 422)
    assert errors["dbl/slash.jpg"] == ("not_found", "object not found", 202)
    snapshot = recorded.snapshot("J")
    assert (snapshot.done, snapshot.ended, snapshot.aborted) == (3 + 4 + 2 + 1, True, "")


@pytest.mark.parametrize(
    "template",
    ["plain.jpg", "p_{0..4}.jpg", "p_{08..11}.jpg", "p_{0..9..3}.jpg", "a{1..2}-{3..4}.x", "p_{000..100..50}"],
)
def test_a_template_stands_for_the_sdks_names(template: str) -> None:
    assert jobs.expand(template) == list(expand_braces(template))


@pytest.mark.parametrize("template", ["p_{0..4.jpg", "p_{}.jpg", "p_{a..b}.jpg", "p_{4..0}.jpg", "p_{0..4..0}.jpg"])
def test_a_template_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(UsageError):
        jobs.expand(template)


def test_nothing_to_transform_is_said_before_a_job_is_begun(cluster: Cluster, images: str, crops: str) -> None:
    with pytest.raises(UsageError, match="nothing to transform"):
        jobs.transform_bucket(cluster, images, "results", crops, prefix="none-")
    with pytest.raises(UsageError, match="nothing to transform"):
        jobs.transform_objects(cluster, images, "results", crops, template="none_{0..3}.jpg")
    with pytest.raises(UsageError, match="same bucket"):
        jobs.transform_bucket(cluster, images, images, crops)


def test_a_job_warns_of_names_that_aistore_changes_or_cannot_send(
    cluster: Cluster, images: str, crops: str, results: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create_bucket("odd-names")
    for name in ("plain.png", "a%41.png", "b?c.png", "50% off.png", "d#e.png"):
        cluster.put("odd-names", name, cluster.get(images, "photo_0.png"))
    jobs.begin(cluster, jobs.Request("odd-names", results, crops, names=["plain.png"]))
    assert not caplog.messages
    job = jobs.begin(cluster, jobs.Request("odd-names", results, crops))
    never, changed = caplog.messages
    assert "cannot send 2 objects" in never
    assert "'50% off.png' first" in never
    assert "changes the names of 2 objects" in changed
    assert "'a%41.png' first" in changed
    assert [error.object for error in jobs.wait(cluster, job, timeout=LONG).failed] == ["50% off.png", "d#e.png"]
    cluster.delete_bucket("odd-names")


def test_the_number_of_workers_reaches_aistore(
    cluster: Cluster, images: str, crops: str, results: str, script: Any
) -> None:
    script.answer = lambda method, path, body: (200, "J")
    recorded = Cluster(script.endpoint)
    how: dict[str, Any] = {"prepend": "", "extensions": {}, "continue_on_error": True}
    for workers in (0, -1, 7):
        recorded.start_job("a", "b", "test-etl", **how, workers=workers)
        recorded.start_job("a", "b", "test-etl", names=["x"], **how, workers=workers)
    sent = [body["value"].get("num-workers", 0) for _, _, body in script.asked if body]
    assert sent == [0, 0, -1, -1, 7, 7]
    for workers in (-1, 3):
        request = jobs.Request(images, results, crops, workers=workers, again=True)
        assert jobs.wait(cluster, jobs.begin(cluster, request), timeout=LONG).done > 0
    with pytest.raises(UsageError, match="-2 workers"):
        jobs.Request(images, results, crops, workers=-2)
