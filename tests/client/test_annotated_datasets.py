"""Masks, boxes and keypoints come with their image, drawn alike: as torchvision transforms the whole sample."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from tvetl.answers import read_mask, read_sample
from tvetl.cluster import Cluster
from tvetl.errors import NotFound, ObjectFailed, UsageError
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline, derive_seed, parse

torch = pytest.importorskip("torch", reason="datasets give torch's tensors")

from torch.utils.data import DataLoader  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import functional, v2  # noqa: E402

from tvetl.datasets import (  # noqa: E402
    Annotation,
    Shards,
    TransformedBatches,
    TransformedImages,
    TransformedStream,
    collate_annotated,
)

WIDTH, HEIGHT = 160, 120
NAMES = [f"train/pet_{at}.jpg" for at in range(8)]
MASKS = "masks/{folder}{stem}.png"
Sample = dict[str, Any]


def mask_of(at: int) -> Image.Image:
    """The numbers of its pixels, which show where each comes from; or classes, in one of the three modes of 8 bits."""
    numbers = np.arange(at, at + WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    if at % 2:
        return Image.fromarray(numbers.astype(np.uint16))
    classes = Image.fromarray((numbers // 100 % 2).astype(np.uint8))
    if at % 4 == 0:
        return classes
    classes.putpalette([0, 0, 0, 255, 255, 255])
    return classes


def annotation_of(at: int) -> Annotation:
    chance = np.random.default_rng(at)
    corners = chance.uniform(0, [WIDTH, HEIGHT], (at + 1, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    points = chance.uniform(0, [WIDTH, HEIGHT], (at + 1, 3, 2)).astype(np.float32)
    visible = chance.integers(0, 3, (at + 1, 3), np.uint8)
    return Annotation(boxes, np.arange(at + 1) + 10, points, visible, size=(HEIGHT, WIDTH))


ANNOTATIONS = {name: annotation_of(at) for at, name in enumerate(NAMES)}
ALL: dict[str, Any] = {"masks": MASKS, "boxes": ANNOTATIONS}


def encoded(image: Image.Image, format: str) -> bytes:
    image.save(file := io.BytesIO(), format)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos(photographs: list[Path]) -> list[bytes]:
    """Small photographs, no two alike."""
    made = []
    for at in range(len(NAMES)):
        with Image.open(photographs[at % len(photographs)]) as image:
            made.append(encoded(image.convert("RGB").crop((at, 2 * at, at + WIDTH, 2 * at + HEIGHT)), "JPEG"))
    return made


@pytest.fixture(scope="module")
def pets(cluster: Cluster, photos: list[bytes]) -> str:
    """A bucket of these photographs and their masks."""
    cluster.create_bucket("annotated")
    for at, name in enumerate(NAMES):
        cluster.put("annotated", name, photos[at])
        cluster.put("annotated", f"masks/train/pet_{at}.png", encoded(mask_of(at), "PNG"))
    return "annotated"


@pytest.fixture(scope="module")
def tensors(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[str]:
    """An ETL of float32 crops."""
    cluster.register(PodSpec("annotated-tensors", pipeline(32, "npy"), start_timeout=60))
    yield "annotated-tensors"
    cluster.unregister("annotated-tensors")


@pytest.fixture(scope="module")
def expected(photos: list[bytes]) -> Callable[..., Sample]:
    """What torchvision makes of a sample with the seed 3."""
    compose = v2.Compose([v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])

    def make(name: str, epoch: int = 0) -> Sample:
        at = NAMES.index(name)
        given, of = ANNOTATIONS[name], (HEIGHT, WIDTH)
        assert given.keypoints is not None
        sample = {
            "image": Image.open(io.BytesIO(photos[at])),
            "mask": tv_tensors.Mask(torch.from_numpy(np.array(mask_of(at)).astype(np.int32 if at % 2 else np.uint8))),
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(given.boxes), format="XYXY", canvas_size=of),
            "keypoints": tv_tensors.KeyPoints(torch.from_numpy(given.keypoints), canvas_size=of),
        }
        torch.manual_seed(derive_seed(3, epoch, 0, f"annotated/{name}"))
        moved: Sample = compose(sample)
        pixels = functional.to_tensor(moved["image"])
        moved["image"] = tv_tensors.Image(functional.normalize(pixels, [0.5] * 3, [0.5] * 3))
        return moved | {
            "labels": torch.from_numpy(given.labels),
            "visible": torch.from_numpy(given.visible),
            "name": name,
        }

    return make


def same(one: Any, other: Any) -> bool:
    """Whether both are of the same types, keys and values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and torch.equal(one, other)
        return alike and getattr(one, "canvas_size", 0) == getattr(other, "canvas_size", 0)
    return bool(one == other)


