"""The processes beside a worker: decoders, and the device's where there is a GPU. They know no HTTP.

``decoders`` and ``device`` are these processes; ``batching`` gathers what a device does at once. ``ipc`` is how they
speak with each other, ``result_body`` a result that is too large for memory.
"""
