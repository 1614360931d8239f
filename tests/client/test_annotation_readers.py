"""Annotation files are read as their formats say: no box moves or is lost, and no file takes a reader down."""

from __future__ import annotations

import json
import pickle
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import pytest
from PIL import Image
from support.alone import alone

from tvetl.errors import UsageError

pytest.importorskip("torch", reason="datasets need torch")

import torch
from torchvision import tv_tensors
from torchvision.ops import box_convert

from tvetl.datasets import collate_annotated, read_coco, read_labels, read_voc, read_yolo

Files = Callable[[dict[str, str | bytes]], Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Writes files into a folder."""

    def write(contents: dict[str, str | bytes]) -> Path:
        for name, content in contents.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def coco(**changes: object) -> dict[str, Any]:
    """A small COCO file: three images, one without annotations, a crowd; ``changes`` to its top level."""
    return {
        "info": {"year": 2017, "contributors": [["a"], {"b": [1]}]},
        "images": [
            {"id": 7, "file_name": "train/a.jpg", "height": 480, "width": 640},
            {"id": 3, "file_name": "train/b.jpg", "height": 100, "width": 50},
            {"id": 5, "file_name": "c.jpg", "height": None},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 18, "bbox": [1, 2, 30.5, 40], "area": 9, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.7], "segmentation": [[1.5, 2, [3]]]},
            {"id": 3, "image_id": 7, "category_id": 90, "bbox": [10, 10, 20, 20], "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 18, "bbox": [600, 400, 40.9, 80.5]},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}],
        **changes,
    }


def voc(*objects: str, size: str = "<size><width>600</width><height>400</height><depth>3</depth></size>") -> str:
    return f"<annotation>\n<filename>x.jpg</filename>\n{size}\n" + "\n".join(objects) + "\n</annotation>\n"


def voc_object(name: str = "cat", box: str = "333 72 425 158", more: str = "") -> str:
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox>{more}</object>"


# COCO


@pytest.mark.parametrize("order", [["images", "annotations", "categories"], ["categories", "annotations", "images"]])
def test_coco_boxes_are_those_that_torchvision_makes_of_them(order: list[str], files: Files) -> None:
    data = coco()
    data = {name: data.pop(name) for name in order} | data
    table = read_coco(files({"a.json": json.dumps(data)}) / "a.json")
    assert list(table) == ["train/a.jpg", "train/b.jpg", "c.jpg"]
    assert table.classes == {1: "person", 18: "dog", 90: "toothbrush"}
    first = table["train/a.jpg"]
    raw = torch.tensor([[0.1, 0.2, 0.3, 0.7], [600, 400, 40.9, 80.5]])
    assert first.boxes.dtype == np.float32
    assert np.array_equal(first.boxes, box_convert(raw, "xywh", "xyxy").numpy())
    assert first.labels.dtype == np.int64 and first.labels.tolist() == [1, 18]  # type: ignore[union-attr]
    assert (first.size, first.keypoints) == ((480, 640), None)
    assert table["train/b.jpg"].boxes.tolist() == [[1, 2, 31.5, 42]]
    none = table["c.jpg"]
    assert (none.boxes.shape, none.labels.shape, none.size) == ((0, 4), (0,), None)  # type: ignore[union-attr]


def test_coco_boxes_of_any_float_are_added_as_torchvision_adds_them(files: Files) -> None:
    rng = random.Random(19)
    boxes = [
        [rng.uniform(0, 300), rng.uniform(0, 300), rng.uniform(0.1, 300), rng.uniform(0.1, 300)] for _ in range(999)
    ]
    rows = [{"image_id": 7, "category_id": 1, "bbox": box} for box in boxes]
    images = [{"id": 7, "file_name": "a.jpg", "height": 600, "width": 600}]
    table = read_coco(files({"a.json": json.dumps({"images": images, "annotations": rows})}) / "a.json")
    assert np.array_equal(table["a.jpg"].boxes, box_convert(torch.tensor(boxes), "xywh", "xyxy").numpy())


def test_crowds_are_left_out_or_marked(files: Files) -> None:
    # As some tools write it.
    text = json.dumps(coco()).replace('"iscrowd": 1', '"iscrowd": 1.0').replace('"iscrowd": 0', '"iscrowd": false')
    path = files({"a.json": text}) / "a.json"
    assert read_coco(path)["a.jpg"].ignore.tolist() == [False, False]  # type: ignore[union-attr]
    kept = read_coco(str(path), crowd=True)["a.jpg"]
    assert kept.ignore is not None and kept.ignore.tolist() == [False, True, False]
    assert kept.labels.tolist() == [1, 90, 18]  # type: ignore[union-attr]


def test_coco_keypoints_belong_to_their_boxes(files: Files) -> None:
    rows = coco()["annotations"]
    rows[1]["keypoints"] = [5, 6, 2, 0, 0, 0, 7.5, 8, 1]
    rows[3]["keypoints"] = [1, 1, 2, 9, 9, 0, 2, 2, 2]
    table = read_coco(files({"a.json": json.dumps(coco(annotations=rows))}) / "a.json", crowd=True)
    found = table["a.jpg"]
    assert found.keypoints is not None and found.visible is not None
    assert found.keypoints.dtype == np.float32 and found.visible.dtype == np.uint8
    assert found.keypoints.tolist() == [
        [[5, 6], [0, 0], [7.5, 8]],
        [[0, 0], [0, 0], [0, 0]],
        [[1, 1], [0, 0], [2, 2]],
    ]
    assert found.visible.tolist() == [[2, 0, 1], [0, 0, 0], [2, 0, 2]]
    assert table["b.jpg"].visible.tolist() == [[0, 0, 0]]  # type: ignore[union-attr]
    assert table["c.jpg"].keypoints.shape == (0, 3, 2)  # type: ignore[union-attr]


def test_a_coco_file_may_have_no_annotations_a_byte_order_mark_and_unknown_keys(files: Files) -> None:
    text = json.dumps(coco(annotations=[], licenses=[{"x": [[[]]]}], videos={}))
    folder = files({"a.json": b"\xef\xbb\xbf" + text.encode(), "b.json": '{"images": [], "annotations": []}'})
    assert [len(found.boxes) for found in read_coco(folder / "a.json").values()] == [0, 0, 0]
    assert len(read_coco(folder / "b.json")) == 0


def changed(kind: str, at: int, /, **keys: object) -> dict[str, Any]:
    data = coco()
    data[kind][at] |= keys
    for key in [key for key, value in data[kind][at].items() if value == "missing"]:
        del data[kind][at][key]
    return data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (changed("annotations", 3, bbox=[0, 0, 10, -1]), "$.annotations[3].bbox: expected [x, y, width, height]"),
        (changed("annotations", 3, bbox=[1e9, 0, 10, 10]), "$.annotations[3]: the box [1e+09, 0, 1e+09, 10] is beyond"),
        (changed("annotations", 3, bbox=[600, 0, 42, 10]), "its image, 640 x 480 pixels"),
        (changed("annotations", 3, bbox=[600, 0, 3e38, 10]), "$.annotations[3]: the box"),
        (changed("annotations", 3, bbox=[600, 0, 1e300, 10]), "$.annotations[3]: the box"),
        (changed("annotations", 3, bbox=[-1.5, 0, 10, 10]), "$.annotations[3]: the box"),
        (changed("annotations", 3, image_id=5, bbox=[10**9, 0, 10, 10]), "is beyond 1048576 pixels"),
        (changed("annotations", 3, bbox=[1, 1, 0, 5]), "$.annotations[3]: the box [1, 1, 1, 6] has no area"),
        (changed("annotations", 3, bbox=[600, 1, 1e-9, 5]), "has no area"),
        (changed("annotations", 3, bbox=[1, 1, 5]), "$.annotations[3].bbox: expected [x, y, width, height], got"),
        (changed("annotations", 3, bbox=[1, 1, 5, 5, 5]), "$.annotations[3].bbox: expected at most 4 numbers"),
        (
            changed("annotations", 3, bbox=[1, "1", 5, 5]),
            "$.annotations[3].bbox: expected numbers, got '1' as number 1",
        ),
        (changed("annotations", 3, bbox=[1, [1], 5, 5]), "$.annotations[3].bbox: expected numbers, got a list"),
        (changed("annotations", 3, bbox=[1, True, 5, 5]), "$.annotations[3].bbox: expected numbers, got True"),
        (changed("annotations", 3, bbox={"x": 1}), "$.annotations[3].bbox: expected a list of numbers"),
        (changed("annotations", 3, bbox="missing"), "$.annotations[3].bbox: expected [x, y, width, height], got None"),
        (changed("annotations", 3, image_id="missing"), "$.annotations[3].image_id: it is missing"),
        (changed("annotations", 3, image_id="7"), "$.annotations[3].image_id: expected a whole number, got '7'"),
        (changed("annotations", 3, image_id=1.5), "$.annotations[3].image_id: expected a whole number, got 1.5"),
        (changed("annotations", 3, image_id=8), "$.annotations[3].image_id: no image has this id: 8"),
        (changed("annotations", 3, category_id=2), "$.annotations[3].category_id: no category has this id: 2"),
        (
            changed("annotations", 3, category_id=True),
            "$.annotations[3].category_id: expected a whole number, got True",
        ),
        (changed("annotations", 3, category_id=2**63), "$.annotations[3].category_id: it is no JSON: integer overflow"),
        (changed("annotations", 3, id=2), "$.annotations[3].id: 2 is that of $.annotations[1] too"),
        (changed("annotations", 3, iscrowd=2), "$.annotations[3].iscrowd: expected 0 or 1, got 2"),
        (changed("annotations", 3, keypoints=[1, 2]), "$.annotations[3].keypoints: expected [x, y, v, x, y, v, ...]"),
        (
            changed("annotations", 3, keypoints=[1, 2, 3]),
            "$.annotations[3].keypoints: expected [x, y, v, x, y, v, ...]",
        ),
        (changed("annotations", 3, keypoints=[700, 2, 2]), "$.annotations[3]: a point of [700, 2] is beyond its image"),
        (changed("annotations", 3, keypoints=5), "$.annotations[3].keypoints: expected [x, y, v, x, y, v, ...]"),
        (changed("images", 1, id=7), "$.images[1].id: 7 is that of $.images[0] too"),
        (changed("images", 1, file_name="c.jpg"), "$.images[2].file_name: 'c.jpg' is that of $.images[1] too"),
        (changed("images", 1, file_name="missing"), "$.images[1].file_name: expected the image's name"),
        (changed("images", 1, file_name=5), "$.images[1].file_name: expected the image's name"),
        (changed("images", 1, width=-5), "$.images[1].width: expected 0 to 1048576 pixels, got -5"),
        (changed("images", 1, width=10**9), "$.images[1].width: expected 0 to 1048576 pixels, got 1000000000"),
        (changed("categories", 1, id=1), "$.categories[1]: another category has the id 1 too"),
        (changed("categories", 1, name="missing"), "$.categories[1].name: expected the category's name"),
        (coco(images={}), "$.images: expected a list, got an object"),
        (coco(annotations=[[1]]), "$.annotations[0]: expected an object, got a list"),
        (coco(annotations=[None]), "$.annotations[0]: expected an object, got null"),
        ({"images": []}, "$: it has no annotations"),
        ({"annotations": []}, "$: it has no images"),
        ([coco()], "$: expected an object with images and annotations, got a list"),
        (5, "$: expected an object with images and annotations, got 5"),
    ],
)
def test_what_is_wrong_in_a_coco_file_is_told_with_its_place(data: object, told: str, files: Files) -> None:
    path = files({"a.json": json.dumps(data)}) / "a.json"
    with pytest.raises(UsageError) as caught:
        read_coco(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at $: it is no JSON: it ends in the middle"),
        (json.dumps(coco())[:500], "it is no JSON: it ends in the middle"),
        (json.dumps(coco()) + "]", "at $: it is no JSON: trailing garbage"),
        (json.dumps(coco()).replace("30.5", "NaN"), "at $.annotations[0].bbox: it is no JSON: invalid char"),
        (json.dumps(coco()).replace("30.5", "-Infinity"), "at $.annotations[0].bbox: it is no JSON: "),
        (json.dumps(coco()).replace("30.5", "1e999"), "at $.annotations[0].bbox: it is no JSON: numeric (floating"),
        (json.dumps(coco()).replace("30.5", "9" * 5000), "at $.annotations[0].bbox: it is no JSON: integer overflow"),
        (json.dumps(coco()).encode().replace(b"train/b", b"\xff"), "at $.images[1].file_name: it is no JSON: invalid"),
        (json.dumps(coco()).replace('"id": 2,', '"id": 2, "id": 9,'), "$.annotations[1].id: it is there twice"),
        (json.dumps(coco())[:-1] + ', "images": []}', "$.images: it is there twice"),
        ("[" * 100_000, "$: expected an object"),
        ('{"info": ' + "[" * 100_000, "at $.info: it is no JSON: it is nested deeper than 100 levels"),
        ('{"info": ' + '{"a":' * 100_000, "at $.info: it is no JSON: it is nested deeper than 100 levels"),
        ('{"annotations": [{"segmentation": ' + "[" * 100_000, "nested deeper than 100 levels"),
        ('{"annotations": [{"bbox": [1, ' + "[" * 100_000, "$.annotations[0].bbox: expected numbers"),
        ('{"info": "' + "x" * (6 << 20) + '"}', "one string or number of it has more than 4 MiB"),
        ('{"info": ' + "1" * (6 << 20) + "}", "one string or number of it has more than 4 MiB"),
        (json.dumps(coco()).encode("utf-16"), "at $: it is no JSON"),
        (b"a picture" + bytes(range(256)), "at $: it is no JSON"),
    ],
    ids=range(19),
)  # fmt: skip
def test_what_is_no_json_is_told_with_its_place(text: str | bytes, told: str, files: Files) -> None:
    path = files({"a.json": text}) / "a.json"
    with pytest.raises(UsageError) as caught:
        read_coco(path)
    assert str(path) in caught.value.message
    assert told in caught.value.message
    assert len(caught.value.message) < len(str(path)) + 300


@pytest.mark.parametrize("key", ["id", "category_id", "bbox"])
def test_a_number_too_long_is_told_by_ijsons_parser_in_python_too(
    key: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = ijson.get_backend("python")
    monkeypatch.setattr(ijson, "basic_parse_coro", python.basic_parse_coro)
    rows = coco()["annotations"]
    rows[0][key] = [10**400, 1, 2, 3] if key == "bbox" else 10**30
    path = files({"a.json": json.dumps(coco(annotations=rows))}) / "a.json"
    with pytest.raises(UsageError, match=r"\$\.annotations\[0\].*: expected a number of at most 64 bits"):
        read_coco(path)


def test_boxes_without_area_are_dropped_or_kept_where_asked(files: Files) -> None:
    path = files({"a.json": json.dumps(changed("annotations", 3, bbox=[1, 1, 0, 5]))}) / "a.json"
    assert read_coco(path, empty="drop")["a.jpg"].labels.tolist() == [1]  # type: ignore[union-attr]
    assert read_coco(path, empty="keep")["a.jpg"].boxes[1].tolist() == [1, 1, 1, 6]
    with pytest.raises(UsageError, match="empty is 'remove': expected refuse, drop or keep"):
        read_coco(path, empty="remove")  # type: ignore[arg-type]


def test_what_a_tool_rounded_beyond_the_edge_is_moved_to_it(files: Files) -> None:
    path = files({"a.json": json.dumps(changed("annotations", 3, bbox=[-0.5, 0, 640.75, 10]))}) / "a.json"
    assert read_coco(path)["a.jpg"].boxes[1].tolist() == [0, 0, 640.25, 10]


def test_a_long_coco_file_is_read_in_little_memory(tmp_path: Path) -> None:
    """20 MB of polygons, of 2,000 annotations: the whole tree of them would take 100 MB."""
    polygon = json.dumps([[round(at * 0.37, 2) for at in range(1400)]])
    with (tmp_path / "a.json").open("w") as file:
        images = [{"id": at, "file_name": f"{at}.jpg"} for at in range(1000)]
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for at in range(2000):
            row = {"id": at, "image_id": at % 1000, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": None}
            file.write(("," if at else "") + json.dumps(row).replace("null", polygon))
        file.write("]}")
    assert (tmp_path / "a.json").stat().st_size > 17_000_000

    def read() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        table = read_coco(tmp_path / "a.json")
        assert (len(table), sum(len(found.boxes) for found in table.values())) == (1000, 2000)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 12_000  # kB

    alone(read)


# Names


def test_a_name_finds_its_annotations_by_the_longest_part_that_is_known(files: Files) -> None:
    images = [
        {"id": at, "file_name": name} for at, name in enumerate(["t/a.jpg", "v/a.jpg", "v/b.c.jpg", "d", "e.png"])
    ]
    rows = [{"image_id": at, "category_id": at, "bbox": [0, 0, 1, 1]} for at in range(5)]
    table = read_coco(files({"a.json": json.dumps({"images": images, "annotations": rows})}) / "a.json")
    found = {
        name: table[name].labels[0]
        for name in ["t/a.jpg", "data/v/a.jpg", "b.c.jpg", "x/b.c.jpg", "b.c.png", "d.jpg", "x/d.jpg", "y/e.jpg", "e"]
    }
    assert [*found.values()] == [0, 1, 2, 2, 2, 3, 3, 4, 4]
    for name in ("a.jpg", "x/a.jpg", "a.png"):
        with pytest.raises(UsageError, match=r"may be 't/a.jpg' or 'v/a.jpg' of the annotations"):
            table[name]
    for name in ("b.jpg", "", "/", "f.png", ".jpg"):
        assert name not in table
        with pytest.raises(KeyError):
            table[name]


def test_two_images_do_not_share_annotations_unseen(files: Files) -> None:
    table = read_voc(files({"1.xml": voc(voc_object()), "2.xml": voc()}))
    table.check(["train/1.jpg", "train/2.jpg"])
    with pytest.raises(UsageError, match=r"'train/1.jpg' and 'val/1.jpg' would both have the annotations of '1'"):
        table.check(["train/1.jpg", "val/1.jpg"])
    with pytest.raises(UsageError, match=r"there are no annotations of '3.jpg'"):
        table.check(["3.jpg"])


def test_a_table_goes_to_workers_and_what_it_gives_may_be_changed(files: Files) -> None:
    table = read_coco(files({"a.json": json.dumps(coco())}) / "a.json")
    table["x/train/a.png"].boxes[:] = 5
    again = pickle.loads(pickle.dumps(table))  # noqa: S301
    assert again["a.jpg"].boxes[0, 0] == np.float32(0.1)
    assert again["a.jpg"].labels.tolist() == [1, 18]


# Pascal VOC


def test_voc_boxes_are_pixel_edges_or_the_raw_numbers(files: Files) -> None:
    folder = files({"a.xml": voc(voc_object(box="1 1 1 1"), voc_object("dog", "45.5 2 600 400"))})
    table = read_voc(folder)
    assert table["images/a.jpg"].boxes.tolist() == [[0, 0, 1, 1], [44.5, 1, 600, 400]]
    assert table["a.jpg"].boxes.dtype == np.float32
    assert (table["a.jpg"].labels, table["a.jpg"].size) == (("cat", "dog"), (400, 600))
    raw = read_voc(folder / "a.xml", raw=True, empty="keep")
    assert raw["a.jpg"].boxes.tolist() == [[1, 1, 1, 1], [45.5, 2, 600, 400]]
    # A tool that counts from 0: within a pixel, so that the edge is the image's.
    assert read_voc([files({"b.xml": voc(voc_object(box="0 0 9 9"))}) / "b.xml"])["b"].boxes.tolist() == [[0, 0, 9, 9]]


def test_voc_names_become_the_numbers_of_a_list(files: Files) -> None:
    folder = files({"a.xml": voc(voc_object("dog"), voc_object("cat")), "b.xml": voc()})
    table = read_voc(folder, classes=iter(["background", "cat", "dog"]))
    labels = table["a.jpg"].labels
    assert isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.tolist() == [2, 1]
    assert table.classes == {0: "background", 1: "cat", 2: "dog"}
    assert table["b.jpg"].labels.shape == (0,)  # type: ignore[union-attr]
    assert read_voc(folder)["b.jpg"].labels == ()
    with pytest.raises(UsageError, match=r"a.xml, line 4: 'dog' is none of the classes"):
        read_voc(folder, classes=["cat"])
    for classes in ("cat", ["cat", "cat"], [1]):
        with pytest.raises(UsageError, match="classes"):
            read_voc(folder, classes=classes)  # type: ignore[arg-type]


def test_difficult_objects_are_marked_or_left_out_and_parts_are_not_read(files: Files) -> None:
    part = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></part>"
    hard = voc_object("dog", "1 1 5 5", f"<difficult>1</difficult>{part}")
    folder = files({"a.xml": voc(hard, voc_object(more="<difficult>0</difficult>"))})
    found = read_voc(folder)["a"]
    assert found.labels == ("dog", "cat") and found.ignore.tolist() == [True, False]  # type: ignore[union-attr]
    assert read_voc(folder, difficult=False)["a"].labels == ("cat",)


def test_voc_folders_are_read_with_those_in_them_and_hidden_files_are_left(files: Files) -> None:
    folder = files({"t/a.xml": voc(voc_object()), "v/a.xml": voc(), "._a.xml": b"\0\5\x16\7", "readme.txt": "x"})
    table = read_voc(folder)
    assert [*table] == ["t/a", "v/a"]
    assert [len(table[name].boxes) for name in ("t/a.jpg", "images/v/a.jpg")] == [1, 0]
    with pytest.raises(UsageError, match="are both of an image 'a'"):
        read_voc([folder / "t/a.xml", folder / "v/a.xml"])
    with pytest.raises(UsageError, match=r"there is no .xml file in"):
        read_voc(files({"none/x.txt": ""}) / "none")
    with pytest.raises(UsageError, match=r"cannot read .*gone.xml: No such file"):
        read_voc(folder / "gone.xml")


_BILLION = "".join(f'<!ENTITY a{at} "{f"&a{at - 1};" * 10 if at else "ha" * 10}">' for at in range(10))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"<!DOCTYPE annotation [{_BILLION}]>{voc(voc_object('&a9;'))}", "line 1: it has a DOCTYPE"),
        (f'<!DOCTYPE annotation [<!ENTITY a "{"x" * 50_000}">]>{voc(voc_object("&a;" * 50_000))}', "a DOCTYPE"),
        (f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{voc(voc_object("&x;"))}', "line 1: it has a DOCTYPE"),
        (f'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">{voc()}', "line 1: it has a DOCTYPE"),
        (f'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/a"> %x;]>{voc()}', "line 1: it has a DOCTYPE"),
        (voc(voc_object("&a;")), "line 4: it is no XML: undefined entity"),
        (voc("<a>" * 100_000), "line 4: it is nested deeper than 32 levels"),
        (voc(voc_object()) + "x" * (5 << 20), "has more than 4 MiB"),
        (voc(voc_object())[:200], "line 4: it is no XML: unclosed token"),
        (voc(voc_object()).replace("</size>", "</sizes>"), "line 3: it is no XML: mismatched tag"),
        ("", "line 1: it is no XML: no element found"),
        ("<annotations/>", "line 1: it begins with <annotations>: expected <annotation>"),
        ('<?xml version="1.0" encoding="klingon"?>' + voc(), "it is no XML: unknown encoding"),
        (b"a picture" + bytes(range(256)), "line 1: it is no XML"),
        (voc(voc_object(), voc_object(box="1 2 3 nan")), "line 5: <ymax> is 'nan': expected a number"),
        (voc(voc_object(box="1 2 3 inf")), "line 4: <ymax> is 'inf': expected a number"),
        (voc(voc_object(box="1 2 3 1e999")), "line 4: the box [0, 1, 3, inf] is beyond its image, 600 x 400 pixels"),
        (voc(voc_object(box="1 2 3 1000000000"), size=""), "line 4: the box [0, 1, 3, 1e+09] is beyond 1048576 pixels"),
        (voc(voc_object(box="1 2 3 ٣")), "line 4: <ymax> is '٣': expected a number"),
        (voc(voc_object(box="1 2 3 402")), "line 4: the box [0, 1, 3, 402] is beyond its image"),
        (voc(voc_object(box="-5 2 3 9")), "line 4: the box [-6, 1, 3, 9] is beyond its image"),
        (voc(voc_object(box="9 2 3 9")), "line 4: the box [8, 1, 3, 9] has its corners the wrong way round"),
        (voc(voc_object(box="10 2 9 9")), "line 4: the box [9, 1, 9, 9] has no area"),
        (voc(voc_object().replace("<ymin>72</ymin>", "")), "line 4: the object has no <ymin>"),
        (voc(voc_object().replace("<ymin>72</ymin>", "<ymin/>")), "line 4: the object has no <ymin>"),
        (voc(voc_object("")), "line 4: the object has no <name>"),
        (voc(voc_object().replace("<name>", "<name>cat</name><name>")), "line 4: <name> is there twice"),
        (voc(voc_object().replace("cat", "c<b>a</b>t")), "line 4: <name> holds <b>: expected a text"),
        (voc(voc_object(more="<difficult>maybe</difficult>")), "line 4: <difficult> is 'maybe': expected 0 or 1"),
        (voc(size="<size><width>-5</width></size>"), "<width> of the image is '-5': expected pixels"),
        (voc(size="<size><height>1e99</height></size>"), "<height> of the image is '1e99': expected pixels"),
    ],
    ids=range(31),
)
def test_what_is_wrong_in_a_voc_file_is_told_with_its_line(text: str | bytes, told: str, files: Files) -> None:
    folder = files({"a.xml": text})
    with pytest.raises(UsageError) as caught:
        read_voc(folder)
    assert str(folder / "a.xml") in caught.value.message
    assert told in caught.value.message
    assert len(caught.value.message) < len(str(folder)) + 300


def test_the_pets_are_read_as_they_are(files: Files) -> None:
    """Oxford-IIIT Pet: labels of all images, and a head's box of some, named by their own files."""
    folder = files(
        {
            "annotations/list.txt": "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\nbeagle_9 5 2 3\n",
            "annotations/xmls/Abyssinian_1.xml": voc(voc_object(more="<difficult>0</difficult>")),
            "annotations/trimaps/._Abyssinian_1.png": b"\0\5\x16\7",
        }
    )
    heads = read_voc(folder / "annotations/xmls")
    assert heads["images/Abyssinian_1.jpg"].boxes.tolist() == [[332, 71, 425, 158]]
    assert [name for name in read_labels(folder / "annotations/list.txt") if f"{name}.jpg" in heads] == ["Abyssinian_1"]


# YOLO


def test_yolo_boxes_are_in_pixels_of_the_sizes_that_are_given(files: Files) -> None:
    folder = files(
        {
            "labels/train/a.txt": "1 0.5 0.5 0.5 0.25\n\n0 0.05 0.1 0.1 0.2\r\n",
            "labels/train/b.txt": "",
            "labels/classes.txt": "cat\ndog\n",
        }
    )
    sizes = {
        "images/train/a.jpg": (100, 200),
        "images/train/b.jpg": (np.int64(50), np.int64(60)),
        "images/other.jpg": (1, 1),
    }
    table = read_yolo(folder / "labels", sizes)
    found = table["images/train/a.jpg"]
    assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64  # type: ignore[union-attr]
    assert np.allclose(found.boxes, [[50, 37.5, 150, 62.5], [0, 0, 20, 20]], rtol=1e-6)
    assert (found.labels.tolist(), found.size) == ([1, 0], (100, 200))  # type: ignore[union-attr]
    assert table.classes == {0: "cat", 1: "dog"}
    assert [*table] == ["train/a", "train/b"] and table["train/b.jpg"].boxes.shape == (0, 4)


def test_yolo_takes_sizes_from_the_headers_of_images(files: Files) -> None:
    folder = files({"labels/a.txt": "0 0.5 0.5 1 1\n", "images/other.jpg": "no image, and nobody's"})
    Image.new("RGB", (40, 30)).save(folder / "images/a.png")
    for sizes in (folder / "images", str(folder / "images")):
        assert read_yolo(folder / "labels", sizes)["a.png"].boxes.tolist() == [[0, 0, 40, 30]]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(folder / "images/a.png", exif=exif)
    with pytest.raises(UsageError, match=r"a.png is 40 x 30, and turned by its EXIF orientation"):
        read_yolo(folder / "labels", folder / "images")
    files({"images/a.png": "no image"})
    with pytest.raises(UsageError, match=r"a.png is no image that can be opened"):
        read_yolo(folder / "labels", folder / "images")
    with pytest.raises(UsageError, match="there is no folder"):
        read_yolo(folder / "labels", folder / "pictures")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 0.5 0.5 1 1\n0 0.1 0.1 0.2 0.1 0.2 0.2\n", "line 2: it has 7 fields: expected class, x, y, width, height"),
        ("0 .5 .5 1 1 .5 .5 2\n", "line 1: it has 8 fields"),
        ("0 .5 .5 1 1 .98\n", "line 1: it has 6 fields"),
        ("0 .5 .5 1\n", "line 1: it has 4 fields"),
        ("cat .5 .5 1 1\n", "line 1: the class is 'cat': expected a whole number from 0"),
        ("-1 .5 .5 1 1\n", "line 1: the class is '-1'"),
        ("1.5 .5 .5 1 1\n", "line 1: the class is '1.5'"),
        ("1e30 .5 .5 1 1\n", "line 1: the class is '1e30'"),
        ("7 .5 .5 1 1\n", "line 1: "),
        ("0 nan .5 1 1\n", "line 1: 'nan': expected a number from 0 to 1"),
        ("0 .5 inf 1 1\n", "line 1: 'inf': expected a number from 0 to 1"),
        ("0 320 240 100 100\n", "line 1: '320': expected a number from 0 to 1"),
        ("0 .5 .5 1 1000000000\n", "line 1: '1000000000': expected a number from 0 to 1"),
        ("0 .5 .5 -0.1 .1\n", "line 1: '-0.1': expected a number from 0 to 1"),
        ("0 .5 .5 0 .1\n", "line 1: the box [100, 45, 100, 55] has no area"),
        ("0 1 1 .5 .5\n", "line 1: the box [150, 75, 250, 125] is beyond its image, 200 x 100 pixels"),
        (b"\xff\xfe0", "it is not UTF-8"),
        (b"0 .5 .5 1 1" + bytes(5 << 20), "has more than 4 MiB"),
    ],
    ids=range(18),
)
def test_what_is_wrong_in_a_yolo_file_is_told_with_its_line(text: str | bytes, told: str, files: Files) -> None:
    folder = files({"a.txt": text, "classes.txt": "cat\ndog\n"})
    with pytest.raises(UsageError) as caught:
        read_yolo(folder, {"a.jpg": (100, 200)})
    assert str(folder / "a.txt") in caught.value.message
    assert told in caught.value.message
    assert len(caught.value.message) < 2 * len(str(folder)) + 300


