"""A preview shows an object's boxes and mask: on the original, and on each view as the ETL moved them."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops
from typer.testing import CliRunner

from tvetl.cluster import Cluster
from tvetl.command.cli import app
from tvetl.errors import NotFound, ObjectFailed, UsageError
from tvetl.pod import PodSpec
from tvetl.preview import Source, View, preview, read_record, replay_sheet
from tvetl.preview.marks import Marks, colour_of, marked
from tvetl.preview.sheet import views_sheet
from tvetl.spec import derive_seed, parse

HAS_TORCH = importlib.util.find_spec("torchvision") is not None
needs_torch = pytest.mark.skipif(
    not HAS_TORCH, reason="equal to torchvision, and the readers of annotations need torch"
)

BOXES = [[40.0, 30.0, 200.0, 170.0], [10.5, 20.25, 60.0, 90.0]]
CROPS = [{"op": "RandomResizedCrop", "size": 64}, {"op": "RandomHorizontalFlip"}]
#: torchvision's preset for SSD, to a tensor.
SSD = [
    {"op": "RandomZoomOut", "fill": [123, 117, 104], "mask_fill": 0, "side_range": [1, 2]},
    {"op": "RandomIoUCrop"},
    {"op": "RandomHorizontalFlip"},
    {"op": "Resize", "size": [64, 64]},
    {"op": "ToTensor"},
    {"op": "SanitizeBoundingBoxes"},
]


def png(numbers: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    written = io.BytesIO()
    Image.fromarray(numbers).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="module")
def masked(cluster: Cluster, photographs: list[Path]) -> Iterator[str]:
    """A bucket with a photograph, its trimap, and a mask of another size."""
    cluster.create_bucket("masked")
    cluster.put("masked", "images/cat.jpg", photographs[3].read_bytes())
    with Image.open(photographs[3]) as image:
        width, height = image.size
    trimap = np.full((height, width), 2, np.uint8)
    trimap[30:170, 40:200] = 1
    trimap[: height // 2, width // 2 :] = 0
    cluster.put("masked", "trimaps/cat.png", png(trimap))
    cluster.put("masked", "instances/cat.png", png(trimap.astype(np.uint16) * 300))
    cluster.put("masked", "small/cat.png", png(trimap[:-1]))
    cluster.put("masked", "photos/cat.png", photographs[3].read_bytes())
    yield "masked"
    cluster.delete_bucket("masked")


@pytest.fixture(scope="module")
def registered(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Registers an ETL of these steps, and gives its name."""
    names: list[str] = []

    def register(steps: list[dict[str, object]], format: str = "jpeg", **fields: object) -> str:
        names.append(f"test-marks-{len(names)}")
        pipeline = parse({"steps": steps, "output": {"format": format}, "seed": 3, **fields})
        cluster.register(PodSpec(names[-1], pipeline, start_timeout=60))
        return names[-1]

    yield register
    for name in names:
        cluster.unregister(name)


@pytest.fixture(scope="module")
def cropping(registered: Callable[..., str]) -> str:
    return registered(CROPS)


def test_a_mask_covers_half_of_the_picture_and_its_background_nothing() -> None:
    picture = Image.new("RGB", (8, 4), (200, 100, 50))
    mask = np.array([[0, 1, 2, 8, 9, 300, 65535, 0]] * 4, np.int32)
    shown = np.asarray(marked(picture.copy(), Marks(mask=mask), 1.0))[1]
    for at, value in enumerate(mask[0].tolist()):
        expected = (
            (200, 100, 50)
            if not value
            else [(a + b) / 2 for a, b in zip((200, 100, 50), colour_of(value), strict=True)]
        )
        assert np.abs(shown[at] - np.array(expected)).max() <= 1, value
    assert colour_of(1) == colour_of(9) != colour_of(2)
    smaller = np.asarray(marked(picture.resize((4, 2)), Marks(mask=np.repeat(mask, 2, 0)[:, :8]), 0.5))
    assert {tuple(pixel) for pixel in smaller[0].tolist()} <= {tuple(pixel) for pixel in shown.tolist()}


