"""What the server promises for any input, and what its processes take."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from serving import Disk, Reply, Server, ask

from tvetl_server.problems import PROBLEMS

#: Crops, so that regions are decoded too; a PNG, so that equal pixels are equal bytes.
PIPELINE = '{"steps": [{"op": "CenterCrop", "size": 32}], "output": {"format": "png"}}'

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


def processes(server: Server) -> list[int]:
    """The server's process and all that it started, sorted."""
    found, seen = [server.process.pid], 0
    while seen < len(found):
        for children in Path(f"/proc/{found[seen]}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
                found += map(int, children.read_text(encoding="ascii").split())
        seen += 1
    return sorted(found)


@dataclass(frozen=True)
class Memory:
    """Bytes of all processes of a server together; what they share is counted once in ``now``, in each in ``peak``."""

    now: int
    peak: int


def memory(server: Server) -> Memory:
    """What the processes hold now (PSS), and the sum of what each held at most (VmHWM)."""
    now = peak = 0
    for process in processes(server):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
            now += 1024 * int(line.split()[1]) if line.startswith("Pss:") else 0
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            peak += 1024 * int(line.split()[1]) if line.startswith("VmHWM:") else 0
    return Memory(now, peak)
