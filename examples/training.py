"""Training input, side by side, on a cluster of this machine: ``make training``.

    python examples/training.py [FOLDER]

FOLDER holds JPEG photographs; without it, some are made of scikit-image's. The cluster runs beside this process and
shares its processors, so images a second say little of a real one; the CPU time of the training side does not depend on
where the cluster is.
"""

from __future__ import annotations

import io
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from tvetl import cli
from tvetl.bench import bench
from tvetl.cluster import Cluster
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import parse

#: What ends in the normalised tensor, and what leaves normalising to the GPU: a quarter of the bytes.
ENDS = {
    "float32": [
        {"op": "ToTensor"},
        {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ],
    "uint8": [{"op": "PILToTensor"}],
}
IMAGES = 256


def photographs(folder: str) -> list[bytes]:
    """JPEG files of the folder; else parts of scikit-image's photographs, of ImageNet's usual 500 x 375."""
    if folder:
        return [path.read_bytes() for path in sorted(Path(folder).rglob("*.[jJ]*[gG]"))]
    package = find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    made = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        with Image.open(Path(package.origin).parent / "data" / name) as image:
            for step in range(8):
                left, top = 8 * step, 6 * step
                part = image.convert("RGB").crop((left, top, image.width, image.height)).resize((500, 375))
                part.save(buffer := io.BytesIO(), "JPEG", quality=90)
                made.append(buffer.getvalue())
    return made


def main() -> None:
    sources = photographs(sys.argv[1] if len(sys.argv) > 1 else "")
    with tempfile.TemporaryDirectory() as root, LocalCluster(Path(root), targets=2) as local:
        cluster = Cluster(local.endpoint)
        cluster.create_bucket("photos")
        for at in range(IMAGES):
            cluster.put("photos", f"photo_{at:04d}.jpg", sources[at % len(sources)])
        size = sum(map(len, sources)) / len(sources) / 1000
        cli.out.print(f"{IMAGES} images, {len(sources)} different ones, {size:.0f} kB each on average")
        for name, end in ENDS.items():
            steps = [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}, *end]
            cluster.register(PodSpec(f"train-{name}", parse({"steps": steps, "output": {"format": "npy"}, "seed": 1})))
            done = bench(cluster, "photos", f"train-{name}", most=IMAGES)
            cli.out.print(f"\n{name} (3, 224, 224), median (range) of {done.rounds} rounds; {done.workers} workers")
            for side in done.sides:
                label, images, milliseconds = side.row()
                cli.out.print(f"  {label:45}{images:>30} images/s {milliseconds:>28} CPU ms an image")
            cli.out.print(f"  {done.equal} of {done.images} images equal on all sides")
            cluster.unregister(f"train-{name}")


if __name__ == "__main__":
    main()
