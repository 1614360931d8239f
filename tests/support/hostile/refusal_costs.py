"""What it costs to refuse a file, in JSON lines: ``python -m support.hostile.refusal_costs FILE...``."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

from support.hostile.inputs import picture, saved

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine
from tvetl_server.errors import ObjectError
from tvetl_server.limits import Limits
from tvetl_server.problems import problem_of


def _peak() -> int:
    """Bytes of this process, at most, so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def cost(engine: Engine, data: bytes) -> dict[str, object]:
    """In this process: the answer's code, CPU time (the least of three: the rest is the machine's) and peak growth."""
    before = _peak()
    times = []
    code = "answered"
    for _ in range(3):
        start = time.process_time()
        try:
            engine.transform(data, "src/a.jpg", Arguments())
        except ObjectError as error:
            code = problem_of(error).code
        times.append(time.process_time() - start)
    return {"code": code, "seconds": min(times), "bytes": _peak() - before}


def main() -> None:
    engine = Engine(parse({"steps": [{"op": "CenterCrop", "size": 32}]}), Limits())
    for kind in ("GIF", "PNG", "TIFF", "WEBP", "AVIF", "BMP"):  # Pillow loads its plugins when they are needed
        engine.transform(saved(picture(), kind), "src/a.jpg", Arguments())
    for name in sys.argv[1:]:
        data = Path(name).read_bytes()
        gc.collect()
        # A process of its own, whose peak begins with what it has: a bomb may take all, and leave nothing to measure.
        child = os.fork()
        if child == 0:
            print(json.dumps(cost(engine, data)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"code": f"died of {status}", "seconds": 0, "bytes": 0}), flush=True)


if __name__ == "__main__":
    main()
