"""`make demo` shows the whole way on this machine, and leaves only what is worth looking at."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path, photographs: list[Path]) -> Path:
    """Two photographs of one's own, one of them a PNG."""
    made = tmp_path / "my photographs"
    made.mkdir()
    for path in (photographs[1], photographs[4]):
        (made / path.name).write_bytes(path.read_bytes())
    return made


def test_the_demo_goes_the_whole_way(tmp_path: Path, folder: Path, repository: Path) -> None:
    program = [sys.executable, str(repository / "examples" / "demo.py"), str(folder)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 of 2 objects") == 2  # the bucket, and the range
    assert "99 names of the template are not in the source" in done.stdout
    assert "torch.float32" in done.stdout or "pip install torch" in done.stdout
    assert "neon colours, with why they are so" in done.stdout
    with Image.open(tmp_path / "build/demo/contact-sheet.png") as sheet:
        assert sheet.width > 1000
        assert sheet.height > 2 * (224 + 34 + 28) + 28 + 3 * 20  # two rows, and a note of three lines
    assert yaml.safe_load((tmp_path / "build/demo/pod-blog.yaml").read_text(encoding="utf-8"))["kind"] == "Pod"


def test_an_interrupted_demo_ends_and_says_so(tmp_path: Path, folder: Path, repository: Path) -> None:
    program = [sys.executable, "-u", str(repository / "examples" / "demo.py"), str(folder)]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        next(line for line in running.stdout if "demo-blog is ready" in line)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 130
        assert "Traceback" not in said


def test_a_folder_without_photographs_is_said(tmp_path: Path, repository: Path) -> None:
    program = [sys.executable, str(repository / "examples" / "demo.py"), str(tmp_path)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no photographs" in done.stderr
    assert "Traceback" not in done.stderr
