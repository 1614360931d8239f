"""Landlock: a process gives up all files but some to read, and signals to processes outside (landlock(7)).

It needs no rights, and holds for all processes that this one forks, whatever they become.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from tvetl_server.processes.jail.syscall import syscall

__all__ = ["restrict", "rules"]

# Numbers of linux/landlock.h, the same for all processors.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
#: All rights over files that a version knows: those that a process keeps must be named by rules.
_FILES = {1: 2**13 - 1, 2: 2**14 - 1, 3: 2**15 - 1, 4: 2**15 - 1, 5: 2**16 - 1}
#: To bind and to connect TCP sockets, from version 4 on.
_NET = 3
#: Abstract Unix sockets and signals, from version 6 on.
_SCOPES = 3


def rules(files: Iterable[Path], folders: Iterable[Path]) -> int:
    """A descriptor for :func:`restrict`. Raises OSError where the kernel has no Landlock, or forbids it.

    Files below ``files`` may be read, if their names are known; those below ``folders`` may be listed, too.
    """
    version = syscall(_CREATE_RULESET, 0, 0, _VERSION)
    length = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = struct.pack("=QQQ", _FILES[min(version, 5)], _NET, _SCOPES)[:length]
    ruleset = syscall(_CREATE_RULESET, attributes, length, 0)
    for rights, places in ((_READ_FILE, files), (_READ_FILE | _READ_DIR, folders)):
        for place in places:
            _allow(ruleset, rights, place)
    return ruleset


def _allow(ruleset: int, rights: int, place: Path) -> None:
    try:
        folder = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # gone, or closed to this user: there is nothing to allow
        return
    try:
        syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, folder), 0)
    finally:
        os.close(folder)


def restrict(ruleset: int) -> None:
    """Restrict this thread, and all that it starts; it must have given up new privileges. Raises OSError."""
    syscall(_RESTRICT_SELF, ruleset, 0)
