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
        if (remote := _in_backend(key)) is None:
            return super().has(key)
        with self._backend_errors(key):
            try:
                self._backend.bucket_id(remote)
            except NotFound:
                return False
        if not super().has(key):
            with suppress(ApiError):  # another thread has just done it
                super().create(key)
        return True

    def create(self, key: str) -> None:
        if remote := _in_backend(key):
            if bucket(key).provider != "ais":
                raise ApiError(501, f"creating {shown(key)} is for its provider")
            with self._backend_errors(key):
                self._backend.create_bucket(remote)
        super().create(key)

    def destroy(self, key: str) -> None:
        super().destroy(key)
        if remote := _in_backend(key):
            with self._backend_errors(key):
                self._backend.delete_bucket(remote)

    def stat(self, key: str, name: str, node: str = "") -> Stat:
        remote = _in_backend(key)
        try:
            return super().stat(key, name, node)
        except ApiError as error:
            if remote is None or error.tcode != "ErrNotFound":
                raise
        with self._backend_errors(f"{shown(key)}/{name}"):
            data = self._backend.get(remote, name)
        return super().put(key, name, BytesIO(data))

    def put(self, key: str, name: str, body: Blocks) -> Stat:
        if remote := _in_backend(key):
            data = b"".join(iter(lambda: body.read(1 << 20), b""))
            with self._backend_errors(f"{shown(key)}/{name}"):
                self._backend.put(remote, name, data)
            body = BytesIO(data)
        return super().put(key, name, body)

    def delete(self, key: str, name: str) -> int:
        size = self.stat(key, name).size
        if remote := _in_backend(key):
            with self._backend_errors(f"{shown(key)}/{name}"):
                self._backend.delete(remote, name)
        super().delete(key, name)
        return size

    def entries(self, key: str, prefix: str = "") -> list[Entry]:
        remote = _in_backend(key)
        if remote is None:
            return super().entries(key, prefix)
        self.bucket(key)
        with self._backend_errors(key):
            return [Entry(name, size) for name, size in self._backend.sizes(remote, prefix).items()]

    @contextmanager
    def _backend_errors(self, name: str) -> Iterator[None]:
        """The backend's errors as a target answers them: its 404 as such, and all else as 502."""
        try:
            yield
        except NotFound as error:
            raise ApiError(404, f"{name} does not exist: {error.message}", "ErrNotFound") from error
        except TvetlError as error:
            raise ApiError(502, f"{name}: the backend failed: {error.message}") from error


def _in_backend(key: str) -> str | None:
    """The bucket's name in the backend; None for a bucket of this cluster."""
    found = bucket(key)
    if found.provider == "ais" and not found.cluster:
        return None
    return str(BucketName("ais", "", found.namespace, found.name))
