"""Execute examples/walkthrough.ipynb against a stand-in cluster, and keep its outputs small: ``make notebook``.

A test executes it anew and compares: text word by word but for times, pictures by their pixels.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "walkthrough.ipynb"
#: Pixels and JPEG quality of a picture that is committed, so that the whole notebook stays below 500 kB.
_WIDE, _QUALITY = 1200, 80


def executed(folder: Path) -> NotebookNode:
    """The notebook, run from its first cell to its last in ``folder``. Raises what a cell raises."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel before one of the user's
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]  # progress bars
        for output in cell.get("outputs", ()):
            _compact(output)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def _compact(output: NotebookNode) -> None:
    """Replace a PNG by a small JPEG, without its alternative text."""
    data = output.get("data", {})
    if png := data.pop("image/png", None):
        picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
        picture.thumbnail((_WIDE, _WIDE))
        made = io.BytesIO()
        picture.save(made, "JPEG", quality=_QUALITY)
        output.data = {"image/jpeg": base64.b64encode(made.getvalue()).decode()}


def differences(one: NotebookNode, other: NotebookNode) -> list[str]:
    """Cells in which a reader would see another text (but for times) or a picture of other pixels."""
    found = []
    for at, (cell, again) in enumerate(zip(one.cells, other.cells, strict=True)):
        if cell.source != again.source:
            found.append(f"cell {at} has another source")
        elif _text(cell) != _text(again):
            found.append(f"cell {at} says {_text(again)!r}, not {_text(cell)!r}")
        elif not _look_alike(_pictures(cell), _pictures(again)):
            found.append(f"cell {at} shows another picture")
    return found


def _text(cell: NotebookNode) -> str:
    """The text of a cell's outputs, with seconds, addresses and identities replaced."""
    outputs = cell.get("outputs", ())
    text = "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in outputs)
    text = re.sub(r"http://[0-9.]+:\d+", "http://...", text)
    text = re.sub(r"\d+\.\d+(?= ?s\b)", "...", text)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _pictures(cell: NotebookNode) -> list[np.ndarray]:
    found = (out.get("data", {}).get("image/jpeg") for out in cell.get("outputs", ()))
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.int16) for data in found if data]


def _look_alike(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """The same pictures: of JPEGs of the same pixels the values differ by nothing, on another Pillow by little."""
    alike = (one.shape == other.shape and np.abs(one - other).mean() < 1 for one, other in zip(some, others))  # noqa: B905
    return len(some) == len(others) and all(alike)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        nbformat.write(executed(Path(scratch)), NOTEBOOK)
    sys.stderr.write(f"wrote {NOTEBOOK.name}, {NOTEBOOK.stat().st_size // 1000} kB\n")
