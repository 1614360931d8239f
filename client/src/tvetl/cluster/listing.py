"""A bucket's listing, page by page, so that ten million entries are never in memory at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, TypeVar

from aistore.sdk import Bucket
from aistore.sdk.types import BucketEntry

from tvetl.cluster.names import Names, Table

_Value = TypeVar("_Value")
#: The names of some objects, each with the property that was asked for, as text.
Page: TypeAlias = "list[tuple[str, str]]"
#: The property: none, the size in bytes, version and checksum, or size and checksum.
What = Literal["", "size", "tag", "content"]
_PROPS = {"": "name", "size": "name,size", "tag": "name,version,checksum", "content": "name,size,checksum"}


def pages(bucket: Bucket, prefix: str, what: What) -> Iterator[Page]:
    """The pages as AIStore lists them: mostly in order, and each name mostly once.

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


def sizes(pages: Iterable[Page]) -> Table[int]:
    """Bytes by name, in order and each name once, of pages with sizes."""
    names, sizes = Names(), array("Q")
    for page in pages:
        names.extend(name for name, _ in page)
        sizes.extend(int(size) for _, size in page)
    return _in_order(names, sizes, lambda values: array("Q", values))


def tags(pages: Iterable[Page]) -> Table[str]:
    """Version and checksum by name, in order and each name once, of pages with tags."""
    names, tags = Names(), Names()
    for page in pages:
        names.extend(name for name, _ in page)
        tags.extend(tag for _, tag in page)
    return _in_order(names, tags, Names)


def _in_order(
    names: Names, values: Sequence[_Value], column: Callable[[Iterable[_Value]], Sequence[_Value]]
) -> Table[_Value]:
    if names.rising:
        return Table(names, values)
    order = array("Q", names.places_in_order())
    return Table(Names(names[place] for place in order), column(values[place] for place in order))


def _property(entry: BucketEntry, what: What) -> str:
    if what == "size":
        return str(entry.size or 0)
    before = entry.version if what == "tag" else entry.size
    return f"{before or ''}:{entry.checksum or ''}" if what else ""
