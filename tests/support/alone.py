"""Counting that does not hang on other tests: a process of a test's own, and which descriptors are open, not how many.

Other tests leave garbage in the process that runs them, and it is collected at any time: every total may fall, or rise.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

#: Seconds; then the kernel ends the process.
PATIENCE = 120

#: Number, what it points to, and the inode: all memory without a name points to the same words.
Descriptor = tuple[int, str, int]


def alone(do: Callable[[], object]) -> None:
    """Run it in a forked process, with this thread alone. Raises AssertionError with the traceback where it fails."""
    with tempfile.TemporaryFile() as told:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                signal.alarm(PATIENCE)
                gc.freeze()  # what other tests left is not collected here
                do()
                status = 0
            except BaseException:  # noqa: BLE001  all of it is told
                told.write(traceback.format_exc().encode())
                told.flush()
            finally:
                os._exit(status)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        told.seek(0)
        assert code == 0, told.read().decode() or f"its process ended with {code}"


def descriptors(process: int | None = None) -> set[Descriptor]:
    """The open descriptors of a process, of this one by default."""
    found = set()
    for at in Path(f"/proc/{process or os.getpid()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as the one that listed them
            found.add((int(at.name), str(at.readlink()), at.stat().st_ino))
    return found
