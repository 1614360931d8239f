"""`tvetl put` and `tvetl get BUCKET FOLDER`: what differs is copied, nothing is overwritten unasked, all is named."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import xxhash
from support.waiting import until
from typer.testing import CliRunner

from tvetl.cluster import Cluster
from tvetl.cluster.folders import CopyReport, find_files, find_objects, get_files, put_files
from tvetl.cluster.listing import What
from tvetl.cluster.transport import Interrupted, Transport, digest_like
from tvetl.command import cli
from tvetl.errors import ClusterError, TvetlError, UsageError
from tvetl.local import LocalCluster

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
#: More than what is sent in one piece, and no multiple of a block.
LARGE = (3 << 20) + 7


@pytest.fixture
def tvetl() -> Command:
    """Runs the command in this process, which need not import all of it each time."""

    def run(*arguments: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        done = CliRunner().invoke(cli.app, arguments, input=input)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout_bytes, done.stderr_bytes)

    return run


@pytest.fixture
def bucket(cluster: Cluster) -> Iterator[str]:
    """A name that no bucket has before or after."""
    yield "put-bucket"
    cluster.delete_bucket("put-bucket")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as folders of photographs have them: nested, spaces and umlauts, one empty, one large, a shard."""
    root = tmp_path / "my photos"
    files = {
        "a.jpg": b"one", "n01/a.jpg": b"two", "n01/deep/Katze ü 猫.jpg": b"three", "empty.jpg": b"",
        "n01/a%20b.jpg": b"four", "large.bin": os.urandom(LARGE),
    }  # fmt: skip
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    with tarfile.open(root / "shard-000.tar", "w") as tar:
        tar.add(root / "a.jpg", "1.jpg")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(cluster: Cluster, bucket: str) -> dict[str, bytes]:
    return {name: cluster.get(bucket, name) for name in cluster.objects(bucket)}


def test_a_folder_comes_back_as_it_was_and_is_copied_once(
    tvetl: Command, local: LocalCluster, cluster: Cluster, bucket: str, folder: Path, tmp_path: Path
) -> None:
    put = ("put", str(folder), bucket, "--prefix", "train/", "-e", local.endpoint)
    done = tvetl(*put)
    assert (done.returncode, done.stdout.split(b" (")[0][:17]) == (0, b"7 of 7 files copi"), done.stderr
    assert stored(cluster, bucket) == {f"train/{name}": data for name, data in contents(folder).items()}
    written = dict(cluster.tags(bucket))
    again = tvetl(*put)
    assert again.stdout.startswith(b"0 of 7 files")
    assert b"7 kept: there already" in again.stdout
    assert dict(cluster.tags(bucket)) == written  # versions, too

    back = tmp_path / "back"
    get = ("get", bucket, str(back), "--prefix", "train/", "-e", local.endpoint, "--json")
    assert json.loads(tvetl(*get).stdout)["copied"] == 7
    assert contents(back / "train") == contents(folder)
    (back / "train/a.jpg").unlink()
    again = json.loads(tvetl(*get).stdout)
    assert (again["copied"], again["kept"], again["bytes"]) == (1, 6, 3)


