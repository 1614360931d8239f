"""The fixtures of ../serving.py."""

from serving import disk, image, recorder, run_server

__all__ = ["disk", "image", "recorder", "run_server"]
