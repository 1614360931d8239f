"""One process that owns the GPU, for the decoders of all workers, and a supervisor that starts it again where it died.

``start`` runs in the server's first process, ``supervisor`` and ``process`` in processes of their own, and ``link`` in
each decoder. ``batching`` decides when a batch begins. All share ``status``, ``messages`` and ``timing``; a
``semaphore`` limits the decoders that use the CPU in place of the device. Not here: what is done to an image, by the
device (:mod:`tvetl_server.engine.cuda`) or, where that fails, by the CPU.
"""

from __future__ import annotations

from tvetl_server.processes.device.link import Link
from tvetl_server.processes.device.process import Runner
from tvetl_server.processes.device.start import DeviceProcess

__all__ = ["DeviceProcess", "Link", "Runner"]
