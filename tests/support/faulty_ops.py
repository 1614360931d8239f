"""Plugin ops that do to their process what a broken decoder may, by the level of an image's first pixel."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

from PIL import Image

#: Faults by the level of the image's first pixel; every other image is only inverted.
LEVELS = {
    "segmentation fault": 10,
    "abort": 20,
    "killed": 30,
    "exit": 40,
    "Python loop": 50,
    "native loop": 60,
    "native loop with the interpreter's lock": 70,
    "deaf to the timer": 80,
    "memory": 90,
    "slow": 100,
}
CRASHES = ("segmentation fault", "abort", "killed", "exit")
HANGS = ("Python loop", "native loop", "native loop with the interpreter's lock")

_MODULE = """
import ctypes, os, re, signal, time
from PIL import ImageOps
from tvetl_server.plugin_ops import PluginOp

LEVELS = %r

def segmentation_fault():
    ctypes.string_at(0)

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def python_loop():
    while True:
        pass

def native_loop():
    ctypes.CDLL(None).sleep(100000)  # lets other threads run

def native_loop_with_lock():
    re.match(r"(a+)+$", "a" * 60 + "b")

def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(100000)

def memory():
    raise MemoryError

FAULTS = {
    "segmentation fault": segmentation_fault, "abort": os.abort, "killed": killed, "exit": lambda: os._exit(0),
    "Python loop": python_loop, "native loop": native_loop,
    "native loop with the interpreter's lock": native_loop_with_lock, "deaf to the timer": deaf, "memory": memory,
    "slow": lambda: time.sleep(0.2),
}

def plan(params, draw, size):
    def do(image):
        level = image.getpixel((0, 0))[0]
        for fault, its in LEVELS.items():
            if level == its:
                FAULTS[fault]()
        return ImageOps.invert(image)
    return do, size

OPS = [PluginOp("Fault", {}, plan)]
"""

PIPELINE = json.dumps({"steps": [{"op": "faulty.Fault"}], "output": {"format": "png"}})


def install(folder: Path) -> dict[str, str]:
    """Lay the package there; gives the settings of a server that has it and runs its op."""
    (folder / "faulty_ops.py").write_text(_MODULE % LEVELS, encoding="utf-8")
    metadata = folder / "faulty_ops-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-ops\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[tvetl.ops]\nfaulty = faulty_ops:OPS\n", encoding="utf-8")
    return {"TVETL_PIPELINE": PIPELINE, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


def picture(level: int, size: int = 16) -> bytes:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def level_of(answer: bytes) -> int:
    """What picture() was given, of an answer that is right."""
    image = Image.open(io.BytesIO(answer))
    low, high = image.getextrema()[0]
    assert low == high, "not of one colour"
    return 255 - int(low)
