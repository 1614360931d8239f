"""A server's processes as /proc has them: which they are, and the memory that they take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.serving import Server, sampled


def children(process: int) -> list[int]:
    """The ids of its children that run."""
    try:
        started = [
            int(child)
            for thread in Path(f"/proc/{process}/task").iterdir()
            for child in (thread / "children").read_text(encoding="ascii").split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child in started if runs(child)]


def runs(process: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


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


def family(server: Server) -> dict[str, list[int]]:
    """The processes by what they are: their depth below the first tells."""
    parents = {}
    for process in processes(server):
        with contextlib.suppress(FileNotFoundError):
            stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[process] = int(stat[1])

    def depth(process: int) -> int:
        return 0 if process == server.process.pid or process not in parents else 1 + depth(parents[process])

    kinds = ("arbiter", "worker", "fork server", "decoder")
    return {kind: [process for process in parents if depth(process) == at] for at, kind in enumerate(kinds)}


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
