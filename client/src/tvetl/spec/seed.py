"""The seed of one view of one object: the same on every worker, process and machine."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, epoch: int, view: int, name: str) -> int:
    """0..2**32-1 for ``torch.manual_seed``; ``name`` is ``<bucket>/<object>``.

    The first four bytes, big-endian, of ``sha256("<seed>\\0<epoch>\\0<view>\\0<bucket>/<object>")`` in UTF-8
    (of a name that is no Unicode, its halves of surrogate pairs as three bytes each).
    """
    text = f"{seed}\0{epoch}\0{view}\0{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
