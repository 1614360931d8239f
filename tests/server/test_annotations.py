"""Masks, boxes and keypoints over HTTP and in shards: they fit their image, and what is wrong is told by its place."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support.serving import Server

from tvetl.answers import read_sample
from tvetl.errors import ArgumentsError
from tvetl.spec import parse, parse_arguments
from tvetl_server.engine import Engine
from tvetl_server.errors import BadAnnotations, BadArguments, ObjectError, TransformFailed
from tvetl_server.limits import Limits

Array = npt.NDArray[Any]

#: No resize: torchvision takes the nearest pixel of a mask in another way than of an image.
CROP = [{"op": "RandomCrop", "size": 32}, {"op": "RandomHorizontalFlip"}, {"op": "RandomVerticalFlip"}]
TENSOR = [*CROP, {"op": "PILToTensor"}]
WIDTH, HEIGHT = 60, 41


def encoded(pixels: Array | Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind)
    return file.getvalue()


#: An image whose pixels are their own numbers, and a mask of the same: where they lie is seen in each.
NUMBERS = np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
PIXELS = np.stack([NUMBERS & 255, NUMBERS >> 8, NUMBERS * 0], axis=2).astype(np.uint8)
IMAGE, MASK = encoded(PIXELS), encoded(NUMBERS.astype(np.uint16))


def numbers(image: Array) -> Array:
    """Of (C, H, W) the numbers of its pixels."""
    return image[0].astype(int) + 256 * image[1].astype(int)


def engine(steps: list[dict[str, Any]] | None = None, **fields: Any) -> Engine:
    return Engine(parse({"steps": TENSOR if steps is None else steps, "seed": 1, **fields}), Limits())


def ask(by: Engine, body: bytes = IMAGE, name: str = "src/a.png", **arguments: Any) -> bytes:
    given = {key.rstrip("_"): value for key, value in arguments.items()}
    made = by.transform(body, name, parse_arguments(given)).body
    return made if isinstance(made, bytes) else made.read()


def test_over_http_they_are_what_the_engine_says(run_server: Callable[..., Server]) -> None:
    """Also 1,000 boxes and 10,000 keypoints, which are a long request line."""
    pipeline = {"steps": TENSOR, "seed": 1}
    server = run_server(TVETL_PIPELINE=json.dumps(pipeline))
    boxes = [[x % 50 + 0.123456, x % 30, x % 50 + 9.654321, x % 30 + 10.5] for x in range(1000)]
    keypoints = [[x % 50 + 0.123456, x % 30 + 0.654321] for x in range(10_000)]
    cases: list[tuple[bytes, dict[str, Any]]] = [
        (IMAGE, {"boxes": boxes, "keypoints": keypoints}),
        (IMAGE, {"boxes": []}),
        (IMAGE, {"keypoints": [[1, 2]], "pixels": False}),
        (MASK, {"as": "mask", "like": "src/b.png", "of": [HEIGHT, WIDTH], "format": "npy"}),
        (MASK, {"as": "mask", "views": 3}),
    ]
    for body, arguments in cases:
        reply = server.put("/src/a.png?etl_args=" + quote(json.dumps(arguments)), body)
        assert reply.status == 200, reply.body
        assert reply.body == ask(engine(), body, **arguments)
    reply = server.put("/src/a.png?etl_args=" + quote(json.dumps({"boxes": [[0, 0, 10**9, 1]]})), IMAGE)
    assert (reply.status, json.loads(reply.body)["error"]) == (422, "bad_annotations")


def test_a_mask_fits_its_image_for_a_thousand_seeds() -> None:
    of = engine()
    for seed in range(1000):
        image = np.load(io.BytesIO(ask(of, seed=seed)))
        mask = ask(of, MASK, "src/masks/a.png", as_="mask", like="src/a.png", seed=seed)
        assert np.array_equal(np.load(io.BytesIO(mask)), numbers(image)), seed


def test_a_pipeline_says_of_whole_buckets_what_is_a_mask() -> None:
    masks = engine(role="mask", like="{bucket}/images/{stem}.png")
    for name in ("one", "two.left"):
        image = np.load(io.BytesIO(ask(engine(), name=f"pets/images/{name}.png")))
        mask = np.load(io.BytesIO(ask(masks, MASK, f"pets/masks/deep/{name}.png")))
        assert np.array_equal(mask, numbers(image))
    # An image of the same bucket is asked for by saying so.
    assert ask(masks, as_="image", like="src/x.png") == ask(engine(), like="src/x.png")


@pytest.mark.parametrize(
    ("mode", "values", "dtype"),
    [
        ("1", NUMBERS % 2, np.uint8),
        ("L", NUMBERS % 256, np.uint8),
        ("P", NUMBERS % 38, np.uint8),
        ("I;16", NUMBERS, np.int32),
        ("I", NUMBERS * 1000, np.int32),
    ],
)
def test_values_stay_what_they_are(mode: str, values: Array, dtype: type) -> None:
    if mode == "1":
        stored = Image.fromarray(values.astype(np.uint8) * 255).convert("1")
    elif mode == "P":
        stored = Image.fromarray(values.astype(np.uint8)).convert("P")
        stored.putpalette(bytes(range(255, -1, -1)) * 3)
    else:
        stored = Image.fromarray(values.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]))
    assert stored.mode == mode
    file = encoded(stored, "TIFF" if mode == "I" else "PNG")
    found = np.load(io.BytesIO(ask(engine([{"op": "PILToTensor"}]), file, as_="mask")))
    assert (found == values).all() and found.dtype == dtype


def test_a_mask_is_png_of_images_and_in_any_format_on_request() -> None:
    of = engine(CROP)
    expected = np.load(io.BytesIO(ask(of, MASK, as_="mask", format="npy")))
    png = Image.open(io.BytesIO(ask(of, MASK, as_="mask")))
    assert png.format == "PNG" and (np.asarray(png) == expected).all()
    tensors, size = read_sample(ask(of, MASK, as_="mask", format="safetensors"))
    assert (tensors["mask"] == expected).all() and size == (HEIGHT, WIDTH)
    assert ask(of, MASK, as_="mask", format="raw") == expected.tobytes()
    # jpeg would change values, and is what the pipeline gives: the mask is png all the same.
    assert parse({"steps": CROP}).output.format == "jpeg"
    large = encoded(NUMBERS.astype(np.int32) * 100, "TIFF")
    with pytest.raises(TransformFailed, match="65,535"):
        ask(engine([]), large, as_="mask")
    assert (np.load(io.BytesIO(ask(engine([]), large, as_="mask", format="npy"))) == NUMBERS * 100).all()


def test_an_image_of_a_pipeline_of_images_is_uint8_beside_its_boxes() -> None:
    tensors, size = read_sample(ask(engine(CROP), boxes=[[0, 0, 60, 41]]))
    assert size == (HEIGHT, WIDTH)
    assert (tensors["image"] == np.load(io.BytesIO(ask(engine())))).all()
    assert tensors["boxes"].tolist() == [[0, 0, 32, 32]] and tensors["kept"].tolist() == [0]
    assert set(tensors) == {"image", "boxes", "kept"}


WRONG: Mapping[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "NaN": (ArgumentsError, r"\$\.boxes\[1\]: expected", {"boxes": [[0, 0, 1, 1], [0, 0, float("nan"), 1]]}),
    "infinite": (ArgumentsError, r"\$\.keypoints\[0\]: expected", {"keypoints": [[0, float("inf")]]}),
    "below 0": (ArgumentsError, r"\$\.boxes\[0\]: expected", {"boxes": [[-1, 0, 1, 1]]}),
    "turned": (ArgumentsError, r"\$\.boxes\[0\]: expected x1 <= x2", {"boxes": [[5, 0, 1, 1]]}),
    "three numbers": (ArgumentsError, r"\$\.boxes\[0\]: expected", {"boxes": [[1, 2, 3]]}),
    "text": (ArgumentsError, r"\$\.boxes\[0\]: expected", {"boxes": ["0123"]}),
    "100,000 boxes": (ArgumentsError, r"expected", {"boxes": [[0, 0, 1, 1]] * 100_000}),
    "1,001 boxes": (ArgumentsError, r"\$\.boxes: expected a list of 0\.\.1000", {"boxes": [[0, 0, 1, 1]] * 1001}),
    "10^9": (BadAnnotations, r"\$\.boxes\[1\]: .* 60 x 41", {"boxes": [[0, 0, 1, 1], [0, 0, 10**9, 1]]}),
    "outside": (BadAnnotations, r"\$\.keypoints\[0\]: .* 60 x 41", {"keypoints": [[30, 43]]}),
    "views": (ArgumentsError, r"\$\.views: not together", {"boxes": [], "views": 2}),
    "format": (ArgumentsError, r"\$\.format: expected safetensors", {"boxes": [], "format": "npy"}),
    "a mask's pixels": (ArgumentsError, r"\$\.pixels: not together", {"as": "mask", "pixels": True}),
    "a mask as jpeg": (ArgumentsError, r"\$\.format: expected one of png", {"as": "mask", "format": "jpeg"}),
    "a mask of colours": (BadAnnotations, "this one is RGB", {"as": "mask"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_by_its_place(case: str) -> None:
    error, said, arguments = WRONG[case]
    with pytest.raises(error, match=said):
        ask(engine(), **arguments)


def test_a_mask_of_another_size_names_both() -> None:
    with pytest.raises(BadAnnotations, match=r"41 x 60 pixels .*, and its image 41 x 61"):
        ask(engine(), MASK, as_="mask", of=[41, 61])


def test_a_mask_is_never_drawn_apart_from_its_image() -> None:
    without_seed = Engine(parse({"steps": TENSOR}), Limits())
    with pytest.raises(ArgumentsError, match="needs a seed"):
        without_seed.transform(MASK, "src/a.png", parse_arguments({"as": "mask"}))
    without_seed.transform(MASK, "src/a.png", parse_arguments({"as": "mask", "seed": 1}))


@pytest.mark.parametrize("op", ["AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix"])
def test_what_torchvision_does_not_say_is_refused(op: str) -> None:
    pytest.importorskip("torchvision")
    for arguments in ({"as": "mask"}, {"boxes": []}):
        with pytest.raises(ArgumentsError, match=f"what {op} makes of"):
            ask(engine([{"op": op}]), MASK, **arguments)


def test_a_colour_that_no_mask_has_is_refused() -> None:
    steps = [{"op": "RandomZoomOut", "fill": [1, 2, 3]}]
    with pytest.raises(ArgumentsError, match=r"RandomZoomOut fills with a colour.* mask_fill"):
        ask(engine(steps), MASK, as_="mask")
    ask(engine([{**steps[0], "mask_fill": 0}]), MASK, as_="mask")
    ask(engine(steps), IMAGE, boxes=[[0, 0, 5, 5]])  # boxes are filled with nothing


# --- shards ---------------------------------------------------------------------------------------------------------


def shard(**members: bytes | object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_members_of_a_sample_go_together() -> None:
    boxes = {"boxes": [[0, 0, 10, 10], [20, 20, 60, 41.5]], "labels": ["cat", "dog"], "keypoints": [[3, 4]], "x": 1}
    of = engine()
    found = unpacked(
        ask(
            of,
            shard(**{"1.mask.png": MASK, "1.boxes.json": boxes, "1.png": IMAGE, "1.cls": b"7", "2.png": IMAGE}),
            "b/s.tar",
        )
    )
    assert list(found) == ["1.mask.png", "1.boxes.json", "1.npy", "1.cls", "2.npy"]
    image = np.load(io.BytesIO(found["1.npy"]))
    assert (np.asarray(Image.open(io.BytesIO(found["1.mask.png"]))) == numbers(image)).all()
    alone, _ = read_sample(ask(of, name="b/s.tar/1", boxes=boxes["boxes"], keypoints=boxes["keypoints"]))
    assert (alone["image"] == image).all()
    moved = json.loads(found["1.boxes.json"])
    assert np.array_equal(np.array(moved["boxes"], np.float32), alone["boxes"])
    assert np.array_equal(np.array(moved["keypoints"], np.float32), alone["keypoints"])
    assert (moved["kept"], moved["labels"], moved["x"]) == ([0, 1], ["cat", "dog"], 1)
    assert found["1.cls"] == b"7"


def test_boxes_that_are_gone_take_their_labels_along() -> None:
    of = engine([{"op": "CenterCrop", "size": 20}, {"op": "SanitizeBoundingBoxes"}])
    boxes = {"boxes": [[0, 0, 5, 5], [20, 10, 40, 30]], "labels": [1, 2]}
    found = unpacked(ask(of, shard(**{"1.png": IMAGE, "1.boxes.json": boxes}), "b/s.tar"))
    assert json.loads(found["1.boxes.json"])["labels"] == [2]
    with pytest.raises(BadArguments, match=r"In '1\.png': SanitizeBoundingBoxes acts on boxes"):
        ask(of, shard(**{"1.png": IMAGE}), "b/s.tar")


def test_a_mask_fits_its_image_where_the_draws_depend_on_the_boxes() -> None:
    pytest.importorskip("torchvision")
    of = engine([{"op": "RandomIoUCrop"}, {"op": "RandomHorizontalFlip"}, {"op": "PILToTensor"}])
    boxes = {"boxes": [[3, 3, 20, 30], [20, 10, 40, 30]]}
    for key in range(8):
        members = {f"{key}.mask.png": MASK, f"{key}.png": IMAGE, f"{key}.boxes.json": boxes}
        found = unpacked(ask(of, shard(**members), "b/s.tar"))
        image = np.load(io.BytesIO(found[f"{key}.npy"]))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[f"{key}.mask.png"]))), numbers(image))


def test_a_mask_that_a_pipeline_cannot_move_is_named() -> None:
    members = shard(**{"1.png": IMAGE, "1.mask.png": MASK})
    with pytest.raises(BadArguments, match=r"In '1\.mask\.png', which is a mask by .*mask_members.* Pad fills"):
        ask(engine([{"op": "Pad", "padding": 1, "fill": [1, 2, 3]}]), members, "b/s.tar")


def test_a_pipeline_says_which_members_are_masks() -> None:
    of = engine(mask_members=["png"], box_members=[])
    found = unpacked(ask(of, shard(**{"1.jpg": encoded(PIXELS, "JPEG"), "1.png": MASK, "1.boxes.json": []}), "b/s.tar"))
    assert list(found) == ["1.npy", "1.png", "1.boxes.json"] and found["1.boxes.json"] == b"[]"
    # Where none is said to be a mask, each is an image.
    assert list(unpacked(ask(engine(mask_members=[]), shard(**{"1.mask.png": IMAGE}), "b/s.tar"))) == ["1.mask.npy"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            {"1.png": IMAGE, "1.mask.png": encoded(np.zeros((45, 46), np.uint8))},
            r"'1\.mask\.png' has 46 x 45 .* '1\.png' 60 x 41",
        ),
        ({"1.mask.png": IMAGE, "1.png": IMAGE}, r"In '1\.mask\.png': .* RGB"),
        ({"1.boxes.json": {"boxes": []}}, r"'1\.boxes\.json' .* 0 images"),
        ({"1.boxes.json": {"boxes": []}, "1.a.png": IMAGE, "1.b.png": IMAGE}, "2 images"),
        ({"1.boxes.json": [[0, 0, 1, 1]], "1.png": IMAGE}, r"no JSON object with \"boxes\""),
        ({"1.boxes.json": {"boxes": None}, "1.png": IMAGE}, r"no JSON object with \"boxes\", a list"),
        ({"1.boxes.json": b"{", "1.png": IMAGE}, "not valid"),
        ({"1.boxes.json": b'{"boxes": [[0, 0, NaN, 1]]}', "1.png": IMAGE}, "NaN"),
        ({"1.boxes.json": {"boxes": [[5, 0, 1, 1]]}, "1.png": IMAGE}, r"In '1\.boxes\.json': \$\.boxes\[0\]"),
        ({"1.boxes.json": {"boxes": [[0, 0, 99, 1]]}, "1.png": IMAGE}, r"In '1\.png': \$\.boxes\[0\]: .* 60 x 41"),
    ],
)
def test_a_sample_that_does_not_fit_fails_its_shard_by_name(members: dict[str, Any], said: str) -> None:
    with pytest.raises(BadAnnotations, match=said):
        ask(engine(), shard(**members), "b/s.tar")


def test_two_members_with_boxes_of_one_sample_are_refused() -> None:
    members = shard(**{"1.png": IMAGE, "1.boxes.json": {"boxes": []}, "1.heads.json": {"boxes": []}})
    with pytest.raises(BadAnnotations, match=r"boxes twice, in '1\.boxes\.json' and '1\.heads\.json'"):
        ask(engine(box_members=["boxes.json", "heads.json"]), members, "b/s.tar")


def test_boxes_in_arguments_are_of_no_shard() -> None:
    with pytest.raises(ObjectError, match="a shard has them in members"):
        ask(engine(), shard(**{"1.png": IMAGE}), "b/s.tar", boxes=[])
