"""The fixtures of support/serving.py, processes of a test's own, a scripted device, and one that fails."""

from device.forks import fork
from device.pictures import images, taken
from device.pretended import pretend
from device.scripted import start
from support.serving import disk, image, recorder, run_server

__all__ = ["disk", "fork", "image", "images", "pretend", "recorder", "run_server", "start", "taken"]
