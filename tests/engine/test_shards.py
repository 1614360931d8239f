"""A shard comes out as a shard: images transformed as if each had come alone, all else as it was, in order."""

from __future__ import annotations

import errno
import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from tvetl.spec import Arguments, parse
from tvetl.spec.shards import IMAGES, split_name
from tvetl_server.engine import Engine, spool
from tvetl_server.errors import (
    BadArguments,
    BadShard,
    DamagedImage,
    NotAnImage,
    ObjectError,
    TooManyBytes,
    TooManyMembers,
)
from tvetl_server.limits import Limits

CROP = [{"op": "RandomResizedCrop", "size": 48}, {"op": "RandomHorizontalFlip"}]
NAMES = ("a/0001.jpg", "a/0001.cls", "a/0001.json", "a/0002.PNG", "a/0002.cls", "no-ending")


def engine(limits: Limits = Limits(), **output: object) -> Engine:  # noqa: B008
    steps = [*CROP, {"op": "ToTensor"}] if output.get("format") == "npy" else CROP
    return Engine(parse({"steps": steps, "seed": 9, "output": {"format": "jpeg", **output}}), limits)


def transformed(shard: bytes | IO[bytes], arguments: Arguments, **output: object) -> bytes:
    result = engine(**output).transform(shard, "shards/x.tar", arguments)
    assert result.content_type == "application/x-tar"
    assert not isinstance(result.body, bytes)
    with result.body as file:
        return file.read()


