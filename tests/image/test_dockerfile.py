"""What the Dockerfile writes out by hand is what the code says; this needs no container tool."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import tvetl
from tvetl.spec import OPS, Pipeline, parse
from tvetl_server.engine.plan import only_torch


def labels(repository: Path, variant: str) -> dict[str, str]:
    text = (repository / "container" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    (stage,) = re.findall(rf"^FROM \S+ AS {variant}\n(.*?)(?:^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
    (line,) = re.findall(r"^LABEL (.*)$", stage, re.MULTILINE)
    return {name: value[1:-1] for name, value in re.findall(r"""([\w.]+)=("[^"]*"|'[^']*')""", line)}


@pytest.mark.parametrize(
    ("variant", "ops"), [("slim", [op.name for op in OPS.values() if not only_torch(op)]), ("cpu", list(OPS))]
)
def test_its_labels_are_the_codes(repository: Path, variant: str, ops: list[str]) -> None:
    found = labels(repository, variant)
    assert json.loads(found.pop("tvetl.ops")) == ops
    assert found.pop("org.opencontainers.image.version") == tvetl.__version__
    assert found.pop("tvetl.contract") == str(parse({"steps": []}).version) == str(Pipeline.version)
    assert found.pop("tvetl.variant") == variant
    assert set(found) == {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses")}


def test_the_example_derives_from_this_version(repository: Path) -> None:
    text = (repository / "examples" / "own-ops" / "Dockerfile").read_text(encoding="utf-8")
    assert f"tvetl-server:{tvetl.__version__}\n" in text


def test_the_context_holds_what_is_copied_and_little_else(repository: Path) -> None:
    text = (repository / "container" / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()}
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert {path for path in copied if not any(path.startswith(prefix) for prefix in sent)} == set()
    assert set(sent) == {path.rstrip("/") for path in copied if path.rstrip("/") in sent}


def test_a_lock_is_parted_for_an_index_of_cpu_wheels(repository: Path, tmp_path: Path) -> None:
    """torch without hashes, as another index has other files; the rest with, less the libraries of the GPU."""
    import subprocess
    import sys

    lock, checked, torch = repository / "locks" / "server-torch.txt", tmp_path / "checked.txt", tmp_path / "torch.txt"
    command = [sys.executable, str(repository / "container" / "image.py"), "split", str(lock), str(checked), str(torch)]
    subprocess.run(command, check=True)
    assert {line.split("==")[0] for line in torch.read_text().splitlines()} == {"torch", "torchvision"}
    assert "--hash" not in torch.read_text()
    assert "\\" not in torch.read_text()
    whole, kept = lock.read_text(), checked.read_text()
    names = re.compile(r"^([a-z0-9-]+)==", re.MULTILINE)
    gone = {*names.findall(whole)} - {*names.findall(kept)} - {"torch", "torchvision"}
    assert gone
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in gone)
    assert "nvidia-nvimgcodec-cu13" in names.findall(kept)
    for block in re.findall(r"^[a-z].*(?:\n    --hash.*)*\n", kept, re.MULTILINE):
        assert block in whole
        assert "--hash=sha256:" in block
