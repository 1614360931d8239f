"""The cluster under test: that of AIS_ENDPOINT, or the stand-in with two targets. What is made is taken away again.

Tests that are marked ``every_way`` run on the stand-in four times: plain, with TLS, with tokens, and with both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tvetl.cluster import Cluster
from tvetl.errors import NotFound
from tvetl.local import LocalCluster
from tvetl.pod import DEFAULT_IMAGE, PodSpec
from tvetl.spec import Pipeline, parse

#: Marks what one run leaves in a cluster that others use too.
RUN = uuid.uuid4().hex[:6]
GIVEN = os.environ.get("AIS_ENDPOINT")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_way(*ways): plain, and with TLS, tokens and both, or in these ways")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = metafunc.definition.get_closest_marker("every_way")
    if marked and not GIVEN:
        others = marked.args or ("tls", "token", "tls and token")
        metafunc.parametrize("endpoint", ("plain", *others), indirect=True, scope="module")


@pytest.fixture(scope="module")
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With all that the environment must have for it, and other modules must not."""
    if GIVEN:
        yield GIVEN
        return
    way = getattr(request, "param", "plain")
    root = tmp_path_factory.mktemp("cluster")
    with (
        LocalCluster(root, targets=2, tls="tls" in way, authn="token" in way) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        if running.ca:
            for bundle in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which the SDK alone prefers
                patch.delenv(bundle, raising=False)
            patch.setenv("AIS_CLIENT_CA", str(running.ca))
        if "token" in way:
            patch.setenv("AIS_AUTHN_TOKEN", running.token())
        yield running.endpoint


@pytest.fixture(scope="module")
def cluster(endpoint: str) -> Cluster:
    return Cluster(endpoint)


@pytest.fixture
def bucket(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """Makes buckets, by what they are for."""
    made: list[str] = []

    def make(what: str) -> str:
        made.append(f"tvetl-e2e-{RUN}-{what}-{len(made)}")
        cluster.create_bucket(made[-1])
        return made[-1]

    yield make
    for name in made:
        cluster.delete_bucket(name)


def _pipeline(*steps: dict[str, object], format: str = "png", seed: int | None = 7) -> Pipeline:
    given = steps or ({"op": "RandomResizedCrop", "size": 48}, {"op": "RandomHorizontalFlip"})
    return parse({"version": 1, "steps": list(given), "output": {"format": format}, "seed": seed})


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Pipeline]:
    """A seeded crop of 48 x 48 to PNG, or other ``steps``."""
    return _pipeline


@pytest.fixture
def pod() -> Callable[..., PodSpec]:
    """An ETL of this run with the image under test (TEST_IMAGE, by default tvetl's own)."""
    image = os.environ.get("TEST_IMAGE") or DEFAULT_IMAGE

    def make(what: str, pipeline: Pipeline | None = None, **options: object) -> PodSpec:
        start_timeout = options.pop("start_timeout", 120)
        name = f"e2e-{RUN}-{what}"
        return PodSpec(name, pipeline or _pipeline(), image, start_timeout=start_timeout, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def etl(cluster: Cluster, pod: Callable[..., PodSpec]) -> Iterator[Callable[..., str]]:
    """Starts ETLs, and frees their names afterwards."""
    started: list[str] = []

    def start(what: str, pipeline: Pipeline | None = None, **options: object) -> str:
        spec = pod(what, pipeline, **options)
        started.append(spec.name)
        return cluster.register(spec).name

    yield start
    for name in started:
        with suppress(NotFound):
            cluster.unregister(name)


@pytest.fixture(scope="session")
def photograph(photographs: list[Path]) -> bytes:
    return photographs[-1].read_bytes()


@pytest.fixture
def run(endpoint: str, tmp_path: Path) -> Callable[..., str]:
    """Runs the command as a shell would, in an empty folder; gives what it printed."""

    def run(*arguments: str) -> str:
        program = [sys.executable, "-c", "from tvetl.command.cli import main; main()", *arguments]
        env = {**os.environ, "AIS_ENDPOINT": endpoint}
        done = subprocess.run(program, capture_output=True, text=True, timeout=180, check=False, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
