"""What is installed is what was locked: with hashes, from no named place, and the same in every environment."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

NAMES = ("run", "dev", "sdk1", "server", "server-torch", "server-cuda", "build", "photos", "audit")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: What differs on purpose: the SDK before 2.0, and the hash library it holds back.
OTHER_SDK = {"aistore", "xxhash"}


def locked(repository: Path, name: str) -> list[tuple[Requirement, int]]:
    """Every requirement of a lock with the number of its hashes."""
    text = (repository / "locks" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.split(" --hash=")[0]), line.count("--hash=sha256:")) for line in lines]


def pins(repository: Path, name: str, python: str) -> dict[str, str]:
    """Project -> version, on Linux x86_64 with that Python."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    chosen = [r for r, _ in locked(repository, name) if r.marker is None or r.marker.evaluate(machine)]
    assert len({r.name for r in chosen}) == len(chosen), "a project is there twice"
    return {r.name: str(r.specifier).removeprefix("==") for r in chosen}


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_is_pinned_and_carries_hashes(repository: Path, name: str) -> None:
    requirements = locked(repository, name)
    assert requirements
    for requirement, hashes in requirements:
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement
        assert hashes > 0, requirement


@pytest.mark.parametrize("name", NAMES)
def test_no_lock_names_an_index(repository: Path, name: str) -> None:
    text = (repository / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("    --hash", ""), re.MULTILINE), "options belong to the caller"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("run", "dev"),
        ("server", "run"),
        ("server", "sdk1"),
        ("server", "server-torch"),
        ("server-torch", "dev"),
        ("build", "run"),
    ],
)
def test_a_larger_lock_holds_the_same_versions(repository: Path, smaller: str, larger: str, python: str) -> None:
    assert pins(repository, smaller, python).items() <= pins(repository, larger, python).items()


@pytest.mark.parametrize("python", PYTHONS)
def test_the_cuda_variant_adds_what_torch_does_not_bring(repository: Path, python: str) -> None:
    cpu, more = pins(repository, "server-torch", python), pins(repository, "server-cuda", python)
    assert not cpu.keys() & more.keys(), "cuda is built on cpu"
    assert {"torch", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg"} <= cpu.keys() | more.keys()


def test_nvjpeg_is_of_the_cuda_that_torch_was_made_with(repository: Path) -> None:
    """As the list that torch names, NVIDIA's cuda-toolkit of one version, has them together."""
    try:
        listed = [Requirement(line) for line in requires("cuda-toolkit") or []]
    except PackageNotFoundError:
        pytest.skip("torch has no CUDA here")
    (wanted,) = (r for r in listed if r.name == "nvidia-nvjpeg" and r.marker and 'extra == "nvjpeg"' in str(r.marker))
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert version("cuda-toolkit") == pins(repository, "server-torch", python)["cuda-toolkit"]
    assert wanted.specifier.contains(pins(repository, "server-cuda", python)["nvidia-nvjpeg"])


@pytest.mark.parametrize("python", PYTHONS)
def test_the_other_sdk_line_differs_in_nothing_else(repository: Path, python: str) -> None:
    ours, other = pins(repository, "run", python), pins(repository, "sdk1", python)
    assert {name for name, version in ours.items() if other[name] != version} == OTHER_SDK
    assert ours["aistore"].startswith("2.")
    assert other["aistore"].startswith("1.")


@pytest.mark.parametrize("name", ["run", "sdk1", "server", "build"])
def test_torch_is_only_where_it_is_asked_for(repository: Path, name: str) -> None:
    assert not {"torch", "torchvision", "scipy"} & {r.name for r, _ in locked(repository, name)}
    assert {"torch", "torchvision"} <= {r.name for r, _ in locked(repository, "dev")}
