"""The jail: what a decoder that was taken over could do is forbidden by the kernel, without rights of any kind.

``jail`` puts the parts together: ``landlock`` for files, ``seccomp`` for system calls, by the tables of ``calls``, and
limits. Not here: who enters it (the fork server and the decoders).
"""

from __future__ import annotations

from tvetl_server.processes.jail.jail import PARTS, Jail, JailError

__all__ = ["PARTS", "Jail", "JailError"]
