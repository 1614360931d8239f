"""A token that ends while something is at work: renewed in its file it is never noticed, else the reason is told."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tvetl import jobs
from tvetl.cluster import Cluster, connection
from tvetl.errors import TokenRefused
from tvetl.local import LocalCluster
from tvetl.local.guard import Guard
from tvetl.local.http import ApiError, HttpRequest, NodeServer
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

#: What an image has more than enough of for any test, and the longest wait for a token here.
PATIENCE = 30.0


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, photographs: list[Path], pipeline: Callable[..., Pipeline]
) -> Iterator[LocalCluster]:
    """Two targets with TLS and tokens, a bucket of twelve photographs, and an ETL for tensors."""
    folder = tmp_path_factory.mktemp("secured")
    with LocalCluster(folder, targets=2, tls=True, authn=True) as running, pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            patch.delenv(name, raising=False)
        patch.setenv("AIS_CLIENT_CA", str(running.ca))
        patch.setenv("AIS_AUTHN_TOKEN", running.token())
        cluster = Cluster(running.endpoint)
        cluster.create_bucket("images")
        for at in range(12):
            cluster.put("images", f"photo_{at:02}.jpg", photographs[-1].read_bytes())
        cluster.register(PodSpec("test-tensors", pipeline(8, "npy", 1), start_timeout=60))
        patch.delenv("AIS_AUTHN_TOKEN")
        yield running


@pytest.fixture
def file(secured: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The token's file, which holds one that is good."""
    path = tmp_path / "token"
    path.write_text(secured.token())
    monkeypatch.setenv("AIS_AUTHN_TOKEN_FILE", str(path))
    return path


def ended(secured: LocalCluster, ago: float = 60) -> str:
    return secured.token(seconds=1, delay=-1 - ago)


def renewed_soon(secured: LocalCluster, file: Path, ago: float = 60) -> None:
    """Let the token be one that has ended, and have another a moment later."""
    file.write_text(ended(secured, ago))
    later = threading.Timer(0.5, lambda: file.write_text(f'{{"token": "{secured.token()}"}}'))
    later.daemon = True
    later.start()


def test_every_request_takes_the_token_that_the_file_has_then(secured: LocalCluster, file: Path) -> None:
    cluster = Cluster(secured.endpoint)
    assert len(cluster.objects("images")) == 12
    renewed_soon(secured, file)
    assert len(cluster.objects("images")) == 12, "one that worked is waited for"
    renewed_soon(secured, file)
    cluster.create_bucket("large")
    renewed_soon(secured, file)
    cluster.put("large", "zeros", bytes(3_000_000))
    assert cluster.get("large", "zeros") == bytes(3_000_000)


def test_who_begins_after_its_end_waits_for_a_token_that_has_just_ended(secured: LocalCluster, file: Path) -> None:
    """As the workers of a new epoch do, which no token has served yet."""
    renewed_soon(secured, file, ago=0)
    assert len(Cluster(secured.endpoint).objects("images")) == 12