def by_name(samples: Any) -> dict[str, Sample]:
    return {sample["name"]: sample for sample in samples}


# What comes


def test_a_sample_is_what_torchvision_makes_of_it(
    cluster: Cluster, pets: str, tensors: str, expected: Callable[..., Sample]
) -> None:
    dataset = TransformedImages(cluster, pets, tensors, names=NAMES, seed=3, **ALL)
    for epoch in (0, 2):
        dataset.set_epoch(epoch)
        for name, sample in zip(NAMES, dataset, strict=True):
            assert same(sample, expected(name, epoch))
    # The same by the SDK, which reads from such a bucket; and of a copy, as spawned workers get it.
    by_sdk = TransformedImages(cluster, f"ais://{pets}/", tensors, names=NAMES[:2], seed=3, **ALL)
    copy = pickle.loads(pickle.dumps(by_sdk))  # noqa: S301 - our own
    assert same(by_sdk[1], expected(NAMES[1]))
    assert same(copy[1], by_sdk[1])


def test_of_an_image_its_pixels_come_without_the_loss_of_jpeg(
    cluster: Cluster, pets: str, crops: str, photos: list[bytes]
) -> None:
    for at, sample in enumerate(TransformedImages(cluster, pets, crops, names=NAMES[:3], masks=MASKS)):
        assert isinstance(sample, dict)
        torch.manual_seed(derive_seed(1, 0, 0, f"{pets}/{NAMES[at]}"))  # the pipeline's own seed
        moved = v2.Compose([v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])(Image.open(io.BytesIO(photos[at])))
        assert torch.equal(sample["image"], v2.functional.pil_to_tensor(moved))


def test_each_comes_alone_too(cluster: Cluster, pets: str, tensors: str, expected: Callable[..., Sample]) -> None:
    name = NAMES[3]
    whole = expected(name)
    points = {name: ANNOTATIONS[name].keypoints}
    for options, keys in (
        ({"masks": lambda name: f"masks/{name[:-4]}.png"}, {"mask"}),
        ({"boxes": {name: ANNOTATIONS[name].boxes.tolist()}}, {"boxes"}),
        ({"boxes": lambda name: []}, {"boxes"}),
        ({"boxes": ANNOTATIONS}, {"boxes", "labels", "visible", "keypoints"}),
        ({"keypoints": points}, {"keypoints"}),
        ({"keypoints": ANNOTATIONS}, {"labels", "visible", "keypoints"}),
        ({"boxes": lambda name: ANNOTATIONS[name].boxes, "keypoints": points}, {"boxes", "keypoints"}),
    ):
        dataset = TransformedImages(cluster, pets, tensors, names=[name], seed=3, labels=len, **options)
        sample = dataset[0]
        assert isinstance(sample, dict)
        assert sample.keys() == {"image", "name", "label", *keys}
        assert sample.pop("label") == len(name)
        if not len(sample.get("boxes", [1])):
            assert sample.pop("boxes").shape == (0, 4)
        assert same(sample, {key: whole[key] for key in sample})


def test_without_an_etl_a_sample_is_as_it_is_stored(cluster: Cluster, pets: str, photos: list[bytes]) -> None:
    dataset = TransformedImages(cluster, pets, names=NAMES, **ALL)
    for at, sample in enumerate(dataset):
        assert isinstance(sample, dict)
        assert torch.equal(sample["image"], v2.functional.pil_to_tensor(Image.open(io.BytesIO(photos[at]))))
        assert np.array_equal(sample["mask"], np.array(mask_of(at)))
        assert sample["mask"].dtype == (torch.int32 if at % 2 else torch.uint8)
        assert np.array_equal(sample["boxes"], ANNOTATIONS[NAMES[at]].boxes)
        assert sample["boxes"].canvas_size == (HEIGHT, WIDTH)


