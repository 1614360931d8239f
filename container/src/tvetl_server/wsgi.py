"""The command, and alone in reading the environment: it runs the server, with AIStore's variables laid aside.

They have the write secret, and the key of a certificate. What a process got as its environment stays in its memory, and
in that of all that it forks. So this process runs its program once more, by exec, without them. Their text is in a file
in memory, which only workers read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_AISTORES = "AIS_"
#: Names the descriptor of the file, from one program to the next.
_KEPT = "_TVETL_KEPT"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for bad settings or a bad pipeline (the last line says why)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    kept = None if words else _lay_aside()
    # Only now, as it takes 0.3 s, and exec forgets it.
    from tvetl_server import server

    return server.run(words, os.environ, kept)


def _lay_aside() -> int | None:
    """A descriptor of a file with AIStore's variables; None where there are none. Else it runs the program again."""
    theirs = [name for name in os.environ if name.startswith(_AISTORES)]
    if theirs:
        clean = {name: value for name, value in os.environ.items() if name not in theirs}
        clean[_KEPT] = str(_file_of("\0".join(f"{name}={os.environ[name]}" for name in theirs)))
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], clean)
    kept = os.environ.get(_KEPT)
    return int(kept) if kept else None


def _file_of(text: str) -> int:
    """A descriptor of a file without a name, which lasts over exec."""
    if hasattr(os, "memfd_create"):  # Linux
        descriptor = os.memfd_create("tvetl-kept", 0)
    else:  # where only `tvetl local` runs the server
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    os.pwrite(descriptor, os.fsencode(text), 0)
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
