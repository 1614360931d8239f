"""A file name leads to objects in the target's mounts, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tvetl.local.etl import go_request_target
from tvetl.local.object_names import to_file
from tvetl_server.errors import FileGone, NoSource, OutsideRoots, TooManyBytes, UnreadableFile
from tvetl_server.serving.source import Files, mounts, parse_target


@pytest.fixture
def files(disk: Any) -> Files:
    disk.add("dir/a.jpg", b"bytes of a")
    return Files([disk.root], limit=1000)


def found(disk: Any, monkeypatch: pytest.MonkeyPatch) -> Files:
    """As in a pod without TVETL_ROOTS: the mounts are the roots."""
    monkeypatch.setattr("tvetl_server.serving.source.mounts", lambda: (disk.root,))
    return Files(None, limit=1000)


def test_an_object_is_read(files: Files, disk: Any) -> None:
    assert files.read(str(disk.path("dir/a.jpg"))) == b"bytes of a"
    assert files.read(str(disk.path("dir//./a.jpg")).replace("mnt/", "mnt//")) == b"bytes of a"


@pytest.mark.parametrize("name", ["/etc/passwd", "etc/passwd", "", "/", "/proc/self/environ", "/mnt\0/x"])
def test_other_files_are_refused(files: Files, name: str) -> None:
    with pytest.raises(OutsideRoots):
        files.read(name)


def test_dots_and_neighbours_of_the_root_are_refused(files: Files, disk: Any) -> None:
    beside = disk.root.with_name("data2")
    beside.mkdir()
    (beside / "x").write_bytes(b"x")
    for name in (beside / "x", disk.root / "../data2/x", disk.path("..") / "%ob/dir/a.jpg"):
        with pytest.raises(OutsideRoots):
            files.read(str(name))


def test_no_link_is_followed_below_the_root(files: Files, disk: Any, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.jpg").write_bytes(b"x")
    disk.path("link").symlink_to(tmp_path / "outside")
    disk.path("link.jpg").symlink_to(disk.path("dir/a.jpg"))
    for name in ("link/x.jpg", "link.jpg", "dir/a.jpg/x"):
        with pytest.raises(OutsideRoots):
            files.read(str(disk.path(name)))


def test_a_root_may_itself_be_reached_by_a_link(files: Files, disk: Any, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(disk.root)
    linked = Files([tmp_path / "linked"], limit=1000)
    assert linked.read(str(tmp_path / "linked" / disk.path("dir/a.jpg").relative_to(disk.root))) == b"bytes of a"
    assert linked.read(str(disk.path("dir/a.jpg"))) == b"bytes of a"


def test_an_object_is_gone_only_if_its_buckets_folder_exists(files: Files, disk: Any) -> None:
    for name in ("gone.jpg", "dir/gone.jpg", "gone/gone.jpg"):
        with pytest.raises(FileGone):
            files.read(str(disk.path(name)))
    with pytest.raises(UnreadableFile, match="subPathExpr"):
        files.read(str(disk.path("a.jpg", bucket="other")))


def test_an_empty_mount_is_logged_once_and_loudly(disk: Any, caplog: pytest.LogCaptureFixture) -> None:
    files = Files([disk.root], limit=1000)
    for _ in range(3):
        with pytest.raises(UnreadableFile, match="Do-not-Allow-Passing-FQN-to-ETL"):
            files.read(str(disk.path("a.jpg")))
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "ERROR"


def test_only_regular_files_are_read_and_no_fifo_blocks(files: Files, disk: Any) -> None:
    os.mkfifo(disk.path("fifo"))
    for name in ("fifo", "dir"):
        with pytest.raises(UnreadableFile):
            files.read(str(disk.path(name)))


@pytest.fixture
def not_root() -> Iterator[None]:
    """Root reads every file: tests that run as root are the user nobody for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_file_that_may_not_be_read_is_an_error_with_its_remedy(files: Files, disk: Any, not_root: None) -> None:
    if os.geteuid() != 65534:
        disk.path("dir/a.jpg").chmod(0)
    with pytest.raises(UnreadableFile, match="group, 0"):
        files.read(str(disk.path("dir/a.jpg")))


def test_a_large_file_is_refused_before_it_is_read(files: Files, disk: Any) -> None:
    disk.add("large", bytes(1001))
    disk.add("just", bytes(1000))
    assert len(files.read(str(disk.path("just")))) == 1000
    with pytest.raises(TooManyBytes):
        files.read(str(disk.path("large")))


