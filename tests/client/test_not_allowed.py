"""Who may use an ETL and not look at it, as AIStore's AuthN has it, says its pipeline; else is told to."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.command.cli import app
from tvetl.errors import NotAllowed, NotFound, ObjectFailed, UsageError
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.preview import preview
from tvetl.spec import Pipeline, canonical, parse

NPY = jobs.Rename("", {"jpg": "npy"})


@pytest.fixture(scope="module")
def right(pipeline: Callable[..., Pipeline]) -> Pipeline:
    return pipeline(8, "npy", 1)


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, photographs: list[Path], right: Pipeline
) -> Iterator[LocalCluster]:
    """Two targets that ask for tokens, five photographs, and the ETL; the environment has an ordinary user's token."""
    folder = tmp_path_factory.mktemp("not-allowed")
    with LocalCluster(folder, targets=2, authn=True) as running, pytest.MonkeyPatch.context() as patch:
        patch.delenv("AIS_AUTHN_TOKEN_FILE", raising=False)
        patch.setenv("AIS_AUTHN_TOKEN", running.token())
        cluster = Cluster(running.endpoint)
        cluster.create_bucket("images")
        for at in range(4):
            cluster.put("images", f"photo_{at}.jpg", photographs[-1].read_bytes())
        cluster.put("images", "photo_%41.jpg", photographs[-1].read_bytes())
        cluster.register(PodSpec("test-tensors", right, start_timeout=60))
        patch.setenv("AIS_AUTHN_TOKEN", running.token("alice", admin=False))
        yield running


@pytest.fixture
def user(secured: LocalCluster, right: Pipeline) -> Cluster:
    return Cluster(secured.endpoint, pipelines={"test-tensors": right})


def wrong_one(right: Pipeline) -> Pipeline:
    """The same with another mean."""
    return parse(canonical(right).replace('"mean":[0.5,', '"mean":[0.25,'))


