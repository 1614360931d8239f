"""The decoders of one worker: processes that run the engine, so that an image can crash or block only itself.

``pool`` gives each object a free decoder; ``connection`` is one decoder as the worker sees it. ``forkserver`` forks
decoders from a process that has the engine ready, ``decoder`` is what runs in them, and ``messages`` what is said
between them. Not here: HTTP, what the engine does, and the device's process.
"""

from __future__ import annotations

from tvetl_server.processes.decoders.connection import Answer
from tvetl_server.processes.decoders.pool import Decoders

__all__ = ["Answer", "Decoders"]
