"""Draw the pictures that README and docs/pets.md show, with what they show: ``make pictures``."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from tvetl.cluster import Cluster
from tvetl.datasets import read_voc
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.preview import preview
from tvetl.spec import parse

REPOSITORY = Path(__file__).resolve().parents[1]


def contact_sheet() -> None:
    """What the demo leaves, as a JPEG."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, REPOSITORY / "examples/demo.py"], cwd=place, check=True, capture_output=True)
        with Image.open(Path(place) / "build/demo/contact-sheet.png") as image:
            image.save(REPOSITORY / "docs/contact-sheet.jpg", quality=70, optimize=True)


def sheet() -> None:
    """Eight views of a cat by examples/pipelines/colour.yaml."""
    package = find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    original = io.BytesIO()
    with Image.open(Path(package.origin).parent / "data" / "chelsea.png") as image:
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


if __name__ == "__main__":
    contact_sheet()
    sheet()
    pets()
    sys.stderr.write("wrote docs/contact-sheet.jpg, docs/sheet.jpg and docs/pets.jpg\n")
