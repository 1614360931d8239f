"""The target that an object lies on: AIStore's highest-random-weight hashing, for many objects at once.

Implements ``Smap.get_target_for_object`` of the SDK (AIStore's ``core/meta/hrw.go``), which hashes one object in
Python, and so takes longer the more targets there are. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from tvetl import notation

#: AIStore's digest of names is xxhash64 with this seed.
_SEED = 1103515245
# splitmix64's constants.
_GOLDEN, _MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def unique_name(bucket: str, name: str) -> str:
    """AIStore's name of an object in the whole cluster. Raises UsageError for no name of a bucket."""
    return f"{notation.bucket(bucket).path}/{name}"


def digest(name: str) -> int:
    """AIStore's digest of a target's id, or of an object's unique name."""
    return xxhash.xxh64_intdigest(name.encode("utf-8", "surrogatepass"), _SEED)


def places(bucket: str, names: Sequence[str], digests: Sequence[int]) -> list[int]:
    """For each object of a bucket the index of its target, given the digests of all targets' ids.

    Raises ValueError where there are no targets.
    """
    path = notation.bucket(bucket).path
    objects = np.array([digest(f"{path}/{name}") for name in names], np.uint64)
    best: list[int] = _xoshiro256(objects[:, None] ^ np.array(digests, np.uint64)).argmax(axis=1).tolist()
    return best


def _xoshiro256(seed: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The first number of xoshiro256** seeded by splitmix64, modulo 2**64."""
    z = _mixed(seed + _GOLDEN) + _GOLDEN
    z = _mixed(z) * np.uint64(5)
    return ((z << np.uint64(7)) | (z >> np.uint64(57))) * np.uint64(9)


def _mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))
