"""Runs one command and never outlives its parent: ``python watchdog.py COMMAND...`` with a pipe as standard input.

The pipe ends when the parent closes it or dies in any way. Then the whole process group gets SIGTERM, and `GRACE`
seconds later SIGKILL. Linux's PR_SET_PDEATHSIG does not do: it follows the *thread* that started a process, and other
systems do not have it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 3.0  # seconds for a transformer to finish what it has begun


def _watch() -> None:
    os.read(0, 1)  # nothing is ever written: this returns at the pipe's end
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Exit status: the command's; 127 where it cannot be started; 128 + the signal that ended it."""
    # A handler, not SIG_IGN: the command must not inherit it, and this process waits for its exit status.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]}: {error.strerror}\n")
        return 127
    threading.Thread(target=_watch, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
