"""A shard comes out as a shard: images transformed as if each had come alone, all else as it was, in order."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine
from tvetl_server.errors import (
    BadArguments,
    DamagedImage,
    NotAnImage,
    ObjectError,
    TooManyBytes,
    TooManyMembers,
    TransformFailed,
)
from tvetl_server.settings import Limits

CROP = [{"op": "RandomResizedCrop", "size": 48}, {"op": "RandomHorizontalFlip"}]
NAMES = ("a/0001.jpg", "a/0001.cls", "a/0001.json", "a/0002.PNG", "a/0002.cls", "no-ending")


def engine(limits: Limits = Limits(), **output: object) -> Engine:  # noqa: B008
    steps = [*CROP, {"op": "ToTensor"}] if output.get("format") == "npy" else CROP
    return Engine(parse({"steps": steps, "seed": 9, "output": {"format": "jpeg", **output}}), limits)


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
    result = engine().transform(packed(contents, format), "shards/x.tar", Arguments(epoch=3))
    assert result.content_type == "application/x-tar"
    members = unpacked(result.body)
    assert list(members) == ["a/0001.jpg", "a/0001.cls", "a/0001.json", "a/0002.jpg", "a/0002.cls", "no-ending.jpg"]
    for (name, data), (_, after) in zip(contents, members.items(), strict=True):
        if name.endswith(("cls", "json")):
            assert after == data
        else:
            assert after == engine().transform(data, f"shards/x.tar/{name}", Arguments(epoch=3)).body
    assert result == engine().transform(packed(contents, format), "shards/x.tar", Arguments(epoch=3))


def test_tensors_bear_their_own_ending(contents: list[tuple[str, bytes]]) -> None:
    members = unpacked(engine(format="npy").transform(packed(contents[:3]), "shards/x.tar", Arguments()).body)
    assert list(members) == ["a/0001.npy", "a/0001.cls", "a/0001.json"]
    assert np.load(io.BytesIO(members["a/0001.npy"])).shape == (3, 48, 48)


def test_names_of_any_length_and_script_survive(contents: list[tuple[str, bytes]]) -> None:
    name = "猫/" + "x" * 300 + ".cls"
    shard = packed([(name, b"1"), ("猫/y.jpg", contents[0][1])])
    assert list(unpacked(engine().transform(shard, "shards/x.tar", Arguments()).body)) == [name, "猫/y.jpg"]


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
    assert engine().transform(data[: end + 512], "shards/x.tar", Arguments()).body


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
