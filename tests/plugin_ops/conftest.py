"""The example package of plugin ops, installed in a folder that only servers may get into their path."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def example(repository: Path) -> Path:
    return repository / "examples" / "plugin-ops"


@pytest.fixture(scope="session")
def packages(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package alone."""
    folder = tmp_path_factory.mktemp("own")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(folder), str(example)], check=True)
    return folder


@pytest.fixture(scope="session")
def acme(packages: Path) -> ModuleType:
    """Its module, for tests of the engine in this process; loaded by its path, so that no server inherits it."""
    spec = importlib.util.spec_from_file_location("acme_ops", packages / "acme_ops.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
