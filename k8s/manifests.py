"""Write the pods that `tvetl register` would send, one for each kind of node: `make manifests`.

They are made from :mod:`tvetl.pod`, and a test compares them. They are for reading and for trials with kubectl. AIStore
adds its own volumes to a pod, the address of its target, and the node.
"""

from __future__ import annotations

from pathlib import Path

from tvetl.pod import GPU_IMAGE, PodSpec, Resources
from tvetl.spec import parse

HERE = Path(__file__).parent / "pods"
PIPELINE = HERE.parents[1] / "examples" / "pipelines" / "train.yaml"


def manifests() -> dict[str, str]:
    """File name and text of each."""
    pipeline = parse(PIPELINE.read_text(encoding="utf-8"))
    cpu = PodSpec("train-tensors", pipeline)
    gpu = PodSpec("train-tensors-gpu", pipeline, GPU_IMAGE, resources=Resources.with_gpu())
    head = "# Written by `make manifests` from tvetl.pod; a test compares.\n"
    return {"cpu.yaml": head + cpu.to_yaml(), "gpu.yaml": head + gpu.to_yaml()}


if __name__ == "__main__":
    for name, text in manifests().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(f"k8s/pods/{name}")
