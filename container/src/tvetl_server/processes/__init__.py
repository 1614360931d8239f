"""The processes beside a worker: its decoders, and the device's where there is a GPU.

``decoders`` and ``device`` do not know each other. Both pass messages and shared memory by ``ipc``, and fork by
``forking``; ``jail`` confines decoders, and ``result_body`` is a result as a worker sends it. Not here: HTTP
(:mod:`tvetl_server.serving`), and what is done to an image (:mod:`tvetl_server.engine`).
"""
