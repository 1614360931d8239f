"""Both packages are what they say: light to import, typed, of one version, and complete when built."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import pytest

import tvetl
import tvetl_server

HEAVY = ("aistore", "flask", "numpy", "PIL", "rich", "torch", "torchvision", "typer")


def test_both_packages_have_one_version() -> None:
    assert tvetl.__version__ == tvetl_server.__version__ == version("tvetl") == version("tvetl-server")


def brought_by(module: str) -> set[str]:
    """What of HEAVY a fresh interpreter holds after importing a module."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(HEAVY) & set(done.stdout.split())


@pytest.mark.parametrize("module", ["tvetl", "tvetl.errors", "tvetl.spec", "tvetl_server", "tvetl_server.errors"])
def test_importing_what_both_programs_share_brings_nothing_heavy(module: str) -> None:
    assert not brought_by(module)


@pytest.mark.parametrize("module", ["tvetl.command.cli", "tvetl_server.wsgi"])
def test_importing_a_command_brings_no_torch(module: str) -> None:
    assert not brought_by(module) & {"torch", "torchvision"}


@pytest.mark.parametrize(
    ("script", "target"), [("tvetl", "tvetl.command.cli:main"), ("tvetl-server", "tvetl_server.wsgi:main")]
)
def test_the_commands_are_there(script: str, target: str) -> None:
    (found,) = entry_points(group="console_scripts", name=script)
    assert found.value == target
    assert callable(found.load())
    assert (Path(sys.executable).parent / script).is_file()


@pytest.mark.parametrize(("folder", "package"), [("client", "tvetl"), ("container", "tvetl_server")])
def test_the_wheel_ships_types_and_every_module(repository: Path, tmp_path: Path, folder: str, package: str) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*pip, str(tmp_path), str(repository / folder)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    source = repository / folder / "src"
    files = [path for kind in ("*.py", "*.yaml") for path in (source / package).rglob(kind)]
    expected = {path.relative_to(source).as_posix() for path in files}
    assert {*expected, f"{package}/py.typed"} <= set(zipfile.ZipFile(wheel).namelist())


def test_exact_means_one_pillow_for_a_python() -> None:
    pillow = [line for line in requires("tvetl-server") or [] if line.lower().startswith("pillow")]
    assert len(pillow) == 2
    assert all("==" in line.split(";")[0] for line in pillow)
