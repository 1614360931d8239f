"""The fixtures of support/serving.py, and the figures these tests find, printed at the end and kept for the docs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.serving import disk, image, recorder, run_server

__all__ = ["disk", "figure", "image", "recorder", "run_server"]

#: What the last run of each test found; docs/tables.py makes docs/reliability.md's table of it.
FIGURES = Path(__file__).resolve().parents[2] / "docs" / "reliability.json"

_found: dict[str, str] = {}


@pytest.fixture(scope="session")
def figure() -> Callable[[str, str], None]:
    """Note one figure: ``figure("what was done", "what was found, with its unit")``."""
    return _found.__setitem__


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-figures", action="store_true", help="write the figures into docs/reliability.json")
    parser.addoption("--long", action="store_true", help="overload for a minute, and more rounds against slow peers")
    parser.addoption("--fuzz-seconds", type=float, default=60.0, help="how long to fuzz")
    parser.addoption("--fuzz-seed", type=int, default=1, help="which mutants")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _found:
        return
    terminalreporter.section("figures of the hostile tests")
    width = max(map(len, _found))
    for what, found in sorted(_found.items()):
        terminalreporter.write_line(f"{what:{width}}  {found}")
    if config.getoption("--keep-figures", default=False):
        kept = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
        FIGURES.write_text(json.dumps(kept | _found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
