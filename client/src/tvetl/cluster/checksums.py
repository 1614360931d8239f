"""The checksums that AIStore keeps of objects, computed of files: xxhash64 by default, else MD5, SHA-256 or SHA-512.

A listing gives a checksum without its type, which each bucket sets; the lengths of all types differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import xxhash


class Digest(Protocol):
    """A checksum in the making."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


#: By the number of hexadecimal digits. CRC-32C, of 8, is in no library that we have.
_BY_LENGTH: dict[int, Callable[[], Digest]] = {
    16: xxhash.xxh64,  # AIStore's xxhash and xxhash2 are two implementations of the same
    32: lambda: hashlib.md5(usedforsecurity=False),
    64: hashlib.sha256,
    128: hashlib.sha512,
}


def digest_like(checksum: str) -> Digest | None:
    """An empty digest of the type that a checksum is of; None where we cannot compute it, or there is none."""
    return _BY_LENGTH[len(checksum)]() if len(checksum) in _BY_LENGTH and checksum.isalnum() else None
