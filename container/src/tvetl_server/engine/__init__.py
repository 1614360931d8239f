"""The engine: image bytes to transformed bytes. It knows no HTTP, no cluster and no environment.

``engine`` does a request, by one pipeline. ``decode`` opens an object, once ``headers`` has checked its structure;
``cut_off`` words the error for a truncated one. ``plans`` makes pixels of it, with the numbers of ``draw``: ``resize``
and ``table`` are two of its actions, and ``annotations`` are moved alike. ``encode`` makes a file of the pixels.

``shards`` does this for each image of a tar: ``members`` sorts and names what is in it, ``spool`` holds the result.
``cuda`` is a GPU, ``driver`` the check for one, and ``device_request`` the interface to it. ``pixels`` has the types
that all share, ``native`` is the C part.
"""

from tvetl_server.engine.device_request import Device, DeviceRequest, NotByDevice
from tvetl_server.engine.engine import Engine
from tvetl_server.engine.plans import has_torch, runnable

__all__ = ["Device", "DeviceRequest", "Engine", "NotByDevice", "has_torch", "runnable"]