@pytest.mark.parametrize("wrong", ["long ago", "of another cluster", "not yet"])
def test_a_file_without_a_token_that_ever_worked_is_not_waited_for(
    secured: LocalCluster, file: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {"long ago": ended(secured, 7200), "of another cluster": "a.b.c", "not yet": secured.token(delay=99)}
    file.write_text(tokens[wrong])
    monkeypatch.setattr(connection, "RENEWAL", 3600.0)
    with pytest.raises(TokenRefused, match="the cluster refuses the token"):
        Cluster(secured.endpoint).etls()


def test_a_job_outlives_its_token_and_the_same_again_does_what_is_left(
    secured: LocalCluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RENEWAL", 0.0)
    cluster = Cluster(secured.endpoint)
    request = jobs.Request("images", "results", "test-tensors", rename=jobs.Rename("", {"jpg": "npy"}))
    job = jobs.begin(cluster, request)
    good = file.read_text()
    file.write_text(ended(secured))
    with pytest.raises(TokenRefused, match="token expired") as refused:
        jobs.wait(cluster, job)
    assert f"The job {job.id} runs on in the cluster" in refused.value.hint
    file.write_text(good)
    report = jobs.wait(cluster, jobs.begin(cluster, request))
    assert report.ok and report.wanted == 12
    assert cluster.objects("results") == [f"photo_{at:02}.npy" for at in range(12)]
    assert jobs.begin(cluster, request).total == 0


def test_a_registered_pod_trusts_our_authority_alone(
    secured: LocalCluster, file: Path, pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file with a key in it, too: the pod gets certificates alone. What it names itself, it keeps."""
    assert secured.ca
    ca = secured.ca.read_text()
    both = file.with_name("ca-and-key.pem")
    both.write_text(secured.ca.with_suffix(".key").read_text() + ca)
    monkeypatch.setenv("AIS_CLIENT_CA", str(both))
    cluster, pod = Cluster(secured.endpoint), PodSpec("test-trust", pipeline(8), start_timeout=60)
    cluster.register(pod)
    shown = cluster.show("test-trust")
    assert shown and shown.env["AIS_CLIENT_CA"] == ca.strip()
    assert cluster.register(pod).reused
    own = PodSpec("test-trust", pipeline(8), env={"AIS_CLIENT_CA": str(secured.ca)}, start_timeout=60)
    cluster.register(own, replace=True)
    shown = cluster.show("test-trust")
    assert shown and shown.env["AIS_CLIENT_CA"] == str(secured.ca)
    cluster.unregister("test-trust")


def test_a_job_waits_for_a_token_that_is_renewed_late(secured: LocalCluster, file: Path) -> None:
    cluster = Cluster(secured.endpoint)
    request = jobs.Request("images", "late", "test-tensors")
    job = jobs.begin(cluster, request)
    renewed_soon(secured, file)
    assert jobs.wait(cluster, job, timeout=PATIENCE).ok


@pytest.mark.parametrize("late", [False, True])
def test_training_goes_on_with_the_renewed_token(
    secured: LocalCluster, file: Path, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Targets refuse direct reads here, so each read asks the proxy, with the token that holds then."""
    batches = pytest.importorskip("tvetl.datasets", exc_type=ImportError).TransformedBatches
    with caplog.at_level("INFO", "tvetl.datasets"):
        feed = batches(Cluster(secured.endpoint), "images", "test-tensors", batch=2, ahead=1)
        seen: list[str] = []
        for _, names in feed:
            seen += names
            if len(seen) == 4:
                renewed_soon(secured, file) if late else file.write_text(secured.token())
    assert sorted(seen) == [f"photo_{at:02}.jpg" for at in range(12)]
    assert any("refuses direct reads" in record.message for record in caplog.records)


def test_workers_read_with_the_token_that_the_file_has_then(secured: LocalCluster, file: Path) -> None:
    torch_data = pytest.importorskip("torch.utils.data")
    images = pytest.importorskip("tvetl.datasets").TransformedImages(
        Cluster(secured.endpoint), "images", "test-tensors"
    )
    loader = torch_data.DataLoader(images, batch_size=2, num_workers=2, prefetch_factor=1)
    for at, _ in enumerate(loader):
        if at == 1:
            renewed_soon(secured, file)
    assert at == 5


def test_training_ends_with_the_reason_where_no_other_token_comes(
    secured: LocalCluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RENEWAL", 0.0)
    feed = pytest.importorskip("tvetl.datasets", exc_type=ImportError).TransformedBatches(
        Cluster(secured.endpoint), "images", "test-tensors", batch=2, ahead=1, on_error="skip"
    )
    batches = iter(feed)
    next(batches)
    file.write_text(ended(secured))
    with pytest.raises(TokenRefused, match="token expired"):
        for _ in batches:
            pass


def test_what_a_token_may_not_write_is_told_once_a_file(
    secured: LocalCluster,
    file: Path,
    tvetl: Callable[..., subprocess.CompletedProcess[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over https the SDK has words of its own for it."""
    asked, files = Guard.check, tmp_path / "files"
    files.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (files / name).write_bytes(b"a")

    def check(guard: Guard, node: NodeServer, request: HttpRequest) -> None:
        asked(guard, node, request)
        if request.method == "PUT" and node.kind == "p":
            raise ApiError(403, "user `ann` has insufficient permissions")

    monkeypatch.setattr(Guard, "check", check)
    done = tvetl("put", str(files), "images", "--endpoint", secured.endpoint)
    assert done.returncode == 4 and (done.stdout + done.stderr).count(b"insufficient permissions") == 2
    assert b"redirect" not in done.stderr
