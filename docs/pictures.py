"""Draw the pictures of README and docs by running the programs that they show: ``make pictures``."""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tvetl.cluster import Cluster
from tvetl.datasets import read_voc
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.preview import preview
from tvetl.spec import parse

REPOSITORY = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = Path(str(distribution("scikit-image").locate_file("skimage/data")))
#: The session that the README shows, and the width of its terminal.
COLUMNS = 112
SESSION = (
    "tvetl register train-crops crop.yaml",
    "tvetl transform photos crops --etl train-crops --dry-run",
    "tvetl transform photos crops --etl train-crops",
    "tvetl transform photos crops --etl train-crops --retry errors.jsonl",
    "tvetl list",
)


def contact_sheet() -> None:
    """What the demo leaves, as a JPEG."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, REPOSITORY / "examples/demo.py"], cwd=place, check=True, capture_output=True)
        with Image.open(Path(place) / "build/demo/contact-sheet.png") as image:
            image.save(REPOSITORY / "docs/contact-sheet.jpg", quality=70, optimize=True)


def sheet() -> None:
    """Eight views of a cat by examples/pipelines/colour.yaml."""
    original = io.BytesIO()
    with Image.open(PHOTOGRAPHS / "chelsea.png") as image:
        image.convert("RGB").save(original, "JPEG", quality=95)
    pipeline = parse((REPOSITORY / "examples/pipelines/colour.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as root, LocalCluster(Path(root)) as local:
        cluster = Cluster(local.endpoint)
        cluster.create_bucket("photos")
        cluster.put("photos", "chelsea.jpg", original.getvalue())
        cluster.register(PodSpec("colour", pipeline))
        made = preview(cluster, "photos", "chelsea.jpg", "colour", views=8).image()
    made.save(REPOSITORY / "docs/sheet.jpg", quality=80, optimize=True)


def pets() -> None:
    """Views of one picture with its trimap and box, by the first pipeline of docs/pets.md."""
    text = (REPOSITORY / "docs/pets.md").read_text(encoding="utf-8")
    pipeline = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as place, LocalCluster(Path(place) / "cluster") as local:
        folder = Path(place) / "pets"
        subprocess.run([sys.executable, REPOSITORY / "examples/pets.py", folder], check=True, capture_output=True)
        cluster = Cluster(local.endpoint)
        cluster.create_bucket("pets")
        for name in ("images/person_1.jpg", "annotations/trimaps/person_1.png"):
            cluster.put("pets", name, (folder / name).read_bytes())
        cluster.register(PodSpec("pets-train", parse(pipeline)))
        boxes = read_voc(folder / "annotations/xmls")["person_1"]
        made = preview(
            cluster, "pets", "images/person_1.jpg", "pets-train",
            views=8, boxes=boxes.boxes.tolist(), labels=["person"], masks="annotations/trimaps/{stem}.png",
        ).image()  # fmt: skip
    made.save(REPOSITORY / "docs/pets.jpg", quality=80, optimize=True)


def terminal() -> None:
    """The session of the README, by real runs of the command against a stand-in cluster, as an SVG."""
    recorded = Console(record=True, width=COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as place, LocalCluster(Path(place) / "cluster", targets=2) as cluster:
        folder = Path(place)
        _fill(cluster.root / "photos")
        (folder / "crop.yaml").write_text((REPOSITORY / "examples/pipelines/crop.yaml").read_text(encoding="utf-8"))
        size = {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        for command in SESSION:
            if "--retry" in command:  # mended in between
                for name in ("chelsea_007.jpg", "coffee_111.jpg", "coffee_112.jpg"):
                    (cluster.root / "photos" / name).write_bytes((cluster.root / "photos/coffee_110.jpg").read_bytes())
            recorded.print(Text.assemble(("$ ", "green"), (command, "bold")))
            env = {**os.environ, **size, "AIS_ENDPOINT": cluster.endpoint}
            recorded.print(Text.from_ansi(_shown(_written(command, folder, env))))
    # Without the font of rich's template, which every viewer would fetch from the network.
    form = re.sub(r"@font-face \{\{.*?\}\}|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = re.sub(r"font-family: (?:Fira Code|arial).*?;", "font-family: monospace;", form)
    picture = recorded.export_svg(title="tvetl", code_format=form, unique_id="tvetl")
    (REPOSITORY / "docs/terminal.svg").write_text(picture + "\n", encoding="utf-8")


def _fill(photos: Path) -> None:
    """600 photographs, few pixels each; three of them are something else."""
    photos.mkdir()
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        jpeg = io.BytesIO()
        with Image.open(PHOTOGRAPHS / name) as image:
            image.convert("RGB").resize((320, 240)).save(jpeg, "JPEG")
        for at in range(200):
            (photos / f"{Path(name).stem}_{at:03}.jpg").write_bytes(jpeg.getvalue())
    (photos / "chelsea_007.jpg").write_bytes(b"<!doctype html><title>404 Not Found</title>")
    (photos / "coffee_111.jpg").write_bytes((photos / "coffee_110.jpg").read_bytes()[:5000])
    (photos / "coffee_112.jpg").write_bytes(b"")


def _written(command: str, folder: Path, env: dict[str, str]) -> str:
    """The output of a command on a terminal of its own (a pty)."""
    program, *arguments = shlex.split(command)
    ours, theirs = pty.openpty()
    beside = Path(sys.executable).parent / program
    with subprocess.Popen([beside, *arguments], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        written = b""
        with suppress(OSError):  # how Linux says that nobody has the other end any more
            while block := os.read(ours, 65536):
                written += block
    os.close(ours)
    return written.decode()


def _shown(written: str) -> str:
    """The terminal at the end of this output: lines that were cleared or drawn over show their last text."""
    lines, at = [""], 0
    for part in re.split(r"(\r?\n|\r|\x1b\[\??[0-9;]*[A-Za-z])", written):
        if part in ("\n", "\r\n"):
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif re.fullmatch(r"\x1b\[\d*A", part):
            at = max(0, at - int(part[2:-1] or 1))
        elif part in ("\r", "\x1b[2K"):
            lines[at] = "" if part == "\x1b[2K" else lines[at]
        elif not part.startswith("\x1b") or part.endswith("m"):
            lines[at] += part
    return "\n".join(lines).strip("\n")


if __name__ == "__main__":
    contact_sheet()
    sheet()
    pets()
    terminal()
    sys.stderr.write("wrote docs/contact-sheet.jpg, docs/sheet.jpg, docs/pets.jpg and docs/terminal.svg\n")
