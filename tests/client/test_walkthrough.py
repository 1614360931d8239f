"""docs/walkthrough.md works as it is printed: each Python block runs, in order, against the stand-in."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from tvetl.local import LocalCluster

#: A screen is not asked for in a test.
PREAMBLE = "from PIL import Image\nImage.Image.show = lambda self: None\n"


def test_every_block_of_the_walkthrough_runs(repository: Path, photographs: list[Path], tmp_path: Path) -> None:
    text = (repository / "docs" / "walkthrough.md").read_text(encoding="utf-8")
    (pipeline,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if find_spec("torch") is None:
        blocks = [block for block in blocks if "DataLoader" not in block]
    elif find_spec("alive_progress") is None:  # the SDK's own datasets want it beside torch
        blocks = [block for block in blocks if "AISMapDataset" not in block]
    (tmp_path / "pipeline.yaml").write_text(pipeline, encoding="utf-8")
    (tmp_path / "images").mkdir()
    for number, path in zip((0, 3, 100, 171), photographs, strict=False):
        made = io.BytesIO()
        with Image.open(path) as image:
            image.convert("RGB").save(made, "JPEG")
        (tmp_path / "images" / f"Bengal_{number}.jpg").write_bytes(made.getvalue())
    (tmp_path / "walkthrough.py").write_text(PREAMBLE + "\n".join(blocks), encoding="utf-8")

    with LocalCluster(tmp_path / "cluster", targets=2) as cluster:
        done = subprocess.run(
            [sys.executable, "walkthrough.py"],
            cwd=tmp_path,
            env={**os.environ, "AIS_ENDPOINT": cluster.endpoint},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "4 of 4" in done.stdout
    assert "3 transformed, 98 not there" in done.stdout
    if find_spec("torch") is not None:
        assert "1 (4, 3, 224, 224) torch.float32" in done.stdout
