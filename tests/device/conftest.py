"""The fixtures of support/serving.py, processes of a test's own, a scripted device, and one that fails."""

from support.device.fake_server import pretend
from support.device.sample_jpegs import images, taken
from support.device.scripted import start
from support.forks import fork
from support.serving import disk, image, recorder, run_server

__all__ = ["disk", "fork", "image", "images", "pretend", "recorder", "run_server", "start", "taken"]
