"""The parts of the jail put together: a decoder and its fork server give up files, system calls and memory.

None of the three parts needs privileges, or a writable file system. Where an old kernel lacks one, another forbids most
of the same (docs/reliability.md). A process that cannot enter a part which held when the server started ends.
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
    """The jail of all decoders of a server; ``parts`` has the reason why each of PARTS does not hold, or ""."""

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
        """Restrict this process to forking, and to what its decoders need. Raises OSError."""
        time.localtime()  # reads the time zone's file, which the log needs
        self._used = _address_space()
        if self._holds("limits"):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self._holds("landlock") or self._holds("seccomp"):
            seccomp.give_up_privileges()
        if self._holds("landlock"):
            self._rules = landlock.rules(self._files, self._folders)
            landlock.restrict(self._rules)
        self._forbid_all_but(calls.FORK_SERVER)

    def confine_decoder(self) -> None:
        """Restrict this process, forked from that one, to what a decoder needs. Raises OSError."""
        if self._holds("limits"):
            resource.setrlimit(resource.RLIMIT_AS, _at_most(resource.RLIMIT_AS, self._used + self._memory))
            resource.setrlimit(resource.RLIMIT_NOFILE, _at_most(resource.RLIMIT_NOFILE, _OPEN_FILES))
        if self._rules is not None:  # once more: one decoder is outside to another
            landlock.restrict(self._rules)
            os.close(self._rules)
        self._forbid_all_but(calls.DECODER)

    def _forbid_all_but(self, rules: Sequence[calls.Rule]) -> None:
        if self._holds("seccomp"):
            allowed = calls.with_code(rules) if "torch" in sys.modules else rules
            # No filter sees whether openat2 asks to write. Landlock does.
            absent = [rule for rule in calls.ABSENT if rule.name != "openat2" or not self._holds("landlock")]
            seccomp.forbid_all_but(allowed, absent)

    def _holds(self, part: str) -> bool:
        return not self.parts[part]


def _tried() -> dict[str, str]:
    """Enter one part after the other, and try what it forbids. For each the reason why it does not hold, or ""."""

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
    """Raises OSError where ``do`` succeeds: some kernels accept a restriction and do not enforce it."""
    with contextlib.suppress(PermissionError):
        do()
        raise OSError(errno.ENOSYS, "the kernel says yes, and does nothing")


def _in_a_process(try_parts: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The result of a forked process, which then ends."""
    read_end, write_end = os.pipe()
    child = fork(lambda: os.write(write_end, json.dumps(try_parts()).encode()), "The trial of the jail")
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    reasons: dict[str, str] = json.loads(message) if message else dict.fromkeys(PARTS, "the process that tried it died")
    return {part: reasons[part] for part in PARTS}


def _code() -> list[Path]:
    """Where Python finds modules, without the first folder: that of the program, or the current one."""
    return [Path(folder) for folder in dict.fromkeys(sys.path[1:]) if folder not in ("", "/") and Path(folder).is_dir()]


def _at_most(limit: int, value: int) -> tuple[int, int]:
    """The value for a limit, or the present one where that is lower."""
    hard = resource.getrlimit(limit)[1]
    lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return lower, lower


def _address_space() -> int:
    """Bytes of addresses that this process has."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
