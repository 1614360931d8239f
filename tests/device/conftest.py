"""The fixtures of ../serving.py, and processes of a test's own."""

from device.forks import fork
from serving import disk, image, recorder, run_server

__all__ = ["disk", "fork", "image", "recorder", "run_server"]
