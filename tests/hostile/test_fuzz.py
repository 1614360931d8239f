"""Images changed by chance, for a minute or as long as you like: ``--fuzz-seconds 3600 --fuzz-seed 7``.

A seed gives the same files in the same order. A file that breaks a promise is kept in build/fuzz/.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.hostile.answers import PIPELINE, Broken, Sender, code_of, deaths
from support.hostile.inputs import good, shard
from support.hostile.mutants import Mutants, put_together, take_apart
from support.processes import lasting, memory, processes
from support.serving import Disk, Reply, Server

SENDERS = 3
#: Pixels of a source, so that no time goes into large ones; and what that may take, see docs/server.md.
PIXELS = 4_000_000
LIMIT, LATE = 10, 10


def test_taken_apart_and_put_together_a_file_is_as_before() -> None:
    known = 0
    for name, data in [*good().items(), ("shard", shard())]:
        parts = take_apart(data)
        if parts is not None:
            known += 1
            assert put_together(data, parts) == data, name
    assert known > 60


class Fuzz:
    """The run: numbers are handed out one by one, so that a number is a file, whoever sends it."""

    def __init__(self, server: Server, disk: Disk, seed: int, seconds: float, kept: Path) -> None:
        self.failures: list[str] = []
        self.codes: Counter[str] = Counter()
        self.slowest = 0.0
        self._server, self._disk, self._seed, self._kept = server, disk, seed, kept
        self._end = time.monotonic() + seconds
        self._mutants = Mutants()
        self._numbers = itertools.count()
        self._good = next(data for name, data in good().items() if name == "JPEG RGB")
        self._expected: Reply | None = None
        self._lock = threading.Lock()

    def send(self, _: int) -> None:
        sender = Sender(self._server, self._disk)
        while time.monotonic() < self._end and len(self.failures) < 20:
            with self._lock:
                number = next(self._numbers)
            name, data = self._mutants(self._seed, number)
            start = time.monotonic()
            try:
                reply = (sender.by_name if number % 2 else sender.by_body)(f"{number}.jpg", data)
                code = code_of(reply)
                seconds = time.monotonic() - start
                if seconds > LIMIT + LATE:
                    raise Broken(f"answered after {seconds:.1f} s")
                if number % 50 == 0:
                    self._check_good(sender)
            except (Broken, OSError) as error:
                self._keep(name, data, repr(error))
                sender.close()
                sender = Sender(self._server, self._disk)
            else:
                with self._lock:
                    self.codes[code] += 1
                    self.slowest = max(self.slowest, seconds)
        sender.close()

    def _check_good(self, sender: Sender) -> None:
        reply = sender.by_body("good.jpg", self._good)
        with self._lock:
            self._expected = self._expected or reply
        if reply.status != 200 or reply.body != self._expected.body:
            raise Broken(f"a good image in between: {reply.status} {reply.body[:100]!r}")

    def keep_deadly(self) -> None:
        """What the log says of decoders that died."""
        for name in deaths(self._server):
            self._keep(*self._mutants(self._seed, int(Path(name).stem)), "its decoder died")

    def _keep(self, name: str, data: bytes, reason: str) -> None:
        self._kept.mkdir(parents=True, exist_ok=True)
        file = self._kept / hashlib.sha256(data).hexdigest()[:16]
        file.write_bytes(data)
        with self._lock:
            self.failures.append(f"{name}, kept as {file.name}: {reason}")


def test_no_mutant_breaks_the_server(
    run_server: Callable[..., Server],
    disk: Disk,
    repository: Path,
    request: pytest.FixtureRequest,
    figure: Callable[[str, str], None],
) -> None:
    seconds, seed = request.config.getoption("--fuzz-seconds", 60.0), request.config.getoption("--fuzz-seed", 1)
    server = run_server(
        TVETL_PIPELINE=PIPELINE,
        TVETL_ROOTS=str(disk.root),
        TVETL_WORKERS="2",
        TVETL_SECONDS=str(LIMIT),
        TVETL_MAX_PIXELS=str(PIXELS),
    )
    before = lasting(server)
    fuzz = Fuzz(server, disk, seed, seconds, repository / "build" / "fuzz")
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(fuzz.send, range(SENDERS)))
    fuzz.keep_deadly()
    assert not fuzz.failures, fuzz.failures
    assert before <= lasting(server)
    assert "Traceback" not in server.log
    mutants = sum(fuzz.codes.values())
    assert mutants > 20 * seconds, "it did something"
    # Each process holds what it began with, and a few copies of the largest image that it saw.
    taken = memory(server)
    assert taken.peak < len(processes(server)) * (200 * 2**20 + 24 * PIXELS)
    figure(
        "bad input: fuzzing, mutants of all formats",
        f"{mutants:,} of seed {seed} in {seconds:.0f} s: "
        f"{', '.join(f'{count:,} {code}' for code, count in fuzz.codes.most_common())}; 0 processes dead, 0 of 500, "
        f"slowest {fuzz.slowest:.1f} s",
    )
