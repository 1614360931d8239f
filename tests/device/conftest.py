"""The fixtures of support/serving.py, processes of a test's own, and a scripted device."""

from device.forks import fork
from device.scripted import start
from support.serving import disk, image, recorder, run_server

__all__ = ["disk", "fork", "image", "recorder", "run_server", "start"]