def administrator(secured: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    with monkeypatch.context() as patch:
        patch.setenv("AIS_AUTHN_TOKEN", secured.token())
        return Cluster(secured.endpoint)


def datasets() -> Any:
    pytest.importorskip("torch")
    return importlib.import_module("tvetl.datasets")


DATASETS: dict[str, Callable[[Cluster], object]] = {
    "images": lambda cluster: datasets().TransformedImages(cluster, "images", "test-tensors", seed=1),
    "stream": lambda cluster: datasets().TransformedStream(cluster, "images", "test-tensors", seed=1, shuffle=False),
    "batches": lambda cluster: datasets().TransformedBatches(
        cluster, "images", "test-tensors", seed=1, shuffle=False, batch=5
    ),
}
ASKED: dict[str, Callable[[Cluster], object]] = {
    **DATASETS,
    "shards": lambda cluster: datasets().Shards(cluster, "images", "test-tensors", names=["a.tar"]),
    "transform": lambda cluster: jobs.begin(cluster, jobs.Request("images", "results", "test-tensors", rename=NPY)),
    "estimate": lambda cluster: jobs.estimate(cluster, jobs.Request("images", "results", "test-tensors", rename=NPY)),
    "preview": lambda cluster: preview(cluster, "images", "photo_0.jpg", "test-tensors", views=1),
    "a name that changes": lambda cluster: cluster.get("images", "photo_%41.jpg", "test-tensors"),
}


@pytest.mark.parametrize("asked", ASKED)
def test_who_may_not_look_is_told_to_say_the_pipeline_and_what_is_said_will_do(
    secured: LocalCluster, user: Cluster, asked: str
) -> None:
    with pytest.raises(NotAllowed, match=r"only administrators may look at ETLs .*insufficient permissions") as raised:
        ASKED[asked](Cluster(secured.endpoint))
    assert "--pipeline FILE" in raised.value.hint and "pipelines={" in raised.value.hint
    ASKED[asked](user)


@pytest.mark.parametrize("kind", ["images", "stream"])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_user_reads_in_workers_what_an_administrator_reads(
    secured: LocalCluster, user: Cluster, monkeypatch: pytest.MonkeyPatch, kind: str, context: str
) -> None:
    dataset: Any = DATASETS[kind](user)
    from torch.utils.data import DataLoader

    ((tensors, names),) = DataLoader(dataset, 5, num_workers=1, multiprocessing_context=context)
    assert len(names) == 5
    whole = administrator(secured, monkeypatch)
    for tensor, name in zip(tensors, names, strict=True):
        expected = np.load(io.BytesIO(whole.get("images", name, "test-tensors", {"seed": 1, "epoch": 0})))
        assert np.array_equal(tensor.numpy(), expected)


def test_a_users_results_count_as_an_administrators(
    secured: LocalCluster, user: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = jobs.Request("images", "shared", "test-tensors", rename=NPY)
    assert jobs.wait(user, jobs.begin(user, request)).ok
    assert jobs.begin(administrator(secured, monkeypatch), request).total == 0
    assert jobs.begin(user, request).total == 0


def test_the_reasons_of_a_job_are_read_where_the_etls_errors_may_not_be(user: Cluster) -> None:
    user.create_bucket("mixed")
    user.put("mixed", "good.jpg", user.get("images", "photo_0.jpg"))
    user.put("mixed", "text.jpg", b"This is no photograph.\n")
    report = jobs.wait(user, jobs.begin(user, jobs.Request("mixed", "mixed-results", "test-tensors")))
    assert [(error.object, error.code) for error in report.failed] == [("text.jpg", "not_an_image")]


@pytest.mark.parametrize("kind", DATASETS)
def test_pixels_are_not_looked_up_by_a_wrong_pipeline(secured: LocalCluster, right: Pipeline, kind: str) -> None:
    wrong = Cluster(secured.endpoint, pipelines={"test-tensors": wrong_one(right)})
    with pytest.raises(ObjectFailed, match="this pipeline has another table") as raised:
        next(iter(DATASETS[kind](wrong)))  # type: ignore[call-overload]
    assert "pipelines=" in raised.value.hint


def test_a_preview_by_a_wrong_pipeline_shows_that_it_is(
    secured: LocalCluster, right: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    command = ["preview", "images/photo_0.jpg", "--etl", "test-tensors", "--pipeline", "pipeline.json"]
    for text, equal in ((canonical(right), True), (canonical(wrong_one(right)), False)):
        Path("pipeline.json").write_text(text)
        done = CliRunner().invoke(app, [*command, "--json", "-e", secured.endpoint])
        assert done.exit_code == 0 and {view["equal"] for view in json.loads(done.stdout)["views"]} == {equal}
        done = CliRunner().invoke(app, [*command, "-e", secured.endpoint])
        assert ("is it the ETL's" in done.stderr) is not equal


def test_an_etl_that_is_gone_is_told_to_a_user_and_not_skipped(
    secured: LocalCluster, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[..., Pipeline]
) -> None:
    for state in ("stopped", "gone"):
        whole = administrator(secured, monkeypatch)
        whole.register(PodSpec("test-mortal", pipeline(8), start_timeout=60), replace=True)
        user = Cluster(secured.endpoint, pipelines={"test-mortal": pipeline(8)})
        stream = datasets().TransformedStream(user, "images", "test-mortal", on_error="skip")
        whole.stop("test-mortal") if state == "stopped" else whole.unregister("test-mortal")
        with pytest.raises(NotFound, match="test-mortal"):
            user.get("images", "photo_0.jpg", "test-mortal")
        with pytest.raises(NotFound, match="test-mortal"):
            next(iter(stream))
        assert stream.counts.failed == 0


def test_who_registers_an_etl_anew_says_no_other_pipeline_of_it(
    secured: LocalCluster, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[..., Pipeline]
) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", secured.token())
    cluster = Cluster(secured.endpoint, pipelines={"test-anew": pipeline(8)})
    pod = PodSpec("test-anew", pipeline(9), start_timeout=60)
    cluster.register(pod)
    assert cluster.register(pod).reused
    assert cluster.show("test-anew") == pod.container
    cluster.unregister("test-anew")


def test_what_is_no_pipeline_is_refused(secured: LocalCluster, right: Pipeline) -> None:
    with pytest.raises(UsageError, match="'test-tensors' is str: expected a Pipeline"):
        Cluster(secured.endpoint, pipelines={"test-tensors": canonical(right)})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="cannot be called"):
        Cluster(secured.endpoint, pipelines={"Test": right})


def test_the_commands_take_the_pipelines_file(
    secured: LocalCluster, right: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pipeline.json").write_text(canonical(right))

    def tvetl(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "-e", secured.endpoint])  # a process would take most of the time

    said, odd, etl = ("--pipeline", "pipeline.json"), "images/photo_%41.jpg", ("--etl", "test-tensors")
    for command in (
        ("transform", "images", "by-command", *etl, "--ext", "jpg=npy"),
        ("transform", "images", "by-command", *etl, "--ext", "jpg=npy", "--dry-run"),
        ("preview", odd, *etl, "--output", "sheet.png"),
        ("get", odd, *etl, "--output", "tensor.npy"),
    ):
        refused = tvetl(*command)
        assert refused.exit_code == 1 and "only administrators may look at ETLs" in refused.stderr
        done = tvetl(*command, *said)
        assert done.exit_code == 0, done.stderr
    assert tvetl("replay", "sheet.png").exit_code == 0
    for alone in (("get", "images/photo_0.jpg", "-o", "photo.jpg"), ("get", "images", "files")):
        refused = tvetl(*alone, *said)
        assert refused.exit_code == 2 and "--pipeline" in refused.stderr
