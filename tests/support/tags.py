"""Version and checksum of each object of a bucket: they change whenever the object is written."""

from __future__ import annotations

from tvetl.cluster import Cluster


def tags_of(cluster: Cluster, bucket: str) -> dict[str, str]:
    return dict(entry for page in cluster.pages(bucket, what="tag") for entry in page)
