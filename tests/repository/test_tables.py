"""The tables in the documents are those of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "document", ["README.md", "docs/server.md", "docs/reference.md", "docs/performance.md", "docs/gpu.md"]
)
def test_tables_in_documents_are_the_codes(repository: Path, document: str) -> None:
    spec = importlib.util.spec_from_file_location("tables", repository / "docs/tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.rendered(document) == (repository / document).read_text(encoding="utf-8"), "run `make tables`"
