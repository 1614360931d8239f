"""Answers that the server may give to any input, and connections that ask for them."""

from __future__ import annotations

import json
import re

from support.serving import Disk, Reply, Server, ask

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


def deaths(server: Server) -> list[str]:
    """The objects of which a decoder died, or that kept it beyond all limits, by the log."""
    return re.findall(r"decoder (?:died|was ended)\b.*'(.*)'", server.log)
