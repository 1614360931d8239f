"""Buckets as folders: names survive, nothing leaves the root, a file is whole or not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("msgspec", reason="the stand-in's requirements are not installed")

from tvetl.local import etl, object_names
from tvetl.local.http import ApiError
from tvetl.local.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "ais")
    store.create("b")
    yield store
    store.close()


@given(
    st.text(alphabet=st.one_of(st.sampled_from("/.%ab#? ü\0\n"), st.characters(codec="utf-8")), min_size=1, max_size=60)
)
def test_every_name_comes_back_from_its_file(name: str) -> None:
    if ".." in name.split("/"):
        with pytest.raises(ApiError, match="may not be a part"):
            object_names.to_file(name)
        return
    path = object_names.to_file(name)
    assert object_names.from_file(path) == name
    parts = path.split("/")
    assert all(part not in ("", ".", "..") and "\0" not in part for part in parts), "no part leads elsewhere"


@pytest.mark.parametrize(
    ("name", "path"),
    [("a.jpg", "a.jpg"), ("pets/cat 1.jpg", "pets/cat 1.jpg"), ("uni/ü-猫.jpg", "uni/ü-猫.jpg"), ("pct%41", "pct%2541"),
     ("dbl//slash.jpg", "dbl/%/slash.jpg"), ("ends/", "ends/%"), ("./a", "%2E/a"), ("a#q?x", "a#q?x")],
)  # fmt: skip
def test_a_file_is_named_as_plainly_as_can_be(name: str, path: str) -> None:
    assert object_names.to_file(name) == path


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..", "x" * 256, "/".join(["x" * 250] * 30), "\ud800"])
def test_names_that_no_file_can_have_are_refused(store: Store, name: str) -> None:
    with pytest.raises(ApiError) as raised:
        store.put("b", name, BytesIO(b"x"))
    assert raised.value.status == 400
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("bucket", ["..", ".tvetl", "a/b", "", "a..b", "ü"])
def test_buckets_outside_the_rules_are_refused(store: Store, bucket: str) -> None:
    with pytest.raises(ApiError) as raised:
        store.create(bucket)
    assert raised.value.status == 400


def test_a_link_that_leads_out_of_the_root_is_no_object(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (store.root / "b" / "link").symlink_to(tmp_path / "secret")
    (store.root / "b" / "folder").symlink_to(tmp_path)
    assert store.entries("b") == []
    for name in ("link", "folder/secret"):
        with pytest.raises(ApiError) as raised:
            store.stat("b", name)
        assert raised.value.status == 404


def test_an_object_and_a_folder_of_one_name_are_told_apart(store: Store) -> None:
    store.put("b", "a", BytesIO(b"1"))
    with pytest.raises(ApiError, match="cannot both be objects") as raised:
        store.put("b", "a/b", BytesIO(b"2"))
    assert raised.value.status == 409
    store.put("b", "c/d", BytesIO(b"3"))
    with pytest.raises(ApiError, match="cannot both be objects"):
        store.put("b", "c", BytesIO(b"4"))
    store.delete("b", "c/d")
    store.put("b", "c", BytesIO(b"5"))  # the empty folder went with its last object
    assert [entry.name for entry in store.entries("b")] == ["a", "c"]


class Broken:
    """A body that breaks off."""

    def __init__(self) -> None:
        self.blocks = [b"half"]

    def read(self, most: int, /) -> bytes:
        if not self.blocks:
            raise ConnectionError("gone")
        return self.blocks.pop()


def test_a_body_that_breaks_off_leaves_the_old_object(store: Store) -> None:
    store.put("b", "a", BytesIO(b"old"))
    with pytest.raises(ConnectionError):
        store.put("b", "a", Broken())
    assert store.stat("b", "a").path.read_bytes() == b"old"
    assert [entry.name for entry in store.entries("b")] == ["a"]
    assert list((store.root / ".tvetl" / "tmp").iterdir()) == []


def test_a_reader_sees_one_whole_object_while_it_is_written_over(store: Store) -> None:
    whole = [bytes([65 + i]) * 300_000 for i in range(8)]
    store.put("b", "a", BytesIO(whole[0]))
    done = threading.Event()

    def write() -> None:
        for _ in range(10):
            for data in whole:
                store.put("b", "a", BytesIO(data))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {(store.root / "b" / "a").read_bytes()}
    while not done.is_set():
        seen.add((store.root / "b" / "a").read_bytes())
    writer.join()
    assert seen <= set(whole)


def test_versions_count_and_checksums_follow_the_bytes(store: Store) -> None:
    first = store.put("b", "a", BytesIO(b"DATA-a.jpg"))
    assert (first.version, first.checksum) == (1, "463cf3c4de895d6d")  # recorded of AIStore for these bytes
    second = store.put("b", "a", BytesIO(b"other"))
    assert second.version == 2
    assert second.checksum != "463cf3c4de895d6d"
    (store.root / "b" / "a").write_bytes(b"DATA-a.jpg")  # by hand
    stat, file = store.open("b", "a")
    assert (stat.checksum, file.read()) == ("463cf3c4de895d6d", b"DATA-a.jpg")
    file.close()


def test_buckets_survive_a_restart_and_one_folder_has_one_owner(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("b")
    store.put("b", "x/y", BytesIO(b"1"))
    with pytest.raises(OSError, match="another cluster"):
        Store(tmp_path)
    store.close()
    again = Store(tmp_path)
    assert [entry.name for entry in again.entries("b")] == ["x/y"]
    again.close()


@pytest.mark.parametrize(
    ("template", "expected"),
    [("x_{0..2}.jpg", ["x_0.jpg", "x_1.jpg", "x_2.jpg"]), ("{08..10}", ["08", "09", "10"]),
     ("a{0..4..2}", ["a0", "a2", "a4"]), ("{1..2}-{1..2}", ["1-1", "1-2", "2-1", "2-2"]), ("plain.jpg", ["plain.jpg"])],
)  # fmt: skip
def test_templates_unfold_as_in_a_shell(template: str, expected: list[str]) -> None:
    assert list(object_names.expand(template)) == expected


@pytest.mark.parametrize("template", ["x_{2..1}", "x_{a..b}", "x_{0..", "{0..999999999}"])
def test_templates_that_name_nothing_or_too_much_are_refused(template: str) -> None:
    with pytest.raises(ApiError) as raised:
        list(object_names.expand(template))
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("name", "target"),
    [("a.jpg", "/src/a.jpg"), ("b c", "/src/b%20c"), ("pct%41", "/src/pct%41"), ("h#q?x", "/src/h"),
     ("q?x", "/src/q?x"), ("d//s", "/src/d//s"), ("p+a&e=", "/src/p+a&e="), ("ü", "/src/%C3%BC"),
     ("%41 x", "/src/A%20x"), ("q?50% ü", "/src/q?50% \u00c3\u00bc")],
)  # fmt: skip
def test_a_path_goes_out_as_go_writes_it(name: str, target: str) -> None:
    assert etl.go_request_target(f"/src/{name}", {}) == target


def test_extensions_and_prefixes_make_the_new_name() -> None:
    assert object_names.renamed("d/a.jpg", {"jpg": "npy"}, "t/") == "t/d/a.npy"
    assert object_names.renamed("d.x/a", {"x/a": "y"}, "") == "d.y"  # the last dot decides, as in AIStore
    assert object_names.renamed("a.png", {"jpg": "npy"}, "") == "a.png"