def packed(content: Iterable[tuple[str | tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in content:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size, member.mtime = len(data), 1234567
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def other(name: str, type: bytes, link: str = "") -> tarfile.TarInfo:
    """A member that is no file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type, link
    return member


def saved(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, kind)
    return file.getvalue()


def names_of(shard: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        return tar.getnames()


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = ((member, tar.extractfile(member)) for member in tar)
        return {member.name: file.read() for member, file in files if file is not None}


@pytest.fixture(scope="module")
def contents(photographs: list[Path]) -> list[tuple[str, bytes]]:
    jpeg, png = photographs[-1].read_bytes(), photographs[1].read_bytes()
    return list(zip(NAMES, (jpeg, b"7\n", b"{}", png, b"", jpeg), strict=True))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_transformed_by_their_samples_keys_and_the_rest_passes_through(
    format: int, contents: list[tuple[str, bytes]]
) -> None:
    result = transformed(packed(contents, format), Arguments(epoch=3))
    members = unpacked(result)
    assert list(members) == ["a/0001.jpg", "a/0001.cls", "a/0001.json", "a/0002.jpg", "a/0002.cls", "no-ending"]
    for (name, data), (_, after) in zip(contents, members.items(), strict=True):
        if name.endswith(("cls", "json", "ending")):
            assert after == data
        else:
            key = name.partition(".")[0]
            assert after == engine().transform(data, f"shards/x.tar/{key}", Arguments(epoch=3)).body
    assert result == transformed(packed(contents, format), Arguments(epoch=3))


def test_tensors_bear_their_own_ending(contents: list[tuple[str, bytes]]) -> None:
    members = unpacked(transformed(packed(contents[:3]), Arguments(), format="npy"))
    assert list(members) == ["a/0001.npy", "a/0001.cls", "a/0001.json"]
    assert np.load(io.BytesIO(members["a/0001.npy"])).shape == (3, 48, 48)


def test_names_of_any_length_and_script_survive(contents: list[tuple[str, bytes]]) -> None:
    name = "猫/" + "x" * 300 + ".cls"
    shard = packed([(name, b"1"), ("猫/y.jpg", contents[0][1])])
    assert list(unpacked(transformed(shard, Arguments()))) == [name, "猫/y.jpg"]


def test_one_image_that_fails_is_the_shards_failure_and_is_named(contents: list[tuple[str, bytes]]) -> None:
    jpeg = contents[0][1]
    with pytest.raises(DamagedImage, match=r"In 'b\.jpg': The image is cut off"):
        engine().transform(packed([("a.jpg", jpeg), ("b.jpg", jpeg[: len(jpeg) // 2])]), "s/x.tar", Arguments())
    with pytest.raises(NotAnImage, match=r"In 'b\.jpg'.*it is empty"):
        engine().transform(packed([("a.jpg", jpeg), ("b.jpg", b"")]), "s/x.tar", Arguments())


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("0001.jpg", ("0001", "jpg")),
        ("a.b/c/0001.Left.PNG", ("a.b/c/0001", "left.png")),
        ("./猫.", ("./猫", "")),
        ("__index__.json", ("__index__", "json")),
        ("a/__meta__/0001.jpg", ("a/__meta__/0001", "jpg")),
        *((name, None) for name in ("README", "a.b/README", ".DS_Store", "._0001.jpg", "a/._0001.jpg", "..jpg", "")),
        *((name, None) for name in ("__info__", "__meta__/0001.jpg", "__meta.v2__")),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_last_part(name: str, split: tuple[str, str] | None) -> None:
    assert split_name(name) == split


def test_images_of_one_sample_are_drawn_alike_and_others_apart() -> None:
    data = saved("PNG", (400, 300))
    names = ("1.left.png", "1.cls", "1.right.png", "2.left.png")
    left, _, right, second = unpacked(transformed(packed((name, data) for name in names), Arguments())).values()
    assert left == right
    assert left != second


@pytest.mark.parametrize(
    ("format", "before", "after"),
    [
        ("npy", "1.jpg 1.npy 1.cls", "1.jpg.npy 1.npy 1.cls"),
        ("npy", "1.npy 1.cls 1.jpg", "1.npy 1.cls 1.jpg.npy"),
        ("npy", "1.jpg 1.NPY", "1.jpg.npy 1.NPY"),
        ("npy", "1.jpg 1.png 2.jpg", "1.jpg.npy 1.png.npy 2.npy"),
        ("npy", "1.jpg 1.left.png 1.jpg.json", "1.npy 1.left.npy 1.jpg.json"),
        ("jpeg", "1.jpg 1.png", "1.jpg 1.png.jpg"),
        ("jpeg", "1.JPEG 1.jpg 1.png", "1.JPEG 1.jpg 1.png.jpg"),
        ("png", "1.webp 1.gif 1.png", "1.webp.png 1.gif.png 1.png"),
        # A sample may come again, as in webdataset.
        ("npy", "1.jpg 1.cls 2.jpg 1.jpg 1.cls", "1.npy 1.cls 2.npy 1.npy 1.cls"),
        # What is part of no sample stands between.
        ("npy", "1.jpg ._1.npy __x__/1.npy 1.npy", "1.jpg.npy ._1.npy __x__/1.npy 1.npy"),
    ],
)
def test_no_image_takes_the_name_of_another_member(format: str, before: str, after: str) -> None:
    def data(name: str) -> bytes:
        kind = name.rpartition(".")[2].lower()
        return saved({"jpg": "jpeg"}.get(kind, kind)) if split_name(name) and kind in IMAGES else name.encode()

    shard = transformed(packed((name, data(name)) for name in before.split()), Arguments(), format=format)
    assert names_of(shard) == after.split()
    result = unpacked(shard)
    for name, same in zip(before.split(), after.split(), strict=True):
        assert (result[same] == data(name)) == (data(name) == name.encode())


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("1.cls 1.cls", "sample '1' has the extension 'cls' twice, by '1.cls' and '1.cls'"),
        ("1.json 1.txt 1.JSON", "sample '1' has the extension 'json' twice, by '1.json' and '1.JSON'"),
        ("1.jpg 1.JPG", "sample '1' has the extension 'jpg' twice, by '1.jpg' and '1.JPG'"),
        ("1.jpg ._1.x 1.jpg", "twice, by '1.jpg' and '1.jpg'"),
        ("1.jpg 1.npy 1.jpg.npy", "has the extension 'jpg.npy' twice, by '1.jpg' and '1.jpg.npy'"),
        ("1.jpg 2.jpg 1.npy", "'1.npy' would be called '1.npy', as another member of the shard is"),
        ("1.npy 2.jpg 1.jpg", "'1.jpg' would be called '1.npy', as another"),
    ],
)
def test_two_members_of_one_name_are_refused_by_name(before: str, said: str) -> None:
    jpeg = saved("JPEG")
    shard = packed((name, jpeg if name.lower().endswith("jpg") else b"1") for name in before.split())
    with pytest.raises(BadShard, match=re.escape(said)):
        engine(format="npy").transform(shard, "s/x.tar", Arguments())


def test_what_is_part_of_no_sample_passes_through_as_it_is() -> None:
    jpeg, mac = saved("JPEG"), b"\0\5\x16\7\0\2\0\0Mac OS X"
    names = (".DS_Store", "._1.jpg", "a/._1.jpg", "__MACOSX/._1.jpg", "README", "a.b/1", "__meta__/1.jpg", "__info__")
    shard = packed(
        [
            (other("a", tarfile.DIRTYPE), b""),
            *((name, mac) for name in names),
            ("a/1.jpg", jpeg),
            (other("a", tarfile.DIRTYPE), b""),
            (other("a/1.png", tarfile.SYMTYPE, "1.jpg"), b""),
            (other("pipe.jpg", tarfile.FIFOTYPE), b""),
        ]
    )
    result = transformed(shard, Arguments(), format="npy")
    assert names_of(result) == ["a", *names, "a/1.npy", "a", "a/1.png", "pipe.jpg"]
    with tarfile.open(fileobj=io.BytesIO(result)) as tar:
        assert all(tar.extractfile(name).read() == mac for name in names)  # type: ignore[union-attr]


def test_a_hard_link_follows_the_image_that_it_is_one_of() -> None:
    links = [(other("2.jpg", tarfile.LNKTYPE, "1.jpg"), b""), (other("2.cls", tarfile.LNKTYPE, "1.cls"), b"")]
    result = transformed(packed([("1.jpg", saved("JPEG")), ("1.cls", b"7"), *links]), Arguments(), format="npy")
    with tarfile.open(fileobj=io.BytesIO(result)) as tar:
        assert [(member.name, member.linkname) for member in tar if member.islnk()] == [
            ("2.jpg", "1.npy"),
            ("2.cls", "1.cls"),
        ]
    links_too = unpacked(result)
    assert np.load(io.BytesIO(links_too["2.jpg"])).shape == (3, 48, 48)
    assert links_too["2.cls"] == b"7"


@pytest.mark.parametrize(
    "name", ["1.tga", "1.left.JP2", "1.heic", "1.psd", "1.ico", "1.dng", "1.NEF", "1.exr", "1.svg"]
)
def test_an_image_that_is_not_read_is_the_shards_failure(name: str) -> None:
    for content in (bytes(600), saved("TIFF")):
        with pytest.raises(NotAnImage, match=rf"'{name}' is an image of a kind that is not read\. Store it as"):
            engine().transform(packed([("1.cls", b"1"), (name, content)]), "s/x.tar", Arguments())


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\xff\x4f\xff\x51\0\x2f",
        b"\0\0\0\x18ftypheic\0\0\0\0",
        b"8BPS\0\1",
        b"\0\0\0\x0cJXL \r\n\x87\n",
    ],
)
def test_so_is_one_that_is_called_otherwise(head: bytes) -> None:
    with pytest.raises(NotAnImage, match=r"'1\.bin' is an image of a kind that is not read"):
        engine().transform(packed([("1.bin", head + bytes(600))]), "s/x.tar", Arguments())


def test_an_image_that_is_read_is_transformed_whatever_it_is_called() -> None:
    kinds: Sequence[str] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    result = unpacked(transformed(packed((f"{kind}.img", saved(kind)) for kind in kinds), Arguments()))
    assert list(result) == [f"{kind}.jpg" for kind in kinds]
    assert list(unpacked(transformed(packed([("1.heic", saved("JPEG"))]), Arguments()))) == ["1.jpg"]


def test_a_caption_is_no_image_however_it_begins() -> None:
    texts = {
        "1.txt": b"BMW on a road",
        "2.txt": b"P6 is a chip",
        "3.caption": b"P5",
        "4.mp4": b"\0\0\0\x18ftypmp42" * 9,
        "5.txt": b"What is WEBP?",
        "6.txt": b"GIF8 or GIF9?",
    }
    assert unpacked(transformed(packed(texts.items()), Arguments())) == texts


def test_an_old_archive_and_an_empty_one_are_shards_by_their_name() -> None:
    old = bytearray(packed([("1.jpg", saved("JPEG")), ("1.cls", b"7")], tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(old)) as tar:
        places = [member.offset for member in tar]
    for at in places:  # tar --format=v7 writes no magic
        old[at + 257 : at + 512] = bytes(255)
        old[at + 148 : at + 156] = b" " * 8
        old[at + 148 : at + 156] = b"%06o\0 " % sum(old[at : at + 512])
    assert list(unpacked(transformed(bytes(old), Arguments()))) == ["1.jpg", "1.cls"]
    assert unpacked(transformed(packed([]), Arguments())) == {}
    for data in (bytes(old), packed([])):
        with pytest.raises(NotAnImage):
            engine().transform(data, "photos/x.jpg", Arguments())
    with pytest.raises(NotAnImage):
        engine().transform(b"a text of some length " * 50, "photos/x.tar", Arguments())


def test_a_shard_cut_anywhere_is_damaged_and_never_half_a_shard(contents: list[tuple[str, bytes]]) -> None:
    data = packed(contents[:3])
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for cut in [*range(512, end, 4001), end]:
        with pytest.raises(ObjectError):
            engine().transform(data[:cut], "shards/x.tar", Arguments())
    assert transformed(data[: end + 512], Arguments())


def test_limits_hold_and_views_are_of_one_image(contents: list[tuple[str, bytes]]) -> None:
    with pytest.raises(TooManyMembers, match="more than the 5 members"):
        engine(Limits(max_members=5)).transform(packed(contents), "shards/x.tar", Arguments())
    with pytest.raises(BadArguments, match="views are of one image"):
        engine().transform(packed(contents), "shards/x.tar", Arguments(views=2))


def test_a_sparse_member_cannot_say_that_it_is_larger_than_an_object_may_be() -> None:
    body = b"1\n0\n0\n".ljust(512, b"\0")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = len(body)
        member.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "a.txt",
            "GNU.sparse.realsize": str(2**40),
        }
        tar.addfile(member, io.BytesIO(body))
    with pytest.raises(TooManyBytes, match="members have more bytes"):
        engine().transform(file.getvalue(), "shards/x.tar", Arguments())


def test_a_length_beyond_all_numbers_is_damage() -> None:
    """Found by fuzzing: tarfile lets other errors than its own through."""
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + b"\x7f" * 11
    header[156:157] = tarfile.GNUTYPE_LONGNAME
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(DamagedImage, match="shard is damaged"):
        engine().transform(bytes(header) + bytes(1024), "shards/x.tar", Arguments())


def test_an_open_file_gives_what_its_bytes_give(contents: list[tuple[str, bytes]], tmp_path: Path) -> None:
    data = packed(contents)
    (tmp_path / "x.tar").write_bytes(data)
    with (tmp_path / "x.tar").open("rb") as file:
        assert transformed(file, Arguments()) == transformed(data, Arguments())


def test_a_result_goes_to_a_disk_with_room_and_is_refused_without(
    contents: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = packed([*contents, *((f"{number}.bin", bytes(100_000)) for number in range(5))])
    in_memory = transformed(data, Arguments())
    monkeypatch.setattr(spool, "MEMORY", 200_000)
    assert transformed(data, Arguments()) == in_memory
    Image.new("RGB", (20, 20)).save(file := io.BytesIO(), "JPEG")
    many = packed((f"{number}.jpg", file.getvalue()) for number in range(20))
    with pytest.raises(TooManyBytes, match="result has more than 400000 bytes"):
        engine(Limits(max_shard_bytes=400_000), format="npy").transform(many, "s/x.tar", Arguments())
    monkeypatch.setattr(spool, "make_file", lambda least: None)
    assert transformed(data, Arguments()) == in_memory
    small = engine(Limits(max_bytes=300_000))
    with pytest.raises(TooManyBytes, match="named by TMPDIR"):
        small.transform(data, "s/x.tar", Arguments())


def test_a_disk_that_is_full_is_said(contents: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "_memory", Full)
    with pytest.raises(TooManyBytes, match="no room left"):
        engine().transform(packed(contents), "s/x.tar", Arguments())


def test_what_is_said_to_be_larger_than_it_may_be_is_refused(contents: list[tuple[str, bytes]]) -> None:
    with pytest.raises(TooManyBytes, match="members have more bytes than the limit of 5000"):
        engine(Limits(max_shard_bytes=5000)).transform(packed(contents), "s/x.tar", Arguments())
    with pytest.raises(TooManyBytes, match=r"'a/0001\.jpg' has more bytes than the limit of 50"):
        engine(Limits(max_bytes=50)).transform(packed(contents), "s/x.tar", Arguments())
