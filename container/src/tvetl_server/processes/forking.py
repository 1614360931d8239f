"""Forked processes: they never run on in their parent's code, and leave its signals to it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["fork", "ignore_signals", "set_dumpable"]

_log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4


def fork(run: Callable[[], object], name: str) -> int:
    """The id of a new process, which calls ``run`` and then exits, also after an error. Raises OSError."""
    sys.stdout.flush()  # else both processes write what is buffered
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:  # noqa: BLE001
            _log.exception("%s ended by itself", name)
        finally:
            os._exit(1)
    return child


def ignore_signals() -> None:
    """Ctrl-C and a group's SIGTERM are for the server's first process, which lets requests finish."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)


def set_dumpable(*, yes: bool) -> None:
    """Whether processes of the same user may read this one's memory and descriptors, and whether it may dump a core."""
    if hasattr(libc := ctypes.CDLL(None), "prctl"):  # Linux
        libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(yes), *[ctypes.c_ulong(0)] * 3)
