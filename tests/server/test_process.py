"""The process tells why it cannot start, finishes accepted requests, and survives every object."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tvetl_server import server as serving
from tvetl_server.metrics import Metrics
from tvetl_server.processes.jail import Jail
from tvetl_server.serving.source import Files
from tvetl_server.settings import SETTINGS, Settings

PATIENCE = 10.0
PIPELINE = '{"steps": [{"op": "CenterCrop", "size": 32}], "output": {"format": "png"}}'


def command(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **settings}
    words = (sys.executable, "-m", "tvetl_server.wsgi", *words)
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_check_prints_the_normalized_pipeline_and_its_digest() -> None:
    done = command("--check", TVETL_PIPELINE=PIPELINE)
    assert done.returncode == 0, done.stderr
    text, digest = done.stdout.splitlines()
    assert '"op":"CenterCrop"' in text
    assert re.fullmatch(r"[0-9a-f]{64}", digest)


def test_help_names_every_setting() -> None:
    done = command("--help")
    assert done.returncode == 0
    for variable in SETTINGS:
        assert re.search(rf"^  {variable.name} .*{re.escape(variable.help)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("words", [(), ("--check",)])
@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({"TVETL_PIPELINE": '{"steps": [{"op": "CenterCop", "size": 3}]}'}, "$.steps[0].op"),
        ({"TVETL_PIPELINE": "{"}, "Pipeline"),
        ({}, "TVETL_PIPELINE"),
        ({"TVETL_PIPELINE": PIPELINE, "TVETL_WORKRES": "2"}, "did you mean TVETL_WORKERS?"),
    ],
)
def test_bad_settings_end_the_process_with_the_reason_last(
    words: tuple[str, ...], settings: dict[str, str], last: str
) -> None:
    done = command(*words, **settings)
    assert done.returncode == 2
    assert last in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_unknown_option_is_refused() -> None:
    assert command("--chek").returncode == 2


def test_sigterm_lets_accepted_requests_finish_and_exits_0(run_server: Callable[..., Any], image: bytes) -> None:
    server = run_server()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        head = f"PUT /src/a.jpg HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(image)}\r\n\r\n".encode()
        connection.sendall(head + image[:100])
        time.sleep(0.5)  # until it is accepted and being read
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(image[100:])
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\x89PNG" in answer
    assert server.stop() == 0


def test_an_idle_connection_outlives_the_targets_six_seconds(run_server: Callable[..., Any], image: bytes) -> None:
    """Targets keep idle connections for 6 s, so the server must not close first."""
    server = run_server()
    connection = server.connect()
    ports = set()
    for pause in (6.5, 0):
        connection.request("PUT", "/src/a.jpg", body=image)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        ports.add(connection.sock.getsockname()[1])
        time.sleep(pause)
    assert len(ports) == 1


def test_a_worker_that_dies_is_replaced_and_the_arbiter_lives(run_server: Callable[..., Any], image: bytes) -> None:
    server = run_server()
    (worker,) = re.findall(r"Booting worker with pid: (\d+)", server.log)
    server.put("/src/a.jpg", image)
    os.kill(int(worker), signal.SIGKILL)  # as the kernel does when memory is short
    end = time.monotonic() + 60
    while time.monotonic() < end and server.log.count("Booting worker") < 2:
        time.sleep(0.1)
    assert server.put("/src/a.jpg", image).status == 200
    assert server.process.poll() is None
    text = server.get("/metrics").body.decode()
    assert 'tvetl_requests_total{status="200",code="answered"} 2\n' in text, "counters never go back"


def test_a_worker_that_cannot_start_does_not_end_the_arbiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception at a worker's start would give exit status 3 or 4, on which gunicorn's arbiter ends."""

    def short_of_memory(*_: object) -> NoReturn:
        raise MemoryError

    server = serving._Server(
        Settings(pipeline=PIPELINE), short_of_memory, Jail("off"), Files((), 1), None, Metrics(), None
    )
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(SystemExit) as left:
        server.load()
    assert left.value.code == 1


def test_nothing_is_written_but_memory(run_server: Callable[..., Any], tmp_path: Path, image: bytes) -> None:
    """A read-only root file system is enough: no control socket, no pid file, nothing in home or TMPDIR."""
    home = tmp_path / "home"
    home.mkdir()

    def shared() -> set[Path]:
        return set(Path("/dev/shm").glob("*gunicorn*"))

    before = shared()
    server = run_server(HOME=str(home), TMPDIR=str(home), XDG_RUNTIME_DIR=str(home))
    assert server.put("/src/a.jpg", image).status == 200
    assert list(home.iterdir()) == []
    mine = {path for path in (Path(f"/proc/{server.process.pid}/fd").glob("*")) if "socket" in str(path.readlink())}
    assert len(mine) == 1, "one listener, no control socket"
    server.stop()
    end = time.monotonic() + PATIENCE
    while (
        shared() - before and time.monotonic() < end
    ):  # the file of a server that starts now has its name for a moment
        time.sleep(0.01)
    assert not shared() - before


def test_more_requests_than_threads_wait_and_are_all_answered(run_server: Callable[..., Any], image: bytes) -> None:
    server = run_server(TVETL_THREADS="1")
    connections = [server.connect() for _ in range(40)]
    for connection in connections:
        connection.request("PUT", "/src/a.jpg", body=image)
    assert {connection.getresponse().status for connection in connections} == {200}


def test_a_request_line_over_the_limit_is_refused(run_server: Callable[..., Any]) -> None:
    server = run_server()
    assert server.put("/src/" + "a" * 700_000).status == 414
