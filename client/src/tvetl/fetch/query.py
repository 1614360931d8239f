"""The query of a read through an ETL: its name, and the ``etl_args`` of the object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from tvetl import notation
from tvetl.cluster import Json
from tvetl.spec.seed import arrival, drawn_as

#: The characters in the JSON of most arguments: those that need no escape, and JSON's own marks.
_MARKS = {mark: quote(mark) for mark in '[],{}:"'}
_SIMPLE = re.compile(r'[A-Za-z0-9_.~/\[\],{}:"-]*')


class Query:
    """The ``etl_args`` of all reads of one bucket through an ETL ("" for none).

    ``by_name``: the ETL draws by names. A name that AIStore would change on the way to it is sent in ``like``.
    """

    def __init__(self, bucket: str, etl: str, arguments: Mapping[str, Json], *, by_name: bool) -> None:
        self._bucket, self._etl, self._by_name = bucket, etl, by_name
        self._arguments = dict(arguments)
        self._query = self._query_of(self._arguments)

    def arguments(self, name: str, more: Mapping[str, Json] | None = None) -> dict[str, Json]:
        """Those for the object of this name, and ``more`` of its own."""
        arguments = {**self._arguments, **more} if more else self._arguments
        if not self._by_name or "like" in arguments or arrival(name) != "changed":
            return arguments
        return {**arguments, "like": drawn_as(self._bucket, name)}

    def text(self, name: str, more: Mapping[str, Json] | None = None) -> str:
        """The query for the object of this name, from its "?" on. Raises UnicodeEncodeError where it is no Unicode."""
        arguments = self.arguments(name, more)
        return self._query if arguments is self._arguments else self._query_of(arguments)

    def _query_of(self, arguments: Mapping[str, Json]) -> str:
        named = notation.bucket(self._bucket)
        space = f"&namespace={quote(f'@#{named.namespace}')}" if named.namespace else ""
        query = f"?provider={named.provider}{space}" + (f"&etl_name={quote(self._etl)}" if self._etl else "")
        if self._etl and arguments:
            query += f"&etl_args={_quoted(msgspec.json.encode(arguments).decode())}"
        return query


def _quoted(text: str) -> str:
    """As :func:`quote` does it, which takes many times as long for the boxes of an image."""
    if not _SIMPLE.fullmatch(text):
        return quote(text)
    for mark, escape in _MARKS.items():
        text = text.replace(mark, escape)
    return text
