"""Whatever comes, by body or by file name: a coded answer in time, from processes that live, and good images right."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from support.hostile.answers import PIPELINE, Broken, Sender, code_of, deaths
from support.hostile.inputs import BOMBS, damages, good, strange, truncations
from support.processes import lasting
from support.serving import Disk, Server

pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow, of one of ours

#: Seconds that an object may take; an answer may come that much later on a busy machine.
LIMIT, LATE = 30, 10
SENDERS = 4
#: A good image follows after so many others.
EVERY = 25


def cropped(data: bytes) -> bytes:
    """What plain Pillow makes of a good image, by torchvision's rule for the middle (round half to even)."""
    rgb = Image.open(io.BytesIO(data)).convert("RGB")
    rgb.info = {}  # no profile and no transparent colour goes on
    left, top = (round((edge - 32) / 2.0) for edge in rgb.size)
    file = io.BytesIO()
    rgb.crop((left, top, left + 32, top + 32)).save(file, "PNG")
    return file.getvalue()


def collected(repository: Path) -> dict[str, bytes]:
    """The files of others, where they are laid out."""
    folder = repository.parent / "shared" / "data" / "hostile"
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Run:
    """Sends inputs from several threads, and keeps count of what came back."""

    def __init__(self, server: Server, disk: Disk, images: dict[str, bytes]) -> None:
        self.server = server
        self.disk = disk
        self.codes: Counter[str] = Counter()
        self.right = 0
        self.slowest = 0.0
        self.failures: list[str] = []
        self._images = [(name, data, cropped(data)) for name, data in images.items()]
        self._lock = threading.Lock()

    def send(self, items: list[tuple[str, bytes]], which: int) -> None:
        sender = Sender(self.server, self.disk)
        for number, (name, data) in enumerate(items):
            try:
                self._one(sender, f"{which}/{number}.jpg", data)
                if number % EVERY == 0:
                    self._good(sender, which * 31 + number // EVERY)
            except (Broken, OSError) as error:
                sender.close()
                sender = Sender(self.server, self.disk)
                with self._lock:
                    self.failures.append(f"{name}: {error!r}")
        sender.close()

    def _one(self, sender: Sender, name: str, data: bytes) -> None:
        start = time.monotonic()
        by_body = sender.by_body(name, data)
        between = time.monotonic()
        by_name = sender.by_name(name, data)
        codes = code_of(by_body), code_of(by_name)
        with self._lock:
            self.codes.update(codes)
            self.slowest = max(self.slowest, between - start, time.monotonic() - between)
        if data and (by_body.status, by_body.body) != (by_name.status, by_name.body):
            raise Broken(f"{codes[0]} by body, {codes[1]} by file name")

    def _good(self, sender: Sender, at: int) -> None:
        name, data, expected = self._images[at % len(self._images)]
        for reply in (sender.by_body("good.jpg", data), sender.by_name(f"good-{at}.jpg", data)):
            if reply.status != 200 or reply.body != expected:
                raise Broken(f"{name} in between: {reply.status} {reply.body[:100]!r}")
            with self._lock:
                self.right += 1


def test_no_input_breaks_the_server_and_good_images_in_between_are_right(
    run_server: Callable[..., Server], disk: Disk, repository: Path, figure: Callable[[str, str], None]
) -> None:
    images = {name: data for name, data in good().items() if min(Image.open(io.BytesIO(data)).size) >= 32}
    inputs = [*collected(repository).items(), *good().items(), *strange().items(), *truncations(good())]
    inputs += [*damages(good(), 200), *((name, make()) for name, (_, make) in BOMBS.items())]
    server = run_server(
        TVETL_PIPELINE=PIPELINE, TVETL_ROOTS=str(disk.root), TVETL_WORKERS="2", TVETL_SECONDS=str(LIMIT)
    )
    run = Run(server, disk, images)
    before = lasting(server)
    start = time.monotonic()
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(run.send, (inputs[at::SENDERS] for at in range(SENDERS)), range(SENDERS)))
    seconds = time.monotonic() - start
    assert not run.failures, f"{len(run.failures)} of them, among them {run.failures[:20]}"
    assert before <= lasting(server)
    assert deaths(server) == []
    assert len(inputs) >= 5000
    assert run.slowest < LIMIT + LATE
    assert sum(run.codes.values()) == 2 * len(inputs)
    assert run.right > 2 * len(inputs) // EVERY - 2 * SENDERS
    assert "Traceback" not in server.log
    assert "internal" not in run.codes
    figure(
        "bad input: inputs, each by body and by file name",
        f"{len(inputs):,} in {seconds:.0f} s: {', '.join(f'{n:,} {code}' for code, n in run.codes.most_common())}; "
        f"0 processes dead, 0 of 500, slowest {run.slowest:.1f} s, {run.right:,} good images in between, all right",
    )


def test_good_images_of_every_kind_are_answered_as_pillow_has_them(
    run_server: Callable[..., Server], disk: Disk, figure: Callable[[str, str], None]
) -> None:
    server = run_server(TVETL_PIPELINE=PIPELINE, TVETL_ROOTS=str(disk.root))
    sender = Sender(server, disk)
    images = good()
    for name, data in images.items():
        answer = sender.by_body("good.jpg", data)
        assert code_of(answer) == "answered", (name, answer.body)
        if min(Image.open(io.BytesIO(data)).size) >= 32:
            assert answer.body == cropped(data), name
    sender.close()
    figure("bad input: odd but good images (modes, depths, orientations)", f"{len(images)}, all as Pillow has them")
