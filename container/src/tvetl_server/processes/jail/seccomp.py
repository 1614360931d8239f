"""A filter of system calls (seccomp(2)), in the language of Berkeley packet filters, made of the rules of ``calls``.

There is a library, libseccomp. Its Python part is in no package index, and the slim images have the library itself only
because Debian's apt needs it. This module needs one loop of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence

from tvetl_server.processes.jail import calls
from tvetl_server.processes.jail.syscall import prctl, syscall

__all__ = ["forbid_all_but", "give_up_privileges"]

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1

#: AUDIT_ARCH of linux/audit.h: whose numbers the caller uses.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

# Instructions of linux/bpf_common.h: load a word, keep bits of it, jump where it is equal, return.
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
#: Where struct seccomp_data has the call's number, its architecture and its arguments, of eight bytes each.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]
"""Code, how many to skip where it holds and where not, and a number."""


def give_up_privileges() -> None:
    """No exec will give this process privileges: the kernel lets it restrict itself then. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_all_but(rules: Sequence[calls.Rule], absent: Sequence[calls.Rule] = ()) -> None:
    """Restrict this process, which has given up privileges, to these calls; ``absent`` ones fail with ENOSYS.

    Raises OSError.
    """
    processor = platform.machine()
    if sys.platform != "linux" or processor not in _ARCHITECTURES or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"no system calls are known for {sys.platform} on {processor}")
    program = _program(rules, absent, processor)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code, len(code))
    number = calls.Rule("seccomp").number(processor)
    assert number is not None
    if syscall(number, _SET_MODE_FILTER, _ALL_THREADS, struct.pack("@HP", len(program), ctypes.addressof(held))):
        raise OSError(errno.EBUSY, "another thread has a filter of its own")


def _program(rules: Sequence[calls.Rule], absent: Sequence[calls.Rule], processor: str) -> list[Instruction]:
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[processor]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for outcome, listed in ((_FAIL | errno.ENOSYS, absent), (_ALLOW, rules)):
        for rule in listed:
            number = rule.number(processor)
            if number is not None:
                body = [*_conditions(rule), (_RETURN, 0, 0, outcome)]
                program += [(_EQUAL, 0, len(body), number), *body]
    return [*program, (_RETURN, 0, 0, _FAIL | errno.EPERM)]


def _conditions(rule: calls.Rule) -> list[Instruction]:
    """Instructions that return EPERM where one of the conditions does not hold."""
    code: list[Instruction] = []
    for argument, values, mask in rule.conditions:
        code += [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), (_AND, 0, 0, mask)]
        numbers = [os.getpid() if value == calls.SELF else value for value in values]
        # Each jumps behind the others, and behind the return.
        code += [(_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
        code.append((_RETURN, 0, 0, _FAIL | errno.EPERM))
    return code