def test_an_image_and_its_mask_are_read_at_the_same_time(script: Any) -> None:
    both = threading.Barrier(2, timeout=20)

    def answer(method: str, path: str, body: object) -> tuple[int, str]:
        if "/objects/" not in path:
            return 404, ""
        both.wait()  # neither is answered before the other is asked for
        return 200, "P2 1 1 255 7" if "/mask.pgm" in path else "P3 1 1 255 1 2 3"

    script.answer = answer
    dataset = TransformedImages(
        Cluster(script.endpoint), "bucket", names=["a.ppm"], masks=lambda name: "mask.pgm", reads=1
    )
    sample = dataset[0]
    assert isinstance(sample, dict)
    assert sample["image"].flatten().tolist() == [1, 2, 3]
    assert sample["mask"].tolist() == [[7]]


# Streams and batches


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_the_same_from_any_worker(
    cluster: Cluster, pets: str, tensors: str, expected: Callable[..., Sample], workers: int
) -> None:
    stream = TransformedStream(cluster, pets, tensors, names=NAMES, seed=3, batch=3, **ALL)
    stream.set_epoch(1)
    loader = DataLoader(stream, batch_size=3, num_workers=workers, collate_fn=collate_annotated)
    batches = [*loader]
    assert [len(batch["name"]) for batch in batches] == [3, 3, 2]
    order = [name for batch in batches for name in batch["name"]]
    assert order == [NAMES[place] for place in stream.order(1)] != NAMES
    assert all(same(batch, collate_annotated([expected(name, 1) for name in batch["name"]])) for batch in batches)
    assert stream.counts.given == len(NAMES)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wire", ["auto", "values"])
def test_batches_are_the_streams_collated(
    cluster: Cluster, pets: str, tensors: str, expected: Callable[..., Sample], workers: int, wire: Any
) -> None:
    options: dict[str, Any] = {"names": NAMES, "seed": 3, "batch": 3, "labels": len, **ALL}
    feed = TransformedBatches(cluster, pets, tensors, wire=wire, **options)
    assert feed.wire == ("pixels" if wire == "auto" else "values")
    for epoch in (0, 1):
        feed.set_epoch(epoch)
        batches = [*DataLoader(feed, batch_size=None, num_workers=workers)]
        assert [name for batch in batches for name in batch["name"]] == [NAMES[place] for place in feed.order(epoch)]
        for batch in batches:
            labelled = [expected(name, epoch) | {"label": len(name)} for name in batch["name"]]
            assert same(batch, collate_annotated(labelled))


def test_a_batchs_memory_is_its_own_and_goes_where_it_is_asked_to(cluster: Cluster, pets: str, tensors: str) -> None:
    options: dict[str, Any] = {"names": NAMES, "seed": 3, "batch": 2, **ALL}
    feed = TransformedBatches(cluster, pets, tensors, **options)
    held = [*feed]
    copies = [(batch["image"].clone(), batch["mask"].clone()) for batch in held]
    later = [*feed]
    assert all(same((batch["image"], batch["mask"]), copy) for batch, copy in zip(held, copies, strict=True))
    moved = [*TransformedBatches(cluster, pets, tensors, **options, device="cpu", dtype=torch.float64)]
    for batch, other in zip(moved, later, strict=True):
        assert torch.equal(batch["image"], other["image"].to(torch.float64))
        assert all(same(batch[key], other[key]) for key in batch.keys() - {"image"})


def test_boxes_that_an_op_removes_take_their_labels_along(cluster: Cluster, pets: str, photos: list[bytes]) -> None:
    steps = [
        {"op": "RandomIoUCrop"},
        {"op": "Resize", "size": [40, 40]},
        {"op": "SanitizeBoundingBoxes"},
        {"op": "PILToTensor"},
    ]
    pipeline = parse({"steps": steps, "output": {"format": "npy"}})
    cluster.register(PodSpec("annotated-iou", pipeline, start_timeout=60))
    try:
        with pytest.raises(UsageError, match=r"boxes=\.\.\.|acts on boxes"):
            TransformedImages(cluster, pets, "annotated-iou", names=NAMES, masks=MASKS)
        samples = by_name(TransformedImages(cluster, pets, "annotated-iou", names=NAMES, seed=3, **ALL))
    finally:
        cluster.unregister("annotated-iou")
    crop = v2.Compose([v2.RandomIoUCrop(), v2.Resize([40, 40])])
    sanitize = v2.SanitizeBoundingBoxes(labels_getter=lambda sample: sample["places"])
    removed = 0
    for at, name in enumerate(NAMES):
        given, of = ANNOTATIONS[name], (HEIGHT, WIDTH)
        numbers = np.array(mask_of(at)).astype(np.int32 if at % 2 else np.uint8)
        sample = {
            "image": Image.open(io.BytesIO(photos[at])),
            "mask": tv_tensors.Mask(torch.from_numpy(numbers)[None]),
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(given.boxes), format="XYXY", canvas_size=of),
            "places": torch.arange(at + 1),
        }
        torch.manual_seed(derive_seed(3, 0, 0, f"annotated/{name}"))
        cropped = crop(sample)
        left = sanitize({key: cropped[key] for key in ("boxes", "places")})
        kept = left["places"].numpy()
        removed += at + 1 - len(kept)
        found = samples[name]
        assert same(found["boxes"], left["boxes"])
        assert np.array_equal(found["labels"], given.labels[kept])  # type: ignore[index]
        assert np.array_equal(found["visible"], given.visible[kept])  # type: ignore[index]
        assert found["keypoints"].shape == (len(kept), 3, 2)
        assert torch.equal(found["mask"], cropped["mask"][0])
    assert removed


