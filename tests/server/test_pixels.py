"""``pixels`` in etl_args, through HTTP and the decoders' processes: bytes, of which a table makes the whole answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.serving import Disk, Server

from tvetl.spec import parse
from tvetl.spec.table import split

STEPS = [
    {"op": "RandomResizedCrop", "size": 32},
    {"op": "ToTensor"},
    {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
]


@pytest.fixture
def ask(run_server: Callable[..., Server], disk: Disk, image: bytes) -> Callable[..., Any]:
    """Put the image to a server of these steps, with arguments."""

    def ask(steps: list[dict[str, object]], *asked: dict[str, object]) -> list[Any]:
        pipeline = json.dumps({"steps": steps, "seed": 3})
        server = run_server(TVETL_ROOTS=str(disk.root), TVETL_PIPELINE=pipeline)
        arguments = [json.dumps(each, separators=(",", ":")).replace('"', "%22") for each in asked]
        replies = [server.put(f"/src/a.jpg?etl_args={each}", image) for each in arguments]
        return [*replies, *(server.put(f"{disk.add('a.jpg', image)}&etl_args={each}") for each in arguments)]

    return ask


def test_pixels_looked_up_are_the_whole_answer(ask: Callable[..., Any]) -> None:
    found = split(parse({"steps": STEPS}))
    assert found is not None
    asked = {"epoch": 2, "view": 1}
    replies = ask(STEPS, asked, {**asked, "pixels": True}, {**asked, "pixels": False})
    assert {reply.status for reply in replies} == {200}
    whole, pixels, false = (reply.body for reply in replies[:3])
    assert [reply.body for reply in replies[3:]] == [whole, pixels, false]
    assert false == whole
    planes = np.load(io.BytesIO(pixels))
    assert (planes.dtype, planes.shape) == (np.uint8, (3, 32, 32))
    looked_up = np.stack([found.table[c][planes[c]] for c in range(3)])
    assert looked_up.tobytes() == np.load(io.BytesIO(whole)).tobytes()


def test_where_there_are_none_the_answer_is_400_and_why(ask: Callable[..., Any]) -> None:
    for reply in ask(STEPS[:1], {"pixels": True}):
        assert reply.status == 400
        said = json.loads(reply.body)
        assert said["error"] == "bad_arguments"
        assert "$.pixels: needs a pipeline that ends in a tensor; this one gives jpeg" in said["message"]