def test_a_box_is_an_outline_at_its_edges() -> None:
    grey = Image.new("RGB", (100, 100), (90, 90, 90))
    shown = np.asarray(marked(grey.copy(), Marks([[20, 40, 160, 120]], [""]), 0.5))
    changed = np.argwhere((shown != 90).any(axis=2))
    assert changed.min(axis=0).tolist() == [20, 10]
    assert changed.max(axis=0).tolist() == [59, 79]
    assert (shown[24:56, 14:76] == 90).all(), "what is in the box is seen"
    assert (shown[21, 20:70] == 255).all() and (shown[20, 10:80] == 0).all()
    told = np.asarray(marked(grey.copy(), Marks([[20, 40, 160, 120]], ["cat"]), 0.5))
    assert (told != shown).any()


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [5, 5, 5, 90], [0, 0, 0, 0]])
def test_a_box_without_area_is_not_drawn(box: list[float]) -> None:
    grey = Image.new("RGB", (100, 100), (90, 90, 90))
    assert ImageChops.difference(marked(grey.copy(), Marks([box], ["x"]), 1.0), grey).getbbox() is None


@pytest.mark.parametrize("box", [[5, 5, 6, 6], [-500, -500, 900, 900], [98, 98, 101, 101], [0.2, 0.2, 0.4, 0.4]])
def test_boxes_of_any_size_can_be_drawn(box: list[float]) -> None:
    grey = Image.new("RGB", (100, 100), (90, 90, 90))
    assert marked(grey, Marks([box], ["a long name" * 100]), 1.0).size == (100, 100)


def test_a_crop_far_outside_stays_in_its_frame() -> None:
    pipeline = parse({"steps": CROPS, "output": {"format": "jpeg"}})
    source, original = Source("b", "o", "etl", pipeline, 0, 0), Image.new("RGB", (50, 50))
    view = View(0, 0, Image.new("RGB", (64, 64)), "", box=(10, 10, 20, 20))
    near, far = (views_sheet(source, original, [replace(view, box=box)]) for box in (view.box, (-900, -90, 900, 900)))
    changed = ImageChops.difference(near, far).getbbox()
    assert changed is not None
    left, top, right, bottom = changed
    assert left >= 28 and top >= 28 + 34 and right <= 28 + 448 and bottom <= 28 + 34 + 448


@pytest.mark.parametrize("masks", ["trimaps/{stem}.png", "instances/{stem}.png"])
def test_boxes_and_mask_lie_on_each_view_as_the_etl_moved_them(
    cluster: Cluster, masked: str, cropping: str, masks: str
) -> None:
    made = preview(
        cluster, masked, "images/cat.jpg", cropping, views=4, boxes=BOXES, labels=["cat", "ear"], masks=masks
    )
    assert made.marks is not None and made.marks.mask is not None
    assert (made.marks.boxes, made.marks.texts) == (tuple(map(tuple, BOXES)), ["cat", "ear"])
    assert made.marks.mask.shape == (made.original.height, made.original.width)
    without = preview(cluster, masked, "images/cat.jpg", cropping, views=4)
    seen = 0
    for view, plain in zip(made.views, without.views, strict=True):
        assert view.sha256 == plain.sha256, "the pixels are those without annotations"
        assert plain.marks is None
        assert view.marks is not None and view.marks.mask is not None
        assert (view.kept, list(view.marks.texts)) == ((0, 1), ["cat", "ear"])
        # The mask has a number of its own where the first box is.
        rows, columns = np.nonzero(view.marks.mask == made.marks.mask[100, 60])
        if len(rows):
            left, top, right, bottom = view.marks.boxes[0]
            assert left - 1 <= columns.min() and columns.max() <= right
            assert top - 1 <= rows.min() and rows.max() <= bottom
            seen += 1
        if HAS_TORCH:
            assert view.equal
    assert seen
    marked_sheet, plain_sheet = made.image(), without.image()
    assert marked_sheet.size == plain_sheet.size
    assert ImageChops.difference(marked_sheet, plain_sheet).getbbox() is not None


