"""Shards by file name may be larger than memory. They are whole or refused, and leave nothing behind."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from support.processes import watching
from support.serving import Disk, Recorder, Reply, Server

MIB = 2**20


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def shard(disk: Disk, name: str, images: list[bytes], megabytes: int) -> str:
    """The request target of a tar with these images, each with a file of some MiB beside it."""
    each = megabytes * MIB // len(images)
    target = disk.add(name, b"")
    with tarfile.open(disk.path(name), "w") as tar:
        for number, image in enumerate(images):
            add(tar, f"{number:04}.jpg", image)
            add(tar, f"{number:04}.bin", bytes([number % 251]) * each)
    return target


def asked(server: Server, target: str) -> tuple[HTTPConnection, HTTPResponse]:
    connection = server.connect()
    connection.request("PUT", target)
    return connection, connection.getresponse()


@pytest.fixture
def serve(run_server: Callable[..., Server], disk: Disk, tmp_path: Path) -> Callable[..., Server]:
    (tmp_path / "temporary").mkdir()

    def serve(**settings: str) -> Server:
        folders = {"TVETL_ROOTS": str(disk.root), "TMPDIR": str(tmp_path / "temporary")}
        return run_server(**{**folders, "TVETL_MAX_BYTES": str(16 * MIB), "TVETL_SECONDS": "120", **settings})

    return serve


def test_memory_stays_far_below_a_shards_size(serve: Callable[..., Server], disk: Disk, image: bytes) -> None:
    server, megabytes = serve(), 320
    target = shard(disk, "large.tar", [image] * 80, megabytes)
    assert server.put(disk.add("one.jpg", image)).status == 200
    single = server.put(disk.add("one.jpg", image)).body
    with watching(server) as seen:
        connection, answer = asked(server, target)
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "application/x-tar"
        count = 0
        with tarfile.open(fileobj=answer, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                if member.name.endswith(".png"):
                    assert content.read() == single
                else:
                    first = content.read(1)
                    assert first == bytes([int(member.name[:4]) % 251])
                    assert member.size == megabytes * MIB // 80
                count += 1
        assert count == 160
        answer.read()
        connection.close()
    assert len(seen) > 5
    assert max(seen) - seen[0] < 100 * MIB
    assert not list((disk.root.parents[1] / "temporary").iterdir())


def test_direct_put_sends_the_same_shard(
    serve: Callable[..., Server], disk: Disk, image: bytes, recorder: Recorder
) -> None:
    server = serve(AIS_TARGET_URL=recorder.url, direct_put="true")
    for name, megabytes in (("memory.tar", 1), ("disk.tar", 40)):
        target = shard(disk, name, [image] * 4, megabytes)
        answered = server.put(target)
        put = server.put(target, headers={"Ais-Node-Url": f"http://{recorder.host}/v1/objects/dst/{name}"})
        assert (put.status, put.headers["Ais-Direct-Put-Length"]) == (204, str(len(answered.body)))
        assert sha256(recorder.puts[-1].body).digest() == sha256(answered.body).digest()


def test_one_bad_image_at_its_end_fails_the_whole_shard(serve: Callable[..., Server], disk: Disk, image: bytes) -> None:
    answer = serve().put(shard(disk, "bad.tar", [*[image] * 9, image[:-99]], 50))
    assert answer.status == 422
    assert json.loads(answer.body)["message"].startswith("In '0009.jpg': The image is cut off")


def test_limits_are_those_of_shards_by_file_name_only(serve: Callable[..., Server], disk: Disk, image: bytes) -> None:
    server = serve(TVETL_MAX_SHARD_BYTES=str(40 * MIB))

    def code(answer: Reply) -> str:
        return str(json.loads(answer.body)["error"]) if answer.status >= 400 else "fine"

    assert code(server.put(shard(disk, "fits.tar", [image], 39))) == "fine"
    assert code(server.put(shard(disk, "not.tar", [image], 41))) == "too_many_bytes"
    assert code(server.put("/src/body.tar", disk.path("fits.tar").read_bytes())) == "too_many_bytes"
    assert code(server.put(disk.add("image.jpg", image + bytes(17 * MIB)))) == "too_many_bytes"
    # An image of a shard has the limit of an image alone.
    assert code(server.put(shard(disk, "member.tar", [image + bytes(17 * MIB)], 1))) == "too_many_bytes"


def test_no_descriptor_stays_open(serve: Callable[..., Server], disk: Disk, image: bytes) -> None:
    server = serve(TVETL_DECODERS="1")
    targets = [shard(disk, "good.tar", [image], 1), shard(disk, "bad.tar", [image[:99]], 1)]

    def held() -> list[int]:
        ids = [server.process.pid]
        for parent in ids:
            ids += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split())
        return [len(list(Path(f"/proc/{each}/fd").iterdir())) for each in ids]

    answers = [server.put(target).status for target in targets]
    before = held()
    answers += [server.put(target).status for target in targets * 10]
    assert answers == [200, 422] * 11
    # One may belong to a connection that only one side has closed yet, then or now.
    assert all(now <= then + 1 for now, then in zip(held(), before, strict=True))
