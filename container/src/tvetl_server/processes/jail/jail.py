"""What a decoder and its fork server give up: files, system calls and room, by three means of the kernel.

None needs rights, or a writable file system. What one of them lacks on an old kernel another mostly has: see
docs/reliability.md. A process that cannot enter a part which held when the server started ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tvetl.errors import TvetlError
from tvetl_server.processes.forking import fork
from tvetl_server.processes.jail import calls, landlock, seccomp
from tvetl_server.settings import JailMode

__all__ = ["PARTS", "Jail", "JailError"]

#: Files by Landlock, system calls by seccomp, and limits by setrlimit(2).
PARTS = ("landlock", "seccomp", "limits")

#: Open files of a decoder; it needs ten.
_OPEN_FILES = 64

#: Bytes of addresses beyond what one object may take. Each thread reserves 72 MiB for its stack and heap, and torch has
#: one a CPU.
_RESERVED = 2**31
_OF_A_THREAD = 72 * 2**20


class JailError(TvetlError):
    """There is no jail where TVETL_JAIL requires one."""

    exit_code = 2


class Jail:
    """The jail of all decoders of a server; ``parts`` has for each of PARTS why it does not hold, or nothing."""

    def __init__(
        self, mode: JailMode, *, files: Sequence[Path] = (), folders: Sequence[Path] = (), memory: int = 0
    ) -> None:
        """Tries all parts in a process of its own. Raises JailError where one does not hold that ``mode`` requires.

        Decoders may read the files below ``files``, and list and read ``folders``, beside the folders of Python's code.
        ``memory`` is the number of bytes that one object may take.
        """
        self._mode = mode
        self._files = files
        self._folders = [*_code(), *folders]
        self._memory = memory + _RESERVED + (os.cpu_count() or 1) * _OF_A_THREAD
        self._used = 0
        self._rules: int | None = None
        self.parts = dict.fromkeys(PARTS, "TVETL_JAIL is off") if mode == "off" else _in_a_process(_tried)
        if mode == "require" and any(self.parts.values()):
            missing = "; ".join(f"{part}: {why}" for part, why in self.parts.items() if why)
            raise JailError(
                f"TVETL_JAIL requires a jail that does not hold here ({missing})",
                hint="TVETL_JAIL=try serves with the parts that hold; docs/reliability.md says what each needs.",
            )

    def __str__(self) -> str:
        if self._mode == "off":
            return "off"
        holds = ", ".join(part for part, why in self.parts.items() if not why) or "none"
        return "; ".join([holds, *(f"without {part}: {why}" for part, why in self.parts.items() if why)])

    def confine_fork_server(self) -> None:
        """Leave this process nothing but to fork, and what its decoders need. Raises OSError."""
        time.localtime()  # reads the time zone's file, which the log needs
        self._used = _address_space()
        if self._holds("limits"):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self._holds("landlock") or self._holds("seccomp"):
            seccomp.give_up_privileges()
        if self._holds("landlock"):
            self._rules = landlock.rules(self._files, self._folders)
            landlock.restrict(self._rules)
        if self._holds("seccomp"):
            seccomp.forbid_all_but(self._with_code(calls.FORK_SERVER), self._absent())

    def confine_decoder(self) -> None:
        """Leave this process, forked from that one, what a decoder needs. Raises OSError."""
        if self._holds("limits"):
            resource.setrlimit(resource.RLIMIT_AS, _at_most(resource.RLIMIT_AS, self._used + self._memory))
            resource.setrlimit(resource.RLIMIT_NOFILE, _at_most(resource.RLIMIT_NOFILE, _OPEN_FILES))
        if self._rules is not None:  # once more: one decoder is outside to another
            landlock.restrict(self._rules)
            os.close(self._rules)
        if self._holds("seccomp"):
            seccomp.forbid_all_but(self._with_code(calls.DECODER), self._absent())

    @staticmethod
    def _with_code(rules: Sequence[calls.Rule]) -> Sequence[calls.Rule]:
        return calls.with_code(rules) if "torch" in sys.modules else rules

    def _absent(self) -> Sequence[calls.Rule]:
        """No filter sees whether openat2 asks to write. Landlock does."""
        return [rule for rule in calls.ABSENT if rule.name != "openat2" or not self._holds("landlock")]

    def _holds(self, part: str) -> bool:
        return not self.parts[part]


def _tried() -> dict[str, str]:
    """Enter all parts, each the way in to the next, and do what they forbid; for each why it does not hold."""

    def limits() -> None:
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_NOFILE):
            resource.setrlimit(limit, _at_most(limit, 2**62))

    def files() -> None:
        seccomp.give_up_privileges()
        landlock.restrict(landlock.rules((), ()))
        _is_refused(lambda: os.close(os.open("/", os.O_RDONLY)))

    def system_calls() -> None:
        seccomp.give_up_privileges()
        seccomp.forbid_all_but(calls.DECODER, calls.ABSENT)
        _is_refused(lambda: socket.socket(socket.AF_UNIX).close())

    return {"limits": _why_not(limits), "landlock": _why_not(files), "seccomp": _why_not(system_calls)}


def _why_not(enter: Callable[[], None]) -> str:
    try:
        enter()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_refused(do: Callable[[], None]) -> None:
    """Raises OSError where it is not: some kernels take the restriction and do nothing."""
    with contextlib.suppress(PermissionError):
        do()
        raise OSError(errno.ENOSYS, "the kernel says yes, and does nothing")


def _in_a_process(ask: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What a forked process finds, which then ends."""
    here, there = os.pipe()

    def run() -> None:
        os.write(there, json.dumps(ask()).encode())

    child = fork(run, "The trial of the jail")
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    found: dict[str, str] = json.loads(told) if told else dict.fromkeys(PARTS, "the process that tried it died")
    return {part: found[part] for part in PARTS}


def _code() -> list[Path]:
    """Where Python finds modules, without the first folder: that of the program, or the current one."""
    return [Path(folder) for folder in dict.fromkeys(sys.path[1:]) if folder not in ("", "/") and Path(folder).is_dir()]


def _at_most(limit: int, value: int) -> tuple[int, int]:
    """That value for a limit, or the one that is set where it is lower."""
    hard = resource.getrlimit(limit)[1]
    lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return lower, lower


def _address_space() -> int:
    """Bytes of addresses that this process has."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
