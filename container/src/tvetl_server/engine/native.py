"""The C part, :mod:`tvetl_pixels`, or None where it was installed without a compiler."""

from __future__ import annotations

from types import ModuleType

__all__ = ["native"]

native: ModuleType | None
try:
    from tvetl_pixels import _native as native
except ImportError:  # there was no compiler
    native = None
