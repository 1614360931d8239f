"""Clusters over fresh folders, with the recorder of ../shared/README.md as their transformer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tvetl.local import LocalCluster

RECORDER = [sys.executable, str(Path(__file__).parents[1] / "support/local/recorder.py")]
CRASH = [sys.executable, "-c", "import sys; print(1, flush=True); sys.exit('boom: bad config')"]
ALLOW = {"localhost/rec:1": RECORDER, "localhost:5000/rec:1": RECORDER, "localhost/crash:1": CRASH}

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: recorder
  annotations: {{communication_type: "hpush://", wait_timeout: 2m, support_direct_put: "true"}}
spec:
  containers:
    - name: server
      image: {image}
      ports: [{{name: default, containerPort: 8000}}]
      env: [{{name: COLOUR, value: blue}}, {{name: HOST_IP, valueFrom: {{fieldRef: {{fieldPath: status.hostIP}}}}}}]
      readinessProbe: {{httpGet: {{path: /health, port: default}}}}
"""


@pytest.fixture
def pod() -> Callable[..., str]:
    """A pod YAML for an image (default: the recorder)."""
    return lambda image="localhost/rec:1": POD.format(image=image)


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Start clusters over ``tmp_path / "ais"``; all are stopped at the end."""
    from tvetl.local import LocalCluster  # here, so that tests are skipped where its requirements are absent

    with ExitStack() as stack:
        yield lambda targets=1: stack.enter_context(LocalCluster(tmp_path / "ais", targets=targets, allow=ALLOW))
