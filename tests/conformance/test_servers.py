"""Our server keeps the protocol; what the AIStore SDK's own servers do is run too, and told in docs/conformance.md.

Nothing here fails because somebody else's server fails a case: only because the table no longer says what was found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path

import pytest
from support.serving import PATIENCE, PIPELINE, SECRET, environment, free_port

from tvetl.conformance import CASES, Report, Subject, check

#: Where the servers of the SDK lie.
FOLDER = Path(__file__).resolve().parents[1] / "support" / "conformance"
#: What the kit found, for docs/conformance.md: column -> case -> result. Each SDK line keeps its own columns.
KEPT = FOLDER.parents[2] / "docs" / "conformance.json"
OURS = "tvetl-server"
#: Column -> how the SDK's README starts it, with as many workers as these machines have cores.
SDK = {
    f"FlaskServer {version('aistore')}": "-m gunicorn echo_flask:flask_app --bind 127.0.0.1:{port} --workers 2",
    f"FastAPIServer {version('aistore')}": "-m uvicorn echo_fastapi:fastapi_app --host 127.0.0.1 --port {port}",
    f"HTTPMultiThreadedServer {version('aistore')}": "echo_http.py {port}",
}


@dataclass
class Place:
    """What a server and the kit share."""

    folder: Path
    port: int

    @property
    def root(self) -> Path:
        return self.folder / "mnt" / "data"

    @property
    def target_url(self) -> str:
        """Nothing listens there: results go to other targets only."""
        return f"http://127.0.0.1:9/v1/etl/_object/echo-etl/{SECRET}"

    def subject(self) -> Subject:
        return Subject(f"http://127.0.0.1:{self.port}", root=self.root, target_url=self.target_url)


@contextmanager
def running(place: Place, command: str, settings: Mapping[str, str]) -> Iterator[Subject]:
    """A server process, from the time when it is ready."""
    place.root.mkdir(parents=True)
    env = environment(AIS_TARGET_URL=place.target_url, direct_put="true", **settings)
    with (place.folder / "log").open("wb") as log:
        words = command.format(port=place.port).split()
        process = subprocess.Popen([sys.executable, *words], cwd=FOLDER, env=env, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while not ready(place.port):
            text = (place.folder / "log").read_text(encoding="utf-8")
            assert process.poll() is None and time.monotonic() < end, f"{command} did not start: {text}"
            time.sleep(0.05)
        yield place.subject()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Report]:
    """The kit's report on each server. All at once: a run is mostly the 6.5 idle seconds of one case."""
    ours = Place(tmp_path_factory.mktemp("ours"), free_port())
    settings = {
        "TVETL_PIPELINE": PIPELINE,
        "TVETL_WORKERS": "1",
        "PORT": str(ours.port),
        "TVETL_ROOTS": str(ours.root),
    }

    def run(name: str) -> Report:
        if name == OURS:
            with running(ours, "-m tvetl_server.wsgi", settings) as subject:
                return check(subject)
        with running(Place(tmp_path_factory.mktemp("sdk"), free_port()), SDK[name], {}) as subject:
            return check(subject)

    names = [OURS, *SDK]
    with ThreadPoolExecutor(len(names)) as pool:
        reports = dict(zip(names, pool.map(run, names), strict=True))
    if request.config.getoption("--keep-conformance", default=False):
        others = {name: cases for name, cases in kept().items() if name.split()[-1][0] != version("aistore")[0]}
        KEPT.write_text(json.dumps(others | {n: results(r) for n, r in reports.items()}, indent=1) + "\n", "utf-8")
    return reports


def results(report: Report) -> dict[str, str]:
    return {verdict.name: verdict.result for verdict in report.verdicts}


def kept() -> dict[str, dict[str, str]]:
    data: dict[str, dict[str, str]] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    return data


def test_our_server_passes_every_case(found: dict[str, Report]) -> None:
    report = found[OURS]
    assert report.comparable
    assert [verdict for verdict in report.verdicts if verdict.result != "passed"] == []


def test_every_case_was_run_against_every_server(found: dict[str, Report]) -> None:
    assert list(found) == [OURS, *SDK]
    for name, report in found.items():
        assert [verdict.name for verdict in report.verdicts] == [case.name for case in CASES], name
        assert all(bool(verdict.reason) == (verdict.result != "passed") for verdict in report.verdicts), name
        skipped = {verdict.reason for verdict in report.verdicts if verdict.result == "skipped"}
        assert skipped <= {"nothing was refused", "the server keeps no connection, and says so"}, name


def test_the_table_in_the_docs_is_what_was_found(found: dict[str, Report]) -> None:
    told = kept()
    now = {name: results(report) for name, report in found.items()}
    assert {name: told.get(name) for name in now} == now, "write it with pytest tests/conformance --keep-conformance"
