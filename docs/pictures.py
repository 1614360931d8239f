"""Draw docs/contact-sheet.jpg and docs/sheet.jpg, which the README shows, with what they show: ``make pictures``."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from tvetl.cluster import Cluster
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


if __name__ == "__main__":
    contact_sheet()
    sheet()
    sys.stderr.write("wrote docs/contact-sheet.jpg and docs/sheet.jpg\n")