# What fails


@pytest.fixture(scope="module")
def broken(cluster: Cluster, pets: str, photos: list[bytes]) -> dict[str, str]:
    """Photographs whose mask or boxes are wrong, each with what its failure says."""
    masks = {
        "rgb": encoded(Image.new("RGB", (WIDTH, HEIGHT)), "PNG"),
        "small": encoded(Image.new("L", (WIDTH, HEIGHT - 1)), "PNG"),
        "damaged": b"no mask\n",
        "many": encoded(mask_of(0), "PNG"),
        "nan": encoded(mask_of(0), "PNG"),
        "outside": encoded(mask_of(0), "PNG"),
        "swapped": encoded(mask_of(0), "PNG"),
        "flat": encoded(mask_of(0), "PNG"),
        "elsewhere": encoded(mask_of(0), "PNG"),
    }
    for name, mask in masks.items():
        cluster.put(pets, f"masks/bad/{name}.png", mask)
    for name in (*masks, "gone"):
        cluster.put(pets, f"bad/{name}.jpg", photos[0])
    return {
        "bad/gone.jpg": r"annotated/masks/bad/gone\.png, the mask of bad/gone\.jpg.*does not exist",
        "bad/rgb.jpg": r"annotated/masks/bad/rgb\.png, the mask of bad/rgb\.jpg.*RGB.*bad_annotations",
        "bad/small.jpg": r"annotated/bad/small\.jpg has 160 x 120 pixels.*masks/bad/small\.png has 160 x 119",
        "bad/damaged.jpg": r"annotated/masks/bad/damaged\.png, the mask of bad/damaged\.jpg.*not_an_image",
        "bad/many.jpg": r"annotated/bad/many\.jpg: it has 1,001 boxes.*1,000",
        "bad/nan.jpg": r"annotated/bad/nan\.jpg: .*not finite",
        "bad/outside.jpg": r"annotated/bad/outside\.jpg: .*boxes\[0\].*bad_annotations",
        "bad/swapped.jpg": r"annotated/bad/swapped\.jpg: .*boxes\[1\].*bad_annotations",
        "bad/flat.jpg": r"annotated/bad/flat\.jpg: .*\(1, 3\).*\(N, 4\)",
        "bad/elsewhere.jpg": r"annotated/bad/elsewhere\.jpg has 160 x 120 pixels, .*annotations are of 120 x 160",
    }


def bad_boxes(name: str) -> object:
    whole = [0, 0, WIDTH, HEIGHT]
    return {
        "bad/many.jpg": [whole] * 1001,
        "bad/nan.jpg": [[0, 0, float("nan"), 1]],
        "bad/outside.jpg": [[0, 0, WIDTH + 2, HEIGHT]],
        "bad/swapped.jpg": [whole, [5, 5, 4, 6]],
        "bad/flat.jpg": [[0, 0, 1]],
        "bad/elsewhere.jpg": Annotation(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), size=(WIDTH, HEIGHT)),
    }.get(name, [whole])


