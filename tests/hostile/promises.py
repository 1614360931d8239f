"""What the server promises for any input, and what its processes take."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.serving import Disk, Reply, Server, ask, sampled

from tvetl_server.problems import PROBLEMS

#: Crops, so that regions are decoded too; a PNG, so that equal pixels are equal bytes.
PIPELINE = '{"steps": [{"op": "CenterCrop", "size": 32}], "output": {"format": "png"}, "depth": "convert"}'

_STATUS = {problem.code: problem.status for problem in PROBLEMS.values()}


class Broken(AssertionError):
    """A promise that was not kept."""


def code_of(reply: Reply) -> str:
    """``answered``, or the code of the error; raises Broken for what must never be answered."""
    if reply.status == 200:
        shard = reply.headers["Content-Type"] == "application/x-tar"
        if not (reply.body[257:262] == b"ustar" if shard else reply.body.startswith(b"\x89PNG\r\n\x1a\n")):
            raise Broken(f"200 with {reply.body[:20]!r}")
        return "answered"
    try:
        code = str(json.loads(reply.body)["error"])
    except (ValueError, KeyError, TypeError):
        raise Broken(f"{reply.status} with {reply.body[:200]!r}") from None
    if _STATUS.get(code) != reply.status or reply.status >= 500:
        raise Broken(f"{reply.status} {code}: {reply.body[:200]!r}")
    return code


class Sender:
    """One connection that is kept, as a target keeps its own."""

    def __init__(self, server: Server, disk: Disk) -> None:
        self._connection = server.connect()
        self._disk = disk

    def by_body(self, name: str, data: bytes) -> Reply:
        return ask(self._connection, "PUT", f"/src/{name}", data, keep=True)

    def by_name(self, name: str, data: bytes) -> Reply:
        target = self._disk.add(name, data)
        try:
            return ask(self._connection, "PUT", target, keep=True)
        finally:
            self._disk.path(name).unlink()

    def close(self) -> None:
        self._connection.close()


def processes(server: Server, levels: int = 99) -> set[int]:
    """The server's process, what it started, what these started, and so on."""
    found = new = {server.process.pid}
    for _ in range(levels):
        started: set[int] = set()
        for process in new:
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
                    started.update(map(int, children.read_text(encoding="ascii").split()))
        found, new = found | started, started
    return found


def lasting(server: Server) -> set[int]:
    """The processes that no object may end: the first, the workers, and what forks their decoders."""
    return processes(server, 2)


def deaths(server: Server) -> list[str]:
    """The objects of which a decoder died, or that kept it beyond all limits, by the log."""
    return re.findall(r"decoder (?:died|was ended)\b.*'(.*)'", server.log)


@dataclass(frozen=True)
class Memory:
    """Bytes of all processes of a server together; what they share is counted once in ``now``, in each in ``peak``."""

    by_process: dict[int, int]
    peak: int
    own: int
    """Without what files are mapped, whose pages count for less while other programs map them too."""

    @property
    def now(self) -> int:
        return sum(self.by_process.values())


def memory(server: Server) -> Memory:
    """What the processes hold now (PSS), and the sum of what each held at most (VmHWM)."""
    held: dict[int, int] = {}
    peak = own = 0
    for process in processes(server):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            held[process] = _kibibytes(process, "smaps_rollup", "Pss")
            own += sum(_kibibytes(process, "smaps_rollup", kind) for kind in ("Pss_Anon", "Pss_Shmem"))
            peak += _kibibytes(process, "status", "VmHWM")
    return Memory(held, peak, own)


@contextlib.contextmanager
def watching(server: Server) -> Iterator[list[int]]:
    """Bytes that all processes held together (PSS): before, and then looked at again and again."""
    with sampled(lambda: memory(server).now, 0.02) as seen:
        yield seen


def _kibibytes(process: int, file: str, line: str) -> int:
    """One of the numbers in /proc, in bytes."""
    lines = Path(f"/proc/{process}/{file}").read_text(encoding="ascii").splitlines()
    return 1024 * sum(int(found.split()[1]) for found in lines if found.startswith(f"{line}:"))
