"""Which of a source's objects a request is for."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from itertools import compress, islice

import numpy as np

from tvetl.cluster import Cluster, Names, Table
from tvetl.errors import UsageError
from tvetl.jobs.request import Request
from tvetl.jobs.results import Digests, digests, find
from tvetl.notation import iterate


def wanted_objects(cluster: Cluster, request: Request) -> tuple[Table[int], Sequence[str]]:
    """The source's objects that are asked for, with their sizes, and the names of a template that it has not.

    Raises UsageError where there are none.
    """
    absent: Sequence[str] = ()
    if request.template is not None:
        wanted, absent = _in_template(cluster, request.source, request.template)
    elif request.names is not None:
        asked = Names(dict.fromkeys(request.names))
        present = cluster.sizes(request.source, os.path.commonprefix(asked))  # noqa: RUF071  names are no paths
        wanted = Table(asked, array("Q", (present.get(name, 0) for name in asked)))
    else:
        wanted = cluster.sizes(request.source, request.prefix)
    if not wanted:
        of = f" of {request.template!r}" if request.template else f" under {request.prefix!r}" if request.prefix else ""
        raise UsageError(f"there is nothing to transform in {request.source!r}{of}")
    return wanted, absent


def _in_template(cluster: Cluster, source: str, template: str) -> tuple[Table[int], Sequence[str]]:
    asked = np.unique(digests(iterate(template)))
    seen = np.zeros(len(asked), bool)
    names, sizes = Names(), array("Q")
    for page in cluster.pages(source, template.partition("{")[0], "size"):
        at = find(asked, digests((name for name, _ in page), len(page)))
        new = (at >= 0) & ~seen[at]
        seen[at[new]] = True
        names.extend(name for name, _ in compress(page, new))
        sizes.extend(int(size) for _, size in compress(page, new))
    asked = asked[~seen]
    return Table(names, sizes), Names(_named(iterate(template), asked)).in_order() if len(asked) else ()


def _named(names: Iterator[str], known: Digests) -> Iterator[str]:
    """Those names of which the digests are known."""
    while some := [*islice(names, 10_000)]:
        yield from compress(some, find(known, digests(some)) >= 0)
