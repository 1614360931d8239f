"""The messages between a worker, its decoders and its fork server."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar, cast

from tvetl.spec import Arguments
from tvetl_server.metrics import WAYS
from tvetl_server.problems import BY_CODE, Problem
from tvetl_server.processes.ipc import pack, unpack

__all__ = ["GRACE", "FileRequest", "Process", "Refusal", "Success", "TransformRequest", "unpack_reply"]

T = TypeVar("T")

#: Seconds beyond an object's deadline after which the kernel ends a decoder that has not given up by itself.
GRACE = 0.5

#: Takes the place of a problem's code.
_FILE = "file"
#: The largest of all numbers in a reply: bytes of a shard.
_MOST = 2**50

_NONE = Arguments()
#: Arguments whose names Python keeps for itself.
_ATTRIBUTES = {"as": "role"}
#: Arguments of many rows, and the numbers of a row.
_ROWS = {"boxes": 4, "keypoints": 2}


def _pack_rows(rows: Iterable[Iterable[float]]) -> str:
    """As doubles: JSON would write and read each number, which takes five times as long."""
    return base64.b64encode(array("d", chain.from_iterable(rows)).tobytes()).decode("ascii")


def _unpack_rows(text: str, length: int) -> tuple[tuple[float, ...], ...]:
    numbers = array("d", base64.b64decode(text))
    return tuple(zip(*[iter(numbers)] * length, strict=True))


@dataclass
class Process:
    """A decoder's process id: its first message to the worker, and the worker's order to the fork server to kill it."""

    id: int

    def pack(self) -> bytes:
        return pack([self.id])

    @classmethod
    def unpack(cls, message: bytes) -> Process:
        (process,) = cast("tuple[int]", unpack(message))
        return cls(process)


@dataclass
class TransformRequest:
    """One object to transform."""

    name: str
    """``<bucket>/<object>``; empty for the engine's self-test."""
    source: str | int
    """The name of its file, or its number of bytes in the shared memory that comes with the message."""
    arguments: Arguments
    deadline: float
    """On time.monotonic()."""

    def pack(self) -> bytes:
        asked = {name: getattr(self.arguments, _ATTRIBUTES.get(name, name)) for name in self.arguments.given}
        for name in asked.keys() & _ROWS.keys():
            asked[name] = _pack_rows(asked[name])
        return pack([self.name, self.source, asked, self.deadline])

    @classmethod
    def unpack(cls, message: bytes) -> TransformRequest:
        name, source, asked, deadline = cast("tuple[str, str | int, dict[str, Any], float]", unpack(message))
        if not asked:
            return cls(name, source, _NONE, deadline)
        values: dict[str, Any] = {_ATTRIBUTES.get(key, key): value for key, value in asked.items()}
        for key, value in values.items():
            if key in _ROWS:
                values[key] = _unpack_rows(value, _ROWS[key])
            elif isinstance(value, list):
                values[key] = tuple(value)
        return cls(name, source, Arguments(**values, given=frozenset(asked)), deadline)


@dataclass
class FileRequest:
    """Before the reply: a decoder may make no file, and asks its worker for one. The answer has it with it, or none."""

    least: int
    """Bytes that must be free on its disk."""

    def pack(self) -> bytes:
        return pack([_FILE, self.least])


@dataclass
class Success:
    """A result. It is in the decoder's shared memory, or in the open file that comes with the message."""

    length: int
    content_type: str
    bytes_in: int
    read: float
    """Seconds."""
    transformed: float
    """Seconds."""
    ways: Mapping[str, int]
    """Where there is a device: how many images it did, and how many the CPU did, by reason (metrics.WAYS)."""

    def pack(self) -> bytes:
        fields = (self.length, self.content_type, self.bytes_in, self.read, self.transformed, dict(self.ways))
        return pack(["", *fields])


@dataclass
class Refusal:
    """An error in place of a result."""

    problem: Problem
    message: str

    def pack(self) -> bytes:
        return pack([self.problem.code, self.message])


def unpack_reply(message: bytes) -> Success | Refusal | FileRequest:
    """Raises ValueError where it is none of them: a decoder that was taken over may send anything."""
    code, *fields = unpack(message)
    try:
        if code == _FILE:
            (least,) = cast("tuple[int]", fields)
            return FileRequest(_number(least))
        if code:
            (words,) = cast("tuple[str]", fields)
            if not isinstance(words, str):
                raise ValueError("no words")
            return Refusal(BY_CODE[cast(str, code)], words)
        length, kind, size, read, transformed, ways = cast("tuple[int, str, int, float, float, dict[str, int]]", fields)
        counted = {way: _number(ways[way]) for way in WAYS if way in ways}
        numbers = _number(size), _number(read), _number(transformed)
        return Success(int(_number(length)), _text(kind), *numbers, counted)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("This is no reply of a decoder.") from error


def _number(value: T) -> T:
    """The number, which goes into sums for metrics; raises ValueError where it would spoil them."""
    if type(value) not in (int, float) or not 0 <= cast(float, value) <= _MOST:
        raise ValueError("no number")
    return value


def _text(value: str) -> str:
    """The text, which may go into a header; raises ValueError where it is none."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError("no text")
    return value
