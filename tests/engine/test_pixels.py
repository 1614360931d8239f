"""``pixels`` in etl_args: the plan, the shard and the steps for a device of an answer that a table is to make of."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tvetl.errors import ArgumentsError
from tvetl.spec import Arguments, Value, parse
from tvetl_server.engine import DeviceRequest, Engine, NotByDevice, has_torch
from tvetl_server.engine.pixels import Array, Encoded
from tvetl_server.limits import Limits
from tvetl_server.plugin_ops import Do, Draw, PluginOp, Size

CROP = [{"op": "RandomResizedCrop", "size": 48}, {"op": "RandomHorizontalFlip"}]
NORMALIZE = {"op": "Normalize", "mean": [0.5], "std": [0.25]}
TENSOR = [*CROP, {"op": "ToTensor"}, NORMALIZE]
PIXELS = Arguments(pixels=True)


def engine(*steps: dict[str, object], **fields: object) -> Engine:
    return Engine(parse({"steps": list(steps), "seed": 3, **fields}), Limits())


@pytest.fixture(scope="module")
def photo(photographs: list[Path]) -> bytes:
    return photographs[-1].read_bytes()


def read(body: object) -> Array:
    assert isinstance(body, bytes)
    tensor: Array = np.load(io.BytesIO(body))
    return tensor


def test_they_are_the_answer_of_the_pipeline_with_piltotensor_at_its_end(photo: bytes) -> None:
    whole, bytes_only = engine(*TENSOR), engine(*CROP, {"op": "PILToTensor"})
    for view in range(4):
        answer = whole.transform(photo, "b/o", Arguments(view=view, pixels=True))
        assert answer == bytes_only.transform(photo, "b/o", Arguments(view=view))
        assert answer.content_type == "application/octet-stream"
        assert read(answer.body).shape == (3, 48, 48)
    assert read(whole.transform(photo, "b/o", Arguments()).body).dtype == np.float32


def test_a_shards_images_are_pixels_then(photo: bytes) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("a.jpg", "b.jpg", "b.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(photo) if name.endswith(".jpg") else 2
            tar.addfile(member, io.BytesIO(photo if name.endswith(".jpg") else b"hi"))
    whole = engine(*TENSOR)
    body = whole.transform(file.getvalue(), "b/a.tar", PIXELS).body
    assert not isinstance(body, bytes)
    with body, tarfile.open(fileobj=body) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert found.pop("b.txt") == b"hi"
    for name in ("a", "b"):
        assert found.pop(f"{name}.npy") == whole.transform(photo, f"b/a.tar/{name}", PIXELS).body
    assert found == {}


def test_plugin_ops_before_the_table_are_done(photo: bytes) -> None:
    def shade(params: Mapping[str, Value], draw: Draw, size: Size) -> tuple[Do, Size]:
        return lambda image: image.point([value // 2 for value in range(256)] * 3), size

    own = {"acme.Shade": PluginOp("Shade", {}, shade)}
    steps = [*CROP, {"op": "acme.Shade"}, {"op": "ToTensor"}, NORMALIZE]
    shaded = Engine(parse({"steps": steps, "seed": 3}), Limits(), own).transform(photo, "b/o", PIXELS).body
    assert np.array_equal(read(shaded), read(engine(*TENSOR).transform(photo, "b/o", PIXELS).body) // 2)


def test_what_has_no_such_pixels_is_refused(photo: bytes) -> None:
    for steps, why in (
        (CROP, r"\$\.pixels: needs a pipeline that ends in a tensor; this one gives jpeg"),
        ([*CROP, {"op": "PILToTensor"}], r"\$\.pixels: the pipeline gives these pixels already"),
    ):
        with pytest.raises(ArgumentsError, match=why):
            engine(*steps).transform(photo, "b/o", PIXELS)
    if has_torch():
        with pytest.raises(ArgumentsError, match=r"only ToDtype and Normalize may follow .*; step 4 is RandomErasing"):
            engine(*TENSOR, {"op": "RandomErasing"}).transform(photo, "b/o", PIXELS)


class Listener:
    """A device that keeps the requests that it gets, and leaves them to the CPU."""

    def __init__(self) -> None:
        self.requests: list[DeviceRequest] = []

    def transform(self, request: DeviceRequest) -> Sequence[Array | Encoded]:
        self.requests.append(request)
        raise NotByDevice("refused")

    def cpu_slot(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def test_a_device_is_asked_for_pixels_by_steps_without_the_last_table(photo: bytes) -> None:
    device = Listener()
    twice = [{"op": "ToTensor"}, NORMALIZE, {"op": "ToPILImage"}, *TENSOR]
    both = Engine(parse({"steps": twice, "seed": 3}), Limits(), device=device)
    both.transform(photo, "b/o", Arguments())
    both.transform(photo, "b/o", PIXELS)
    whole, pixels = (request.steps[0] for request in device.requests)
    assert [whole[0], whole[-1][-1]] == [["look_up", 0], 1]
    assert [pixels[0], pixels[-1][-1]] == [["look_up", 0], -1]
    assert [whole[1:-1], whole[-1][:-1]] == [pixels[1:-1], pixels[-1][:-1]]
    uncropped = Engine(parse({"steps": [{"op": "ToTensor"}], "seed": 3}), Limits(), device=device)
    uncropped.transform(photo, "b/o", PIXELS)
    assert device.requests[-1].steps == [[]]


def test_a_device_is_not_asked_for_the_pixels_of_torchvisions_own_steps(photo: bytes) -> None:
    if not has_torch():
        pytest.skip("RandAugment needs torchvision, which is not installed")
    device = Listener()
    augmented = Engine(
        parse({"steps": [*CROP, {"op": "RandAugment"}, {"op": "ToTensor"}], "seed": 3}), Limits(), device=device
    )
    assert augmented.transform(photo, "b/o", PIXELS).ways == {"step": 1}
    assert device.requests == []
    assert augmented.transform(photo, "b/o", Arguments()).ways == {"refused": 1}
