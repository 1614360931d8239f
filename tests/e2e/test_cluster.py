"""What people do with a cluster, on any: the stand-in, or a real AIStore where AIS_ENDPOINT names one (`make e2e`).

What goes over a connection of another kind with TLS or tokens is marked ``every_way``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aistore.sdk import Client
from aistore.sdk.etl import ETLConfig

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.command.doctor import examine
from tvetl.errors import NameTaken, NotFound, ObjectFailed, RegistrationError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline, parse_arguments
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

Bucket = Callable[[str], str]
StartEtl = Callable[..., str]
#: What people call their objects. Not here: # and ?, which AIStore does not escape on the way to a transformer.
NAMES = ("a.jpg", "dir/b c.jpg", "uni/ü-猫.jpg", "plus+amp&eq=.jpg", "dbl//slash.jpg")


def here(pipeline: Pipeline, data: bytes, name: str, arguments: dict[str, Any] | None = None) -> bytes:
    """The same transform in this process: the bytes that the cluster must give."""
    return Engine(pipeline, Limits()).transform(data, name, parse_arguments(arguments)).body


def fill(cluster: Cluster, bucket: str, data: bytes, names: tuple[str, ...] | list[str]) -> None:
    for name in names:
        cluster.put(bucket, name, data)


def targets(cluster: Cluster) -> int:
    return len(Client(cluster.endpoint).cluster().get_info().tmap)


@pytest.mark.every_way
def test_the_doctor_finds_nothing_that_stands_in_the_way(endpoint: str) -> None:
    assert [finding for finding in examine(endpoint) if finding.level == "fail"] == []


def test_registering_twice_is_once_and_a_name_has_one_meaning(
    cluster: Cluster, etl: StartEtl, pod: Callable[..., PodSpec], pipeline: Callable[..., Pipeline]
) -> None:
    name = etl("names")
    again = cluster.register(pod("names"))
    assert again.reused and again.name == name
    with pytest.raises(NameTaken, match="other pipeline"):
        cluster.register(pod("names", pipeline({"op": "CenterCrop", "size": 8})))
    assert [row.stage for row in cluster.etls() if row.name == name] == ["Running"]
    shown = cluster.show(name)
    assert shown and set(shown.differences(pod("names").container)) <= {"AIS_CLIENT_CA"}, "which TLS needs"
    assert any("Pipeline" in log for log in cluster.logs(name).values())


@pytest.mark.every_way
def test_an_object_read_through_an_etl_is_what_the_engine_makes_of_it(
    cluster: Cluster, etl: StartEtl, bucket: Bucket, pipeline: Callable[..., Pipeline], photograph: bytes
) -> None:
    source, name = bucket("src"), etl("reads")
    fill(cluster, source, photograph, NAMES)
    for each in NAMES:
        assert cluster.get(source, each, name) == here(pipeline(), photograph, f"{source}/{each}")
    arguments = {"seed": 3, "epoch": 2, "format": "jpeg", "quality": 60}
    expected = here(pipeline(), photograph, f"{source}/a.jpg", arguments)
    assert cluster.get(source, "a.jpg", name, arguments) == expected != cluster.get(source, "a.jpg", name)
    reader = Client(cluster.endpoint).bucket(source).object("a.jpg").get_reader(etl=ETLConfig(name, arguments))
    assert reader.read_all() == expected, "and by the SDK itself"


def test_every_common_kind_of_image_is_read(
    cluster: Cluster, etl: StartEtl, bucket: Bucket, pipeline: Callable[..., Pipeline], photographs: list[Path]
) -> None:
    source, name = bucket("src"), etl("kinds")
    for path in photographs:
        cluster.put(source, path.name, path.read_bytes())
        expected = here(pipeline(), path.read_bytes(), f"{source}/{path.name}")
        assert cluster.get(source, path.name, name) == expected


def test_tensors_arrive_as_tensors(
    cluster: Cluster, etl: StartEtl, bucket: Bucket, pipeline: Callable[..., Pipeline], photograph: bytes
) -> None:
    steps = ({"op": "RandomResizedCrop", "size": 32}, {"op": "ToTensor"})
    source, name = bucket("src"), etl("tensors", pipeline(*steps, format="npy"))
    cluster.put(source, "a.jpg", photograph)
    tensor = np.load(io.BytesIO(cluster.get(source, "a.jpg", name)))
    assert tensor.shape == (3, 32, 32) and tensor.dtype == np.float32


@pytest.mark.every_way
def test_what_cannot_be_transformed_is_refused_with_its_reason(
    cluster: Cluster, etl: StartEtl, bucket: Bucket, photograph: bytes
) -> None:
    source, name = bucket("src"), etl("errors")
    cluster.put(source, "text.jpg", b"This is no photograph.\n")
    cluster.put(source, "cut.jpg", photograph[: len(photograph) // 3])
    for object_name, code, status in (("text.jpg", "not_an_image", 415), ("cut.jpg", "damaged_image", 422)):
        with pytest.raises(ObjectFailed) as refused:
            cluster.get(source, object_name, name)
        assert (refused.value.code, refused.value.status) == (code, status)
    with pytest.raises(ObjectFailed) as refused:
        cluster.get(source, "cut.jpg", name, {"format": "jpg2000"})
    assert (refused.value.code, refused.value.status) == ("bad_arguments", 400)
    with pytest.raises(NotFound):
        cluster.get(source, "nope.jpg", name)


@pytest.mark.every_way
def test_a_bucket_job_transforms_all_and_names_what_failed(
    cluster: Cluster, etl: StartEtl, bucket: Bucket, pipeline: Callable[..., Pipeline], photograph: bytes
) -> None:
    """With two targets or more, the results that belong elsewhere are put there directly."""
    source, destination, name = bucket("src"), bucket("dst"), etl("bucket")
    names = [f"p/{at:02}.jpg" for at in range(24)]
    fill(cluster, source, photograph, names)
    cluster.put(source, "p/text.jpg", b"This is no photograph.\n")
    rename = jobs.Rename("t/", {"jpg": "png"})
    job = jobs.transform_bucket(cluster, source, destination, name, rename=rename)
    report = jobs.wait(cluster, job, timeout=120)
    assert (report.done, report.wanted) == (24, 25)
    assert [(error.object, error.code) for error in report.failed] == [("p/text.jpg", "not_an_image")]
    assert cluster.objects(destination) == [f"t/p/{at:02}.png" for at in range(24)]
    for at in range(24):
        expected = here(pipeline(), photograph, f"{source}/p/{at:02}.jpg")
        assert cluster.get(destination, f"t/p/{at:02}.png") == expected
    if targets(cluster) > 1:
        asked = {"ID": job.ids[0], "Kind": ""}
        client = Client(cluster.endpoint).cluster().client
        answer = client.request("GET", "cluster", params={"what": "qryxstats"}, json=asked).json()
        sent = sum(int(snap["stats"]["out-objs"]) for snaps in answer.values() for snap in snaps or ())
        assert 0 < sent < 24, "of 24 objects, some stay on their target and some move"


def test_a_range_job_transforms_the_range(cluster: Cluster, etl: StartEtl, bucket: Bucket, photograph: bytes) -> None:
    source, destination, name = bucket("src"), bucket("dst"), etl("range")
    fill(cluster, source, photograph, [f"Bengal_{at}.jpg" for at in range(6)])
    job = jobs.transform_objects(cluster, source, destination, name, template="Bengal_{2..9}.jpg")
    report = jobs.wait(cluster, job, timeout=120)
    assert report.done == 4 and len(report.absent) == 4 and not report.failed
    assert cluster.objects(destination) == [f"Bengal_{at}.jpg" for at in range(2, 6)]


@pytest.mark.every_way
def test_a_pipeline_of_two_etls_hands_the_bytes_on(
    cluster: Cluster, etl: StartEtl, bucket: Bucket, pipeline: Callable[..., Pipeline], photograph: bytes
) -> None:
    steps = ({"op": "CenterCrop", "size": 200}, {"op": "Resize", "size": 40})
    source, names = bucket("src"), [etl(f"stage{at}", pipeline(step)) for at, step in enumerate(steps)]
    fill(cluster, source, photograph, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    client = Client(cluster.endpoint)
    both = ETLConfig(client.etl(names[0]) >> client.etl(names[1]))
    for each in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        first = here(pipeline(steps[0]), photograph, f"{source}/{each}")
        expected = here(pipeline(steps[1]), first, f"{source}/{each}")
        assert client.bucket(source).object(each).get_reader(etl=both).read_all() == expected


def test_an_etl_that_was_stopped_starts_again(
    cluster: Cluster, etl: StartEtl, bucket: Bucket, photograph: bytes
) -> None:
    source, name = bucket("src"), etl("restart")
    cluster.put(source, "a.jpg", photograph)
    before = cluster.get(source, "a.jpg", name)
    cluster.stop(name)
    with pytest.raises(NotFound):
        cluster.get(source, "a.jpg", name)
    cluster.start(name)
    assert cluster.get(source, "a.jpg", name) == before
    cluster.unregister(name)
    assert name not in {row.name for row in cluster.etls()}


def test_a_start_that_fails_says_why_and_frees_the_name(cluster: Cluster, pod: Callable[..., PodSpec]) -> None:
    bad = pod("bad", env={"TVETL_WORKERS": "many"}, start_timeout=20)
    with pytest.raises(RegistrationError, match="TVETL_WORKERS: got 'many'"):
        cluster.register(bad)
    assert bad.name not in {row.name for row in cluster.etls()}


@pytest.mark.every_way("tls and token")
def test_the_command_goes_the_whole_way(
    cluster: Cluster, bucket: Bucket, pod: Callable[..., PodSpec], photograph: bytes, tmp_path: Path, run: Any
) -> None:
    source, destination, spec = bucket("src"), bucket("dst"), pod("command")
    cluster.put(source, "a.jpg", photograph)
    file = tmp_path / "pipeline.json"
    file.write_text(json.dumps({"steps": [{"op": "CenterCrop", "size": 32}], "output": {"format": "png"}}))
    try:
        run("register", spec.name, str(file), "--image", spec.image, "--timeout", "60")
        assert spec.name in run("list")
        run("get", f"{source}/a.jpg", "--etl", spec.name, "--output", str(tmp_path / "a.png"))
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        report = json.loads(run("transform", source, destination, "--etl", spec.name, "--json").splitlines()[-1])
        assert report["done"] == 1
        assert cluster.get(destination, "a.jpg") == (tmp_path / "a.png").read_bytes()
    finally:
        run("rm", spec.name)
