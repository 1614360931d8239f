"""One object never ends an epoch, and what is everybody's failure is not skipped object by object."""

from __future__ import annotations

import io
import logging
import struct
import sys
import traceback
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from support import faults
from support.faults import Fault, Gateway

from tvetl.cluster import Cluster, connection
from tvetl.errors import BrokenOff, ClusterError, ClusterFault, NotFound, ObjectFailed, TvetlError
from tvetl.pod import PodSpec
from tvetl.spec import parse

pytest.importorskip("torch", reason="datasets need torch")

from tvetl.datasets import TransformedBatches, TransformedImages, TransformedStream

Kind = Literal["raise", "skip", "substitute"]
KINDS = (TransformedImages, TransformedStream, TransformedBatches)
GOOD = ("a.jpg", "c.png", "z.png")


def picture(format: str, size: tuple[int, int] = (24, 16)) -> bytes:
    made = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize(size).save(made, format)
    return made.getvalue()


def npy(array: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


def bomb() -> bytes:
    """A PNG that promises 400 million pixels."""
    head = struct.pack(">II5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


def safetensors(header: str, values: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + values


VALUES = npy(np.zeros((3, 16, 24), np.uint8))
#: Objects that nothing can be made of, by a name each.
BAD = {
    "cut.jpg": picture("JPEG")[:200],
    "text.txt": b"This is no photograph.\n",
    "empty.jpg": b"",
    "folder/": b"",
    "bomb.png": bomb(),
    "cut.npy": VALUES[:-1],
    "head.npy": VALUES[:60],
    "below.npy": VALUES.replace(b"(3, 16, 24)", b"(-3,16,-24)"),
    "none.npy": npy(np.zeros(4, "V1")).replace(b"|V1", b"|V0")[:-4],
    "objects.npy": VALUES.replace(b"|u1", b"|O8"),
    "short.safetensors": safetensors('{"t": {"dtype": "U8", "shape": [3, 9], "data_offsets": [0, 27]}}'),
    "huge.safetensors": safetensors(f'{{"t": {{"dtype": "U8", "shape": [{10**30}], "data_offsets": [0, 1]}}}}', b"1"),
    "other.safetensors": safetensors('{"t": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}', b"12345678"),
    "cut.tar": b"a.jpg".ljust(257, b"\0") + b"ustar\0" + b"00".ljust(249, b"\0"),
}


@pytest.fixture(scope="module")
def mixed(cluster: Cluster) -> str:
    """A bucket with three pictures of one size among all the others."""
    cluster.create_bucket("mixed")
    for name in GOOD:
        cluster.put("mixed", name, picture("PNG"))
    for name, data in BAD.items():
        cluster.put("mixed", name, data)
    cluster.register(PodSpec("test-small", SMALL, start_timeout=60))
    return "mixed"


SMALL = parse({"steps": [{"op": "Resize", "size": [8, 8]}, {"op": "PILToTensor"}], "output": {"format": "npy"}})


def read(kind: Any, *arguments: Any, **more: Any) -> tuple[list[str], Any]:
    """The names that a dataset gives, and its counts."""
    batches = kind is TransformedBatches
    dataset = kind(*arguments, **more, **({"batch": 1} if batches else {}))
    if kind is TransformedImages:
        given = dataset.__getitems__(range(len(dataset)))
    else:
        given = [*dataset]
    return sorted(label[0] if batches else label for _, label in given), dataset.counts


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_decoded_without_an_etl_is_that_objects_failure(
    cluster: Cluster, mixed: str, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names = [*GOOD[:1], *BAD, "gone.jpg", "../mixed/a.jpg", "\udc00", *GOOD[1:]]
    with caplog.at_level(logging.WARNING, "tvetl.datasets"):
        given, counts = read(kind, cluster, mixed, names=names, on_error="skip")
    assert given == sorted(GOOD)
    assert (counts.failed, counts.skipped) == (len(names) - 3,) * 2
    given, counts = read(kind, cluster, mixed, names=["a.jpg", "cut.jpg", "empty.jpg", "c.png"], on_error="substitute")
    assert (given, counts.substituted) == (["a.jpg", *["c.png"] * 3], 2)
    assert all(said.isprintable() for said in caplog.messages)
    for name in names[1:-2]:
        assert any(name in said or repr(name) in said for said in caplog.messages)
        with pytest.raises((ObjectFailed, NotFound)) as raised:
            read(kind, cluster, mixed, names=[name])
        assert name in str(raised.value) or repr(name) in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_aistore_cannot_send_is_that_objects_failure(cluster: Cluster, mixed: str, kind: Any) -> None:
    for name in ("50% off.jpg", "a#b.jpg"):
        cluster.put(mixed, name, picture("PNG"))
    names = ["a.jpg", "50% off.jpg", "c.png", "a#b.jpg", "z.png"]
    assert read(kind, cluster, mixed, "test-small", names=names, on_error="skip")[0] == sorted(GOOD)
    assert read(kind, cluster, mixed, "test-small", names=names, on_error="substitute")[1].substituted == 2
    with pytest.raises(ObjectFailed, match=r"mixed/50% off\.jpg: .*\(bad_name\)"):
        read(kind, cluster, mixed, "test-small", names=names[1:2])


# Failures that may be one object's, or everybody's


@pytest.fixture
def gateway(cluster: Cluster, mixed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(connection, "BACKOFF", 0.01)
    monkeypatch.setattr(connection, "PAUSE", 0.01)
    for at in range(20):
        cluster.put(mixed, f"many/{at}.png", picture("PNG"))
    yield from faults.serve_gateway(cluster.endpoint)


def saying(status: int, words: str) -> Fault:
    return faults.saying(status, "application/json", f'{{"message": "{words}", "status": {status}}}'.encode())


EITHER: dict[str, tuple[Fault, type[TvetlError]]] = {
    "cut short": (faults.cut, BrokenOff),
    "bad checksum": (saying(500, "t[x]: BAD DATA CHECKSUM"), ClusterFault),
    "the pod's end": (saying(500, 'Put \\"http://127.0.0.1:1/a\\": EOF'), ClusterFault),
    "busy": (saying(409, "t[x]: object is busy"), ClusterFault),
    "refused": (saying(400, "t[x]: invalid object name"), ClusterFault),
}
ALL: dict[str, tuple[Fault, type[TvetlError]]] = {
    "no permission": (saying(403, "not allowed"), ClusterError),
    "no token": (saying(401, "token is invalid"), ClusterError),
    "not now": (saying(503, "the cluster is starting"), ClusterError),
}


def on(names: str, fault: Fault) -> faults.Choose:
    return lambda method, path, before: fault if "/v1/objects/" in path and names in path else None


@pytest.mark.parametrize("why", EITHER)
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_at_one_object_is_its_own(gateway: Gateway, kind: Any, why: str) -> None:
    fault, error = EITHER[why]
    gateway.choose = on("many/7.png", fault)
    cluster = Cluster(gateway.endpoint)
    given, counts = read(kind, cluster, "mixed", "test-small", prefix="many/", on_error="skip")
    assert (len(given), counts.failed) == (19, 1)
    with pytest.raises(error, match=r"mixed/many/7\.png: "):
        read(kind, cluster, "mixed", "test-small", prefix="many/")


@pytest.mark.parametrize("why", [*EITHER, *ALL])
@pytest.mark.parametrize("on_error", ["skip", "substitute"])
def test_a_failure_at_all_objects_is_not_skipped(
    gateway: Gateway, why: str, on_error: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    fault, error = {**EITHER, **ALL}[why]
    cluster = Cluster(gateway.endpoint)
    dataset = TransformedStream(cluster, "mixed", "test-small", prefix="many/", on_error=on_error)
    gateway.choose = on("many/", fault)
    with pytest.raises(error):
        next(iter(dataset))


def test_an_image_of_too_many_pixels_is_said_to_be_one(
    cluster: Cluster, mixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pillow's own; the server, which other tests import, has limits of its own in its place.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024 * 1024 * 1024 // 4 // 3)
    with pytest.raises(ObjectFailed, match=r"mixed/bomb\.png: this image has more pixels than Pillow decodes"):
        TransformedImages(cluster, mixed, names=["bomb.png"])[0]


@pytest.mark.parametrize("gone", ["bucket", "etl"])
def test_a_bucket_or_an_etl_that_is_gone_is_not_skipped(cluster: Cluster, gone: str) -> None:
    cluster.create_bucket("passing")
    for at in range(20):
        cluster.put("passing", f"{at}.png", picture("PNG"))
    etl = "test-passing" if gone == "etl" else ""
    if etl:
        cluster.register(PodSpec(etl, SMALL, start_timeout=60))
    stream = TransformedStream(cluster, "passing", etl, on_error="skip")
    assert len([*stream]) == 20
    if etl:
        cluster.unregister(etl)
    else:
        cluster.delete_bucket("passing")
    with pytest.raises(NotFound, match=etl or "the bucket 'passing' does not exist"):
        next(iter(stream))
    assert stream.counts.failed == 0
    cluster.delete_bucket("passing")


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_never_looked_up_by_the_table_of_an_earlier_etl(cluster: Cluster, mixed: str, kind: Any) -> None:
    def register(mean: float) -> None:
        steps = [{"op": "Resize", "size": [8, 8]}, {"op": "ToTensor"}, {"op": "Normalize", "mean": [mean], "std": [1]}]
        pipeline = parse({"steps": steps, "output": {"format": "npy"}})
        cluster.register(PodSpec("test-anew", pipeline, start_timeout=60), replace=True)

    register(0.25)
    more = {"batch": 1} if kind is TransformedBatches else {}
    dataset = kind(cluster, mixed, "test-anew", names=GOOD, on_error="skip", **more)
    given = [dataset[0]] if kind is TransformedImages else [*dataset]
    assert float(given[0][0].min()) < 0
    register(0.75)
    with pytest.raises(ObjectFailed, match="the ETL was registered anew") as raised:
        dataset[0] if kind is TransformedImages else [*dataset]
    assert "Make the dataset again" in raised.value.hint
    if sys.version_info >= (3, 11):
        assert raised.value.hint in "".join(traceback.format_exception(raised.value))
