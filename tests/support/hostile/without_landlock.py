"""tvetl-server on a kernel that has no Landlock left: ``python -m support.hostile.without_landlock``.

A process can be in sixteen of its domains. Here it is in as many, which forbid to make named sockets and nothing else.
"""

from __future__ import annotations

import struct
import sys

from tvetl_server import wsgi
from tvetl_server.processes.jail import landlock, seccomp
from tvetl_server.processes.jail.syscall import syscall

if __name__ == "__main__":
    seccomp.give_up_privileges()
    for _ in range(16):
        landlock.restrict(syscall(444, struct.pack("=Q", 1 << 9), 8, 0))
    sys.exit(wsgi.main())
