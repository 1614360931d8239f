"""A contact sheet shows what became of each original, unharmed, and each of its views can be made again."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from tvetl.cluster import Cluster
from tvetl.errors import UsageError
from tvetl.pod import PodSpec
from tvetl.preview import contact_sheet, preview, read_record, replay_sheet
from tvetl.spec import derive_seed, parse

HAS_TORCH = importlib.util.find_spec("torchvision") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="boxes and replays are torchvision's")

#: Crops after a resize and a flip, so that boxes must be carried back; and a tensor at the end.
STEPS = [
    {"op": "Resize", "size": 200},
    {"op": "RandomHorizontalFlip"},
    {"op": "RandomCrop", "size": 160, "padding": 8},
    {"op": "RandomVerticalFlip"},
    {"op": "RandomResizedCrop", "size": 96},
    {"op": "RandomGrayscale", "p": 0.5},
    {"op": "CenterCrop", "size": 80},
    {"op": "ToTensor"},
    {"op": "Normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
]


@pytest.fixture(scope="module")
def tensors(cluster: Cluster) -> Iterator[str]:
    data = {"steps": STEPS, "output": {"format": "npy", "dtype": "float16"}}
    cluster.register(PodSpec("test-sheets", parse(data), start_timeout=60))
    yield "test-sheets"
    cluster.unregister("test-sheets")


def test_a_transformed_image_is_on_the_sheet_pixel_for_pixel(photographs: list[Path]) -> None:
    original = Image.open(photographs[0]).convert("RGB")
    transformed = original.crop((10, 20, 234, 244))
    sheet = contact_sheet([("one", original, transformed)])
    shown = sheet.crop((sheet.width - 28 - 224, sheet.height - 28 - 224, sheet.width - 28, sheet.height - 28))
    assert ImageChops.difference(shown, transformed).getbbox() is None


def test_cards_stand_in_columns_and_every_mode_and_shape_fits() -> None:
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 256, (40, 900, 3), dtype=np.uint8))
    tiny = Image.fromarray(rng.integers(0, 256, (3, 2), dtype=np.uint8)).convert("1")
    tall = Image.fromarray(rng.integers(0, 256, (900, 40, 4), dtype=np.uint8), "RGBA")
    one = contact_sheet([("a" * 200, wide, tiny)])
    four = contact_sheet([("ü 猫", wide, tiny), ("b", tall, wide), ("c", tiny, tall), ("d", tiny, tiny)])
    assert one.mode == four.mode == "RGB"
    assert four.width > 1.9 * one.width
    assert four.height > 1.9 * one.height - 28


def test_a_note_stands_below_the_rows_in_lines_of_their_width() -> None:
    rows = [("one", Image.new("RGB", (224, 224), (0, 128, 0)), Image.new("RGB", (224, 224)))]
    without, noted = contact_sheet(rows), contact_sheet(rows, note="why it looks so " * 30)
    box = (0, 0, without.width, without.height - 28)
    assert ImageChops.difference(noted.crop(box), without.crop(box)).getbbox() is None
    note = noted.crop((0, without.height - 20, noted.width, noted.height)).convert("L")
    below = note.point(lambda value: 255 * (value < 128))
    left, _, right, lower = below.getbbox() or (0, 0, 0, 0)
    assert left >= 28
    assert without.width - 60 < right <= without.width - 28
    assert 100 < lower < below.height


def test_no_rows_are_no_sheet() -> None:
    with pytest.raises(ValueError, match="row"):
        contact_sheet([])


def test_a_view_is_on_the_sheet_with_its_seed_and_its_pixels(cluster: Cluster, images: str, crops: str) -> None:
    made = preview(cluster, images, "photo_3.jpg", crops, views=6, seed=7, epoch=2)
    assert [view.view for view in made.views] == [0, 1, 2, 3, 4, 5]
    assert made.views[4].seed == derive_seed(7, 2, 4, f"{images}/photo_3.jpg")
    asked = cluster.get(images, "photo_3.jpg", crops, {"seed": 7, "epoch": 2, "view": 4, "format": "png"})
    assert ImageChops.difference(Image.open(io.BytesIO(asked)), made.views[4].picture).getbbox() is None
    sheet = Image.open(io.BytesIO(made._repr_png_()))
    # The last view stands in the second row, first column of the views; 32 x 32 in the middle of its place.
    left, top = 28 + 448 + 28 + 96, 28 + (34 + 224 + 82) + 34 + 96
    shown = sheet.crop((left, top, left + 32, top + 32))
    assert ImageChops.difference(shown, made.views[4].picture).getbbox() is None


@needs_torch
def test_the_box_drawn_is_the_part_of_the_original_that_the_view_shows(
    cluster: Cluster, images: str, crops: str
) -> None:
    made = preview(cluster, images, "photo_3.jpg", crops, views=4)
    assert made.source.seed == 1  # the pipeline's own
    for view in made.views:
        assert view.box is not None
        left, top, right, bottom = (round(edge) for edge in view.box)
        part = made.original.crop((min(left, right), top, max(left, right), bottom)).resize((32, 32), Image.BILINEAR)
        if left > right:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert ImageChops.difference(part, view.picture).getbbox() is None
        assert any("crop" in words for words in view.drawn)
        assert ("flip" in view.drawn) == (left > right)


@needs_torch
def test_boxes_go_back_through_resize_flips_borders_and_crops(cluster: Cluster, images: str, tensors: str) -> None:
    made = preview(cluster, images, "photo_3.jpg", tensors, views=8)
    assert all(view.equal for view in made.views)
    assert any(view.box and view.box[0] > view.box[2] for view in made.views)
    for view in made.views:
        assert view.box is not None
        left, top, right, bottom = view.box
        whole = Image.new("RGB", (made.original.width + 100, made.original.height + 100))
        whole.paste(made.original, (50, 50))
        edges = (min(left, right) + 50, min(top, bottom) + 50, max(left, right) + 50, max(top, bottom) + 50)
        part = whole.resize((80, 80), Image.BILINEAR, box=edges)
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if left > right else part
        part = part.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if top > bottom else part
        if any("Grayscale" in words for words in view.drawn):
            part = part.convert("L").convert("RGB")
        # Resampled twice there and once here, so not the same pixels, but the same part: beside it, it is 5 times more.
        off = np.abs(np.asarray(part, np.int16) - np.asarray(view.picture, np.int16)).mean()
        assert off < 8, f"view {view.view} shows another part: {off}"


@pytest.mark.parametrize("way", ["etl", pytest.param("torchvision", marks=needs_torch)])
def test_every_view_of_a_sheet_is_made_again_equal(
    cluster: Cluster, images: str, crops: str, tensors: str, tmp_path: Path, way: str
) -> None:
    for etl in (crops, tensors):
        made = preview(cluster, images, "photo_3.jpg", etl, views=3, seed=5)
        made.save(tmp_path / "sheet.png")
        again = replay_sheet(cluster, tmp_path / "sheet.png", way=way)  # type: ignore[arg-type]
        assert [(one.view, one.equal) for one in again] == [(0, True), (1, True), (2, True)]
        written = again[2].save(tmp_path / "out")
        assert written.suffix == (".png" if etl == crops else ".npy")


def test_a_replay_goes_into_a_random_apply(photographs: list[Path]) -> None:
    torch = pytest.importorskip("torch", reason="a replay is torchvision's")
    from tvetl.preview.replay import replay
    from tvetl.spec.compose import to_compose

    inner = [{"op": "RandomCrop", "size": 90}, {"op": "RandomHorizontalFlip", "p": 1}]
    pipeline = parse({"steps": [{"op": "RandomApply", "transforms": inner}, {"op": "RandomCrop", "size": 60}]})
    data = photographs[-1].read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    notes = set()
    for seed in range(8):
        found = replay(pipeline, data, seed)
        torch.manual_seed(seed)
        expected = to_compose(pipeline)(image)
        assert isinstance(found.outcome, Image.Image)
        assert found.outcome.tobytes() == expected.tobytes()
        left, top, right, bottom = map(int, found.box)
        part = image.crop((min(left, right), top, max(left, right), bottom))
        same = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if left > right else part
        assert same.tobytes() == expected.tobytes()
        notes.add(len(found.drawn))
    assert notes == {1, 3}


def test_another_original_is_not_equal(cluster: Cluster, images: str, crops: str, tmp_path: Path) -> None:
    original = cluster.get(images, "photo_3.jpg")
    cluster.create_bucket("changing")
    cluster.put("changing", "a.jpg", original)
    preview(cluster, "changing", "a.jpg", crops, views=2).save(tmp_path / "sheet.png")
    with Image.open(io.BytesIO(original)) as image:
        turned = io.BytesIO()
        image.rotate(180).save(turned, "JPEG")
    cluster.put("changing", "a.jpg", turned.getvalue())
    assert not any(one.equal for one in replay_sheet(cluster, tmp_path / "sheet.png"))
    if HAS_TORCH:
        (tmp_path / "a.jpg").write_bytes(original)
        (one,) = replay_sheet(cluster, tmp_path / "sheet.png", [1], way="torchvision", original=tmp_path / "a.jpg")
        assert one.equal


def test_what_is_no_sheet_or_no_view_is_said(cluster: Cluster, images: str, crops: str, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "plain.png")
    with pytest.raises(UsageError, match="no contact sheet"):
        read_record(tmp_path / "plain.png")
    preview(cluster, images, "photo_3.jpg", crops, views=2).save(tmp_path / "sheet.png")
    with pytest.raises(UsageError, match="no view 2"):
        replay_sheet(cluster, tmp_path / "sheet.png", [2])
    with pytest.raises(UsageError, match="expected 1 to 64"):
        preview(cluster, images, "photo_3.jpg", crops, views=65)
    with pytest.raises(UsageError, match=r"photo_1\.txt is no image .* opened: not of a kind that Pillow reads"):
        preview(cluster, images, "photo_1.txt", crops)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "plain.png", "1.png")
    cluster.put(images, "x.tar", (tmp_path / "x.tar").read_bytes())
    with pytest.raises(UsageError, match="not of a kind") as caught:
        preview(cluster, images, "x.tar", crops)
    assert caught.value.hint == "A preview is of one image, and this may be a shard of many."
    cluster.delete(images, "x.tar")


def test_without_torch_the_sheet_has_no_boxes(
    cluster: Cluster, images: str, crops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "torchvision", "tvetl.preview.replay"):
        monkeypatch.setitem(sys.modules, name, None)
    made = preview(cluster, images, "photo_3.jpg", crops, views=2)
    assert all(view.box is None and view.equal is None for view in made.views)
    assert made.image().width > 500


def test_the_commands_make_a_sheet_and_make_it_again(
    cluster: Cluster, images: str, crops: str, tmp_path: Path, tvetl: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    sheet = tmp_path / "sheet.png"
    at = ("--endpoint", cluster.endpoint)
    done = tvetl("preview", f"{images}/photo_3.jpg", "--etl", crops, "--views", "3", "--output", str(sheet), *at)
    assert done.returncode == 0, done.stderr
    way = "torchvision" if HAS_TORCH else "etl"
    done = tvetl("replay", str(sheet), "--view", "2", "--with", way, "--output", str(tmp_path / "out"), "--json", *at)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"view": 2, "equal": True, "file": str(tmp_path / "out" / "view-2.png")}]
    assert tvetl("replay", str(sheet), "--with", "magic", *at).returncode == 2
