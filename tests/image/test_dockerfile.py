"""What the Dockerfile writes out by hand is what the code says; this needs no container tool."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tvetl
from tvetl.spec import OPS, Pipeline, parse
from tvetl_server.engine.plans import only_torch
from tvetl_server.settings import read_settings


def stage(repository: Path, variant: str) -> list[str]:
    """The instructions of the image that is built, those of a stage that it is built on first."""
    text = (repository / "container" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    ((base, lines),) = re.findall(rf"^FROM (\S+) AS {variant}\n(.*?)(?:^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
    before = [] if base == "${BASE}" else stage(repository, base)
    return before + [line for line in lines.splitlines() if line and not line.startswith("#")]


def labels(repository: Path, variant: str) -> dict[str, str]:
    lines = " ".join(line for line in stage(repository, variant) if line.startswith("LABEL "))
    return {name: value[1:-1] for name, value in re.findall(r"""([\w.]+)=("[^"]*"|'[^']*')""", lines)}


@pytest.mark.parametrize(
    ("variant", "ops"),
    [("slim", [op.name for op in OPS.values() if not only_torch(op)]), ("cpu", list(OPS)), ("cuda", list(OPS))],
)
def test_its_labels_are_the_codes(repository: Path, variant: str, ops: list[str]) -> None:
    found = labels(repository, variant)
    assert json.loads(found.pop("tvetl.ops")) == ops
    assert found.pop("org.opencontainers.image.version") == tvetl.__version__
    assert found.pop("tvetl.contract") == str(parse({"steps": []}).version) == str(Pipeline.version)
    assert found.pop("tvetl.variant") == variant
    assert set(found) == {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses")}


@pytest.mark.parametrize("variant", ["slim", "cpu", "cuda"])
def test_every_variant_ends_as_the_same_user_with_a_list_of_what_is_inside(repository: Path, variant: str) -> None:
    lines = stage(repository, variant)
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001:0"
    assert [line for line in lines if line.startswith("ENTRYPOINT")] == ['ENTRYPOINT ["/opt/tvetl/bin/tvetl-server"]']
    finish = max(place for place, line in enumerate(lines) if "image.py" in line and line.startswith("RUN"))
    assert finish > max(place for place, line in enumerate(lines) if line.startswith("COPY"))


def test_cuda_is_cpu_set_to_use_a_device_and_takes_none_that_nobody_gave(repository: Path) -> None:
    more = stage(repository, "cuda")[len(stage(repository, "cpu")) :]
    assert stage(repository, "cuda")[: -len(more)] == stage(repository, "cpu"), "its layers are cpu's"
    said = dict(re.findall(r"(\w+)=(\S+)", " ".join(line for line in more if line.startswith("ENV "))))
    # What NVIDIA's container toolkit reads: `video` brings libnvcuvid, by which nvJPEG reaches the engines.
    assert said == {"TVETL_DEVICE": "cuda", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility,video"}
    assert read_settings({"TVETL_PIPELINE": "{}", "TVETL_DEVICE": said["TVETL_DEVICE"]}).device == "cuda"
    # Where that runtime is the default, an image with this one shows all of a node's GPUs to pods that asked for none.
    assert "NVIDIA_VISIBLE_DEVICES=" not in (repository / "container" / "Dockerfile").read_text(encoding="utf-8")


def test_make_refuses_a_cuda_variant_without_cuda(repository: Path) -> None:
    """Another index's torch comes without CUDA's libraries, which would show on a GPU only."""
    done = subprocess.run(
        ["make", "build", "VARIANT=cuda", "TORCH_INDEX=x", "BUILDER=false"],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("TORCH_INDEX is for wheels without CUDA")


def test_the_example_derives_from_this_version(repository: Path) -> None:
    text = (repository / "examples" / "plugin-ops" / "Dockerfile").read_text(encoding="utf-8")
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
    assert "numpy" in names.findall(kept)
    for block in re.findall(r"^[a-z].*(?:\n    --hash.*)*\n", kept, re.MULTILINE):
        assert block in whole
        assert "--hash=sha256:" in block
