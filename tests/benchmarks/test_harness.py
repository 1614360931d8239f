"""The benchmark's own judgement: it must see a wrong output, and tell of its figures what is in them. Times nothing."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmarks import check, inputs, measure
from benchmarks.work import PIPELINES, pipeline
from PIL import Image
from support.serving import Disk, disk, image, start

from tvetl.spec import parse

__all__ = ["disk", "image"]  # the fixtures

SEEN = {"equal": 5, "of": 5}


@pytest.fixture(scope="module")
def performance(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance", repository / "docs/performance.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jpeg(level: int, **options: object) -> bytes:
    Image.new("RGB", (16, 16), (level, 0, 0)).save(buffer := io.BytesIO(), "JPEG", **options)
    return buffer.getvalue()


# --- outputs --------------------------------------------------------------------------------------------------------


def test_outputs_are_equal_by_bytes_or_by_pixels_and_in_no_other_way() -> None:
    wanted = {
        "same": jpeg(10),
        "resolution": jpeg(10, dpi=(72, 72)),
        "pixel": jpeg(10),
        "missing": jpeg(10),
        "raw": b"ab",
    }
    outputs = {"same": jpeg(10), "resolution": jpeg(10), "pixel": jpeg(20), "raw": b"ac"}
    assert check.equal(outputs, wanted) == {"equal": 2, "of": 5}


def test_a_wrong_side_is_caught(tmp_path: Path, photographs: list[Path], performance: ModuleType) -> None:
    """The whole way: our engine in a loop equals torchvision, and with another pipeline it does not."""
    reference = pytest.importorskip("benchmarks.reference", reason="needs torch").Reference
    objects = [(f"photos/{path.name}", path) for path in photographs[:3]]
    wanted = {
        pipeline: {name: reference(pipeline)(path.read_bytes(), name) for name, path in objects}
        for pipeline in ("train", "crop")
    }
    loop = measure.Loop("engine", 1, tmp_path / "log")
    try:
        for pipeline in ("train", "crop"):
            listed = [(name, str(path)) for name, path in objects]
            loop.ask(do="check", pipeline=pipeline, objects=listed, into=str(tmp_path))
            outputs = {name: (tmp_path / str(at)).read_bytes() for at, (name, _) in enumerate(objects)}
            assert check.equal(outputs, wanted[pipeline]) == {"equal": 3, "of": 3}
        assert check.equal(outputs, wanted["train"])["equal"] == 0
        assert loop.run("crop", objects, 0.1).images > 0
        (spent,) = loop.ask(do="stages", pipeline="train", objects=listed, root=str(objects[0][1].parent), seconds=0.1)
        assert set(spent) == set(performance.STAGES)
        assert 0 < spent["decode, resize, flip, table"] < sum(spent.values())
        with pytest.raises(measure.Broken, match="engine ended"):
            loop.ask(do="check", pipeline="crop", objects=[("a", "no-such-file")], into=str(tmp_path))
    finally:
        loop.stop()


def test_distance_is_that_of_the_worst_and_of_the_middle_image() -> None:
    def png(level: int) -> bytes:
        Image.new("L", (8, 8), level).save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()

    wanted = {name: png(100) for name in "abc"}
    found = check.distance({"a": png(100), "b": png(101), "c": png(110)}, wanted)
    assert found == {"lowest": 28.1, "median": 48.1, "largest": 10}
    assert check.good(found)
    assert not check.good(found, lowest=30)


def test_every_side_begins_a_round() -> None:
    orders = [check.in_turns(["a", "b", "c"], round_) for round_ in range(3)]
    assert {order[0] for order in orders} == {"a", "b", "c"}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_photographs_are_made_as_large_as_they_are_called_and_the_same_again(photographs: list[Path]) -> None:
    data = photographs[-1].read_bytes()
    large = inputs.enlarged(data, 2, 7)
    assert large == inputs.enlarged(data, 2, 7)
    assert large != inputs.enlarged(data, 2, 8)
    with Image.open(io.BytesIO(large)) as image, Image.open(io.BytesIO(data)) as small:
        assert image.width * image.height == pytest.approx(2e6, rel=0.01)
        assert image.width / image.height == pytest.approx(small.width / small.height, rel=0.01)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_is_one(name: str) -> None:
    assert parse(pipeline(name)).seed is not None


# --- measuring ------------------------------------------------------------------------------------------------------


def test_requests_are_those_of_a_target(tmp_path: Path, disk: Disk, image: bytes) -> None:
    """What wrk would send, by file name with arguments, is answered by a real server."""
    disk.add("a b.jpg", image, "photos")
    server = start(tmp_path / "log", TVETL_ROOTS=str(disk.root))
    try:
        target = measure.target("photos/a b.jpg", disk.path("a b.jpg", "photos"), '{"seed": 3}')
        listed = measure.write_requests(tmp_path / "list", [("photos/a b.jpg", disk.path("a b.jpg", "photos"))])
        assert server.put(target).status == 200
        assert server.put(listed.read_text().partition("\t")[0]).status == 200
        used = measure.cpu_seconds(server.process.pid)
        assert len(measure.tree(server.process.pid)) >= 2
        assert used > 0
        with measure.peak(server.process.pid) as held:
            assert server.put(target).status == 200
        assert 20 < held[-1] < 1000
    finally:
        server.stop()


# --- tables ---------------------------------------------------------------------------------------------------------


def results(checked: Mapping[str, Any] = SEEN) -> dict[str, Any]:
    def row(side: str, way: str, rates: list[float]) -> dict[str, Any]:
        rounds = [{"rate": rate, "p50": 1.0, "p99": 2.0, "cpu": 3.0} for rate in rates]
        more = {"megabytes": 100.0 if side == "tvetl" else 700.0} if way == "name" else {}
        fixed = {"pipeline": "train", "input": "imagenet", "way": way, "side": side, "rounds": rounds, **more}
        return {**fixed, "checked": checked if side == "tvetl" else SEEN}

    sizes = {"objects": 5, "photographs": 5, "megapixels": 0.2, "kilobytes": 100.0}
    return {
        "machine": {"cpu": "x", "cores": 2, "memory_gb": 8, "load": 0.1, "python": "3.11"},
        "versions": {"torch": "2"},
        "settings": {"workers": 1, "rounds": 3, "seconds": 1, "connections": 4, "minutes": 1.0},
        "inputs": {kind: {"label": kind, **sizes} for kind in ("imagenet", "2mp", "12mp")},
        "skipped": [{"side": "limit", "where": "", "reason": "no wheel"}],
        "rates": [row("tvetl", "name", [200, 90, 210]), row("fastapi", "name", [100, 30, 100])],
    }


def line(table: str, start: str) -> str:
    (found,) = [line for line in table.splitlines() if line.startswith(f"| {start}")]
    return found


def test_a_ratio_is_taken_round_by_round(performance: ModuleType) -> None:
    said = line(performance.goals(results()), "exact, imagenet")
    # 200/100, 90/30, 210/100: the slow round was slow for both.
    assert "2.10 (2.00 to 3.00) by file name" in said
    assert said.endswith("| yes |")


def test_what_differs_from_torchvision_has_no_figure(performance: ModuleType) -> None:
    wrong = results({"equal": 4, "of": 5})
    assert line(performance.goals(wrong), "exact, imagenet").endswith("| not measured | |")
    assert "does not count" in performance.rates(wrong)
    assert "4 of 5 equal" in performance.rates(wrong)


def test_a_goal_missed_is_said(performance: ModuleType) -> None:
    slow = results()
    slow["rates"][0]["rounds"] = slow["rates"][1]["rounds"]
    assert line(performance.goals(slow), "exact, imagenet").endswith("| **no** |")


def test_who_did_not_run_is_said(performance: ModuleType) -> None:
    assert "Not run: region decode alone in a loop: the limit: no wheel." in performance.conditions(results())


def test_the_kept_results_are_of_a_whole_run(performance: ModuleType) -> None:
    kept = performance.load()
    assert kept["quick"] is False
    assert {"rates", "start", "stages", "views", "shard"} <= kept.keys()
    assert {row["input"] for row in kept["rates"]} == kept["inputs"].keys()
