"""Buckets of other providers, of another cluster and of namespaces: in every command, in jobs and in datasets.

A second stand-in is the backend: what lies there is not in the first one before it is asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.cluster.folders import find_files, put_files
from tvetl.command.cli import app
from tvetl.errors import NotFound, Unavailable, UsageError
from tvetl.local import LocalCluster
from tvetl.notation import bucket, object_of
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

NAMES = [f"p/{at:02}.jpg" for at in range(12)]
#: Buckets that are not ais buckets of the cluster itself, and what their backend calls them.
BUCKETS = {
    "s3://photos": "photos",
    "gs://photos": "photos",
    "ais://@remote/photos": "photos",
    "ais://@remote#team/photos": "ais://#team/photos",
    "ais://#team/photos": "",
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, photographs: list[Path]) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("backend")) as running:
        cluster = Cluster(running.endpoint)
        for name in ("photos", "ais://#team/photos"):
            cluster.create_bucket(name)
            for each in NAMES:
                cluster.put(name, each, photographs[-1].read_bytes())
        yield running


@pytest.fixture(scope="module")
def front(
    backend: LocalCluster, tmp_path_factory: pytest.TempPathFactory, pipeline: Callable[..., Pipeline]
) -> Iterator[LocalCluster]:
    """Two targets, with an ETL for tensors."""
    folder = tmp_path_factory.mktemp("front")
    with LocalCluster(folder, targets=2, remote=backend.endpoint) as running:
        cluster = Cluster(running.endpoint)
        cluster.register(PodSpec("test-tensors", pipeline(8, "npy", 1), start_timeout=60))
        cluster.create_bucket("ais://#team/photos")
        for each in NAMES:
            cluster.put("ais://#team/photos", each, Cluster(backend.endpoint).get("photos", each))
        yield running


@pytest.fixture
def cluster(front: LocalCluster) -> Cluster:
    return Cluster(front.endpoint)


@pytest.mark.parametrize("name", BUCKETS)
def test_objects_are_listed_read_and_transformed(cluster: Cluster, backend: LocalCluster, name: str) -> None:
    there = Cluster(backend.endpoint)
    assert cluster.objects(name) == NAMES and cluster.objects(name, "p/0") == NAMES[:10]
    assert set(cluster.sizes(name).values()) == {len(there.get("photos", NAMES[0]))}
    assert cluster.get(name, NAMES[3]) == there.get("photos", NAMES[3])
    view = cluster.get(name, NAMES[4], "test-tensors")
    assert view == cluster.get("ais://#team/photos", NAMES[4], "test-tensors"), "drawn by bucket's and object's name"
    with pytest.raises(NotFound):
        cluster.get(name, "none.jpg", "test-tensors")
    with pytest.raises(NotFound):
        cluster.objects(name.replace("photos", "none"))


@pytest.mark.parametrize("destination", ["results", "s3://results", "ais://@remote#team/results", "ais://#new/results"])
def test_jobs_transform_into_and_out_of_them(cluster: Cluster, backend: LocalCluster, destination: str) -> None:
    there = Cluster(backend.endpoint)
    there.delete_bucket("results")
    there.create_bucket("results")  # which for other providers is nobody's of ours
    request = jobs.Request("s3://photos", destination, "test-tensors", rename=jobs.Rename("", {"jpg": "npy"}))
    job = jobs.begin(cluster, request)
    report = jobs.wait(cluster, job, timeout=120)
    assert report.ok and report.done == 12
    assert cluster.objects(destination) == [name.replace("jpg", "npy") for name in NAMES]
    expected = cluster.get("s3://photos", NAMES[0], "test-tensors")
    assert cluster.get(destination, "p/00.npy") == expected
    if destination in ("s3://results", "ais://@remote#team/results"):
        assert there.get(destination.replace("s3://", "").replace("@remote", ""), "p/00.npy") == expected
    again = jobs.begin(cluster, jobs.Request("aws://photos", destination, "test-tensors", rename=request.rename))
    assert again.total == 0, "by the other name of the same provider"
    ranged = jobs.transform_objects(cluster, "s3://photos", destination, "test-tensors", template="p/{00..20}.jpg")
    report = jobs.wait(cluster, ranged, timeout=120)
    assert report.ok and report.done == 12 and len(report.absent) == 9


@pytest.mark.parametrize("name", BUCKETS)
def test_datasets_read_them(front: LocalCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_sdk: list[str] = []
    whole = Cluster.get

    def get(self: Cluster, bucket: str, *rest: Any) -> bytes:
        by_sdk.extend([bucket] if self.endpoint == front.endpoint else [])  # the backend is read so, too
        return whole(self, bucket, *rest)

    monkeypatch.setattr(Cluster, "get", get)
    batches = pytest.importorskip("tvetl.datasets", exc_type=ImportError).TransformedBatches
    seen = [n for _, names in batches(Cluster(front.endpoint), name, "test-tensors", batch=3) for n in names]
    assert sorted(seen) == NAMES
    assert bool(by_sdk) == ("@remote" in name), "straight from the targets, where a place can be computed"


def test_commands_take_them(
    front: LocalCluster, tvetl: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
) -> None:
    env = {**os.environ, "AIS_ENDPOINT": front.endpoint}

    def run(*words: str) -> bytes:
        done = tvetl(*words, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("get", "ais://@remote#team/photos/p/01.jpg", "--etl", "test-tensors", "-o", "a.npy")
    run("get", "s3://photos", "files", "--prefix", "p/0")
    assert sorted(path.name for path in (tmp_path / "files" / "p").iterdir()) == [f"{at:02}.jpg" for at in range(10)]
    run("put", "files", "ais://@remote#team/copied")
    report = json.loads(run("transform", "ais://@remote#team/copied", "made", "--etl", "test-tensors", "--json"))
    assert report["done"] == 10
    for wrong in ("s3://photos", "ais://@remote#team/photos", "s3://"):
        told = CliRunner().invoke(app, ["get", wrong, "-o", str(tmp_path / "x")])
        assert told.exit_code == 2 and "does not name an object" in told.stderr


def test_what_the_backend_says_is_told(
    tmp_path: Path, photographs: list[Path], pipeline: Callable[..., Pipeline]
) -> None:
    with LocalCluster(tmp_path / "backend") as backend:
        Cluster(backend.endpoint).create_bucket("photos")
        for name in NAMES:
            Cluster(backend.endpoint).put("photos", name, photographs[-1].read_bytes())
        with LocalCluster(tmp_path / "front", remote=backend.endpoint) as front:
            cluster = Cluster(front.endpoint)
            cluster.register(PodSpec("test-tensors", pipeline(8, "npy", 1), start_timeout=60))
            assert cluster.get("s3://photos", NAMES[0], "test-tensors")
            backend.stop()
            for read in (
                lambda: cluster.get("s3://photos", NAMES[1], "test-tensors"),
                lambda: cluster.objects("s3://photos"),
                lambda: cluster.get("s3://photos", NAMES[1]),
            ):
                with pytest.raises(Unavailable, match="the backend failed: nobody answers"):
                    read()


def test_names_that_aistore_would_change_do_not_go_to_another_cluster(
    cluster: Cluster, backend: LocalCluster, tmp_path: Path
) -> None:
    """A real one stored q?x.jpg as q, pct%41.jpg as pctA.jpg, and said that all was well."""
    Cluster(backend.endpoint).create_bucket("named")
    for name in ("a.jpg", "q?x.jpg", "pct%41.jpg", "ü#.jpg", "50% off.jpg"):
        (tmp_path / name).write_bytes(b"a")
    found = find_files([tmp_path], any_name=True)
    report = put_files(cluster, found, "ais://@remote/named")
    assert (report.copied, {error.code for error in report.failed}, len(report.failed)) == (1, {"bad_name"}, 4)
    assert cluster.objects("ais://@remote/named") == ["a.jpg"]
    cluster.create_bucket("named")
    assert put_files(cluster, found, "named").copied == 5


def test_a_provider_that_is_none_is_told(cluster: Cluster) -> None:
    for name in ("ftp://photos", "ht://photos"):
        with pytest.raises(UsageError, match="is no provider"):
            cluster.objects(name)


@pytest.mark.parametrize(
    ("text", "url", "path"),
    [
        ("photos", "ais://photos", "ais/@#/photos"),
        ("ais://photos/", "ais://photos", "ais/@#/photos"),
        ("s3://photos", "aws://photos", "aws/@#/photos"),
        ("gs://photos", "gcp://photos", "gcp/@#/photos"),
        ("ais://@other/photos", "ais://@other/photos", "ais/@other#/photos"),
        ("ais://#team/photos", "ais://#team/photos", "ais/@#team/photos"),
        ("ais://@other#team/photos/", "ais://@other#team/photos", "ais/@other#team/photos"),
        ("ais://@#/photos", "ais://photos", "ais/@#/photos"),
    ],
)
def test_a_bucket_has_one_url(text: str, url: str, path: str) -> None:
    assert (str(bucket(text)), bucket(text).path, bucket(url)) == (url, path, bucket(text))
    assert object_of(f"{text.rstrip('/')}/train/a.jpg") == (text.rstrip("/"), "train/a.jpg")


@pytest.mark.parametrize("text", ["", "/", "a/b", "s3://", "s3://a/b", "ais://@other#team", "ais://@a@b/c", "S3://a"])
def test_what_is_no_bucket_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a bucket"):
        bucket(text)
