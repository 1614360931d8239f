"""A bucket's listing, page by page: what AIStore says of ten million objects is never all here at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from aistore.sdk import Bucket
from aistore.sdk.types import BucketEntry

from tvetl.cluster.names import Names, Table

_Value = TypeVar("_Value")
#: What a listing says of each object beside its name: nothing, its bytes, version and checksum, or bytes and checksum.
What = Literal["", "size", "tag", "content"]
_PROPS = {"": "name", "size": "name,size", "tag": "name,version,checksum", "content": "name,size,checksum"}


def pages(bucket: Bucket, prefix: str, what: What) -> Iterator[list[tuple[str, str]]]:
    """Names with what is asked of them, as AIStore lists them: mostly in order, and mostly each once.

    Raises ValueError where a page leads to itself.
    """
    bucket.object = lambda *_, **__: None  # the SDK would make an Object of each entry: ten times as long as all else
    uuid = token = ""
    while True:
        page = bucket.list_objects(prefix=prefix, props=_PROPS[what], uuid=uuid, continuation_token=token)
        yield [(entry.name, _property(entry, what)) for entry in page.entries]
        if not page.continuation_token:
            return
        if page.continuation_token == token:
            raise ValueError(f"the page of a listing after {token!r} leads to itself")
        uuid, token = page.uuid, page.continuation_token


def names(bucket: Bucket, prefix: str) -> Names:
    """The names in order, each once."""
    found = Names()
    for page in pages(bucket, prefix, ""):
        found.extend(name for name, _ in page)
    return found.in_order()


def sizes(bucket: Bucket, prefix: str) -> Table[int]:
    """Bytes by name, in order."""
    found, sizes = Names(), array("Q")
    for page in pages(bucket, prefix, "size"):
        found.extend(name for name, _ in page)
        sizes.extend(int(size) for _, size in page)
    return _by_name(found, sizes, lambda values: array("Q", values))


def tags(bucket: Bucket, prefix: str) -> Table[str]:
    """Version and checksum by name, in order."""
    found, tags = Names(), Names()
    for page in pages(bucket, prefix, "tag"):
        found.extend(name for name, _ in page)
        tags.extend(tag for _, tag in page)
    return _by_name(found, tags, Names)


def _by_name(
    names: Names, values: Sequence[_Value], keep: Callable[[Iterable[_Value]], Sequence[_Value]]
) -> Table[_Value]:
    if names.rising:
        return Table(names, values)
    order = array("Q", names.places_in_order())
    return Table(Names(names[place] for place in order), keep(values[place] for place in order))


def _property(entry: BucketEntry, what: What) -> str:
    if what == "size":
        return str(entry.size or 0)
    before = entry.version if what == "tag" else entry.size
    return f"{before or ''}:{entry.checksum or ''}" if what else ""
