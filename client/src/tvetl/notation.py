"""Notations of AIStore's: names of buckets, ranges in the names of objects, Go's durations and escapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tvetl.errors import UsageError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)(?:\.\.(\d+))?\}")
#: AIStore's own names of providers, by those that its command writes.
_PROVIDERS = {"s3": "aws", "gs": "gcp", "gcs": "gcp", "az": "azure", "oc": "oci"}
#: ``ais://@cluster#namespace/name``, where all but the name may be left out.
_BUCKET = re.compile(r"(?:([a-z0-9]+)://)?(?:(?:@([\w.-]*))?(?:#([\w.-]*))?(?<=[@#\w.-])/)?([^/@#]+)/?")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class BucketName:
    """A bucket: ``provider`` is ais, aws, gcp, azure, oci or ht, ``cluster`` another AIStore's alias or id, "" here."""

    provider: str
    cluster: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """The URL, one for each bucket: of ``photos`` it is ais://photos, of ``s3://photos`` aws://photos."""
        where = (f"@{self.cluster}" if self.cluster else "") + (f"#{self.namespace}" if self.namespace else "")
        return f"{self.provider}://{where}{'/' if where else ''}{self.name}"

    @property
    def path(self) -> str:
        """How AIStore's unique names begin: ais/@#/photos."""
        return f"{self.provider}/@{self.cluster}#{self.namespace}/{self.name}"


def bucket(text: str) -> BucketName:
    """A bucket of ``photos``, ``s3://photos`` or ``ais://@cluster#namespace/photos``.

    Raises UsageError for a folder in one, which AIStore would take for the whole bucket, and for no name.
    """
    match = _BUCKET.fullmatch(text)
    if not match:
        hint = "--prefix chooses what is in a folder of a bucket; --prepend puts results into one."
        raise UsageError(f"{text!r} is not the name of a bucket", hint=hint)
    provider, cluster, namespace, name = match.groups(default="")
    return BucketName(_PROVIDERS.get(provider, provider) or "ais", cluster, namespace, name)


def object_of(path: str) -> tuple[str, str]:
    """The bucket and the object of ``s3://photos/train/a.jpg``; no object where there is none."""
    start = re.match(r"([a-z0-9]+://)?([@#][^/]*/)?", path)
    at = start.end() if start else 0
    name, _, rest = path[at:].partition("/")
    return path[:at] + name, rest


def expand(template: str) -> list[str]:
    """The names of a template: ``a_{08..10}.jpg`` is a_08.jpg, a_09.jpg, a_10.jpg; ``{0..8..4}`` steps by 4.

    AIStore's own rules; several ranges may stand in one name. Raises UsageError for an open or empty brace.
    """
    return list(iterate(template))


def iterate(template: str, most: float = math.inf) -> Iterator[str]:
    """The same, name by name. Raises UsageError at once, also for more than ``most`` names."""
    pieces = _RANGE.split(template)
    steps = [int(step or 1) for step in pieces[3::4]]
    if 0 in steps or any("{" in text for text in pieces[::4]):
        raise _no_range(template)
    bounds = zip(pieces[1::4], pieces[2::4], steps, strict=True)
    ranges = [(range(int(first), int(last) + 1, step), len(first)) for first, last, step in bounds]
    count = math.prod(len(numbers) for numbers, _ in ranges)
    if not count:
        raise _no_range(template)
    if count > most:
        raise UsageError(f"{template!r} names {count} objects, more than {most}")
    return _unfold(pieces[::4], ranges)


def seconds(duration: str) -> float | None:
    """Seconds of a duration as Go writes it (``1h2m3.5s``, ``500ms``); None for anything else."""
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s))+", duration):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))


def path_escape(text: str) -> str:
    """``url.PathEscape(text)`` of Go, with which a target escapes a file's name."""
    return quote(text, safe="$&+=:@")


def _no_range(template: str) -> UsageError:
    hint = "One looks like photo_{0..100}.jpg, or a_{000..100..5}.jpg."
    return UsageError(f"{template!r} is not a range", hint=hint)


def _unfold(texts: Sequence[str], ranges: Sequence[tuple[range, int]]) -> Iterator[str]:
    """Every combination of the ranges' numbers, between the texts."""
    if not ranges:
        yield texts[0]
        return
    numbers, width = ranges[0]
    for number in numbers:
        for rest in _unfold(texts[1:], ranges[1:]):
            yield f"{texts[0]}{number:0{width}d}{rest}"
