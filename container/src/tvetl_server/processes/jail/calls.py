"""Which system calls a decoder and a fork server may make, and their numbers.

The tables were recorded by ``strace -ff`` of tests, from when decoders and fork servers were in the jail, and completed
where other tests failed (docs/reliability.md says which). Whatever is not here fails with EPERM. To add a call, see
it fail in a test, and think about what it opens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["ABSENT", "DECODER", "FORK_SERVER", "PROCESSORS", "SELF", "Condition", "Rule", "with_code"]

#: By name: the number on x86_64 (asm/unistd_64.h) and on aarch64 (asm-generic/unistd.h); None where it has a newer one.
_NUMBERS: dict[str, tuple[int, int | None]] = {
    # memory
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    # files
    "openat": (257, 56),
    "openat2": (437, 437),
    "close": (3, 57),
    "read": (0, 63),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "write": (1, 64),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "memfd_create": (319, 279),
    "ftruncate": (77, 46),
    # sockets that are there
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "socketpair": (53, 199),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    # time, signals, locks
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "setitimer": (38, 103),
    "getrandom": (318, 278),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    # processes and threads
    "getpid": (39, 172),
    "gettid": (186, 178),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "clone": (56, 220),
    "clone3": (435, 435),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "sched_getaffinity": (204, 123),
    "wait4": (61, 260),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # the jail
    "prlimit64": (302, 261),
    "seccomp": (317, 277),
    "landlock_restrict_self": (446, 446),
}
#: The columns of _NUMBERS, as platform.machine() calls them.
PROCESSORS = ("x86_64", "aarch64")

#: In a condition: the id of the process that the filter is for.
SELF = -1


class Condition(NamedTuple):
    """Of an argument, an int to the kernel, the bits of ``mask`` have one of the ``values``."""

    argument: int
    values: Sequence[int]
    mask: int = 2**32 - 1


class Rule(NamedTuple):
    """A call that is allowed where all conditions hold."""

    name: str
    conditions: Sequence[Condition] = ()

    def number(self, processor: str) -> int | None:
        return _NUMBERS[self.name][PROCESSORS.index(processor)]


def _plain(names: str) -> list[Rule]:
    return [Rule(name) for name in names.split()]


_PROT_EXEC = 4
#: Flags of openat(2) that write or make a file, O_TMPFILE among them, which asks for writing.
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
#: What glibc's pthread_create and fork ask for. All else would be another kind of process, or a namespace.
_THREAD, _FORK = 0x3D0F00, 0x1200011
#: F_DUPFD to F_SETLKW, F_DUPFD_CLOEXEC, F_ADD_SEALS and F_GET_SEALS: none has a signal sent to others, as F_SETOWN has.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1033, 1034)
#: TCGETS, by which Python looks for a terminal, FIONBIO and FIOCLEX.
_IOCTL = (0x5401, 0x5421, 0x5451)
#: A pair that is connected for good, with SOCK_CLOEXEC: a datagram socket could send to any path.
_STREAM = [Condition(0, [socket.AF_UNIX]), Condition(1, [socket.SOCK_STREAM | 0o2000000])]

#: The kernel asks the filter each time where arguments count, and else remembers, so these come first.
_BOTH = [
    Rule("mmap", [Condition(2, [0], _PROT_EXEC)]),  # no new code
    Rule("mprotect", [Condition(2, [0], _PROT_EXEC)]),
    Rule("openat", [Condition(2, [0], _WRITING)]),  # to read what Landlock lets it
    Rule("fcntl", [Condition(1, _FCNTL)]),
    Rule("ioctl", [Condition(1, _IOCTL)]),
    *_plain("munmap mremap madvise brk openat2"),
    *_plain("read pread64 preadv write pwrite64 lseek fstat newfstatat getdents64 getcwd close memfd_create ftruncate"),
    *_plain("sendto sendmsg recvfrom recvmsg getsockname getsockopt poll ppoll select pselect6"),
    *_plain("clock_gettime clock_nanosleep setitimer getrandom"),
    *_plain("rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall futex sched_yield"),
    *_plain("getpid gettid set_robust_list rseq sched_getaffinity exit exit_group"),
]

DECODER = [
    Rule("kill", [Condition(0, [SELF])]),
    Rule("tgkill", [Condition(0, [SELF])]),  # abort()
    Rule("clone", [Condition(0, [_THREAD])]),  # torch's
    Rule("socketpair", _STREAM),  # to the device's process
    *_BOTH,
]

#: All of a decoder's, as that has this filter, too.
FORK_SERVER = [
    Rule("clone", [Condition(0, [_FORK, _THREAD])]),
    Rule("socketpair", _STREAM),
    *_plain("kill tgkill wait4"),  # its decoders alone, by Landlock's scope
    *_plain("prlimit64 seccomp landlock_restrict_self"),  # for a decoder's own jail
    *_BOTH,
]


def with_code(rules: Sequence[Rule]) -> list[Rule]:
    """The same where memory may become code: torch compiles convolutions (oneDNN's, for GaussianBlur) when they run."""
    return [Rule(rule.name) if rule.name in ("mmap", "mprotect") else rule for rule in rules]


#: Fail as if the kernel had none, so that glibc and we take an older one, whose arguments a filter can see.
ABSENT = _plain("clone3 openat2")
