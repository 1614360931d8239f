"""``Shards`` gives the samples that webdataset gives, shared out over ranks, and names what cannot be read."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvetl.cluster import Cluster
from tvetl.errors import ObjectFailed, UsageError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline, derive_seed, parse

torch = pytest.importorskip("torch", reason="datasets give torch's tensors")
wds = pytest.importorskip("webdataset", reason="the reference is not installed")

from torch.utils.data import DataLoader  # noqa: E402

from tvetl.datasets import Shards, TransformedStream  # noqa: E402
from tvetl.preview.replay import replay  # noqa: E402

Members = Iterable[tuple[str | tarfile.TarInfo, bytes]]


def tarred(members: Members, format: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def other(name: str, type: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type, link
    return member


def sparse(name: str, size: int, part: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """A member with a hole of ``size`` bytes before ``part``, as GNU tar stores it with --sparse in pax format."""
    member = tarfile.TarInfo("GNUSparseFile.1/" + name)
    realsize = str(size + len(part))
    headers = {"major": "1", "minor": "0", "name": name, "realsize": realsize}
    member.pax_headers = {f"GNU.sparse.{key}": value for key, value in headers.items()}
    return member, f"1\n{size}\n{len(part)}\n".encode().ljust(512, b"\0") + part


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def array(*shape: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(shape, np.float32))
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(cluster: Cluster) -> str:
    """Five shards of three samples each, with a label, a caption and an array."""
    cluster.create_bucket("shards")
    for at in range(5):
        content: dict[str, bytes] = {}
        for n in range(3):
            content[f"s/{at}{n}.jpg"] = picture("JPEG", (160, 120), seed=3 * at + n)
            content[f"s/{at}{n}.cls"] = b"%d\n" % n
            content[f"s/{at}{n}.txt"] = b"a pet"
            content[f"s/{at}{n}.mean.npy"] = array(3)
            content[f"s/{at}{n}.bin"] = b"\0\1"
        cluster.put("shards", f"pets-{at:03d}.tar", tarred(content.items()))
    return "shards"


@pytest.fixture(scope="module")
def registered(cluster: Cluster) -> Iterator[Callable[[str, Pipeline], str]]:
    names: list[str] = []

    def register(name: str, pipeline: Pipeline) -> str:
        cluster.register(PodSpec(name, pipeline, start_timeout=60))
        names.append(name)
        return name

    yield register
    for name in names:
        cluster.unregister(name)


@pytest.fixture(scope="module")
def tensors(registered: Callable[[str, Pipeline], str], pipeline: Callable[..., Pipeline]) -> str:
    """An ETL of float32 crops."""
    return registered("test-shard-tensors", pipeline(32, "npy"))


@pytest.fixture(scope="module")
def crops_to_png(registered: Callable[[str, Pipeline], str]) -> str:
    steps = [{"op": "RandomCrop", "size": 16}]
    return registered("test-shard-crops", parse({"steps": steps, "seed": 1, "output": {"format": "png"}}))


@pytest.fixture
def bucket(cluster: Cluster) -> Iterator[Callable[[Mapping[str, bytes]], str]]:
    """Makes a bucket of these objects."""
    made: list[str] = []

    def make(objects: Mapping[str, bytes]) -> str:
        made.append(f"some-shards-{len(made)}")
        cluster.create_bucket(made[-1])
        for name, data in objects.items():
            cluster.put(made[-1], name, data)
        return made[-1]

    yield make
    for name in made:
        cluster.delete_bucket(name)


# As webdataset reads them

NO_FILES = [
    (other("a", tarfile.DIRTYPE), b""),
    ("a/1.bin", b"1"),
    (other("a/1.txt", tarfile.SYMTYPE, "1.bin"), b""),
    (other("a/2.bin", tarfile.LNKTYPE, "a/1.bin"), b""),
    (other("a/1.x", tarfile.FIFOTYPE), b""),
    ("a/1.dat", b""),
]
#: Shards of which both give the same samples.
ODD: dict[str, Members] = {
    "upper case": [("A/1.BIN", b"1"), ("A/1.Left.Bin", b"2"), ("a/1.bin", b"3")],
    "dots": [("a.b/1.bin", b"1"), ("./2.x.bin", b"2"), ("/c/3.bin", b"3"), ("4.", b"4"), ("5..bin", b"5")],
    "no extension": [("README", b"1"), ("1.bin", b"1"), ("a.b/README", b"2"), ("1.dat", b"2"), ("LICENSE", b"3")],
    "hidden": [("._1.bin", b"mac"), ("1.bin", b"1"), ("._1.dat", b"mac"), ("1.dat", b"2"), (".DS_Store", b"x")],
    "meta": [
        ("__info__", b"x"), ("1.bin", b"1"), ("__m__/1.bin", b"x"), ("1.dat", b"2"), ("__a.b__", b"x"),
        ("__i__.bin", b"3"), ("a/__m__/2.bin", b"4"),
    ],
    "no files": NO_FILES,
    "apart and again": [("1.bin", b"1"), ("2.bin", b"2"), ("1.dat", b"3"), ("2.dat", b"4"), ("2.bin", b"5")],
    "Unicode": [("猫/ü.bin", b"1"), ("猫/ü.dat", b"2"), ("u\N{COMBINING DIAERESIS}.bin", b"3"), ("\udce9.bin", b"4")],
    "long": [("d/" * 60 + "1.bin", b"1"), ("d/" * 60 + "1.dat", b"2"), ("x" * 300 + ".bin", b"3")],
    "sparse": [sparse("a/1.bin", 10_000, b"end"), ("a/1.dat", b"2")],
    "contiguous": [(other("1.bin", tarfile.CONTTYPE), b"1"), ("1.dat", b"2")],
    "of nothing to read": [("README", b"1"), (".hidden.bin", b"2")],
    "of nothing at all": [],
}  # fmt: skip


def by_webdataset(path: Path) -> list[dict[str, Any]]:
    samples = wds.WebDataset(str(path), shardshuffle=False, empty_check=False)
    return [{key: value for key, value in each.items() if key not in ("__url__", "__local_path__")} for each in samples]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_odd_shards_are_read_as_webdataset_reads_them(
    cluster: Cluster, bucket: Callable[..., str], crops_to_png: str, tmp_path: Path, format: int
) -> None:
    for name, members in ODD.items():
        data = tarred(members, tarfile.PAX_FORMAT if name == "sparse" else format)
        (tmp_path / "x.tar").write_bytes(data)
        expected = by_webdataset(tmp_path / "x.tar")
        assert bool(expected) == (not name.startswith("of nothing"))
        here = bucket({"x.tar": data})
        assert list(Shards(cluster, here)) == expected, name
        # The server leaves all of these as they are.
        assert list(Shards(cluster, here, crops_to_png)) == expected, name
        (tmp_path / "y.tar").write_bytes(cluster.get(here, "x.tar", crops_to_png))
        assert by_webdataset(tmp_path / "y.tar") == expected, name


def test_members_are_decoded_as_webdataset_decodes_them(
    cluster: Cluster, bucket: Callable[..., str], tmp_path: Path
) -> None:
    kinds = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
    members = [(f"1.{ending}", picture(kind)) for kind, ending in kinds.items()]
    members += [("1.CLS", b"7\n"), ("1.txt", "ü".encode()), ("1.mean.npy", array(2, 3)), ("1.bin", b"\0")]
    (tmp_path / "x.tar").write_bytes(tarred(members))
    [expected] = wds.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False).decode("pil")
    [found] = Shards(cluster, bucket({"x.tar": tarred(members)}), pil=True)
    assert isinstance(found, dict)
    assert set(found) == set(expected) - {"__url__", "__local_path__"}
    assert (found["cls"], found["txt"], found["bin"]) == (expected["cls"], expected["txt"], expected["bin"])
    assert np.array_equal(found["mean.npy"], expected["mean.npy"])
    for ending in ("jpg", "png"):  # webdataset leaves webp as bytes
        assert found[ending].tobytes() == expected[ending].tobytes()
    assert found["webp"].size == (64, 48)


def test_all_that_an_etl_reads_is_decoded_without_one(cluster: Cluster, bucket: Callable[..., str]) -> None:
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    [found] = Shards(cluster, bucket({"x.tar": tarred((f"1.{kind}", picture(kind)) for kind in kinds)}))
    assert isinstance(found, dict)
    assert {tuple(found[kind.lower()].shape) for kind in kinds} == {(3, 48, 64)}


def test_sixteen_bits_and_floats_stay_what_they_are(cluster: Cluster, bucket: Callable[..., str]) -> None:
    whole, real = (np.linspace(0, 60_000, 12).reshape(3, 4).astype(dtype) for dtype in (np.uint16, np.float32))
    members = []
    for name, pixels, kind in (("png", whole, "PNG"), ("tif", real, "TIFF"), ("big.tif", whole.astype(">u2"), "TIFF")):
        Image.fromarray(pixels).save(file := io.BytesIO(), kind)
        members.append((f"1.{name}", file.getvalue()))
    [found] = Shards(cluster, bucket({"x.tar": tarred(members)}))
    assert isinstance(found, dict)
    assert found["png"].dtype == torch.uint16
    assert np.array_equal(found["png"][0].numpy(), whole)
    assert np.array_equal(found["tif"][0].numpy(), real)
    assert np.array_equal(found["big.tif"][0].numpy(), whole)


def test_what_is_hidden_in_a_folder_is_left_out(cluster: Cluster, bucket: Callable[..., str], tmp_path: Path) -> None:
    """Other than in webdataset, for which ``a/._1.bin`` is the extension ``_1.bin`` of a sample ``a/``."""
    members: Members = [("a/._1.bin", b"mac"), ("a/1.bin", b"1"), ("a/._1.dat", b"mac"), ("a/1.dat", b"2")]
    (tmp_path / "x.tar").write_bytes(tarred(members))
    assert [sample["__key__"] for sample in by_webdataset(tmp_path / "x.tar")] == ["a/", "a/1", "a/", "a/1"]
    assert list(Shards(cluster, bucket({"x.tar": tarred(members)}))) == [{"__key__": "a/1", "bin": b"1", "dat": b"2"}]


def test_a_shard_without_its_end_mark_is_cut_short(
    cluster: Cluster, bucket: Callable[..., str], tmp_path: Path
) -> None:
    """Other than in webdataset, which takes what is there: nobody knows what else there was."""
    cut = tarred([("1.bin", b"1"), ("2.bin", b"2")])[:2048]
    (tmp_path / "x.tar").write_bytes(cut)
    assert len(by_webdataset(tmp_path / "x.tar")) == 2
    with pytest.raises(ObjectFailed, match=r"x\.tar: this tar archive is cut short"):
        list(Shards(cluster, bucket({"x.tar": cut})))


@pytest.mark.parametrize("names", [("1.dat", "1.dat"), ("1.txt", "1.dat", "1.DAT"), ("1.__key__",)])
def test_an_extension_that_comes_twice_is_an_error_as_it_is_there(
    cluster: Cluster, bucket: Callable[..., str], crops_to_png: str, tmp_path: Path, names: tuple[str, ...]
) -> None:
    shard = tarred((name, b"1") for name in names)
    (tmp_path / "x.tar").write_bytes(shard)
    with pytest.raises(ValueError, match="duplicate"):
        by_webdataset(tmp_path / "x.tar")
    here = bucket({"x.tar": shard})
    for etl in ("", crops_to_png) if len(names) > 1 else ("",):
        with pytest.raises(ObjectFailed, match=r"x\.tar.* sample '1' has the extension '\w+' twice.*'1\.") as caught:
            list(Shards(cluster, here, etl))
        assert caught.value.code == "bad_shard"


# Through an ETL


def test_samples_are_grouped_and_decoded(cluster: Cluster, shards: str) -> None:
    samples: list[Any] = list(Shards(cluster, shards, template="pets-{000..009}.tar", shuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"s/{at}{n}" for at in range(5) for n in range(3)]
    one = samples[4]
    assert (one["cls"], one["txt"], one["bin"]) == (1, "a pet", b"\0\1")
    assert tuple(one["jpg"].shape) == (3, 120, 160)
    assert tuple(one["mean.npy"].shape) == (3,)


def test_shards_through_an_etl_have_their_images_transformed(cluster: Cluster, shards: str, tensors: str) -> None:
    samples: list[Any] = list(Shards(cluster, shards, tensors, seed=4, shuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"s/{at}{n}" for at in range(5) for n in range(3)]
    assert (samples[4]["cls"], samples[4]["txt"], samples[4]["bin"]) == (1, "a pet", b"\0\1")
    assert tuple(samples[4]["npy"].shape) == (3, 32, 32)
    again: list[Any] = list(Shards(cluster, shards, tensors, seed=4, shuffle=False))
    assert all(torch.equal(one["npy"], other["npy"]) for one, other in zip(samples, again, strict=True))
    other_seed: list[Any] = list(Shards(cluster, shards, tensors, seed=5, shuffle=False))
    assert not torch.equal(samples[0]["npy"], other_seed[0]["npy"])


def test_the_images_of_a_sample_are_drawn_by_its_key(
    cluster: Cluster, bucket: Callable[..., str], crops_to_png: str
) -> None:
    image = picture()
    here = bucket({"x.tar": tarred([("a/1.left.png", image), ("a/1.right.png", image), ("a/2.png", image)])})
    samples: list[Any] = list(Shards(cluster, here, crops_to_png, seed=3, pil=True))
    assert samples[0]["left.png"].tobytes() == samples[0]["right.png"].tobytes() != samples[1]["png"].tobytes()
    container = cluster.show(crops_to_png)
    assert container is not None
    assert container.pipeline is not None
    alone = replay(container.pipeline, image, derive_seed(3, 0, 0, f"{here}/x.tar/a/1"))
    assert isinstance(alone.outcome, Image.Image)
    assert alone.outcome.tobytes() == samples[0]["left.png"].tobytes()


def test_an_image_beside_a_tensor_or_a_mask_is_not_lost(
    cluster: Cluster, bucket: Callable[..., str], tensors: str
) -> None:
    here = bucket(
        {
            "tensor.tar": tarred([("1.jpg", picture("JPEG")), ("1.npy", array(4)), ("1.cls", b"7")]),
            "mask.tar": tarred([("1.jpg", picture("JPEG")), ("1.png", picture())]),
        }
    )
    mask, tensor = Shards(cluster, here, tensors, shuffle=False)
    assert isinstance(tensor, dict)
    assert isinstance(mask, dict)
    assert {name: getattr(value, "shape", value) for name, value in tensor.items()} == {
        "__key__": "1", "jpg.npy": (3, 32, 32), "npy": (4,), "cls": 7,
    }  # fmt: skip
    assert {name: getattr(value, "shape", value) for name, value in mask.items()} == {
        "__key__": "1", "jpg.npy": (3, 32, 32), "png.npy": (3, 32, 32),
    }  # fmt: skip


# What cannot be read

BAD: dict[str, bytes] = {
    "1.jpg": b"\xff\xd8\xff no JPEG",
    "1.left.png": b"",
    "1.npy": b"\x93NUMPY no array",
    "1.safetensors": b"no tensors",
    "1.cls": b"cat",
    "1.json": b"\xff{}",
    "1.txt": b"\xff",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_member_is_the_named_shards_failure(cluster: Cluster, bucket: Callable[..., str], name: str) -> None:
    good, bad = tarred([("0.cls", b"1"), ("1.cls", b"2")]), tarred([("0.bin", b"1"), (name, BAD[name])])
    here = bucket({"a.tar": good, "b.tar": bad, "c.tar": good})
    with pytest.raises(ObjectFailed, match=rf"{here}/b\.tar: in '{name}': ") as caught:
        list(Shards(cluster, here))
    assert caught.value.code == "bad_shard"
    skipping = Shards(cluster, here, on_error="skip")
    assert len(list(skipping)) == 4
    assert skipping.counts.skipped == 1


def test_so_is_a_sparse_member_that_fills_all_memory(cluster: Cluster, bucket: Callable[..., str]) -> None:
    here = bucket({"a.tar": tarred([sparse("1.bin", 2**40, b"end")], tarfile.PAX_FORMAT)})
    with pytest.raises(ObjectFailed, match=rf"{here}/a\.tar: '1\.bin' in this tar archive is said to have 1,099,511"):
        list(Shards(cluster, here))


def test_so_is_an_image_of_a_kind_that_is_not_read(cluster: Cluster, bucket: Callable[..., str], tensors: str) -> None:
    here = bucket({"a.tar": tarred([("1.jpg", picture("JPEG"))]), "b.tar": tarred([("1.tga", picture("TGA"))])})
    with pytest.raises(
        ObjectFailed, match=rf"{here}/b\.tar: '1\.tga' is an image of a kind that is not read"
    ) as caught:
        list(Shards(cluster, here, tensors))
    assert caught.value.code == "not_an_image"
    assert len(list(Shards(cluster, here, tensors, on_error="skip"))) == 1


def test_a_damaged_shard_is_one_object_that_failed(cluster: Cluster, shards: str, bucket: Callable[..., str]) -> None:
    whole = cluster.get(shards, "pets-000.tar")
    here = bucket({"a.tar": whole[: len(whole) // 2], "b.tar": whole, "c.tar": b"", "d.tar": b"no tar" * 999})
    with pytest.raises(ObjectFailed, match=rf"{here}/a\.tar"):
        list(Shards(cluster, here, shuffle=False))
    skipping = Shards(cluster, here, on_error="skip")
    assert len(list(skipping)) == 3
    assert skipping.counts.skipped == 3
    with pytest.raises(UsageError, match=r"\.tar"):
        Shards(cluster, shards, names=["a.jpg"])


# Ranks and workers


def test_shards_are_shared_out_and_resumed_within_one(cluster: Cluster, shards: str) -> None:
    keys = sorted(sample["__key__"] for sample in Shards(cluster, shards))  # type: ignore[index]
    loaded = DataLoader(Shards(cluster, shards, seed=1), batch_size=None, num_workers=2)
    assert sorted(sample["__key__"] for sample in loaded) == keys
    ranks = [Shards(cluster, shards, seed=1, rank=rank, world=2) for rank in range(2)]
    assert sorted(sample["__key__"] for rank in ranks for sample in rank) == keys  # type: ignore[index]
    broken = Shards(cluster, shards, seed=1)
    going: Any = iter(broken)
    begun = [next(going)["__key__"] for _ in range(7)]
    resumed = Shards(cluster, shards, seed=1)
    resumed.load_state_dict(broken.state_dict())
    assert sorted(begun + [sample["__key__"] for sample in resumed]) == keys  # type: ignore[index]


@pytest.mark.parametrize("even", [False, True])
def test_a_rank_without_a_shard_is_refused_in_every_rank(cluster: Cluster, shards: str, even: bool) -> None:
    for rank in range(6):
        with pytest.raises(UsageError, match="5 shards are too few for 6 ranks"):
            Shards(cluster, shards, rank=rank, world=6, even=even)
        with pytest.raises(UsageError, match="5 objects are too few for 6 ranks"):
            TransformedStream(cluster, shards, rank=rank, world=6, even=even)
    assert len(list(Shards(cluster, shards, rank=4, world=5, even=even))) == 3
    with pytest.raises(UsageError, match="rank and world are whole numbers, got '0' and '2'"):
        Shards(cluster, shards, rank="0", world="2", even=even)  # type: ignore[arg-type]  # as os.environ has them


def test_uneven_ranks_are_warned_of_and_even_ones_leave_out_the_rest(
    cluster: Cluster, shards: str, caplog: pytest.LogCaptureFixture
) -> None:
    def counts(even: bool) -> list[int]:
        return [len(list(Shards(cluster, shards, seed=1, rank=rank, world=2, even=even))) for rank in range(2)]

    with caplog.at_level(logging.WARNING, "tvetl.datasets"):
        assert counts(even=True) == [6, 6]
        Shards(cluster, shards, rank=0, world=5)
        assert not caplog.records
        assert counts(even=False) == [9, 6]
    assert [record.getMessage() for record in caplog.records] == 2 * [
        "5 shards over 2 ranks: 1 of these read one more, and others would wait for them at the end; "
        "even=True leaves out 1 shards of each epoch"
    ]


def test_each_epoch_leaves_out_others(cluster: Cluster, shards: str) -> None:
    read = set()
    ranks = [Shards(cluster, shards, seed=1, rank=rank, world=2, even=True) for rank in range(2)]
    for epoch in range(8):
        places = [int(place) for rank in ranks for place in rank.order(epoch)]
        assert len(set(places)) == len(places) == 4
        read |= set(places)
    assert len(read) == 5


def test_a_worker_without_a_shard_is_no_error(cluster: Cluster, shards: str, tmp_path: Path) -> None:
    stream = Shards(cluster, shards, seed=1, rank=0, world=3, even=True)
    handler = logging.FileHandler(tmp_path / "log")  # of the workers, too
    logging.getLogger("tvetl.datasets").addHandler(handler)
    try:
        assert len(list(DataLoader(stream, batch_size=None, num_workers=3))) == 3
    finally:
        logging.getLogger("tvetl.datasets").removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == "1 shards for 3 workers: some of these read nothing\n"
