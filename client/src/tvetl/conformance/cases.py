"""The protocol's cases as data: ``cases.yaml``, read and checked."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import msgspec

Severity = Literal["must", "should"]
#: The kit's objects: the sample, no bytes, half of the sample, and a text.
Content = Literal["sample", "empty", "half", "text"]
#: The target of a file name: an object, nothing, a folder, or the sample outside the root, straight or through ``..``.
File = Literal["sample", "empty", "half", "text", "missing", "folder", "outside", "parents"]


class CaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request, or several alike. With neither ``body`` nor ``file`` it is an empty PUT."""

    method: str = "PUT"
    path: str = ""
    """As it is sent, behind the bucket: ``/dir/b%20c.jpg``. Without it, the name, quoted."""
    whole_path: str = ""
    """As it is sent, with no bucket before it."""
    name: str = ""
    """The object's; without it, the path, unquoted."""
    body: Content | None = None
    chunked: bool = False
    cut: bool = False
    """Half of it is sent, and then no more."""
    file: File | None = None
    decoy: str = ""
    """The name of another object that is no good, which a wrong reading of the name would take."""
    args: str | None = None
    node: str = ""
    """Ais-Node-Url."""
    times: int = 1
    pause: float = 0.0
    """Seconds before it."""
    expect: tuple[str, ...] = ()
    """Instead of the case's."""


class PeerResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The peer's answer to the first request, its headers' names in lower case."""

    status: int = 200
    headers: dict[str, str] = {}
    body: str = ""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"origin": "from"}):
    """One promise: what is sent over one connection, and the conditions that every answer must meet."""

    name: str
    severity: Severity
    promise: str
    origin: str
    send: tuple[CaseRequest, ...]
    expect: tuple[str, ...]
    pipelined: bool = False
    kept: bool = False
    """The server may not close the connection in between; otherwise it may, if it says so."""
    other: PeerResponse = PeerResponse()


#: All cases, in the order of the report.
CASES = msgspec.yaml.decode(files("tvetl.conformance").joinpath("cases.yaml").read_bytes(), type=tuple[Case, ...])
