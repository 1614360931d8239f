"""docs/secured.md is a session: each command is run, and prints what the document shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "secured.md").read_text(encoding="utf-8")
PORT = "8080"
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AIS_AUTHN_TOKEN", "AIS_SKIP_VERIFY_CRT", "AIS_CRT", "AIS_CRT_KEY")


@pytest.fixture
def folder(tmp_path: Path, photographs: list[Path]) -> Path:
    """What the session begins with: photographs, and a pipeline; and `tvetl` on the path."""
    (tmp_path / "images").mkdir()
    for path in photographs[1:3] + photographs[-1:]:
        shutil.copy(path, tmp_path / "images")
    shutil.copy(REPOSITORY / "examples" / "pipelines" / "train.yaml", tmp_path / "pipeline.yaml")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "tvetl"
    command.write_text(f"#!{sys.executable} -u\nfrom tvetl.command.cli import main\nmain()\n")
    command.chmod(0o755)
    return tmp_path


@pytest.fixture
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The stand-in of the first block, at a free port; what it says to export."""
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env["PATH"] = f"{folder / 'bin'}:{env['PATH']}"
    command = next(steps())[0].split()
    with subprocess.Popen([*command, "--port", "0"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            printed = [line for _, line in zip(range(5), running.stdout, strict=False)]
            exports = dict(re.findall(r"export (\w+)=(\S+)", "".join(printed)))
            assert [plain(line) for line in printed] == [plain(line) for line in next(steps())[1]]
            yield env | exports
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=60) == 0


def steps() -> Iterator[tuple[str, list[str]]]:
    """Each command of the console blocks, and the lines that it prints."""
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *printed = step.splitlines()
            yield command, printed


def plain(line: str) -> str:
    """A line without what differs from machine to machine."""
    line = re.sub(r"/\S*(?=/ais/\.tvetl)", "FOLDER", line.rstrip())
    return re.sub(r"\d+(\.\d+)?", "0", line)


def test_each_command_prints_what_is_shown(folder: Path, cluster: dict[str, str]) -> None:
    pytest.importorskip("tvetl_server")
    port = cluster["AIS_ENDPOINT"].rpartition(":")[2]
    for command, shown in list(steps())[1:]:
        done = subprocess.run(
            ["bash", "-c", command.replace(PORT, port)],
            cwd=folder, env=cluster, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        printed = [plain(line) for line in (done.stdout + done.stderr).splitlines()]
        assert [line for line in map(plain, shown) if line not in printed] == [], (command, printed)


def test_the_training_loop_runs(folder: Path, cluster: dict[str, str]) -> None:
    pytest.importorskip("torch")
    (loop,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    for command, _ in list(steps())[5:7]:
        subprocess.run(["bash", "-c", command], cwd=folder, env=cluster, check=True, capture_output=True, timeout=120)
    loop = loop.replace("https://127.0.0.1:8080", cluster["AIS_ENDPOINT"]).replace("256", "2")
    loop += "\nassert images.shape[1:] == (3, 224, 224), images.shape\n"
    subprocess.run([sys.executable, "-c", loop], cwd=folder, env=cluster, check=True, timeout=120)
