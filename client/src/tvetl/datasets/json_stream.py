"""A JSON file as a stream of events, in memory that does not grow with the file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import ijson

from tvetl.errors import UsageError

#: What ijson's ``basic_parse`` gives: an event's kind and its value.
Event: TypeAlias = "tuple[str, object]"

#: Bytes parsed at once.
_CHUNK = 1 << 16
#: Bytes of one string or number. The parser keeps it whole, and looks at its beginning again with each chunk.
_TOKEN = 1 << 22
#: Levels of nesting below a value that is not looked at; COCO has four.
_NESTING = 100


class NotJSON(Exception):
    """Not JSON, or no more of it: one sentence."""


def events(path: Path) -> Iterator[Event]:
    """All events of a file. Raises NotJSON where it ends to be JSON, and UsageError where it cannot be read."""
    parsed = ijson.sendable_list()
    parser = ijson.basic_parse_coro(parsed, use_float=True)
    silent, first, more = 0, True, True
    try:
        with path.open("rb") as file:
            while more:
                data = file.read(_CHUNK)
                more, problem = bool(data), ""
                if first:
                    data, first = data.removeprefix(codecs.BOM_UTF8), False
                try:
                    if more:
                        parser.send(data)
                    else:
                        parser.close()
                except ijson.JSONError as error:
                    problem = _sentence(error)
                yield from parsed  # also those before a problem: they tell where it is
                if problem:
                    raise NotJSON(problem)
                silent = 0 if parsed else silent + len(data)
                if silent > _TOKEN:
                    raise NotJSON(f"one string or number of it has more than {_TOKEN >> 20} MiB")
                parsed.clear()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def skip(following: Iterator[Event], event: str) -> None:
    """Go on behind a value of which the first event was this one."""
    depth = 0
    while True:
        if event in ("start_map", "start_array"):
            depth += 1
            if depth > _NESTING:
                raise NotJSON(f"it is nested deeper than {_NESTING} levels")
        elif event in ("end_map", "end_array"):
            depth -= 1
        if not depth:
            return
        for event, _ in following:
            if event != "number":  # most of a COCO file are the numbers of its polygons
                break


def _sentence(error: Exception) -> str:
    text = error.args[0]
    lines = (text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)).splitlines()
    if "premature EOF" in lines[0]:
        return "it ends in the middle"
    place = f", at {lines[1].strip()[:60]!r}" if len(lines) > 1 and lines[1].strip() else ""
    return lines[0].removeprefix("parse error: ").removeprefix("lexical error: ").rstrip(".") + place
