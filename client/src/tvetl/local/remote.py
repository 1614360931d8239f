"""Buckets that another cluster has: read from it when first asked for, kept here, and written to both.

Another stand-in, or an AIStore, plays the backend: an object of ``s3://photos`` is that of ``photos`` there, and one of
``ais://@cluster#namespace/photos`` that of ``ais://#namespace/photos``. Not here: versions of the backend, evicting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from tvetl.cluster import Cluster
from tvetl.errors import NotFound, TvetlError
from tvetl.local.http import ApiError
from tvetl.local.object_names import shown
from tvetl.local.store import Blocks, Entry, Stat, Store
from tvetl.notation import BucketName, bucket


class RemoteStore(Store):
    """A store, with the ais buckets of the cluster at ``endpoint`` behind those of other providers and clusters."""

    def __init__(self, root: Path, endpoint: str) -> None:
        super().__init__(root)
        self._backend = Cluster(endpoint)

    def has(self, key: str) -> bool:
        if (there := _there(key)) is None:
            return super().has(key)
        with self._told(key):
            try:
                self._backend.bucket_id(there)
            except NotFound:
                return False
        if not super().has(key):
            with suppress(ApiError):  # another thread has just done it
                super().create(key)
        return True

    def create(self, key: str) -> None:
        if there := _there(key):
            if bucket(key).provider != "ais":
                raise ApiError(501, f"creating {shown(key)} is for its provider")
            with self._told(key):
                self._backend.create_bucket(there)
        super().create(key)

    def destroy(self, key: str) -> None:
        super().destroy(key)
        if there := _there(key):
            with self._told(key):
                self._backend.delete_bucket(there)

    def stat(self, key: str, name: str, node: str = "") -> Stat:
        there = _there(key)
        if there is None:
            return super().stat(key, name, node)
        try:
            return super().stat(key, name, node)
        except ApiError as error:
            if error.tcode != "ErrNotFound":
                raise
        with self._told(f"{shown(key)}/{name}"):
            data = self._backend.get(there, name)
        return super().put(key, name, BytesIO(data))

    def put(self, key: str, name: str, body: Blocks) -> Stat:
        if there := _there(key):
            data = b"".join(iter(lambda: body.read(1 << 20), b""))
            with self._told(f"{shown(key)}/{name}"):
                self._backend.put(there, name, data)
            body = BytesIO(data)
        return super().put(key, name, body)

    def delete(self, key: str, name: str) -> int:
        size = self.stat(key, name).size
        if there := _there(key):
            with self._told(f"{shown(key)}/{name}"):
                self._backend.delete(there, name)
        super().delete(key, name)
        return size

    def entries(self, key: str, prefix: str = "") -> list[Entry]:
        there = _there(key)
        if there is None:
            return super().entries(key, prefix)
        self.bucket(key)
        with self._told(key):
            return [Entry(name, size) for name, size in self._backend.sizes(there, prefix).items()]

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """The backend's errors as a target tells them: its 404 as such, and all else as 502."""
        try:
            yield
        except NotFound as error:
            raise ApiError(404, f"{what} does not exist: {error.message}", "ErrNotFound") from error
        except TvetlError as error:
            raise ApiError(502, f"{what}: the backend failed: {error.message}") from error


def _there(key: str) -> str | None:
    """The bucket's name in the backend; None for a bucket of this cluster."""
    found = bucket(key)
    if found.provider == "ais" and not found.cluster:
        return None
    return str(BucketName("ais", "", found.namespace, found.name))
