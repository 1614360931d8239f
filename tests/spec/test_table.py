"""Pipelines in two: one that gives bytes, and the table that makes of each byte what the whole pipeline gives."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tvetl import spec
from tvetl.spec.pointwise import NotSplit, parts
from tvetl.spec.table import split

CROP = {"op": "RandomResizedCrop", "size": 32}
NORMALIZE = {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
FLOAT = {"op": "ToDtype", "dtype": "float32", "scale": True}
BYTES = {"op": "ToDtype", "dtype": "uint8", "scale": True}


def pipeline(*steps: dict[str, Any], **fields: Any) -> spec.Pipeline:
    return spec.parse({"steps": list(steps), **fields})


def table(*steps: dict[str, Any], **fields: Any) -> Any:
    found = split(pipeline(*steps, **fields))
    assert found is not None
    assert found.table.flags.c_contiguous
    return found.table


def test_the_pixels_pipeline_is_the_same_up_to_the_last_step_from_image_to_tensor() -> None:
    fields = {
        "seed": 3,
        "precision": "fast",
        "orientation": "apply",
        "depth": "scale",
        "truncated": "pad",
        "background": (1, 2, 3),
    }
    found = split(pipeline(CROP, {"op": "ToTensor"}, NORMALIZE, output={"format": "raw", "dtype": "float16"}, **fields))
    assert found is not None
    assert found.pipeline == pipeline(CROP, {"op": "PILToTensor"}, output={"format": "raw"}, **fields)
    assert spec.parse(spec.canonical(found.pipeline)) == found.pipeline
    again = [{"op": "ToTensor"}, NORMALIZE, {"op": "ToPILImage"}]
    found = split(pipeline(*again, CROP, {"op": "ToImage"}, FLOAT))
    assert found is not None
    assert found.pipeline == pipeline(*again, CROP, {"op": "PILToTensor"})


def test_steps_of_boxes_stay_with_the_pixels() -> None:
    """They end the presets for detection, behind the steps that become a table."""
    clamp, sanitize = {"op": "ClampBoundingBoxes"}, {"op": "SanitizeBoundingBoxes", "min_size": 3}
    found = split(pipeline(CROP, {"op": "ToImage"}, clamp, FLOAT, sanitize))
    assert found is not None
    assert found.pipeline == pipeline(CROP, clamp, sanitize, {"op": "PILToTensor"})
    assert np.array_equal(found.table, table({"op": "ToImage"}, FLOAT))


def test_a_table_has_the_dtype_and_the_channels_of_the_answer() -> None:
    assert table({"op": "ToTensor"}).shape == (3, 256)
    assert table({"op": "Grayscale"}, {"op": "ToTensor"}).shape == (1, 256)
    three = {"op": "Grayscale", "num_output_channels": 3}
    assert table({"op": "Grayscale"}, three, {"op": "ToTensor"}, NORMALIZE).shape == (3, 256)
    assert table({"op": "ToTensor"}).dtype == np.float32
    assert table({"op": "ToTensor"}, output={"format": "npy", "dtype": "float16"}).dtype == np.float16
    half = {"op": "ToDtype", "dtype": "float16", "scale": True}
    assert table({"op": "ToImage"}, half).dtype == np.float16
    assert table({"op": "ToImage"}, half, output={"format": "npy", "dtype": "float32"}).dtype == np.float32
    assert table({"op": "ToTensor"}, NORMALIZE, BYTES).dtype == np.uint8


def test_values_are_rounded_as_the_answer_is() -> None:
    whole = table({"op": "ToTensor"}, NORMALIZE)
    byte = np.arange(256, dtype=np.uint8).astype(np.float32) / np.float32(255)
    assert np.array_equal(whole[0], (byte - np.float32(0.485)) / np.float32(0.229))
    half = table({"op": "ToTensor"}, NORMALIZE, output={"format": "npy", "dtype": "float16"})
    assert np.array_equal(half, whole.astype(np.float16))


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([CROP], "needs a pipeline that ends in a tensor; this one gives jpeg"),
        ([{"op": "ToTensor"}, {"op": "ToPILImage"}], "needs a pipeline that ends in a tensor; this one gives jpeg"),
        ([CROP, {"op": "PILToTensor"}], "the pipeline gives these pixels already"),
        ([{"op": "ToImage"}, {"op": "ToDtype", "dtype": "uint8"}], "the pipeline gives these pixels already"),
        (
            [{"op": "ToTensor"}, NORMALIZE, {"op": "RandomErasing"}],
            "only ToDtype and Normalize may follow step 0 (ToTensor); step 2 is RandomErasing",
        ),
        (
            [CROP, {"op": "ToImage"}, {"op": "Resize", "size": 9}, FLOAT, NORMALIZE],
            "only ToDtype and Normalize may follow step 1 (ToImage); step 2 is Resize",
        ),
    ],
)
def test_what_cannot_be_split_has_a_reason(steps: list[dict[str, Any]], why: str) -> None:
    whole = pipeline(*steps)
    assert split(whole) is None
    with pytest.raises(NotSplit) as caught:
        parts(whole)
    assert str(caught.value) == why


def test_the_contract_is_imported_without_numpy() -> None:
    code = "import sys, tvetl.spec, tvetl.spec.pointwise; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
