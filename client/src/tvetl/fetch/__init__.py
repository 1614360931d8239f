"""Reads many objects at once, in one thread, straight from the targets that hold them.

``fetcher`` is the event loop, ``query`` a read's arguments, ``connection`` a kept connection and the read it serves.
``response`` is one HTTP response, received into memory that is there already; ``places`` computes the target of an
object, and ``threads`` run the reads that are left to the SDK. Not here: the order of results, and what a failure means
(:mod:`tvetl.datasets`); the SDK (:mod:`tvetl.cluster`).
"""

from __future__ import annotations

from tvetl.fetch.connection import Fetch
from tvetl.fetch.fetcher import Fetcher

__all__ = ["Fetch", "Fetcher"]