def test_what_is_wrong_is_that_samples_failure(
    cluster: Cluster, pets: str, tensors: str, broken: dict[str, str]
) -> None:
    options: dict[str, Any] = {"seed": 3, "masks": MASKS, "boxes": bad_boxes}
    for name, said in broken.items():
        with pytest.raises((ObjectFailed, NotFound), match=said):
            TransformedImages(cluster, pets, tensors, names=[name], **options)[0]
    mixed = [name for pair in zip(NAMES[:2] * 5, broken, strict=True) for name in pair]
    skipped = TransformedStream(cluster, pets, tensors, names=mixed, shuffle=False, on_error="skip", **options)
    assert [sample["name"] for sample in skipped] == [name for name in mixed if name in NAMES]  # type: ignore[index]
    assert (skipped.counts.failed, skipped.counts.skipped) == (10, 10)
    whole = by_name(TransformedImages(cluster, pets, tensors, names=NAMES[:2], **options))
    for on_error, count in (("skip", 10), ("substitute", 20)):
        feed = TransformedBatches(
            cluster, pets, tensors, names=mixed, shuffle=False, batch=4, on_error=on_error, **options
        )  # type: ignore[arg-type]
        batches = [*feed]
        assert sum(len(batch["name"]) for batch in batches) == count
        for batch in batches:
            assert same(batch, collate_annotated([whole[name] for name in batch["name"]]))


def test_stored_masks_that_are_none_are_named(cluster: Cluster, pets: str, broken: dict[str, str]) -> None:
    for name in ("rgb", "small", "damaged", "gone"):
        dataset = TransformedImages(cluster, pets, names=[f"bad/{name}.jpg"], masks=MASKS)
        with pytest.raises((ObjectFailed, NotFound), match=rf"masks/bad/{name}\.png"):
            dataset[0]


