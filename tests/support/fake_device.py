"""tvetl-server with a fake device, without torch, that fails on demand: ``python -m support.fake_device``.

It decodes with Pillow, so its answers are the CPU's own. An image's width says what fails. The server around it,
its processes and its sockets are the real ones.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tvetl_server import server, wsgi
from tvetl_server.engine import DeviceRequest
from tvetl_server.engine.driver import DeviceError
from tvetl_server.processes.device import timing

#: Widths, in pixels, of the images that make it fail.
DIES, HANGS, FAILS, REFUSES, SLOW = 201, 202, 203, 204, 205


class FakeDevice:
    """A tvetl_server.processes.device.Runner, for pipelines that crop."""

    about = "a device of the tests' own"
    pixels = 400 * 400

    def run(self, requests: Sequence[DeviceRequest]) -> list[list[np.ndarray] | None]:
        return [self._one(request) for request in requests]

    def _one(self, request: DeviceRequest) -> list[np.ndarray] | None:
        width = request.size[0]
        if width == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if width == HANGS:
            time.sleep(1000)
        if width == FAILS:
            raise RuntimeError("the device is lost")
        if width == SLOW:
            time.sleep(1.2)
        if width == REFUSES:
            return None
        if any(len(steps) != 1 or steps[0][0] != "crop" for steps in request.steps):
            return None
        try:
            image = Image.open(io.BytesIO(request.data)).convert("RGB")
        except OSError:  # damaged
            return None
        return [np.asarray(image.crop(tuple(steps[0][1:]))) for steps in request.steps]


def make(*_: object) -> FakeDevice:
    if os.path.exists(os.environ.get("PRETEND_NO_DEVICE", "")):  # noqa: PTH110  a name that may be empty
        raise DeviceError("it is unplugged", hint="Plug it in.")
    return FakeDevice()


if __name__ == "__main__":
    timing.HANG = float(os.environ.get("PRETEND_HANG", timing.HANG))
    timing.RETRY = float(os.environ.get("PRETEND_RETRY", timing.RETRY))
    server._runner = make
    sys.exit(wsgi.main())
