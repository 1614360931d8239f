"""Draw docs/sheet.jpg, the contact sheet that the README shows, with what it shows: ``make pictures``."""

from __future__ import annotations

import io
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
    made.save(REPOSITORY / "docs/sheet.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    sheet()
    sys.stderr.write("wrote docs/sheet.jpg\n")