def test_without_roots_a_name_must_have_an_objects_shape(disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.add("a.jpg", b"a")
    (disk.root / "ais" / ".ais.conf").write_bytes(b"secret")
    (disk.root / "%ob").mkdir()
    (disk.root / "%ob" / "x").write_bytes(b"x")
    files = found(disk, monkeypatch)
    assert files.read(str(disk.path("a.jpg"))) == b"a"
    for name in ("ais/.ais.conf", "%ob/x", "@ais/%ob/x", "ais/mp1/@ais/src/%ob", "ais/mp1/@ais/src/%mt/a.jpg"):
        with pytest.raises(OutsideRoots):
            files.read(str(disk.root / name))


def test_buckets_of_clouds_and_namespaces_are_found(disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = found(disk, monkeypatch)
    for bucket in ("@aws/images", "@ais/@uuid#ns/images"):
        path = disk.root / "ais" / bucket / "%ob" / "a.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"a")
        assert files.read(str(path)) == b"a"
        with pytest.raises(FileGone):
            files.read(f"{path}.gone")


def test_mounts_are_disks_and_not_the_containers_own(tmp_path: Path) -> None:
    (tmp_path / "a disk").mkdir()
    row = "36 35 98:0 / {} ro,noatime master:1 - ext4 /dev/sda1 rw\n"
    points = ["/", "/proc", "/sys/fs/cgroup", "/dev/shm", "/etc", "/run/secrets", str(tmp_path / "not there")]
    table = tmp_path / "mountinfo"
    blank = str(tmp_path / "a disk").replace(" ", "\\040")
    table.write_text("".join(row.format(point) for point in [*points, blank]), encoding="utf-8")
    assert mounts(table) == (tmp_path / "a disk",)
    assert mounts(tmp_path / "no table") == ()


def test_the_request_target_is_parsed_as_the_target_meant_it() -> None:
    fqn = "%252Fmnt%252Fmp2%252F%40ais%252Fsrc%252F%2525ob%252F"
    asked = parse_target(f"/src/pct%41.jpg?etl_args=plain+text+%2B%2520&etl_fqn={fqn}pct%252541.jpg")
    assert (asked.path, asked.name) == ("/src/pct%41.jpg", "src/pct%41.jpg")
    assert asked.fqn == "/mnt/mp2/@ais/src/%ob/pct%41.jpg"
    assert asked.etl_args == "plain text +%20"
    assert parse_target(f"/src/plus+amp&eq=.jpg?etl_fqn={fqn}plus%2Bamp%26eq%3D.jpg").fqn == (
        "/mnt/mp2/@ais/src/%ob/plus+amp&eq=.jpg"
    )
    assert parse_target("/src/dbl//slash.jpg").name == "src/dbl//slash.jpg"
    assert parse_target("/src/%FF.jpg").name == "src/\ufffd.jpg"
    assert os.fsencode(parse_target("/src/a?etl_fqn=%252Fa%25FF").fqn or "") == b"/a\xff"


def quoted(path: str) -> str:
    return quote(quote(path, safe=""), safe="")


@pytest.mark.parametrize(
    "name", ["a.jpg", "b c.jpg", "pct%41.jpg", "100%25.jpg", "a%2520b.jpg", "src/ob/src/a%20b", "q?1.jpg",
             "q?a%41?b=1", "q?etl_fqn=%2Fetc?x", "%41 x", "dbl//slash%20.jpg", "ü%20猫.jpg", "ü?猫.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("arguments", ["", "{}"])
def test_an_object_is_named_as_its_file_is(name: str, arguments: str) -> None:
    """In AIStore's layout, and in that of `tvetl local`, whatever became of the name in the path."""
    query = {"etl_args": arguments} if arguments else {}
    for file in (f"/mnt/mp1/@ais/src/%ob/{name}", f"/mnt/mp1/@ais/@x#ns/src/%ob/{name}", f"/disk/src/{to_file(name)}"):
        asked = parse_target(go_request_target(f"/src/{name}", query | {"etl_fqn": quote(file, safe="")}))
        assert asked.name == f"src/{name}"
        assert (asked.fqn, asked.etl_args) == (file, arguments or None)


def test_a_file_of_another_name_leaves_the_name_of_the_path() -> None:
    for file in ("/mnt/mp1/@ais/src/%ch/pct%41.jpg.0001", "/mnt/mp1/@ais/src/%ob/other.jpg", "/x", "/src/pct%42.jpg"):
        assert parse_target(f"/src/pct%41.jpg?etl_fqn={quoted(file)}").name == "src/pctA.jpg"
    for target in ("/src/pct%41.jpg", "/src/pct%41.jpg?unknown=1", '/src/pct%41.jpg?etl_args={"x":"?"}'):
        assert parse_target(target).name == "src/pctA.jpg"
    assert parse_target("/src/q?1.jpg").name == "src/q?1.jpg"


@pytest.mark.parametrize("target", ["/", "/src", "/src/", "//a", "*", "http://host/src/a"])
def test_a_path_without_bucket_and_object_is_refused(target: str) -> None:
    with pytest.raises(NoSource):
        parse_target(target)
