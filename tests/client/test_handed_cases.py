"""Situations from public bug reports of people who do this job, handed to the project as scripts with their inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tvetl.cluster import Cluster

pytest.importorskip("torch", reason="most of the cases compare with torchvision")

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("script", sorted(CASES.glob("*/run.py")), ids=lambda script: script.parent.name)
def test_what_once_failed_outside_works(cluster: Cluster, script: Path) -> None:
    environment = {**os.environ, "AIS_ENDPOINT": cluster.endpoint}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
