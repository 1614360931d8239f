"""A batch gives what each of its images gives alone, also where some of them fail."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the device needs torch, which is not installed")
pytest.importorskip("nvidia.nvimgcodec", reason="the device needs nvImageCodec, which is not installed")

from benchmarks.distances import InProcess
from support.device.in_process import Both

from tvetl_server.engine import DeviceRequest
from tvetl_server.engine.cuda import DeviceLost, Gpu


def request(data: bytes, *programs: list[Any], jpeg: tuple[int, str | None] | None = None) -> DeviceRequest:
    return DeviceRequest(data, Image.open(io.BytesIO(data)).size, programs or ([],), jpeg, None)


def test_a_batch_gives_what_each_gives_alone(taken: dict[str, bytes]) -> None:
    both = Both([{"op": "Resize", "size": 64}, {"op": "CenterCrop", "size": 64}])
    assert isinstance(both.device._device, InProcess)
    gpu = both.device._device.gpu
    programs = [
        [["crop", 5, 6, 70, 80]],
        [["resize", [50, 40], "bilinear", [1, 2, 30, 40], True, -1]],
        [],
        [["invert"]],
    ]
    requests = [request(data, *programs[place % 3 : place % 3 + 2]) for place, data in enumerate(taken.values())]
    requests.insert(3, request(taken["0.jpg"], [["crop", 0, 0, 10, 10]]))
    requests.insert(5, DeviceRequest(b"no image", (10, 10), [[]], None, None))
    together = gpu.run(requests)
    assert together[5] is None
    for each, found in zip(requests, together, strict=True):
        (alone,) = gpu.run([each])
        assert (alone is None) == (found is None)
        for one, other in zip(alone or [], found or [], strict=True):
            assert np.array_equal(one, other)
    assert gpu.run([]) == []


def test_a_size_other_than_the_headers_is_refused(taken: dict[str, bytes]) -> None:
    gpu = Gpu("host", Both([]).pipeline)
    width, height = Image.open(io.BytesIO(taken["0.jpg"])).size
    for size in ((width + 1, height), (height, width + 5)):
        assert gpu.run([DeviceRequest(taken["0.jpg"], size, [[]], None, None)]) == [None]


class Faulty(Gpu):
    """It fails with whichever batch has a certain one in it."""

    culprits: Sequence[DeviceRequest] = ()
    lost = False
    batches: list[int]

    def _run_batch(self, requests: Sequence[DeviceRequest]) -> Any:
        self.batches.append(len(requests))
        if any(each is culprit for each in requests for culprit in self.culprits):
            raise RuntimeError("CUDA out of memory.\nmore")
        return super()._run_batch(requests)

    def _probe(self, error: Exception) -> None:
        if self.lost:
            raise DeviceLost(str(error))
        super()._probe(error)


def test_in_a_batch_that_fails_only_the_bad_images_do(taken: dict[str, bytes]) -> None:
    gpu = Faulty("host", Both([]).pipeline)
    gpu.batches = []
    requests = [request(data) for data in taken.values()]
    whole = Gpu("host", Both([]).pipeline).run(requests)
    for places in ([0], [len(requests) - 1], [2, 3], [1, 5, 6], [*range(len(requests))]):
        gpu.batches.clear()
        gpu.culprits = [requests[place] for place in places]
        for place, (found, right) in enumerate(zip(gpu.run(requests), whole, strict=True)):
            assert (found is None) == (place in places)
            assert found is None or np.array_equal(found[0], right[0])  # type: ignore[index]
        assert len(gpu.batches) <= 1 + 2 * len(places) * 4, "halves, not one by one"


def test_a_device_that_is_lost_is_not_tried_in_halves(taken: dict[str, bytes]) -> None:
    gpu = Faulty("host", Both([]).pipeline)
    requests = [request(data) for data in taken.values()]
    gpu.batches, gpu.lost, gpu.culprits = [], True, requests[1:2]
    with pytest.raises(DeviceLost, match="out of memory"):
        gpu.run(requests)
    assert gpu.batches == [len(taken)]
