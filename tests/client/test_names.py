"""Names that AIStore changes on the way to an ETL: an object's draws are its own name's, however it is read."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.errors import ObjectFailed
from tvetl.pod import PodSpec
from tvetl.preview import preview
from tvetl.spec import canonical, derive_seed, parse

torch = pytest.importorskip("torch", reason="draws are compared with torchvision's")
from torchvision.transforms import v2  # noqa: E402

from tvetl.datasets import TransformedBatches, TransformedImages, TransformedStream  # noqa: E402

READ = ("plain.jpg", "a b.jpg", "a%20b.jpg", "100%25.jpg", "q", "q?1.jpg", "q?2.jpg", "%41/ü%C3.jpg", "dbl//%41.jpg")
REFUSED = ("50% off.jpg", "a#b.jpg", "q?1 2.jpg")
PIPELINE = parse(
    {"steps": [{"op": "RandomCrop", "size": 16}, {"op": "PILToTensor"}], "output": {"format": "npy"}, "seed": 5}
)


def photograph() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    return Image.fromarray(pixels)


def drawn(bucket: str, name: str, seed: int = 5, epoch: int = 0) -> Any:
    torch.manual_seed(derive_seed(seed, epoch, 0, f"{bucket}/{name}"))
    return v2.functional.pil_to_tensor(v2.RandomCrop(16)(photograph()))


def array(data: bytes) -> Any:
    return torch.from_numpy(np.load(io.BytesIO(data)))


@pytest.fixture(scope="module")
def named(cluster: Cluster) -> str:
    """A bucket of one photograph under all these names."""
    cluster.create_bucket("named")
    made = io.BytesIO()
    photograph().save(made, "PNG")
    for name in READ + REFUSED:
        cluster.put("named", name, made.getvalue())
    cluster.register(PodSpec("test-names", PIPELINE, start_timeout=60))
    return "named"


@pytest.mark.parametrize("name", READ)
def test_a_read_is_drawn_by_the_name_itself(cluster: Cluster, named: str, name: str) -> None:
    assert torch.equal(array(cluster.get(named, name, "test-names")), drawn(named, name))
    asked = cluster.get(f"ais://{named}", name, "test-names", {"seed": 9, "epoch": 3})
    assert torch.equal(array(asked), drawn(named, name, 9, 3))
    [view] = preview(cluster, f"ais://{named}", name, "test-names", views=1).views
    assert view.equal
    like = cluster.get(named, name, "test-names", {"like": "other/x.jpg"})
    assert torch.equal(array(like), drawn("other", "x.jpg"))


def test_datasets_are_drawn_by_the_names_themselves(cluster: Cluster, named: str) -> None:
    expected = {name: drawn(named, name, 9, 3) for name in READ}
    for dataset in (
        TransformedImages(cluster, named, "test-names", names=READ, seed=9),
        TransformedStream(cluster, named, "test-names", names=READ, seed=9),
        TransformedBatches(cluster, named, "test-names", names=READ, seed=9, batch=1),
    ):
        dataset.set_epoch(3)
        given = [dataset[at] for at in range(len(READ))] if isinstance(dataset, TransformedImages) else [*dataset]
        got = {name if isinstance(name, str) else name[0]: data.reshape(3, 16, 16) for data, name in given}
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in READ)


def test_a_job_is_drawn_by_the_names_of_the_files(cluster: Cluster, named: str) -> None:
    report = jobs.wait(cluster, jobs.transform_bucket(cluster, named, "named-made", "test-names"), timeout=120)
    assert {failed.object for failed in report.failed} == set(REFUSED)
    for name in READ:
        assert torch.equal(array(cluster.get("named-made", name)), drawn(named, name))


@pytest.mark.parametrize("name", REFUSED)
def test_what_aistore_cannot_send_is_refused(cluster: Cluster, named: str, name: str) -> None:
    with pytest.raises(ObjectFailed):
        cluster.get(named, name, "test-names")


def test_a_dataset_says_which_names_aistore_cannot_send(
    cluster: Cluster, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tvetl.datasets"):
        TransformedImages(cluster, named, "test-names")
        TransformedImages(cluster, named)
        TransformedImages(cluster, named, "test-names", names=READ)
    [said] = caplog.messages
    assert said.startswith("AIStore cannot send 3 objects to an ETL, '50% off.jpg' first: ")


def test_only_names_that_need_it_are_told_and_only_to_our_own_etls(script: Any) -> None:
    runtime = {"image": "tvetl-server", "env": [{"name": "TVETL_PIPELINE", "value": canonical(PIPELINE)}]}
    shown = {"ours-1": runtime, "theirs": {"image": "other", "env": []}}

    def answer(method: str, path: str, body: Any) -> tuple[int, str]:
        if path.startswith("/v1/etl/"):
            return 200, json.dumps({"init_msg": {"runtime": shown[path.split("/")[3].partition("?")[0]]}})
        return 200, "bytes"

    script.answer = answer
    cluster = Cluster(script.endpoint)
    for etl, name in (("ours-1", "a.jpg"), ("ours-1", "a%20.jpg"), ("theirs", "a%20.jpg"), ("", "a%20.jpg")):
        script.asked.clear()
        cluster.get("b", name, etl)
        assert ("like" in script.asked[-1][1]) == ((etl, name) == ("ours-1", "a%20.jpg"))
        assert len(script.asked) == (2 if etl and "%" in name else 1)
