"""One file into an object, one object into a file: in blocks, each attempt from the start, checked at the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
import xxhash
from aistore.sdk.obj.object import Object
from aistore.sdk.request_client import RequestClient

from tvetl.cluster import connection
from tvetl.cluster.client import Cluster
from tvetl.errors import ClusterError, NotAIStore, NotReachable, TvetlError, Unavailable
from tvetl.files import whole

#: Bytes of a block.
_BLOCK = 1 << 20
#: Bytes of a body up to which a Go server reads on after its answer, so that the connection outlives a redirect.
_SMALL = 1 << 18
#: Attempts where the network breaks off, and seconds before the second one.
_ATTEMPTS, _PAUSE = 3, 0.5
#: Seconds to connect to the proxy, and to wait for its redirect.
_REDIRECT = (3.0, 10.0)
_T = TypeVar("_T")


class Digest(Protocol):
    """A checksum in the making."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


#: AIStore's types of checksums by their number of hexadecimal digits: a listing gives a checksum without its type,
#: which each bucket sets. CRC-32C, of 8, is in no library that we have.
_DIGESTS: dict[int, Callable[[], Digest]] = {
    16: xxhash.xxh64,  # AIStore's xxhash and xxhash2 are two implementations of the same
    32: lambda: hashlib.md5(usedforsecurity=False),
    64: hashlib.sha256,
    128: hashlib.sha512,
}


def digest_like(checksum: str) -> Digest | None:
    """An empty digest of the checksum's type; None where we cannot compute it, or there is none."""
    return _DIGESTS[len(checksum)]() if len(checksum) in _DIGESTS and checksum.isalnum() else None


class Interrupted(TvetlError):
    """Copying was stopped."""


class Transport:
    """Copies between files and one bucket, for many threads; ``stop`` ends all copying within a block.

    Whatever fails raises TvetlError, or OSError where a file cannot be read.
    """

    def __init__(self, cluster: Cluster, bucket: str, threads: int, stop: Event) -> None:
        self._cluster, self._bucket, self._stop = cluster, bucket, stop
        # Attempts are ours: in aistore 1.x the SDK's second attempt begins where the first one left a file.
        self._client = connection.connect(cluster.endpoint, cluster.access(), 1, connection.TIMEOUT[1], threads)

    def close(self) -> None:
        self._client.cluster().client.session_manager.session.close()

    def send(self, path: Path, name: str) -> None:
        """Store a file as an object. Raises ClusterError where AIStore stored other content."""
        checksum = self._patiently(lambda: self._send(path, name))
        if self.is_in(path, checksum) is False:
            raise ClusterError("what was stored is not what is in the file: it changed meanwhile, or was damaged")

    def receive(self, name: str, path: Path, size: int, checksum: str) -> None:
        """Write an object into a file, whole or not at all. It must be of the size and checksum of its listing."""
        self._patiently(lambda: self._receive(name, path, size, checksum))

    def is_in(self, path: Path, checksum: str) -> bool | None:
        """Whether a file has this checksum; None where that is empty or of a type that we lack."""
        digest = digest_like(checksum)
        if digest is None:
            return None
        with path.open("rb") as file:
            for block in self._blocks(file):
                digest.update(block)
        return digest.hexdigest() == checksum

    def is_equal(self, name: str, path: Path) -> bool:
        """Whether object and file have the same bytes: the object is read."""
        return self._patiently(lambda: self._is_equal(name, path))

    def _send(self, path: Path, name: str) -> str:
        with path.open("rb") as file, self._cluster._explained():
            body = _Body(file, os.fstat(file.fileno()).st_size, self._check)
            answer = _put(self._client.cluster().client, self._object(name).get_url(), body)
            return str(answer.headers.get("Ais-Checksum-Value", ""))

    def _receive(self, name: str, path: Path, size: int, checksum: str) -> None:
        digest, count = digest_like(checksum), 0
        with whole(path, folder=True) as file, self._cluster._explained():
            for block in self._object(name).get_reader(chunk_size=_BLOCK):
                self._check()
                file.write(block)
                count += len(block)
                if digest:
                    digest.update(block)
            if count != size or (digest and digest.hexdigest() != checksum):
                raise ClusterError("what arrived is not what the listing says: it was written anew, or was damaged")

    def _is_equal(self, name: str, path: Path) -> bool:
        with path.open("rb") as file, self._cluster._explained():
            for block in self._object(name).get_reader(chunk_size=_BLOCK):
                self._check()
                if file.read(len(block)) != block:
                    return False
            return not file.read(1)

    def _object(self, name: str) -> Object:
        return self._cluster._bucket(self._bucket, self._client).object(name)

    def _blocks(self, file: BinaryIO) -> Iterator[bytes]:
        while block := file.read(_BLOCK):
            self._check()
            yield block

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("interrupted")

    def _patiently(self, attempt: Callable[[], _T]) -> _T:
        """Again where the network broke off, or the cluster could not answer."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                return attempt()
            except (NotReachable, Unavailable) as error:
                if not left or isinstance(error, NotAIStore):
                    raise
                self._stop.wait(_PAUSE)
                self._check()
        raise AssertionError("the last attempt returns or raises")


class _Body:
    """A file as the body of a request, of the size that it had when it was opened."""

    def __init__(self, file: BinaryIO, size: int, check: Callable[[], None]) -> None:
        self._file, self._size, self._check = file, size, check
        self.tell, self.seek = file.tell, file.seek

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read(_BLOCK):
            yield block

    def read(self, most: int = -1) -> bytes:
        self._check()
        left = self._size - self._file.tell()
        block = self._file.read(left if most < 0 else min(most, left))
        if left > 0 and not block:
            raise TvetlError("the file became shorter while it was sent")
        return block


def _put(client: RequestClient, url: str, body: _Body) -> requests.Response:
    """Send a body to where the proxy redirects.

    requests would send it to the proxy first, and Go's server ends the connection of a long one. So the proxy gets the
    head alone, with the size, as the SDK does under https.
    """
    path = url[len(client.base_url) + 1 :]
    if len(body) > _SMALL and url.startswith("http://"):
        head = {"Content-Length": str(len(body)), "Connection": "close"}
        try:
            answer = client.request("PUT", path=path, headers=head, data=b"", allow_redirects=False, timeout=_REDIRECT)
            location = str(answer.headers.get("Location", "")) if answer.is_redirect else ""
        except requests.RequestException:  # something between us waits for the body
            location = ""
        if location:
            target = "://".join(urlsplit(location)[:2])
            return client.request("PUT", path=location.partition("/v1/")[2], endpoint=target, data=body)  # type: ignore[no-any-return]
    return client.request("PUT", path=path, data=body)  # type: ignore[no-any-return]
