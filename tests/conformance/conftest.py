"""One option: to keep what was found."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-conformance", action="store_true", help="write what was found into docs/conformance.json")
