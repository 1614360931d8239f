"""The engine: image bytes to transformed bytes. It knows no HTTP, no cluster and no environment.

``open_source`` identifies an object and its size, a plan makes pixels of it, and ``encode`` makes a file of these.
"""

from tvetl_server.engine.device_request import Device, DeviceRequest, NotByDevice
from tvetl_server.engine.engine import Engine
from tvetl_server.engine.plans import has_torch, runnable

__all__ = ["Device", "DeviceRequest", "Engine", "NotByDevice", "has_torch", "runnable"]