@needs_torch
def test_steps_that_act_on_boxes_are_shown_and_made_again(
    cluster: Cluster, masked: str, registered: Callable[..., str], tmp_path: Path
) -> None:
    etl, boxes = registered(SSD, "npy"), [*BOXES, [2, 2, 30, 30], [250, 150, 290, 190]]
    made = preview(
        cluster, masked, "images/cat.jpg", etl, views=8, boxes=boxes, labels=[*"abcd"], masks="trimaps/{stem}.png"
    )
    assert all(view.equal for view in made.views)
    assert any(len(view.kept) < 4 for view in made.views), "some boxes are gone"
    for view in made.views:
        assert view.marks and list(view.marks.texts) == ["abcd"[place] for place in view.kept]
    assert any("IoUCrop" in words or "crop" in words for view in made.views for words in view.drawn)
    made.save(tmp_path / "sheet.png")
    assert read_record(tmp_path / "sheet.png")[0].boxes == tuple(map(tuple, boxes))
    for way in ("etl", "torchvision"):
        again = replay_sheet(cluster, tmp_path / "sheet.png", way=way)  # type: ignore[arg-type]
        assert [one.equal for one in again] == [True] * 8


@needs_torch
def test_a_view_is_not_equal_where_only_its_boxes_or_its_mask_differ(photographs: list[Path]) -> None:
    from tvetl.preview.replay import replay

    pipeline, data = parse({"steps": CROPS, "output": {"format": "jpeg"}}), photographs[3].read_bytes()
    with Image.open(photographs[3]) as image:
        mask = np.zeros((image.height, image.width), np.uint8)
    one = replay(pipeline, data, 5, boxes=BOXES, mask=mask)
    assert one.equals(replay(pipeline, data, 5, boxes=BOXES, mask=mask))
    assert not one.equals(replay(pipeline, data, 5, boxes=BOXES[:1], mask=mask))
    assert not one.equals(replay(pipeline, data, 5, boxes=BOXES, mask=mask + 1))
    assert not one.equals(replay(pipeline, data, 5, boxes=BOXES))
    assert not one.equals(replay(pipeline, data, 6, boxes=BOXES, mask=mask))


@needs_torch
@pytest.mark.parametrize("op", ["RandomApply", "RandomChoice", "RandomOrder"])
def test_a_replay_draws_as_steps_that_hold_steps_do(photographs: list[Path], op: str) -> None:
    import torch

    from tvetl.preview.replay import replay
    from tvetl.spec.compose import to_compose

    inner = [{"op": "RandomCrop", "size": 90}, {"op": "RandomHorizontalFlip"}, {"op": "RandomGrayscale", "p": 0.5}]
    steps = [{"op": op, "transforms": inner}, {"op": "RandomPhotometricDistort"}, {"op": "RandomCrop", "size": 60}]
    pipeline, data = parse({"steps": steps}), photographs[3].read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    for seed in range(12):
        found = replay(pipeline, data, seed).outcome
        torch.manual_seed(seed)
        assert isinstance(found, Image.Image)
        assert found.tobytes() == to_compose(pipeline)(image).tobytes()


def test_views_are_drawn_as_the_pipeline_says(cluster: Cluster, masked: str, registered: Callable[..., str]) -> None:
    etl = registered(CROPS, like="{bucket}/photos/{stem}.png")
    made = preview(cluster, masked, "images/cat.jpg", etl, views=2, masks="trimaps/{stem}.png")
    assert made.views[1].seed == derive_seed(3, 0, 1, "masked/photos/cat.png")
    if HAS_TORCH:
        assert all(view.equal for view in made.views)


