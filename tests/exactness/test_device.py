"""How far the device's code is from exact on the CPU: what docs/gpu.md says, measured again on a few photographs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tvetl.spec import OPS

pytest.importorskip("nvidia.nvimgcodec", reason="needs nvImageCodec, as the device does")
distances = pytest.importorskip("benchmarks.distances", reason="compares by torch, which is not installed")

#: What these draw for few photographs says nothing about all of them.
DRAWN = ("AutoAugment", "RandAugment", "TrivialAugmentWide", "RandomChoice: brightness or saturation")


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the table in docs/gpu.md was made of."""
    found: dict[str, Any] = distances.gpu.load()["distance on host"]
    return found


def test_every_op_of_the_table_is_measured(told: dict[str, Any]) -> None:
    on_images = {name for name, op in OPS.items() if not op.needs_boxes}
    assert {step["op"] for steps in distances.CASES.values() for step in steps} == on_images
    assert told.keys() == distances.CASES.keys()
    assert {row["images"] for row in told.values()} == {125}


@pytest.mark.parametrize("name", distances.CASES)
def test_its_distance_is_what_the_docs_say(name: str, shared: Path, sample: list[bytes], told: dict[str, Any]) -> None:
    """Four of the photographs with the seeds that they had, so they are no further off than the furthest of all."""
    some = {number: sample[number] for number in (10, 40, 70, 100)}
    found, row = distances.measured("host", distances.CASES[name], some).figures(), told[name]
    assert found["images"] == len(some), "the device did them"
    # Where a pixel lies between two, another processor's float32 may take the other one.
    assert found["largest"] <= (row["largest"] if row["largest"] < 10 else 255)
    assert found["lowest"] >= row["lowest"] - 1
    assert found["median"] == pytest.approx(row["median"], abs=8) or name in DRAWN
    if row["differ"] > 0.1:
        assert 0.3 * row["differ"] < found["differ"] < 2 * row["differ"]


def test_it_stays_near_on_any_photograph(photographs: list[Path]) -> None:
    files = {}
    for number, path in enumerate(photographs):
        Image.open(path).convert("RGB").save(file := io.BytesIO(), "JPEG", quality=90)
        files[number] = file.getvalue()
    for name, lowest in (("RandomResizedCrop, flip", 54), ("ColorJitter: hue", 38), ("Resize, bicubic", 50)):
        found = distances.measured("host", distances.CASES[name], files).figures()
        assert found["images"] == len(files)
        assert found["lowest"] > lowest, name
