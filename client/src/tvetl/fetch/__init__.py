"""Reads many objects at once, in one thread, straight from the targets that hold them.

``fetcher`` is the event loop over kept connections, ``response`` one HTTP answer received into memory that is there
already, ``places`` which target an object lies on. Not here: the order of results, and what a failure means
(:mod:`tvetl.datasets`); the SDK (:mod:`tvetl.cluster`).
"""

from __future__ import annotations

from tvetl.fetch.fetcher import Fetch, Fetcher

__all__ = ["Fetch", "Fetcher"]
