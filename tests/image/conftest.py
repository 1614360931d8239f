"""The slim image, built once for all tests here, and containers of it run as AIStore's pods run them.

Needs podman or docker. The base is localhost/python-base where ../shared/kube/kube makes it, else the Dockerfile's own.
TEST_IMAGE names an image that is built already.
"""

from __future__ import annotations

import faulthandler
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
#: Generous: a hang is a failure, slowness of a busy machine is not.
PATIENCE = 60.0
PIPELINE = '{"steps": [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}], "seed": 3}'

#: What Kubernetes' "restricted" standard asks for, and nothing to write to but /dev/shm, no shell included.
RESTRICTED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--volume=/dev/null:/bin/sh:ro")


def call(*command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False)


@dataclass(frozen=True)
class Tool:
    """podman or docker."""

    name: str

    def __call__(self, *words: str, check: bool = True) -> str:
        done = call(self.name, *words, timeout=600)
        assert not check or done.returncode == 0, f"{self.name} {' '.join(words)}: {done.stderr[-2000:]}"
        return done.stdout.strip()

    def options(self) -> list[str]:
        """The host's network, so that no bridge is needed, and limits that may be set wherever this runs."""
        # podman gives a read-only container a writable /tmp and /run, which Kubernetes does not.
        more = ["--read-only-tmpfs=false"] if self.name == "podman" else []
        return ["--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", *RESTRICTED, *more]

    def run(self, image: str, *words: str, options: Sequence[str] = (), **env: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        given = [f"--env={name}={value}" for name, value in env.items()]
        return call(self.name, "run", "--rm", *self.options(), *options, *given, image, *words)


@dataclass
class Container:
    """A server that answers."""

    tool: Tool
    id: str
    port: int
    #: Seconds from the start of its first process until it answered /health with 200.
    seconds: float = 0.0

    def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, target, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    @property
    def log(self) -> str:
        done = call(self.tool.name, "logs", self.id)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        (told,) = json.loads(self.tool("inspect", self.id))
        state: dict[str, Any] = told["State"]
        return state

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.tool("stop", "-t", "50", self.id)
        return int(self.state()["ExitCode"])


def _began(pid: int) -> float:
    """When the process started, in seconds since the machine did."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="session")
def tool() -> Tool:
    """What runs containers here; skips where there is none."""
    for name in ("podman", "docker"):
        if shutil.which(name) and call(name, "info").returncode == 0:
            return Tool(name)
    pytest.skip("needs podman, or docker with its engine running, to build and run the image")


@pytest.fixture(scope="session")
def make_build(tool: Tool) -> Callable[..., str]:
    """Runs `make build`, on the base that can be had here; gives the image's name."""
    faulthandler.cancel_dump_traceback_later()  # it fetches wheels, which takes as long as it takes
    base = _base(tool)

    def build(image: str, *words: str) -> str:
        command = ["make", "--no-print-directory", "build", f"BUILDER={tool.name}", f"IMAGE={image}", *base, *words]
        done = call(*command, timeout=1800)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return image

    return build


def _base(tool: Tool) -> list[str]:
    kube = REPOSITORY.parent / "shared" / "kube" / "kube"
    if kube.is_file() and tool.name == "podman" and os.geteuid() == 0 and shutil.which("mmdebstrap"):
        done = call(str(kube), "base", timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        return ["BASE=localhost/python-base"]
    text = (REPOSITORY / "container" / "Dockerfile").read_text(encoding="utf-8")
    (name,) = (line.removeprefix("ARG BASE=") for line in text.splitlines() if line.startswith("ARG BASE="))
    if call(tool.name, "pull", "--quiet", name, timeout=900).returncode:
        pytest.skip(f"needs the base image {name}, which is not here and cannot be pulled")
    return []


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> str:
    """The slim image. Its layers are cached, so where they are there this takes seconds."""
    if built := os.environ.get("TEST_IMAGE"):
        return built
    make: Callable[..., str] = request.getfixturevalue("make_build")
    return make("tvetl-server:test", "VARIANT=slim")


@pytest.fixture
def start(tool: Tool, tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Start servers, with these options and settings, and wait until they answer; all are gone at the end."""
    with ExitStack() as stack:

        def run(image: str, *options: str, **env: str) -> Container:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            env = {"TVETL_PIPELINE": PIPELINE, "TVETL_WORKERS": "1", "TVETL_HOST": "127.0.0.1", **env}
            told = {**env, "PORT": str(port)}
            given = [f"--env={name}={value}" for name, value in told.items()]
            container = Container(tool, tool("run", "--detach", *tool.options(), *options, *given, image), port)
            stack.callback(tool, "rm", "--force", container.id, check=False)
            _wait(container)
            return container

        yield run


def _wait(container: Container) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if container.ask("GET", "/health")[0] == 200:
                answered = time.clock_gettime(time.CLOCK_BOOTTIME)
                container.seconds = answered - _began(container.state()["Pid"])
                return
        except OSError:
            assert container.state()["Running"], container.log
        time.sleep(0.01)
    raise AssertionError(f"it did not become ready: {container.log}")
