"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

__all__ = ["prctl", "syscall"]


def syscall(number: int, *arguments: int | bytes) -> int:
    """What the kernel returns; bytes are passed by their address. Raises OSError, also where this is not Linux."""
    libc = _libc()
    passed = (each if isinstance(each, bytes) else ctypes.c_long(each) for each in arguments)
    result: int = libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. Raises OSError, also where this is not Linux."""
    libc = _libc()
    zero = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _libc() -> ctypes.CDLL:
    if sys.platform != "linux":  # where the same numbers are other calls
        raise OSError(errno.ENOSYS, f"{sys.platform} has none")
    return ctypes.CDLL(None, use_errno=True)
