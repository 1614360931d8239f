"""What the exchange with decoders costs the device's one process: CPU time an object, with nothing done to it."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence

from benchmarks.measure import cpu_seconds
from PIL import Image

from tvetl.spec import parse
from tvetl_server.engine import DeviceRequest
from tvetl_server.metrics import Metrics
from tvetl_server.processes.device import DeviceProcess, Link
from tvetl_server.settings import DeviceKind

#: Bytes of an ImageNet photograph, and of what becomes of it at 224 x 224.
SOURCE, RESULT = 113_000, 13_000
_PROGRAM = [["crop", 10, 20, 300, 280], ["resize", [224, 224], "bilinear", [0, 0, 224, 224], True, 0]]


class Nothing:
    """A runner that has its results ready."""

    about, pixels = "nothing", 2**40

    def __init__(self) -> None:
        self._result = bytes(RESULT)

    def run(self, orders: Sequence[DeviceRequest]) -> list[list[bytes]]:
        return [[self._result]] * len(orders)


def measured(decoders: int, batch: int, seconds: float) -> dict[str, float]:
    """So many processes send objects as fast as they can: objects a second, microseconds of CPU each, batches."""
    counts = Metrics(rows=1, device=True)
    device = DeviceProcess(Nothing, batch=batch, processors=1, metrics=counts, row=0, needed=True, stops=True)
    supervisor = device._supervisor
    reader, writer = os.pipe()
    before, children = cpu_seconds(supervisor), []
    for _ in range(decoders):
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, b"%d\n" % _exchange(device.link(), seconds))
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    spent = cpu_seconds(supervisor) - before
    done = sum(map(int, os.read(reader, 65536).split()))
    os.close(reader)
    os.close(writer)
    device.close()
    series = dict(line.rsplit(" ", 1) for line in counts.text().splitlines() if line[0] != "#")
    return {
        "decoders": decoders,
        "rate": round(done / seconds),
        "microseconds": round(1e6 * spent / done, 1),
        "batch": round(float(series["tvetl_device_batch_sum"]) / float(series["tvetl_device_batch_count"]), 1),
    }


def _exchange(link: Link, seconds: float) -> int:
    order = DeviceRequest(os.urandom(SOURCE), (500, 375), [_PROGRAM], (75, None), None)
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        link.transform(order)
        done += 1
    return done


def of_a_batch(where: DeviceKind, text: str, batch: int = 32) -> dict[str, float]:
    """Microseconds of this thread for an image of a batch of tiny ones, which leave little but the calls."""
    from tvetl_server.engine.cuda import Gpu

    gpu = Gpu(where, parse(text), os.environ.get("CUDA_VISIBLE_DEVICES"))
    Image.linear_gradient("L").resize((32, 24)).convert("RGB").save(file := io.BytesIO(), "JPEG")
    steps = [[["crop", 0, 0, 17 + at % 8, 16], ["resize", [16, 16], "bilinear", [0, 0, 16, 16], at % 2 == 1, 0]]
             for at in range(batch)]  # fmt: skip
    orders = [DeviceRequest(file.getvalue(), (32, 24), [program], (75, None), None) for program in steps]
    spent = []
    for _ in range(40):
        start = time.thread_time()
        gpu.run(orders)
        spent.append(1e6 * (time.thread_time() - start) / batch)
    return {"least": round(min(spent), 1), "median": round(sorted(spent)[len(spent) // 2], 1)}