def test_a_yolo_file_needs_one_size(files: Files) -> None:
    folder = files({"a.txt": "0 .5 .5 1 1\n"})
    with pytest.raises(UsageError, match=r"a.txt: the size of its image is not known \(1 in all\)"):
        read_yolo(folder, {"b.jpg": (5, 5)})
    with pytest.raises(UsageError, match=r"a.txt: its image is \(5, 5\) and, as 'a.png', \(6, 6\)"):
        read_yolo(folder, {"a.jpg": (5, 5), "a.png": (6, 6)})
    for size in ((5,), (5, 0), (5, True), 5, (5.5, 5), (5, 10**9)):
        with pytest.raises(UsageError, match=r"the size of 'a.jpg' is .*: expected \(height, width\) in pixels"):
            read_yolo(folder, {"a.jpg": size})  # type: ignore[dict-item]


# Batches


def sample(width: int, boxes: int, mask: torch.dtype = torch.uint8) -> dict[str, object]:
    return {
        "image": tv_tensors.Image(torch.zeros(3, 4, width)),
        "mask": tv_tensors.Mask(torch.zeros(4, width, dtype=mask)),
        "boxes": tv_tensors.BoundingBoxes(torch.ones(boxes, 4), format="XYXY", canvas_size=(4, width)),  # type: ignore[call-overload]
        "name": f"{boxes}.jpg",
        "label": boxes,
    }


