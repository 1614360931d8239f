"""Names in little memory: they are what a list of them is, a listing fills them in order, and ten million fit."""

from __future__ import annotations

import pickle
import random
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import msgspec
import pytest
from benchmarks import listing
from benchmarks.listing import Played

from tvetl.cluster import Cluster, Names
from tvetl.errors import NotAIStore, UsageError

ODD = ["b", "a/é.jpg", "", "日本/\U0001f600.png", "\udc80\udcff", "with\nline and \0", "b", "a" * 5000, "a/e.jpg"]

Entry: TypeAlias = dict[str, object]
Lists: TypeAlias = Callable[..., Cluster]


class Scripted(Played):
    """Lists these pages of entries in every bucket; with ``ring`` the last leads to itself."""

    def __init__(self, *pages: list[Entry], ring: bool = False) -> None:
        super().__init__(0, 1)
        self._pages, self._ring = pages, ring

    def listed(self, bucket: str, token: str, props: str) -> bytes:
        at = int(token or 0)
        more = str(at + 1) if at + 1 < len(self._pages) else token if self._ring else ""
        page = {"UUID": "u", "ContinuationToken": more, "Flags": 0, "Entries": self._pages[at]}
        return msgspec.msgpack.encode(page)


@pytest.fixture
def lists() -> Iterator[Lists]:
    """Plays a cluster that lists these entries, page by page."""
    with ExitStack() as stack:

        def listed(*pages: list[Entry], ring: bool = False) -> Cluster:
            played = stack.enter_context(Scripted(*pages, ring=ring))
            threading.Thread(target=played.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(played.shutdown)
            return Cluster(played.url)

        yield listed


# Names


def test_names_are_what_a_list_of_them_is() -> None:
    names = Names(ODD)
    assert (list(names), len(names), names[0], names[-1]) == (ODD, len(ODD), ODD[0], ODD[-1])
    assert names == ODD
    assert names == tuple(ODD)
    assert names != ODD[:-1]
    assert names != [*ODD[:-1], "other"]
    assert names[2:] == ODD[2:]
    assert names[::-2] == ODD[::-2]
    assert [*reversed(names)] == ODD[::-1]
    for out in (len(ODD), -len(ODD) - 1):
        with pytest.raises(IndexError):
            names[out]
    assert Names() == []
    assert not Names()


def test_a_buffer_may_outgrow_its_small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvetl.cluster.names._SMALL", "H")
    many = ODD * 20
    names = Names(many[:5])
    names.extend(many[5:])
    assert names == many
    assert pickle.loads(pickle.dumps(names)) == many  # noqa: S301 - our own


def test_a_name_is_found_as_in_a_list() -> None:
    names = Names(ODD)
    for name in ODD:
        assert name in names
        assert names.index(name) == ODD.index(name)
        assert names.count(name) == ODD.count(name)
    assert names.index("b", 1) == 6
    assert "none" not in names
    assert 3 not in names
    assert "b" not in Names()
    with pytest.raises(ValueError, match="none"):
        names.index("none")
    names.extend(["none"])
    assert names.index("none") == len(ODD)


def test_names_of_one_digest_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvetl.cluster.names._digest", lambda code: len(code) % 2)
    names = Names(ODD)
    assert [names.index(name) for name in ODD] == [ODD.index(name) for name in ODD]
    assert "c" not in names


@pytest.mark.parametrize("block", [2, 1 << 16])
def test_names_are_sorted_each_once(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("tvetl.cluster.names._BLOCK", block)
    assert Names(ODD).in_order() == sorted({*ODD})
    rising = Names(sorted({*ODD}))
    assert rising.in_order() is rising
    assert not Names(["a", "a"]).rising
    grown = Names(["a", "c"])
    grown.extend(["b"])
    assert not grown.rising


def test_a_pickle_of_names_is_as_small_as_they_are() -> None:
    names = Names(f"{at:09}.jpg" for at in range(1000))
    assert "5" not in names
    pickled = pickle.dumps(names)
    assert len(pickled) < 1000 * (13 + 4) + 500
    copied = pickle.loads(pickled)  # noqa: S301 - our own
    assert (copied, copied.rising, copied.index("000000007.jpg")) == (names, True, 7)


def test_what_is_no_name_is_refused() -> None:
    with pytest.raises(UsageError, match="7 is no name"):
        Names(["a", 7])  # type: ignore[list-item]


def test_names_take_their_bytes_and_four_more() -> None:
    tracemalloc.start()
    names = Names(map(listing.name_of, range(20_000)))
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(names[0]) == 36
    assert held < 20_000 * (36 + 4) * 1.3, "both buffers have room to grow"
    assert most < 20_000 * (36 + 4) * 1.5
    assert held < 20_000 * (sys.getsizeof(names[0]) + 8) / 1.5, "what a list takes"


# Listings


def test_a_listing_in_no_order_is_sorted_with_what_belongs_to_each_name(lists: Lists) -> None:
    numbers = random.Random(1).sample(range(100), 100)
    entries: list[Entry] = [
        {"n": f"{at:02}", "s": at, "v": str(at % 7), "cs": f"{at:x}"} for at in [*numbers, *numbers[:10]]
    ]
    cluster = lists(entries[:30], [], entries[30:60], entries[60:])
    in_order = [f"{at:02}" for at in range(100)]
    assert cluster.names("b") == in_order
    assert cluster.objects("b") == in_order
    sizes, tags = cluster.sizes("b"), cluster.tags("b")
    assert [*sizes.items()] == [(f"{at:02}", at) for at in range(100)]
    assert tags == {f"{at:02}": f"{at % 7}:{at:x}" for at in range(100)}
    assert (sizes["42"], "42" in tags, "100" in tags, len(sizes)) == (42, True, False, 100)
    with pytest.raises(KeyError):
        sizes["100"]


def test_an_empty_listing_has_no_names(lists: Lists) -> None:
    cluster = lists([])
    assert (cluster.objects("b"), {**cluster.sizes("b")}, len(cluster.tags("b"))) == ([], {}, 0)


def test_a_listing_that_leads_to_itself_ends(lists: Lists) -> None:
    cluster = lists([{"n": "a"}], [{"n": "b"}], ring=True)
    with pytest.raises(NotAIStore, match="leads to itself"):
        cluster.objects("b")