def test_what_cannot_work_is_said_at_once(cluster: Cluster, pets: str, tensors: str) -> None:
    for options, said in (
        ({"views": 2, **ALL}, "views"),
        ({"pil": True, **ALL}, "pil"),
        ({"masks": "masks/{stm}.png"}, "stm"),
        ({"masks": "masks/all.png"}, "template"),
        ({"masks": {"a": "b"}}, "template"),
        ({"boxes": "instances.json"}, "table"),
        ({"boxes": {NAMES[0]: []}}, NAMES[1]),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            TransformedImages(cluster, pets, tensors, names=NAMES, **options)
    assert "needs an empty list" in raised.value.hint
    own = TransformedImages(cluster, pets, tensors, names=NAMES, masks="{name}")
    with pytest.raises(UsageError, match="its own mask"):
        own[0]


@pytest.mark.parametrize("data", [{"steps": [{"op": "RandAugment"}]}, {"steps": [], "role": "mask"}])
def test_a_pipeline_that_cannot_move_annotations_is_refused(cluster: Cluster, pets: str, data: dict[str, Any]) -> None:
    cluster.register(PodSpec("annotated-not", parse({**data, "output": {"format": "png"}}), start_timeout=60))
    try:
        with pytest.raises(UsageError, match=r"RandAugment|takes every object for a mask"):
            TransformedImages(cluster, pets, "annotated-not", names=NAMES, masks=MASKS)
    finally:
        cluster.unregister("annotated-not")


def test_masks_and_samples_are_read_as_they_are(tmp_path: Path) -> None:
    tensors = {"image": np.zeros((3, 2, 2), np.uint8), "boxes": np.ones((1, 4), np.float32), "kept": np.arange(1)}
    for data in (save(tensors, {"of": "[7, 9]"}), bytearray(save(tensors, {"of": "[7, 9]"}))):
        found, size = read_sample(data)
        assert size == (7, 9)
        assert all(np.array_equal(found[name], tensors[name]) and found[name].flags.writeable for name in tensors)
    for wrong in (save(tensors), save(tensors, {"of": "seven"}), b"", b"\x93NUMPY"):
        with pytest.raises(UsageError):
            read_sample(wrong)
    bits = Image.fromarray(np.eye(9, dtype=np.uint8) * 255).convert("1")
    assert np.array_equal(read_mask(encoded(bits, "PNG")), np.eye(9, dtype=np.uint8))
    deep = Image.fromarray(np.full((2, 3), 70_000, np.int32))
    assert np.array_equal(read_mask(encoded(deep, "TIFF")), np.full((2, 3), 70_000, np.int32))


# Shards


@pytest.fixture(scope="module")
def shards(cluster: Cluster, photos: list[bytes]) -> str:
    """A bucket with one shard: photographs, masks, boxes and classes."""
    cluster.create_bucket("annotated-shards")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for at, photo in enumerate(photos):
            given = annotation_of(at)
            assert given.keypoints is not None
            told = {
                "boxes": given.boxes.tolist(),
                "labels": given.labels.tolist(),  # type: ignore[union-attr]
                "keypoints": given.keypoints.reshape(-1, 2).tolist(),
                "source": f"photo {at}",
            }
            members = {"jpg": photo, "mask.png": encoded(mask_of(at), "PNG"), "boxes.json": json.dumps(told).encode()}
            np.save(feature := io.BytesIO(), np.ones(5))
            for extension, content in (*members.items(), ("cls", b"7"), ("feature.npy", feature.getvalue())):
                info = tarfile.TarInfo(f"pet_{at}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    cluster.put("annotated-shards", "pets.tar", file.getvalue())
    return "annotated-shards"


@pytest.mark.parametrize("through", [True, False])
def test_a_shards_masks_and_boxes_come_with_their_image(
    cluster: Cluster, shards: str, tensors: str, photos: list[bytes], through: bool
) -> None:
    options: dict[str, Any] = {"masks": ["mask.png"], "boxes": [".boxes.json"], "seed": 3}
    samples = [*Shards(cluster, shards, tensors if through else "", **options)]
    assert len(samples) == len(NAMES)
    for at, sample in enumerate(samples):
        assert isinstance(sample, dict)
        given, of = annotation_of(at), (HEIGHT, WIDTH)
        assert given.keypoints is not None
        numbers = np.array(mask_of(at)).astype(np.int32 if at % 2 else np.uint8)
        whole = {
            "image": Image.open(io.BytesIO(photos[at])),
            "mask": tv_tensors.Mask(torch.from_numpy(numbers)),
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(given.boxes), format="XYXY", canvas_size=of),
            "keypoints": tv_tensors.KeyPoints(torch.from_numpy(given.keypoints.reshape(-1, 2)), canvas_size=of),
        }
        if through:
            torch.manual_seed(derive_seed(3, 0, 0, f"annotated-shards/pets.tar/pet_{at}"))
            whole = v2.Compose([v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])(whole)
        assert same(sample["mask.png"], whole["mask"])
        boxes = sample["boxes.json"]
        assert all(same(boxes[name], whole[name]) for name in ("boxes", "keypoints"))
        assert torch.equal(boxes["labels"], torch.from_numpy(given.labels))
        assert (boxes["source"], sample["cls"], sample["feature.npy"].shape) == (f"photo {at}", 7, (5,))
        assert isinstance(sample["npy" if through else "jpg"], tv_tensors.Image)
    pictures = next(iter(Shards(cluster, shards, pil=True, **options)))
    assert isinstance(pictures, dict)
    assert isinstance(pictures["jpg"], Image.Image)
    assert pictures["boxes.json"]["boxes"].canvas_size == (HEIGHT, WIDTH)
    plain = next(iter(Shards(cluster, shards)))
    assert isinstance(plain, dict)
    assert isinstance(plain["boxes.json"], str)
    assert not isinstance(plain["jpg"], tv_tensors.Image)


def test_members_that_are_no_masks_or_boxes_fail_their_shard(cluster: Cluster, photos: list[bytes]) -> None:
    cluster.create_bucket("annotated-bad-shards")
    good = {"jpg": photos[0], "boxes.json": b'{"boxes": [[0, 0, 1, 1]]}', "mask.png": encoded(mask_of(1), "PNG")}
    for extension, content, said in (
        ("mask.png", encoded(Image.new("RGB", (4, 4)), "PNG"), "RGB is no mask"),
        ("boxes.json", b"[]", r'in \'a\.boxes\.json\'|a\.boxes\.json: this is no JSON object with "boxes"'),
        ("boxes.json", b'{"boxes": [[0, 0, 1]]}', r"a\.boxes\.json: its boxes are of shape \(1, 3\)"),
        ("boxes.json", b'{"boxes": [[0, 0, 1, "x"]]}', r"a\.boxes\.json: its boxes are no numbers"),
        ("boxes.json", b"{", "boxes.json"),
        ("left.jpg", photos[1], r"a\.boxes\.json: boxes are of one image, and the sample has 2"),
    ):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in (good | {extension: content}).items():
                info = tarfile.TarInfo(f"a.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        cluster.put("annotated-bad-shards", "a.tar", file.getvalue())
        with pytest.raises(ObjectFailed, match=said):
            [*Shards(cluster, "annotated-bad-shards", masks=["mask.png"], boxes=["boxes.json"])]
    with pytest.raises(UsageError, match=r"masks=\['mask\.png'\]|list of extensions"):
        Shards(cluster, "annotated-bad-shards", masks="mask.png")
