"""The C of container/native under AddressSanitizer and UndefinedBehaviorSanitizer: the first finding ends it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def run(sources: Path, script: Path, count: int, folder: Path) -> str:
    """What ``script`` prints, given the extension that is compiled of ``sources`` into ``folder``, and ``count``."""
    compiler = shutil.which("gcc")
    if compiler is None or not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        pytest.skip("needs gcc and Python's headers")
    told = [compiler, "-print-file-name=libasan.so"]
    library = subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("needs gcc's sanitizers")
    extension = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    strict = [
        "-std=c11",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-psabi",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
    ]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    headers = f"-I{sysconfig.get_path('include')}"
    subprocess.run(
        [compiler, *strict, *sanitizers, headers, *map(str, sources.glob("*.c")), "-o", str(extension), "-lm"],
        check=True,
    )
    done = subprocess.run(
        [sys.executable, str(script), str(extension), str(count)],
        env={
            "PYTHONPATH": str(script.parents[1]),
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONMALLOC": "malloc",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