def test_what_cannot_be_drawn_is_told(
    cluster: Cluster, masked: str, cropping: str, registered: Callable[..., str]
) -> None:
    def refused(**asked: object) -> str:
        with pytest.raises(UsageError) as caught:
            preview(cluster, masked, "images/cat.jpg", cropping, views=1, **asked)  # type: ignore[arg-type]
        return caught.value.message

    with Image.open(io.BytesIO(cluster.get(masked, "images/cat.jpg"))) as image:
        width, height = image.size
    told = f"the mask masked/small/cat.png has {width} x {height - 1} pixels, and its image {width} x {height}"
    assert refused(masks="small/{stem}.png") == told
    assert refused(masks="photos/{stem}.png").startswith("masked/photos/cat.png: this image of mode RGB is no mask")
    assert refused(masks="trimaps/{stam}.png").startswith("masks is 'trimaps/{stam}.png': {stam} is none of")
    assert refused(masks="trimaps/cat.png").startswith("masks is 'trimaps/cat.png': a template has at least one of")
    assert refused(boxes=BOXES, labels=["cat"]) == "there are 1 labels of 2 boxes"
    with pytest.raises(NotFound):
        preview(cluster, masked, "images/cat.jpg", cropping, masks="gone/{stem}.png")
    with pytest.raises(ObjectFailed, match=r"\$\.boxes\[1\]"):
        preview(cluster, masked, "images/cat.jpg", cropping, boxes=[BOXES[0], [0, 0, 9, 1e9]])
    with pytest.raises(UsageError, match="takes every object for a mask"):
        preview(cluster, masked, "trimaps/cat.png", registered(CROPS, "png", role="mask"))
    sanitized = registered([*CROPS, {"op": "SanitizeBoundingBoxes"}], "png")
    with pytest.raises(UsageError, match="SanitizeBoundingBoxes acts on boxes") as caught:
        preview(cluster, masked, "images/cat.jpg", sanitized)
    assert "--boxes" in caught.value.hint


@needs_torch
def test_the_command_draws_the_boxes_of_a_file(
    cluster: Cluster,
    masked: str,
    cropping: str,
    tmp_path: Path,
    tvetl: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    edges = {"xmin": 41, "ymin": 31, "xmax": 200, "ymax": 170}
    box = "".join(f"<{name}>{value}</{name}>" for name, value in edges.items())
    voc = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    (tmp_path / "cat.xml").write_text(voc)
    images = [{"id": 1, "file_name": "cat.jpg"}, {"id": 2, "file_name": "dog.jpg"}]
    rows = [{"image_id": 1, "category_id": 7, "bbox": [40, 30, 160, 140]}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": rows}))
    common = ("preview", f"{masked}/images/cat.jpg", "--etl", cropping, "--views", "2", "--endpoint", cluster.endpoint)
    sheet = tmp_path / "sheet.png"
    options = ("--boxes", str(tmp_path / "cat.xml"), "--masks", "trimaps/{stem}.png", "--output", str(sheet), "--json")
    done = tvetl(*common, *options)
    assert done.returncode == 0, done.stderr
    views = json.loads(done.stdout)["views"]
    assert [(view["kept"], view["equal"], len(view["boxes"])) for view in views] == [([0], True, 1)] * 2
    with Image.open(sheet) as drawn:
        assert drawn.width > 500
    coco = CliRunner().invoke(app, [*common, "--boxes", str(tmp_path / "a.json"), "--output", str(sheet)])
    assert coco.exit_code == 0, coco.output
    assert read_record(sheet)[0].boxes == ((40, 30, 200, 170),)
    (tmp_path / "cat.xml").rename(tmp_path / "dog.xml")
    gone = CliRunner().invoke(
        app, [*common, "--boxes", str(tmp_path / "dog.xml"), "--output", str(tmp_path / "none.png")]
    )
    assert gone.exit_code == 2
    assert "there are no annotations of 'images/cat.jpg'" in gone.output
    assert not (tmp_path / "none.png").exists()
