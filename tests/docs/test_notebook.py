"""The committed notebook says and shows what it does: executed anew, it comes out the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("nbclient", reason="executes the notebook")
pytest.importorskip("torch", reason="the notebook feeds PyTorch")

import nbformat


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", repository / "docs" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_comes_out_as_it_was_committed(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIS_ENDPOINT", raising=False)
    assert tool.differences(nbformat.read(tool.NOTEBOOK, as_version=4), tool.executed(tmp_path)) == []


def test_the_committed_notebook_is_small_whole_and_of_no_machine(tool: ModuleType) -> None:
    text = tool.NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 500_000
    assert str(Path.home()) not in text
    notebook = nbformat.read(tool.NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/jpeg" in output.get("data", {}) for cell in code for output in cell.outputs) == 3


def test_a_difference_is_found(tool: ModuleType) -> None:
    notebook = nbformat.read(tool.NOTEBOOK, as_version=4)
    changed = nbformat.read(tool.NOTEBOOK, as_version=4)
    said, shown = (
        next(c for c in changed.cells if any(key in out.get(where, {}) for out in c.get("outputs", ())))
        for where, key in (("text", "failed"), ("data", "image/jpeg"))
    )
    said.outputs[0].text = said.outputs[0].text.replace("0 failed", "1 failed")
    pictures = [out for c in changed.cells for out in c.get("outputs", ()) if "image/jpeg" in out.get("data", {})]
    assert shown.outputs[-1] is pictures[0]
    pictures[0].data["image/jpeg"] = pictures[1].data["image/jpeg"]
    assert len(tool.differences(notebook, changed)) == 2
