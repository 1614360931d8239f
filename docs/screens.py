"""Draw docs/terminal.svg, the session that the README shows, from real runs of the command: ``make pictures``.

Each command runs on a terminal of its own (a pty) against a stand-in cluster with 600 objects, three of them no images.
What a bar drew over is drawn over here too, so that the picture shows what one sees at the end.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tvetl.local import LocalCluster

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTH = 112
COMMANDS = (
    "tvetl register train-crops crop.yaml",
    "tvetl transform photos crops --etl train-crops --dry-run",
    "tvetl transform photos crops --etl train-crops",
    "tvetl transform photos crops --etl train-crops --retry errors.jsonl",
    "tvetl list",
)


def fill(photos: Path) -> None:
    """600 photographs, few pixels each; three of them are something else."""
    package = find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    photos.mkdir()
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        made = io.BytesIO()
        with Image.open(Path(package.origin).parent / "data" / name) as image:
            image.convert("RGB").resize((320, 240)).save(made, "JPEG")
        for at in range(200):
            (photos / f"{Path(name).stem}_{at:03}.jpg").write_bytes(made.getvalue())
    (photos / "chelsea_007.jpg").write_bytes(b"<!doctype html><title>404 Not Found</title>")
    (photos / "coffee_111.jpg").write_bytes((photos / "coffee_110.jpg").read_bytes()[:5000])
    (photos / "coffee_112.jpg").write_bytes(b"")


def run(command: str, folder: Path, env: dict[str, str]) -> str:
    """What the command writes to a terminal."""
    program, *arguments = shlex.split(command)
    ours, theirs = pty.openpty()
    beside = Path(sys.executable).parent / program
    with subprocess.Popen([beside, *arguments], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        written = b""
        while True:
            try:
                written += (block := os.read(ours, 65536))
            except OSError:  # how Linux says that nobody has the other end any more
                block = b""
            if not block:
                break
    os.close(ours)
    return written.decode()


def seen(written: str) -> str:
    """What stands on the terminal at the end: lines that were cleared, or gone back to, show their last text."""
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


def main() -> None:
    recorded = Console(record=True, width=WIDTH, file=io.StringIO())
    with tempfile.TemporaryDirectory() as place, LocalCluster(Path(place) / "cluster", targets=2) as cluster:
        folder = Path(place)
        fill(cluster.root / "photos")
        (folder / "crop.yaml").write_text((REPOSITORY / "examples/pipelines/crop.yaml").read_text(encoding="utf-8"))
        size = {"COLUMNS": str(WIDTH), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        for command in COMMANDS:
            if "--retry" in command:  # mended in between
                for name in ("chelsea_007.jpg", "coffee_111.jpg", "coffee_112.jpg"):
                    (cluster.root / "photos" / name).write_bytes((cluster.root / "photos/coffee_110.jpg").read_bytes())
            recorded.print(Text.assemble(("$ ", "green"), (command, "bold")))
            env = {**os.environ, **size, "AIS_ENDPOINT": cluster.endpoint}
            recorded.print(Text.from_ansi(seen(run(command, folder, env))))  # wrapped, as on a terminal of this width
    # Its own font is fetched from somewhere whenever the picture is looked at.
    form = re.sub(r"@font-face \{\{.*?\}\}|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = re.sub(r"font-family: (?:Fira Code|arial).*?;", "font-family: monospace;", form)
    picture = recorded.export_svg(title="tvetl", code_format=form, unique_id="tvetl")
    (REPOSITORY / "docs/terminal.svg").write_text(picture + "\n", encoding="utf-8")
    sys.stderr.write("wrote docs/terminal.svg\n")


if __name__ == "__main__":
    main()