def test_what_is_there_with_another_content_is_overwritten_when_asked(
    tvetl: Command, local: LocalCluster, cluster: Cluster, bucket: str, folder: Path
) -> None:
    put_files(cluster, find_files([folder]), bucket)
    for name in ("a.jpg", "n01/a.jpg"):  # one of the same size, one longer
        (folder / name).write_bytes(b"neu" if name == "a.jpg" else b"much longer")
    for direction in (("put", str(folder), bucket), ("get", bucket, str(folder))):
        kept = contents(folder), stored(cluster, bucket)
        done = tvetl(*direction, "-e", local.endpoint)
        assert done.returncode == 4
        assert b"2 failed" in done.stderr
        assert b"--overwrite" in done.stderr
        assert b"(differs)" in done.stderr
        assert kept == (contents(folder), stored(cluster, bucket))
    done = tvetl("put", str(folder), bucket, "-e", local.endpoint, "--overwrite", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["copied"] == 2
    assert stored(cluster, bucket) == contents(folder)
    (folder / "a.jpg").write_bytes(b"old")
    assert tvetl("get", bucket, str(folder), "-e", local.endpoint, "--overwrite").returncode == 0
    assert (folder / "a.jpg").read_bytes() == b"neu"


def test_what_is_no_file_is_not_replaced_by_one(cluster: Cluster, bucket: str, folder: Path, tmp_path: Path) -> None:
    put_files(cluster, find_files([folder]), bucket)
    (tmp_path / "here/a.jpg").mkdir(parents=True)
    os.mkfifo(tmp_path / "here/b.jpg")  # to open one for writing waits for a reader, for ever
    cluster.put(bucket, "b.jpg", b"b")
    report = get_files(cluster, find_objects(cluster, bucket, tmp_path / "here"), bucket, overwrite=True)
    assert {(error.object, error.code) for error in report.failed} == {("a.jpg", "differs"), ("b.jpg", "differs")}


def test_a_dry_run_changes_nothing(tvetl: Command, local: LocalCluster, bucket: str, folder: Path) -> None:
    done = tvetl("put", str(folder), bucket, "-e", local.endpoint, "--dry-run")
    assert (done.returncode, done.stdout.split(b" (")[0]) == (0, b"7 of 7 files would be copied")
    assert not (local.root / bucket).exists()
    assert tvetl("put", str(folder), bucket, "-e", local.endpoint).returncode == 0
    out = folder.parent / "out"
    done = tvetl("get", bucket, str(out), "-e", local.endpoint, "--dry-run", "--json")
    assert json.loads(done.stdout)["copied"] == 7
    assert not out.exists()


def test_what_cannot_become_an_object_is_told_before_and_the_rest_is_sent(
    tvetl: Command, local: LocalCluster, cluster: Cluster, bucket: str, folder: Path
) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "nothing.jpg").symlink_to("nowhere")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "n01/up").symlink_to("..")
    for name in ("50% off.jpg", "100%.jpg", "hash#1.jpg", "q?1 .jpg", "a\nb.jpg"):
        (folder / name).write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "sock"))
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    codes = {
        "fifo": "not_a_file", "sock": "not_a_file", "nothing.jpg": "dangling", "itself.jpg": "unreadable",
        "n01/up": "loop", "50% off.jpg": "not_for_etls", "100%.jpg": "not_for_etls", "hash#1.jpg": "not_for_etls",
        "q?1 .jpg": "not_for_etls", "a\nb.jpg": "not_for_etls", "caf\\xe9.jpg": "not_utf8",
    }  # fmt: skip
    done = tvetl("put", str(folder), bucket, "-e", local.endpoint, "--json")
    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert {error["file"]: error["code"] for error in report["refused"]} == {
        f"{folder}/{name}": code for name, code in codes.items()
    }
    assert (report["copied"], report["failed"]) == (7, [])
    told = tvetl("put", str(folder), bucket, "-e", local.endpoint).stderr.decode()
    assert told.startswith("11 files cannot be copied:\n")
    assert len(told.splitlines()) == 1 + 10 + 1 + 1  # ten of them, how many more, and the end
    assert f"{folder}/a\\nb.jpg: " in told
    assert "Traceback" not in told
    assert tvetl("put", str(folder), bucket, "-e", local.endpoint, "--any-name").returncode == 4  # the other six
    assert cluster.get(bucket, "50% off.jpg") == b"x"


def test_links_are_followed(cluster: Cluster, bucket: str, folder: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "cat.jpg").symlink_to(folder / "a.jpg")
    (links / "n01").symlink_to(folder / "n01")
    (links / "again").symlink_to(folder / "n01")  # the same folder twice, and no loop
    put_files(cluster, find_files([links]), bucket)
    assert stored(cluster, bucket)["cat.jpg"] == b"one"
    assert cluster.get(bucket, "n01/a.jpg") == cluster.get(bucket, "again/a.jpg") == b"two"


def test_hidden_files_are_left_out_and_counted(cluster: Cluster, bucket: str, folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "n01/._a.jpg").write_bytes(b"x")
    (folder / ".git/objects").mkdir(parents=True)
    (folder / ".git/objects/1").write_bytes(b"x")
    found = find_files([folder])
    assert (len(found.files), found.hidden) == (7, 3)
    assert put_files(cluster, found, bucket).hidden == 3
    found = find_files([folder], hidden=True)
    assert {"n01/._a.jpg", ".git/objects/1"} < {file.name for file in found.files}
    assert found.hidden == 0


def names_of(*sources: Path | str, names: list[str] | None = None) -> list[str]:
    found = find_files(sources, names=names)
    assert not found.refused, found.refused
    return [file.name for file in found.files]


