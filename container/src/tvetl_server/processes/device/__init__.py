"""One process that owns the GPU, for the decoders of all workers, and a supervisor that starts it again where it died.

``start`` is the part in the server's first process; ``supervisor`` and ``process`` are what runs in those two, and
``batching`` decides when a batch begins. ``link`` is a decoder's way to the device. They share ``status`` (what the
device is), ``semaphore`` (who may use the CPU in its place), ``messages`` and ``timing``. Not here: what the device
does with an image (:mod:`tvetl_server.engine.cuda`), and what the CPU does where the device fails.
"""

from __future__ import annotations

from tvetl_server.processes.device.link import Link
from tvetl_server.processes.device.process import Runner
from tvetl_server.processes.device.start import DeviceProcess

__all__ = ["DeviceProcess", "Link", "Runner"]
