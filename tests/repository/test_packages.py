"""The packages are what they say: light to import, typed, of one version, and complete when built and installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
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


@pytest.fixture(scope="module")
def dist(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What `make dist` leaves, twice: by two builds at once."""
    folders = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("again")
    program = [sys.executable, str(repository / "locks/dist.py")]
    builds = [subprocess.Popen([*program, str(folder)], stderr=subprocess.PIPE, text=True) for folder in folders]
    for build in builds:
        _, said = build.communicate(timeout=500)
        assert (build.returncode, said) == (0, "")
    return folders


def test_every_build_gives_the_same_bytes(dist: tuple[Path, Path]) -> None:
    first, again = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in dist)
    assert len(first) == 6
    assert first.keys() == again.keys()
    assert [name for name, data in first.items() if again[name] != data] == []


@pytest.mark.parametrize(
    ("folder", "package"),
    [("client", "tvetl"), ("container", "tvetl_server"), ("container/native", "tvetl_pixels")],
)
def test_wheel_and_archive_have_types_licence_and_every_file(
    repository: Path, dist: tuple[Path, Path], folder: str, package: str
) -> None:
    (wheel,), (archive,) = dist[0].glob(f"{package}-*.whl"), dist[0].glob(f"{package}-*.tar.gz")
    source = repository / folder / "src"
    kinds = ("py", "yaml", "pyi", "typed", "c", "h")
    files = {p.relative_to(source).as_posix() for kind in kinds for p in (source / package).rglob(f"*.{kind}")}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in files if not name.endswith((".c", ".h"))} < in_wheel
    assert f"{package}/py.typed" in in_wheel
    assert any(name.endswith("/LICENSE") for name in in_wheel)
    with tarfile.open(archive) as tar:
        in_archive = {name.partition("/")[2] for name in tar.getnames()}
    assert {"LICENSE", "pyproject.toml", *(f"src/{name}" for name in files)} <= in_archive


def test_the_wheels_alone_install_and_work(dist: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside what they depend on, which comes from here: in place of the index."""
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    wheels = [str(wheel) for wheel in dist[0].glob("*.whl")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", *wheels], check=True)
    (installed,) = tmp_path.glob("venv/lib/python3*/site-packages")
    here = sysconfig.get_path("purelib")
    (installed / "beside.pth").write_text(f"import sys; sys.path.append({here!r})\n", encoding="utf-8")

    def run(program: str, *arguments: str) -> str:
        command = [str(tmp_path / "venv/bin" / program), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100).stdout

    assert run("tvetl", "--version").strip() == tvetl.__version__
    assert "transform" in run("tvetl", "--help")
    code = "import tvetl, tvetl_pixels, tvetl_server.wsgi as s; from tvetl_pixels import _native as n"
    where = run("python", "-c", f"{code}; print(tvetl.__file__, s.__file__, n.__file__, sep='\\n')").splitlines()
    assert len(where) == 3
    assert all(Path(file).is_relative_to(installed) for file in where), where
    assert (tmp_path / "venv/bin/tvetl-server").is_file()


def test_exact_means_one_pillow_for_a_python() -> None:
    pillow = [line for line in requires("tvetl-server") or [] if line.lower().startswith("pillow")]
    assert len(pillow) == 2
    assert all("==" in line.split(";")[0] for line in pillow)
