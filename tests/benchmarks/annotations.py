"""What annotations cost: ``cd tests && python -m benchmarks.annotations``; one server, its requests in turns.

The same photographs are asked for alone, with 20 boxes each, and masks of their sizes like them. Processor time of all
of a server's processes stands beside the rates, which say little while the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import numpy as np
from benchmarks.jail import SAMPLE, shown, turn
from PIL import Image, ImageDraw
from support.serving import by_name, start

STEPS = [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}]
FLOATS = [{"op": "ToTensor"}, {"op": "Normalize", "mean": [0.5], "std": [0.5]}]
PIPELINES = {
    "to JPEG": {"steps": STEPS, "seed": 1},
    "to float32": {"steps": [*STEPS, *FLOATS], "seed": 1},
}
#: Boxes of an image.
BOXES = 20


def mask(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Twelve ellipses, numbered, on 0: about as much of an outline as a segmented photograph has."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for number in range(1, 13):
        ends = rng.uniform(0, 1, (2, 2)) * size
        draw.ellipse([*ends.min(axis=0), *ends.max(axis=0)], fill=number)
    return image


def targets_in(folder: Path) -> dict[str, list[str]]:
    """Request targets by what they ask for."""
    rng = np.random.default_rng(0)
    found: dict[str, list[str]] = {"off": [], f"{BOXES} boxes": [], "mask": []}
    for file in sorted(SAMPLE.glob("*.JPEG")):
        size = Image.open(file).size
        stored = folder / f"{file.stem}.png"
        mask(size, rng).save(stored)
        ends = rng.uniform(0, 1, (BOXES, 2, 2)) * size
        boxes = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1).round(2).tolist()
        for what, path, arguments in (
            ("off", file, {"epoch": 1}),
            (f"{BOXES} boxes", file, {"epoch": 1, "boxes": boxes}),
            ("mask", stored, {"epoch": 1, "as": "mask", "like": f"src/{file.name}"}),
        ):
            asked = quote(json.dumps(arguments, separators=(",", ":")))
            found[what].append(f"/src/{path.name}?etl_args={asked}&{by_name(str(path))}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotations", description="What annotations cost.")
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        targets = targets_in(folder)
        for name, pipeline in PIPELINES.items():
            settings = {"TVETL_PIPELINE": json.dumps(pipeline), "TVETL_ROOTS": f"{SAMPLE}:{folder}"}
            server = start(folder / "log", **settings)
            stack.callback(server.stop)
            found: dict[str, list[tuple[float, float]]] = {what: [] for what in targets}
            for each in targets.values():
                turn(server, each)
            for round_ in range(asked.rounds):
                for what in [*targets] if round_ % 2 else [*reversed(targets)]:
                    found[what].append(turn(server, targets[what]))
            shown(f"an image {name}, alone (off) and with what belongs to it", found, ("a second", "ms of CPU each"))


if __name__ == "__main__":
    main()
