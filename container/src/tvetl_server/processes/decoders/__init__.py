"""The decoders of one worker: processes that run the engine, so that an image can crash or block only itself.

In the worker, ``pool`` gives each object a free decoder, and ``connection`` is one decoder. In processes of their own
run ``forkserver``, which forks decoders from a ready engine, and ``decoder``. ``messages`` go between them. Not here:
HTTP, and what the engine does.
"""

from __future__ import annotations

from tvetl_server.processes.decoders.connection import DecoderResult
from tvetl_server.processes.decoders.pool import Decoders

__all__ = ["DecoderResult", "Decoders"]
