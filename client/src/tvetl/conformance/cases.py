"""The protocol's cases as data: ``cases.yaml``, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import Literal, TypeVar

import yaml

from tvetl.conformance.conditions import CONDITIONS

__all__ = ["CASES", "Case", "CaseRequest", "PeerResponse", "load"]

Severity = Literal["must", "should"]
#: The kit's objects: the sample, no bytes, half of the sample, and a text.
Content = Literal["sample", "empty", "half", "text"]
#: The target of a file name: an object, nothing, a folder, or the sample outside the root, straight or through ``..``.
File = Literal["sample", "empty", "half", "text", "missing", "folder", "outside", "parents"]


@dataclass(frozen=True)
class CaseRequest:
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


@dataclass(frozen=True)
class PeerResponse:
    """The answer of the peer: another target, or the next stage."""

    status: int = 200
    body: str = ""
    location: str = ""
    length: int | None = None
    """Ais-Direct-Put-Length."""


@dataclass(frozen=True)
class Case:
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
    other: PeerResponse = field(default_factory=PeerResponse)


def load() -> tuple[Case, ...]:
    """Read the cases that came with this package. Raises ValueError where one is not well formed."""
    text = files("tvetl.conformance").joinpath("cases.yaml").read_text(encoding="utf-8")
    return tuple(_case(entry) for entry in yaml.safe_load(text))


def _case(entry: Mapping[str, object]) -> Case:
    data = dict(entry)
    name = str(data.get("name"))
    data["origin"] = data.pop("from", None)
    sent = data.pop("send")
    assert isinstance(sent, list), name
    case = _build(Case, {**data, "send": tuple(_build(CaseRequest, request, name) for request in sent)}, name)
    if case.severity not in ("must", "should") or not case.promise or not case.origin:
        raise ValueError(f"case {name}: it needs a severity, a promise and an origin")
    for condition in (*case.expect, *(condition for request in case.send for condition in request.expect)):
        if condition not in CONDITIONS:
            raise ValueError(f"case {name}: no condition {condition!r}")
    return case


_T = TypeVar("_T", Case, CaseRequest, PeerResponse)


def _build(kind: type[_T], data: Mapping[str, object], name: str) -> _T:
    unknown = set(data) - {each.name for each in fields(kind)}
    if unknown:
        raise ValueError(f"case {name}: {kind.__name__} has no {', '.join(sorted(unknown))}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    if isinstance(values.get("other"), dict):
        values["other"] = _build(PeerResponse, values["other"], name)  # type: ignore[arg-type]
    return kind(**values)  # type: ignore[arg-type]


#: All cases, in the order of the report.
CASES = load()
