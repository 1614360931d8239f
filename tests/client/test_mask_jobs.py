"""Two bucket jobs with one seed make two buckets that fit each other."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.pod import PodSpec
from tvetl.spec import parse


def test_images_and_masks_fit(cluster: Cluster) -> None:
    """Green and blue of a pixel are its number, and so is its mask; the step between is drawn for both."""
    numbers = np.arange(60 * 41).reshape(41, 60)
    image = np.stack([numbers * 0, numbers & 255, numbers >> 8], axis=2).astype(np.uint8)
    cluster.create_bucket("both")
    names = [f"{number}.left" for number in range(12)]
    for name in names:
        for folder, pixels in (("images", image), ("masks/deep", numbers.astype(np.uint16))):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            cluster.put("both", f"{folder}/{name}.png", file.getvalue())
    steps = [
        {"op": "RandomCrop", "size": 24},
        {"op": "RandomPosterize", "bits": 8},
        {"op": "RandomHorizontalFlip"},
    ]
    pipeline = {"steps": steps, "seed": 3, "output": {"format": "png"}}
    for etl, prefix, more in (
        ("both-images", "images/", {}),
        ("both-masks", "masks/", {"role": "mask", "like": "{bucket}/images/{stem}.png"}),
    ):
        cluster.register(PodSpec(etl, parse({**pipeline, **more}), start_timeout=60))
        report = jobs.wait(cluster, jobs.begin(cluster, jobs.Request("both", etl, etl, prefix=prefix)), timeout=60)
        assert (report.done, report.failed) == (len(names), ())
    places = set()
    for name in names:
        made = np.asarray(Image.open(io.BytesIO(cluster.get("both-images", f"images/{name}.png")))).astype(int)
        mask = np.asarray(Image.open(io.BytesIO(cluster.get("both-masks", f"masks/deep/{name}.png"))))
        assert (mask == made[..., 1] + 256 * made[..., 2]).all()
        places.add(int(mask[0, 0]))
    assert len(places) > 6, "each is drawn by its own name"