def test_files_patterns_and_lists_choose(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert names_of(folder / "n01/a.jpg") == ["a.jpg"]
    assert names_of(folder / "a.jpg", "n01", "shard-000.tar") == [
        "a.jpg", "n01/a%20b.jpg", "n01/a.jpg", "n01/deep/Katze ü 猫.jpg", "shard-000.tar",
    ]  # fmt: skip
    assert names_of(f"{folder}/*.jpg") == ["a.jpg", "empty.jpg"]
    assert names_of("n01/*.jpg") == ["a%20b.jpg", "a.jpg"]  # below the part without wildcards
    assert names_of("*/a.jpg") == ["n01/a.jpg"]
    assert names_of("n?1") == ["n01/a%20b.jpg", "n01/a.jpg", "n01/deep/Katze ü 猫.jpg"]
    assert names_of("**/*.jpg") == [
        "a.jpg", "empty.jpg", "n01/a%20b.jpg", "n01/a.jpg", "n01/deep/Katze ü 猫.jpg",
    ]  # fmt: skip
    assert names_of(folder, names=["n01/a.jpg", "./a.jpg", "a.jpg", f"{folder}/empty.jpg"]) == [
        "a.jpg", "empty.jpg", "n01/a.jpg",
    ]  # fmt: skip
    refused = find_files([folder], names=["../x", "/etc/hosts", "n01", "gone.jpg", "a.jpg"]).refused
    assert sorted(error.code for error in refused) == ["not_a_file", "not_below", "not_below", "not_found"]


def test_a_list_may_come_from_standard_input(
    tvetl: Command, local: LocalCluster, cluster: Cluster, bucket: str, folder: Path
) -> None:
    put = ("put", str(folder), bucket, "-e", local.endpoint, "--list", "-")
    assert tvetl(*put, input="\ufeffn01/deep/Katze ü 猫.jpg\r\n\nn01/a.jpg\n".encode()).returncode == 0
    assert cluster.objects(bucket) == ["n01/a.jpg", "n01/deep/Katze ü 猫.jpg"]
    assert tvetl(*put, input=b"\n").returncode == 2
    (folder / "\u3000").write_bytes(b"a name of a blank")
    assert tvetl(*put, input="\u3000\n \t\n".encode()).returncode == 0
    assert "\u3000" in cluster.objects(bucket)


def test_two_files_that_become_one_object_are_refused_naming_both(folder: Path) -> None:
    found = find_files([folder / "a.jpg", folder / "n01/a.jpg", folder / "empty.jpg", folder / "empty.jpg"])
    assert [file.name for file in found.files] == ["empty.jpg"]  # the same file twice is one
    assert {error.file for error in found.refused} == {f"{folder}/a.jpg", f"{folder}/n01/a.jpg"}
    for error in found.refused:
        assert error.code == "same_name"
        assert str(folder / "a.jpg") in error.message
        assert str(folder / "n01/a.jpg") in error.message
    (folder / "n01/a.jpg").rename(folder / "n02")  # an object n02 beside objects n02/...
    (folder / "other/n02").mkdir(parents=True)
    (folder / "other/n02/b.jpg").write_bytes(b"x")
    found = find_files([folder / "n02", folder / "other/n02"])
    assert [(error.file, error.code) for error in found.refused] == [(f"{folder}/n02", "same_name")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["put", "gone", "photos"], "no file or folder 'gone'"),
        (["put", "*.tiff", "photos"], "no file matches"),
        (["put", "full/a.jpg", "full/b.jpg"], "name of a bucket"),  # a shell's pattern, and the bucket forgotten
        (["put", "full/a.jpg", "c.jpg"], "a file here"),
        (["put", "empty", "photos"], "no file to send"),
        (["put", "full", "photos", "--prefix", "a//b"], "cannot begin a name"),
        (["put", "full", "photos", "--prefix", "../"], "cannot begin a name"),
        (["put", "full", "photos/train"], "name of a bucket"),
        (["put", "full", "empty", "photos", "--list", "c.jpg"], "of one folder"),
        (["get", "photos", "full", "--etl", "an-etl"], "one object"),
        (["get", "photos", "full", "-o", "x"], "one object"),
        (["get", "photos/train", "full"], "name of a bucket"),
        (["get", "photos/a.jpg", "--prefix", "a"], "for a folder"),
        (["get", "photos"], "does not name an object"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_status_2(
    tvetl: Command,
    local: LocalCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("full/a.jpg", "full/b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"x")
    done = tvetl(*arguments, "-e", local.endpoint)
    assert done.returncode == 2
    assert says in done.stderr.decode(), done.stderr
    assert not (local.root / "photos").exists()


def test_nobody_there_ends_the_copy_with_status_5(tvetl: Command, folder: Path) -> None:
    for copy in (("put", str(folder), "photos"), ("get", "photos", str(folder))):
        assert tvetl(*copy, "-e", "http://127.0.0.1:9").returncode == 5


def test_a_copy_without_threads_is_refused(cluster: Cluster, folder: Path) -> None:
    for copy, bucket in ((put_files, "never-made"), (get_files, "no-bucket")):
        with pytest.raises(UsageError, match="threads is 0"):
            copy(cluster, find_files([folder]), bucket, threads=0)
    assert not cluster.has("never-made", "a.jpg")


def test_one_that_fails_does_not_end_the_rest(cluster: Cluster, bucket: str, folder: Path) -> None:
    cluster.create_bucket(bucket)
    cluster.put(bucket, "a.jpg/b", b"x")  # where the stand-in takes no a.jpg
    report = put_files(cluster, find_files([folder]), bucket)
    assert (report.wanted, report.copied) == (7, 6)
    (error,) = report.failed
    assert (error.file, error.object, error.code) == (str(folder / "a.jpg"), "a.jpg", "failed")
    assert '"a" and "a/b"' in error.message


class After(threading.Event):
    """An event that does something when it was looked at some times."""

    def __init__(self, looks: int, then: Callable[[After], None]) -> None:
        super().__init__()
        self._looks, self._then = looks, then

    def is_set(self) -> bool:
        self._looks -= 1
        if self._looks == 0:
            self._then(self)
        return super().is_set()


def test_a_copy_that_is_stopped_in_the_middle_leaves_nothing(
    local: LocalCluster, cluster: Cluster, bucket: str, folder: Path
) -> None:
    cluster.create_bucket(bucket)
    with pytest.raises(Interrupted):
        Transport(cluster, bucket, 1, After(20, After.set)).send(folder / "large.bin", "large.bin")
    assert cluster.objects(bucket) == []
    until(lambda: not [*(local.root / ".tvetl/tmp").iterdir()])  # the target is told by the connection's end
    cluster.put(bucket, "large.bin", (folder / "large.bin").read_bytes())
    with pytest.raises(Interrupted):
        Transport(cluster, bucket, 1, After(2, After.set)).receive("large.bin", folder / "new/x", LARGE, "")
    assert [*(folder / "new").iterdir()] == []


def test_ctrl_c_ends_a_copy_and_the_next_one_goes_on(cluster: Cluster, bucket: str, folder: Path) -> None:
    def interrupt(now: object) -> None:
        raise KeyboardInterrupt

    found = find_files([folder])
    with pytest.raises(KeyboardInterrupt):
        put_files(cluster, found, bucket, threads=1, on_progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name == "tvetl-copy"]
    half = stored(cluster, bucket)
    assert 0 < len(half) < 7
    assert half.items() <= contents(folder).items()
    report = put_files(cluster, found, bucket)
    assert (report.kept, report.copied) == (len(half), 7 - len(half))
    back = folder.parent / "back"
    found = find_objects(cluster, bucket, back)
    with pytest.raises(KeyboardInterrupt):
        get_files(cluster, found, bucket, threads=1, on_progress=interrupt)
    assert contents(back).items() <= contents(folder).items()
    assert get_files(cluster, found, bucket).ok
    assert contents(back) == contents(folder)


def test_a_file_that_changes_while_it_is_sent_is_told(cluster: Cluster, bucket: str, folder: Path) -> None:
    cluster.create_bucket(bucket)
    large = folder / "large.bin"
    shorter = After(20, lambda _: os.truncate(large, 1000))
    with pytest.raises(TvetlError, match="shorter"):
        Transport(cluster, bucket, 1, shorter).send(large, "shorter")
    large.write_bytes(bytes(LARGE))
    other = After(20, lambda _: large.write_bytes(b"1" * LARGE))
    with pytest.raises(ClusterError, match="changed meanwhile"):
        Transport(cluster, bucket, 1, other).send(large, "other")
    assert "shorter" not in cluster.objects(bucket)


def test_what_arrives_damaged_is_not_kept(cluster: Cluster, bucket: str, tmp_path: Path) -> None:
    cluster.create_bucket(bucket)
    cluster.put(bucket, "a", b"data")
    right = xxhash.xxh64(b"data").hexdigest()
    transport, path = Transport(cluster, bucket, 1, threading.Event()), tmp_path / "a"
    path.write_bytes(b"old")
    for size, checksum in ((5, right), (4, xxhash.xxh64(b"date").hexdigest())):
        with pytest.raises(ClusterError, match="what arrived"):
            transport.receive("a", path, size, checksum)
        assert path.read_bytes() == b"old"
    transport.receive("a", path, 4, right)
    assert path.read_bytes() == b"data"


def test_the_checksums_are_those_of_aistore() -> None:
    kinds = {"xxhash2": xxhash.xxh64, "md5": hashlib.md5, "sha256": hashlib.sha256, "sha512": hashlib.sha512}
    for kind in kinds.values():
        known = kind(b"tvetl").hexdigest()
        digest = digest_like(known)
        assert digest is not None
        digest.update(b"tvetl")
        assert digest.hexdigest() == known
    assert digest_like("0dd35c7b") is None  # CRC-32C
    assert digest_like("") is None
    assert digest_like("9b2cf535f27731c974343645a3985328-5") is None  # of a part-wise upload to S3


def test_checksums_are_those_of_the_recordings(shared: Path) -> None:
    """Of each object that the recorded SDK stored as text: what a real AIStore answered."""
    seen = 0
    for line in (shared / "wire/sdk-2.0-client.jsonl").read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        request, answer = exchange["request"], exchange["response"]
        text = (request.get("body") or {}).get("text")
        checksum = answer["headers"].get("Ais-Checksum-Value")
        if request["method"] == "PUT" and text and checksum:
            digest = digest_like(checksum)
            assert digest is not None
            digest.update(text.encode())
            assert digest.hexdigest() == checksum
            seen += 1
    assert seen > 3


class WithoutChecksums(Cluster):
    """A cluster whose buckets have CRC-32C, which no library here computes."""

    def pages(self, bucket: str, prefix: str = "", what: What = "") -> Iterator[list[tuple[str, str]]]:
        for page in super().pages(bucket, prefix, what):
            yield [(name, told.partition(":")[0] + ":0dd35c7b") for name, told in page]


def test_without_a_checksum_the_size_tells_or_the_content(local: LocalCluster, bucket: str, folder: Path) -> None:
    cluster = WithoutChecksums(local.endpoint)
    found = find_files([folder])
    assert put_files(cluster, found, bucket).copied == 7
    (folder / "a.jpg").write_bytes(b"neu")
    report = put_files(cluster, found, bucket)
    assert (report.kept, report.by_size) == (7, 7)
    report = put_files(cluster, found, bucket, content=True)
    assert (report.kept, report.by_size, [error.object for error in report.failed]) == (6, 0, ["a.jpg"])
    assert put_files(cluster, found, bucket, content=True, overwrite=True).copied == 1
    assert cluster.get(bucket, "a.jpg") == b"neu"
    assert put_files(cluster, found, bucket, overwrite=True).copied == 7  # as it cannot tell


class Listing:
    """A listing with names that the stand-in has no folders for, and a real AIStore may have."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def sizes(self, bucket: str, prefix: str = "") -> Mapping[str, int]:
        return dict.fromkeys(self._names, 1)


def test_objects_stay_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path)
    (tmp_path / "out/inside").symlink_to("deep")
    refused = {
        "../x": "leaves_folder", "a/../../x": "leaves_folder", "a/..": "leaves_folder", "/etc/x": "leaves_folder",
        "a//b": "no_file_name", "a/": "no_file_name", "./x": "no_file_name", "nul\0": "no_file_name",
        "link/x": "leaves_folder", "same": "same_name",
    }  # fmt: skip
    listing = Listing(*refused, "same/x", "inside/x", "A.jpg", "a.jpg", "..x", "50% off?.jpg")
    found = find_objects(listing, "photos", tmp_path / "out")  # type: ignore[arg-type]
    assert {error.object: error.code for error in found.refused} == refused
    assert {file.name for file in found.files} == {"same/x", "inside/x", "A.jpg", "a.jpg", "..x", "50% off?.jpg"}
    monkeypatch.setattr("tvetl.cluster.folders._folds_names", lambda folder: True)  # as macOS' disks
    listing = Listing("A.jpg", "a.jpg", "N/x", "n/y", "Same", "same/x", "\u0041\u030a.jpg", "\u00c5.jpg")
    found = find_objects(listing, "photos", tmp_path / "out")  # type: ignore[arg-type]
    assert [file.name for file in found.files] == ["N/x", "n/y", "same/x"]
    with pytest.raises(UsageError, match="nothing in"):
        find_objects(Listing(), "photos", tmp_path)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        find_objects(Listing("a"), "photos", tmp_path / "file")  # type: ignore[arg-type]


def test_a_report_is_good_only_where_nothing_is_missing() -> None:
    found = find_files([__file__], prefix="#/")
    assert not CopyReport(1, refused=found.refused).ok
    assert CopyReport(1).ok
