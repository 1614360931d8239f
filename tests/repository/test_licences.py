"""No licence comes in unseen: what is installed by the locks is allowed, and told in docs/licences.md."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def licences(repository: Path) -> Any:
    """docs/licences.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("licences", repository / "docs" / "licences.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_licence_is_allowed(licences: Any) -> None:
    found = {name: licences.licence(name) for name in licences.locked()}
    installed = {name: told for name, told in found.items() if told is not None}
    assert len(installed) > 90
    assert {name: told for name, told in installed.items() if not told or licences.refused(name, told)} == {}


@pytest.mark.parametrize(
    ("name", "expression", "refused"),
    [("x", "MIT", []), ("x", "GPL-3.0-only", ["GPL-3.0-only"]), ("x", "MIT AND AGPL-3.0-only", ["AGPL-3.0-only"]),
     ("x", "MIT OR GPL-2.0-only", []), ("x", "(MIT OR GPL-2.0-only) AND ISC", []), ("x", "MPL-2.0", ["MPL-2.0"]),
     ("certifi", "MPL-2.0", []), ("x", "LicenseRef-NVIDIA-Proprietary", ["LicenseRef-NVIDIA-Proprietary"]),
     ("nvidia-cublas", "LicenseRef-NVIDIA-Proprietary", []), ("x", "Free for all", ["Free for all"])],
)  # fmt: skip
def test_an_expression_is_read_as_it_is_meant(licences: Any, name: str, expression: str, refused: list[str]) -> None:
    assert licences.refused(name, expression) == refused


def test_what_is_refused_elsewhere_is_not_in_the_slim_image(licences: Any) -> None:
    names, _ = licences.EXCEPTIONS["LicenseRef-NVIDIA-Proprietary"]
    with_them = {lock for name, locks in licences.locked().items() if name in names for lock in locks}
    assert with_them <= {"dev", "server-torch", "server-cuda", "bench"}
    assert names <= licences.locked().keys(), "an exception for nothing"


def test_the_page_tells_what_is_installed(licences: Any, repository: Path) -> None:
    text = (repository / "docs" / "licences.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", text, re.MULTILINE))
    known = {name for name, locks in licences.locked().items() if locks != {"audit"}}
    installed = {name: found for name in known if (found := licences.licence(name)) is not None}
    assert {name: told.get(name) for name in installed} == installed, "make licences writes it again"
    assert set(told) <= known
    assert known <= set(re.findall(r"`([^`]+)`", text))
