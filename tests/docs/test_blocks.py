"""Words are run: every Python block of README and docs; and every command line names what the command has."""

from __future__ import annotations

import ast
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml
from PIL import Image

from tvetl.cluster import Cluster
from tvetl.command.cli import app
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import parse

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
]

#: Blocks run as they are printed but for this: where the cluster is, and how often.
CHANGED = {
    "http://127.0.0.1:8080": None,
    "for epoch in range(90)": "for epoch in range(1)",
    "batch_size=256": "batch_size=4",
    "num_workers=8": "num_workers=1",
}
#: What a document's first block takes for granted. The walk-throughs have tests of their own.
BEFORE = {
    "docs/exactness.md": """
import io, PIL.Image, torch, tvetl.spec
from torchvision.transforms import v2
data, file, seed, epoch, view = open("images/Bengal_3.jpg", "rb").read(), io.BytesIO(), 1, 0, 0
transforms = [v2.RandomResizedCrop(64)]
""",
}
#: Those with tests of their own.
ELSEWHERE = ("docs/walkthrough.md", "docs/pets.md", "docs/secured.md")
TRAIN = {
    "steps": [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}, {"op": "ToTensor"}],
    "output": {"format": "npy"},
}
#: The head's box of an image, as Oxford-IIIT Pet has it.
VOC = """<annotation><size><width>200</width><height>160</height><depth>3</depth></size><object><name>cat</name>
<bndbox><xmin>20</xmin><ymin>30</ymin><xmax>120</xmax><ymax>140</ymax></bndbox></object></annotation>"""


def blocks(document: str) -> list[tuple[str, str]]:
    """Language (all words after the fence) and text of each block; indented ones have no language."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return fenced + [("", block) for block in re.findall(r"(?:^ {4}\S.*\n)+", rest, re.MULTILINE)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, photographs: list[Path]) -> Iterator[tuple[Path, str]]:
    """A folder with images and annotations, and a cluster that has what the documents name."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    names = [f"Bengal_{number}" for number in (0, 3, 100, 171)]
    for name, path in zip(names, photographs, strict=False):
        with Image.open(path) as image:
            image.convert("RGB").resize((200, 160)).save(folder / "images" / f"{name}.jpg")
    (folder / "annotations" / "list.txt").write_text("".join(f"{name} 6 1 2\n" for name in names), encoding="utf-8")
    with LocalCluster(folder / "ais-of-the-test") as local:
        cluster = Cluster(local.endpoint)
        for bucket, prefix in (("images", ""), ("photos", ""), ("imagenet", "train/n01440764/")):
            cluster.create_bucket(bucket)
            for name in names:
                data = (folder / "images" / f"{name}.jpg").read_bytes()
                cluster.put(bucket, f"{prefix}{name}.jpg", data)
        cluster.create_bucket("pets")
        (folder / "annotations" / "xmls").mkdir()
        for name in names:
            (mask := io.BytesIO()).name = "mask.png"
            Image.new("L", (200, 160), 1).save(mask)
            cluster.put("pets", f"images/{name}.jpg", (folder / "images" / f"{name}.jpg").read_bytes())
            cluster.put("pets", f"annotations/trimaps/{name}.png", mask.getvalue())
            (folder / "annotations" / "xmls" / f"{name}.xml").write_text(VOC, encoding="utf-8")
        cluster.create_bucket("shards")
        shard = io.BytesIO()
        with tarfile.open(fileobj=shard, mode="w") as tar:
            for name, content in (("1.jpg", data), ("1.cls", b"6")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        cluster.put("shards", "pets-000.tar", shard.getvalue())
        cluster.register(PodSpec("train-tensors", parse(TRAIN), start_timeout=60))
        yield folder, local.endpoint


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in ELSEWHERE])
def test_every_python_block_runs(document: str, world: tuple[Path, str]) -> None:
    code = [text for language, text in blocks(document) if language == "python"]
    for _, old in (block for block in blocks(document) if block[0] == "python old"):
        ast.parse(old)
    if not code:
        return
    pytest.importorskip("torch", reason="the blocks feed PyTorch")
    folder, endpoint = world
    program = BEFORE.get(document, "") + "\n".join(code)
    for printed, run in CHANGED.items():
        program = program.replace(printed, endpoint if run is None else run)
    (folder / "block.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "block.py"],
        cwd=folder,
        env={**os.environ, "AIS_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_of_a_kind_that_is_checked(document: str) -> None:
    known = {"", "python", "python old", "yaml", "json", "bash", "sh", "console", "text", "toml"}
    assert {language for language, _ in blocks(document)} <= known
    for language, text in blocks(document):
        if language in ("yaml", "json"):
            for data in yaml.safe_load_all(text):
                if isinstance(data, dict) and "steps" in data:
                    parse(data)


def lines_of(document: str, program: str) -> list[str]:
    """The lines of blocks and of inline code that call the program, with continued lines joined."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    found = []
    for language, block in blocks(document):
        if not language.startswith("python"):
            found += block.replace("\\\n", " ").splitlines()
    found += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [match[1] for line in found if (match := re.match(rf"\s*\$?\s*({program} [a-z].*)", line))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_line_has_commands_and_options_that_exist(document: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in lines_of(document, "tvetl"):
        words = shlex.split(line.split(" #")[0].split(" | ")[0].split(" > ")[0].rstrip("&")) if "`" not in line else []
        assert words[1] in commands, line
        command = commands[words[1]]
        options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
        for word in words[2:]:
            option = word.split("=")[0]
            assert not re.match(r"--?[a-z]", word) or option in options, f"{option} of {line!r}"


def test_a_wrong_option_would_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    (tmp_path / "wrong.md").write_text("```\n$ tvetl get a/b --no-such-thing\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="no-such-thing"):
        test_every_command_line_has_commands_and_options_that_exist("wrong.md")
