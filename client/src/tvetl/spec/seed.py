"""The seed of one view of one object, the same on every machine; and the names of objects that AIStore changes.

AIStore 5.0 puts an object's name into the URL that it sends to an ETL as it is. A name with ``%``, ``?`` or ``#`` in it
therefore arrives as another one, or not at all (docs/protocol.md, section 2).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

#: How a name arrives at an ETL. "whole": as it is. "changed": its escapes decoded, or the part after ``?`` in the
#: query. "never": AIStore cannot send it, or neither arguments nor file name arrive with it.
Arrival = Literal["whole", "changed", "never"]

_SUSPECT = re.compile(r"[%?#\x00-\x1f\x7f]")
#: Behind a ``?`` nothing is escaped at all: a blank there breaks the request, and a ``%`` harms nothing.
_NEVER = re.compile(r"[#\x00-\x1f\x7f]|\A[^?]*%(?![0-9A-Fa-f]{2})|\A[^?]*\?.* ", re.DOTALL)
#: Parts that lead elsewhere, and halves of surrogate pairs, which are no Unicode.
_LEADS_ELSEWHERE = re.compile(r"(?:\A|/)\.{1,2}(?:/|\Z)|[\ud800-\udfff]")


def derive_seed(seed: int, epoch: int, view: int, name: str) -> int:
    """0..2**32-1 for ``torch.manual_seed``; ``name`` is ``<bucket>/<object>``, as :func:`drawn_as` gives it.

    The first four bytes, big-endian, of ``sha256("<seed>\\0<epoch>\\0<view>\\0<bucket>/<object>")`` in UTF-8
    (of a name that is no Unicode, its halves of surrogate pairs as three bytes each).
    """
    text = f"{seed}\0{epoch}\0{view}\0{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def drawn_as(bucket: str, name: str) -> str:
    """``<bucket>/<object>``, on which an object's draws depend: the bucket's name alone, as AIStore tells an ETL."""
    return f"{bucket.rstrip('/').rpartition('/')[2]}/{name}"


def addressable(name: str) -> bool:
    """Whether a read of this name can be a read of this object: HTTP clients resolve ``.`` and ``..``."""
    return bool(name) and not _LEADS_ELSEWHERE.search(name)


def arrival(name: str) -> Arrival:
    """How AIStore names this object (without its bucket) to an ETL."""
    if not _SUSPECT.search(name):
        return "whole"
    return "never" if _NEVER.search(name) else "changed"


def warning_of(names: Iterable[str], how: Literal["changed", "never"]) -> str:
    """A sentence for whoever gives these objects to an ETL; "" where no name arrives in this way."""
    count, first = 0, ""
    for name in filter(_SUSPECT.search, names):
        if arrival(name) == how:
            first = first or name
            count += 1
    if not count:
        return ""
    if how == "never":
        return (
            f"AIStore cannot send {count} objects to an ETL, {first!r} first: their names have a #, a % that "
            "begins no escape, a control character, or a blank behind a ?; rename them"
        )
    return (
        f"AIStore changes the names of {count} objects on the way to an ETL, {first!r} first: they have a ? or "
        "an escape like %41. Where the cluster sends bytes and no file names, their draws are by the changed names"
    )
