"""The command, the only module that reads the environment: it moves AIStore's variables to a file, and runs the server.

They have the write secret, and the key of a certificate. A process's environment stays in its memory, and in that of
all processes that it forks. So this process runs its program once more, by exec, without these variables. The file is
in memory, and only workers read it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tvetl_server.processes.ipc import memory, write

__all__ = ["main"]

#: How the names of AIStore's variables begin.
_PREFIX = "AIS_"
#: The variable by which one program tells the next the descriptor of the file.
_DESCRIPTOR = "_TVETL_KEPT"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for bad settings or a bad pipeline (the last line says why)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    secrets = None if words else _set_secrets_aside()
    # Imported only now: it takes 0.3 s, and exec would repeat it.
    from tvetl_server import server

    return server.run(words, os.environ, secrets)


def _set_secrets_aside() -> int | None:
    """A descriptor of the file with AIStore's variables, None without any.

    The first time, while the environment has them, it writes that file and runs the program again.
    """
    names = [name for name in os.environ if name.startswith(_PREFIX)]
    if names:
        clean = {name: value for name, value in os.environ.items() if name not in names}
        descriptor = memory("tvetl-kept")
        write(descriptor, os.fsencode("\0".join(f"{name}={os.environ[name]}" for name in names)))
        os.set_inheritable(descriptor, True)
        clean[_DESCRIPTOR] = str(descriptor)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], clean)
    descriptor_text = os.environ.get(_DESCRIPTOR)
    return int(descriptor_text) if descriptor_text else None


if __name__ == "__main__":
    sys.exit(main())
