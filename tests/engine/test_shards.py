"""A shard comes out as a shard: images transformed as if each had come alone, all else as it was, in order."""

from __future__ import annotations

import errno
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine, spool
from tvetl_server.errors import (
    BadArguments,
    DamagedImage,
    NotAnImage,
    ObjectError,
    TooManyBytes,
    TooManyMembers,
    TransformFailed,
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


def packed(content: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1234567
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = ((member, tar.extractfile(member)) for member in tar)
        return {member.name: file.read() for member, file in files if file is not None}


@pytest.fixture(scope="module")
def contents(photographs: list[Path]) -> list[tuple[str, bytes]]:
    jpeg, png = photographs[-1].read_bytes(), photographs[1].read_bytes()
    return list(zip(NAMES, (jpeg, b"7\n", b"{}", png, b"", jpeg), strict=True))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_transformed_by_their_own_names_and_the_rest_passes_through(
    format: int, contents: list[tuple[str, bytes]]
) -> None:
    result = transformed(packed(contents, format), Arguments(epoch=3))
    members = unpacked(result)
    assert list(members) == ["a/0001.jpg", "a/0001.cls", "a/0001.json", "a/0002.jpg", "a/0002.cls", "no-ending.jpg"]
    for (name, data), (_, after) in zip(contents, members.items(), strict=True):
        if name.endswith(("cls", "json")):
            assert after == data
        else:
            assert after == engine().transform(data, f"shards/x.tar/{name}", Arguments(epoch=3)).body
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
    with pytest.raises(DamagedImage, match=r"In 'b\.jpg': The image is damaged"):
        engine().transform(packed([("a.jpg", jpeg), ("b.jpg", jpeg[: len(jpeg) // 2])]), "s/x.tar", Arguments())
    with pytest.raises(NotAnImage, match=r"In 'b\.jpg'.*it is empty"):
        engine().transform(packed([("a.jpg", jpeg), ("b.jpg", b"")]), "s/x.tar", Arguments())
    with pytest.raises(TransformFailed, match=r"both be called 'a\.jpg'"):
        engine().transform(packed([("a.jpg", jpeg), ("a.png", jpeg)]), "s/x.tar", Arguments())


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
    monkeypatch.setattr(spool, "_disk", lambda least: None)
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
