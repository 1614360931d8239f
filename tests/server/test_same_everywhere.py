"""One object, pipeline and seed give one result by every way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import Arguments, canonical, parse
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

PIPELINES = {
    "without torch": [
        {"op": "RandomResizedCrop", "size": 96},
        {"op": "ColorJitter", "brightness": 0.4, "hue": 0.2},
        {"op": "RandomHorizontalFlip"},
    ],
    "with torch": [{"op": "RandomRotation", "degrees": 40}, {"op": "RandomResizedCrop", "size": 96}],
}


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_same_bytes_by_name_by_body_by_one_worker_or_four_inline_and_offline(
    kind: str, run_server: Callable[..., Any], photographs: list[Path], tmp_path: Path
) -> None:
    if kind == "with torch":
        pytest.importorskip("torchvision", reason="this pipeline needs torchvision, which is not installed")
    pipeline = parse({"steps": PIPELINES[kind], "output": {"format": "jpeg"}, "seed": 11})
    photos = {path.name: path.read_bytes() for path in photographs}
    engine = Engine(pipeline, Limits())
    expected = {name: engine.transform(data, f"photos/{name}", Arguments()).body for name, data in photos.items()}
    assert len(set(expected.values())) == len(photos)

    folder = tmp_path / "cluster"
    (folder / "photos").mkdir(parents=True)
    for name, data in photos.items():
        (folder / "photos" / name).write_bytes(data)

    for workers in ("1", "4"):
        server = run_server(TVETL_PIPELINE=canonical(pipeline), TVETL_ROOTS=str(folder), TVETL_WORKERS=workers)
        for _ in range(2):
            for name, data in photos.items():
                fqn = quote(quote(str(folder / "photos" / name), safe=""), safe="")
                assert server.put(f"/photos/{name}", data).body == expected[name]
                assert server.put(f"/photos/{name}?etl_fqn={fqn}").body == expected[name]

    with LocalCluster(folder, targets=2) as local:
        cluster = Cluster(local.endpoint)
        cluster.register(PodSpec("everywhere", pipeline))
        report = jobs.wait(cluster, jobs.transform_bucket(cluster, "photos", "offline", "everywhere"))
        assert (report.done, report.failed) == (len(photos), ())
        for name in photos:
            assert cluster.get("photos", name, "everywhere") == expected[name]
            assert cluster.get("offline", name) == expected[name]
            other = cluster.get("photos", name, "everywhere", json.loads('{"seed": 12}'))
            assert other != expected[name]
