"""The whole way of AIStore's blog of 2023, on this machine: photographs in, transformed photographs and tensors out.

    python examples/demo.py [FOLDER]

FOLDER (or DATA in the environment) holds your own photographs; without it, a few of scikit-image's are used. What is
worth looking at lies in build/demo/ afterwards. Nothing else stays: the cluster is a stand-in that ends with this
program, also on Ctrl-C.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.command import terminal
from tvetl.errors import TvetlError, UsageError
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.preview import contact_sheet
from tvetl.spec import parse

PIPELINES = Path(__file__).parent / "pipelines"
OUTPUT = Path("build/demo")
#: In scikit-image's wheel, and free of rights. It is found, and never imported.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg")
#: So that a large folder is still a demo.
MOST = 500
#: Photographs on the contact sheet.
SHOWN = 4
WHY_SO = (
    "The neon colours are those of AIStore's blog of 2023, and no fault: its pipeline normalises the pixels, so that "
    "half of them are below 0, and makes a JPEG of them then, in which bytes wrap around. For training take the "
    "tensors themselves: output {format: npy} or safetensors, as in examples/pipelines/train.yaml. To look at, take a "
    "pipeline without Normalize, as crop.yaml."
)


def photographs(folder: str) -> list[Path]:
    """The image files to use, in order of name. Raises UsageError where there are none."""
    if not folder:
        package = find_spec("skimage")
        if package is None or package.origin is None:
            raise UsageError("there are no photographs", hint="Name a folder: make demo DATA=~/Pictures")
        return [Path(package.origin).parent / "data" / name for name in PHOTOGRAPHS]
    endings = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    images = sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in endings)
    if not images:
        raise UsageError(f"there are no photographs in {folder!r}")
    return images[:MOST]


def as_jpeg(path: Path) -> bytes:
    """The file itself where it is a JPEG, else the same picture as one."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return path.read_bytes()
    jpeg = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(jpeg, "JPEG", quality=95)
    return jpeg.getvalue()


def put(cluster: Cluster, paths: Sequence[Path]) -> list[str]:
    """Store the photographs as photo_0.jpg, photo_1.jpg, ... in the bucket ``photos``."""
    names = [f"photo_{at}.jpg" for at in range(len(paths))]
    cluster.create_bucket("photos")
    with terminal.progress("photographs stored", len(paths)) as advance:
        for done, (name, path) in enumerate(zip(names, paths, strict=True), start=1):
            cluster.put("photos", name, as_jpeg(path))
            advance(done)
    say(f"stored {len(names)} photographs in ais://photos")
    return names


def register(cluster: Cluster, pipeline: str) -> str:
    """Register ``examples/pipelines/<pipeline>.yaml`` as the ETL demo-<pipeline>; its pod YAML is kept to look at."""
    text = (PIPELINES / f"{pipeline}.yaml").read_text(encoding="utf-8")
    pod = PodSpec(f"demo-{pipeline}", parse(text), start_timeout=60)
    (OUTPUT / f"pod-{pipeline}.yaml").write_text(pod.to_yaml(), encoding="utf-8")
    done = cluster.register(pod)
    say(f"{done.name} is ready after {done.seconds:.1f} s, registered with {done.form}")
    return done.name


def transform(cluster: Cluster, job: jobs.Job) -> None:
    """Wait for a job and say what became of it."""
    with terminal.progress("objects transformed", len(job.wanted)) as advance:
        report = jobs.wait(cluster, job, advance.job)
    terminal.print_report(report)


def train(cluster: Cluster, etl: str) -> None:
    """One epoch of batches, as a training loop would take them: transformed by the cluster, seeded."""
    try:
        from torch.utils.data import DataLoader

        from tvetl.datasets import TransformedImages
    except ImportError:
        say("PyTorch is not installed, so no DataLoader now: pip install torch, and run this again")
        return
    dataset = TransformedImages(cluster, "photos", etl, seed=2023)
    dataset.set_epoch(1)
    loader = DataLoader(dataset, batch_size=4, shuffle=True)
    for at, (batch, names) in enumerate(loader):
        if at < 2:
            say(f"a batch {tuple(batch.shape)} of {batch.dtype}, mean {batch.mean():+.2f}: {', '.join(names)}")
    say(f"an epoch of {len(loader)} batches, {len(dataset)} photographs")


def look(cluster: Cluster, names: Sequence[str], crop: str) -> Path:
    """A contact sheet: photographs beside crops made inline, then beside what the blog's pipeline made offline."""
    names = names[:SHOWN]
    crops = [(f"{name}, crop", name, cluster.get("photos", name, crop)) for name in names]
    # So many that the cards of the sheet, two side by side, leave no gap.
    blog = [(f"{name}, blog", name, cluster.get("photos-224", name)) for name in names[: len(names) % 2 or 2]]
    rows = [
        (label, Image.open(io.BytesIO(cluster.get("photos", name))), Image.open(io.BytesIO(data)))
        for label, name, data in [*crops, *blog]
    ]
    path = OUTPUT / "contact-sheet.png"
    contact_sheet(rows, note=WHY_SO).save(path)
    return path


def demo(folder: str) -> None:
    paths = photographs(folder)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, LocalCluster(Path(root), targets=2) as local:
        say(f"a cluster of two targets at {local.endpoint}")
        cluster = Cluster(local.endpoint)
        names = put(cluster, paths)
        blog, crop, tensors = (register(cluster, pipeline) for pipeline in ("blog", "crop", "train"))

        step("One photograph, transformed while it is read")
        say(f"{names[0]}: {len(cluster.get('photos', names[0], blog))} bytes of JPEG, 224 x 224")
        step("The whole bucket, offline")
        transform(cluster, jobs.transform_bucket(cluster, "photos", "photos-224", blog))
        step("A range: photo_{0..100}.jpg")
        template = "photo_{0..100}.jpg"
        transform(cluster, jobs.transform_objects(cluster, "photos", "photos-selected", blog, template=template))
        step("Normalised tensors into a PyTorch DataLoader")
        train(cluster, tensors)
        step("To look at")
        sheet = look(cluster, names, crop)
        say(f"{sheet}: crops, and below them the blog's pictures in neon colours, with why they are so")
        say(f"{OUTPUT}/pod-*.yaml")


def step(title: str) -> None:
    terminal.out.print(f"\n{title}", style="bold")


def say(line: str) -> None:
    terminal.out.print(line)


def main() -> int:
    try:
        demo(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DATA", ""))
    except TvetlError as error:
        terminal.print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        terminal.err.print("interrupted; the cluster has ended")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