def test_samples_with_boxes_of_different_number_make_a_batch() -> None:
    batch = collate_annotated([sample(5, 2), sample(5, 0, torch.int32)])
    assert batch["image"].shape == (2, 3, 4, 5)  # type: ignore[attr-defined]
    assert batch["mask"].shape == (2, 4, 5) and batch["mask"].dtype == torch.int32  # type: ignore[attr-defined]
    assert [boxes.shape for boxes in batch["boxes"]] == [(2, 4), (0, 4)]  # type: ignore[attr-defined]
    assert all(isinstance(boxes, tv_tensors.BoundingBoxes) for boxes in batch["boxes"])  # type: ignore[attr-defined]
    assert batch["name"] == ["2.jpg", "0.jpg"] and batch["label"].tolist() == [2, 0]  # type: ignore[attr-defined]
    uneven = collate_annotated([sample(5, 2), sample(6, 1)])
    assert [image.shape[-1] for image in uneven["image"]] == [5, 6]  # type: ignore[attr-defined]
    assert isinstance(uneven["mask"], list)


def test_samples_that_do_not_fit_together_are_refused() -> None:
    whole, part = sample(5, 1), sample(5, 1)
    del part["mask"]
    with pytest.raises(ValueError, match="the same keys"):
        collate_annotated([whole, part])
    with pytest.raises(ValueError, match="the same keys"):
        collate_annotated([])
