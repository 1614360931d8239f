"""What TLS costs a delivery: direct puts to a target over http and over https, in turns, by the server's CPU time.

``PYTHONPATH=tests .venv/bin/python -m benchmarks.deliveries`` prints it. Each side is a server with one worker and a
target that only counts; objects come by kept connections, and are received, transformed and delivered.
"""

from __future__ import annotations

import argparse
import io
import ssl
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

from benchmarks.measure import cpu_seconds
from PIL import Image
from support.serving import Recorder, Server, recording, start

from tvetl.local.certificates import authority, signed

#: Results of about 20 kB and 600 kB: a JPEG for storage, a tensor for training.
PIPELINES = {
    "JPEG": '{"steps": [{"op": "CenterCrop", "size": 224}], "output": {"format": "jpeg", "quality": 90}}',
    "tensor": '{"steps": [{"op": "CenterCrop", "size": 224}, {"op": "ToTensor"}], "output": {"format": "npy"}}',
}
WAYS = ("http", "https")
_THREADS = 4


def photograph() -> bytes:
    """A JPEG of 500 x 375 with something in it, about 60 kB."""
    noise = Image.effect_noise((500, 375), 40)
    file = io.BytesIO()
    Image.merge("RGB", (noise, Image.linear_gradient("L").resize((500, 375)), noise)).save(file, "JPEG", quality=85)
    return file.getvalue()


@contextmanager
def sides(pipeline: str, folder: Path) -> Iterator[dict[str, tuple[Server, Recorder]]]:
    ca = authority(folder / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signed(ca, "node"))
    with ExitStack() as stack:
        found = {}
        for way in WAYS:
            target = stack.enter_context(recording(context if way == "https" else None))
            settings = {"TVETL_PIPELINE": pipeline, "AIS_TARGET_URL": target.url, "AIS_CLIENT_CA": str(ca)}
            server = start(folder / f"{way}.log", direct_put="true", **settings)
            stack.callback(server.stop)
            found[way] = server, target
        yield found


def deliver(server: Server, target: Recorder, image: bytes, count: int) -> float:
    """Seconds of the server's CPU for so many objects, from several connections at once."""
    header = {"Ais-Node-Url": f"{target.scheme}://{target.host}/ais%2F@%23%2Fdst%2Fa"}

    def work(objects: int) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(objects):
            connection.request("PUT", "/src/a.jpg", image, header)
            answer = connection.getresponse()
            if answer.status != 204:
                raise SystemExit(f"{answer.status}: {answer.read()!r}")
            answer.read()

    before = cpu_seconds(server.process.pid)
    threads = [Thread(target=work, args=(count // _THREADS,)) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    target.puts.clear()
    return cpu_seconds(server.process.pid) - before


def compare(pipeline: str, deliveries: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of CPU an object, by way, each round."""
    image = photograph()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, sides(pipeline, Path(folder)) as servers:
        for at in range(-1, rounds):
            for way in WAYS[:: 1 if at % 2 else -1]:
                server, target = servers[way]
                count = deliveries // rounds if at >= 0 else 40
                spent = deliver(server, target, image, count)
                if at >= 0:
                    found[way].append(spent / count * 1000)
        opened = servers["https"][1].connections
    if opened > _THREADS + 2:
        raise SystemExit(f"{opened} handshakes for {deliveries} deliveries: connections are not kept")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    titles = ("result", "http", "https", "https to http, by round")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for name, pipeline in PIPELINES.items():
        spent = compare(pipeline, asked.deliveries, asked.rounds)
        http, https = (statistics.median(spent[way]) for way in WAYS)
        ratios = sorted(https / http for http, https in zip(*spent.values(), strict=True))
        told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {http:.2f} ms | {https:.2f} ms | {told} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
