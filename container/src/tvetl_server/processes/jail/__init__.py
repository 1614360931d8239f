"""The jail of decoders: the kernel forbids them all that decoding does not need. It takes no privileges to set up.

``jail`` puts the parts together: ``landlock`` for files, ``seccomp`` for system calls, by the tables of ``calls``, and
limits. ``syscall`` calls the kernel where Python has no function. Not here: who enters it (the fork server and the
decoders).
"""

from __future__ import annotations

from tvetl_server.processes.jail.jail import PARTS, Jail, JailError

__all__ = ["PARTS", "Jail", "JailError"]
