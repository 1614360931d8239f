"""The fixtures of support/serving.py."""

from support.serving import disk, image, recorder, run_server

__all__ = ["disk", "image", "recorder", "run_server"]
