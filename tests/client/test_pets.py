"""docs/pets.md works as it is printed: each command and each Python block runs, in order, against the stand-in."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvetl.cluster import Cluster
from tvetl.local import LocalCluster

pytest.importorskip("torchvision", reason="trains torchvision's models")

#: What the pipelines of the page, in their order, are called there.
FILES = ("pipeline.yaml", "images.yaml", "masks.yaml")
TVETL = [sys.executable, "-c", "from tvetl.command.cli import main; main()"]


def test_every_command_and_block_of_the_page_runs(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "pets.md").read_text(encoding="utf-8")
    pipelines = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for name, pipeline in zip(FILES, pipelines, strict=True):
        (tmp_path / name).write_text(pipeline, encoding="utf-8")
    (tmp_path / "examples").symlink_to(repository / "examples")
    with LocalCluster(tmp_path / "cluster", targets=2) as local:
        printed = ""
        python = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)).replace("range(90)", "range(2)")
        (tmp_path / "train.py").write_text(python.replace("http://127.0.0.1:8080", local.endpoint), encoding="utf-8")
        commands = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
        for line in [*commands, "python train.py"]:
            program, *words = shlex.split(line)
            done = subprocess.run(
                [*(TVETL if program == "tvetl" else [sys.executable]), *words],
                cwd=tmp_path,
                env={**os.environ, "AIS_ENDPOINT": local.endpoint},
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
            assert done.returncode == 0, line + done.stderr
            printed += done.stdout
        assert re.search(r"segmentation: a loss of \d", printed)
        assert "bbox_regression" in printed
        fits(Cluster(local.endpoint))


def fits(cluster: Cluster) -> None:
    """The two buckets hold crops of one place: a flipped or shifted mask would mix the classes' colours more."""
    image = Image.open(io.BytesIO(cluster.get("pets-224", "images/rocket_4.jpg")))
    mask = np.asarray(Image.open(io.BytesIO(cluster.get("pets-224-masks", "annotations/trimaps/rocket_4.png"))))
    assert image.size == mask.shape == (224, 224)
    light = np.asarray(image.convert("L")).astype(float)
    rocket = mask == 1
    assert rocket.any() and light[rocket].mean() > light[mask == 2].mean() + 20
