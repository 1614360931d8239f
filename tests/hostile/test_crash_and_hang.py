"""What a broken decoder does, it does to its own object: the answer is 422 in time, and nobody else notices."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from support import faulty_ops
from support.processes import family, processes
from support.serving import PATIENCE, Server, ask, start

SECONDS = 2.0
#: Beyond TVETL_SECONDS: the decoder's own grace, the last wait for one that is deaf, and a busy machine.
LATE = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker, so that whatever is asked is asked of the same one."""
    folder = tmp_path_factory.mktemp("faulty")
    running = start(folder / "log", **faulty_ops.install(folder), TVETL_SECONDS=str(SECONDS), TVETL_DECODERS="2")
    yield running
    assert running.stop() == 0, running.log


def code(body: bytes) -> str:
    return str(json.loads(body)["error"])


class Good:
    """Peers that send good images, each a different one, and look at each answer, until told to stop."""

    def __init__(self, server: Server, peers: int = 4) -> None:
        self._server = server
        self._stop = threading.Event()
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self._threads = [threading.Thread(target=self._run, args=(110 + place,)) for place in range(peers)]

    def __enter__(self) -> Good:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, level: int) -> None:
        connection, sent = self._server.connect(), faulty_ops.picture(level)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                reply = ask(connection, "PUT", f"/src/{level}.png", sent, keep=True)
                if reply.status != 200 or faulty_ops.level_of(reply.body) != level:
                    self.wrong.append(f"{level}: {reply.status} {reply.body[:100]!r}")
            except Exception as error:  # noqa: BLE001  all of them are what is looked for
                self.wrong.append(f"{level}: {error!r}")
                connection = self._server.connect()
            self.seconds.append(time.monotonic() - began)
            time.sleep(0.01)
        connection.close()


def test_a_crash_or_a_hang_costs_its_own_object_fifty_times(server: Server, figure: Callable[[str, str], None]) -> None:
    workers = server.log.count("Booting worker")
    faults = [*faulty_ops.CRASHES * 11, *faulty_ops.HANGS * 2]
    answers: Counter[tuple[int, str]] = Counter()
    crashed, hung = [], []
    with Good(server) as good:
        for fault in faults:
            began = time.monotonic()
            reply = server.put(f"/src/{fault.replace(' ', '-')}.png", faulty_ops.picture(faulty_ops.LEVELS[fault]))
            took = time.monotonic() - began
            expected = "out_of_time" if fault in faulty_ops.HANGS else "damaged_image"
            assert (reply.status, code(reply.body)) == (422, expected), fault
            assert took < SECONDS + LATE, fault
            answers[reply.status, expected] += 1
            (hung if fault in faulty_ops.HANGS else crashed).append(took)
    assert good.wrong == []
    assert sum(answers.values()) == 50
    assert server.log.count("Booting worker") == workers
    assert "Traceback" not in server.log
    figure(
        "crash or hang of a decoder",
        f"{len(crashed)} crashes, each 422 within {max(crashed):.2f} s; {len(hung)} hangs, each 422 within "
        f"{max(hung):.2f} s of a limit of {SECONDS:g} s; {len(good.seconds):,} good images meanwhile on the same "
        f"worker, {len(good.wrong)} wrong or lost, the slowest {max(good.seconds):.2f} s",
    )


def test_a_decoder_that_hears_no_timer_is_ended_too(server: Server) -> None:
    before = len(processes(server))
    reply = server.put("/src/deaf.png", faulty_ops.picture(faulty_ops.LEVELS["deaf to the timer"]))
    assert (reply.status, code(reply.body)) == (422, "out_of_time")
    assert server.put("/src/good.png", faulty_ops.picture(200)).status == 200
    end = time.monotonic() + PATIENCE
    while len(processes(server)) > before and time.monotonic() < end:
        time.sleep(0.1)
    assert len(processes(server)) <= before


def test_memory_that_is_not_there_is_the_images_fault(server: Server) -> None:
    reply = server.put("/src/large.png", faulty_ops.picture(faulty_ops.LEVELS["memory"]))
    assert (reply.status, code(reply.body)) == (422, "too_many_pixels")


def test_with_one_decoder_a_hang_still_keeps_nobody_waiting(
    tmp_path: Path, run_server: Callable[..., Server], figure: Callable[[str, str], None]
) -> None:
    """The next ones get a spare after half a second, and that ends when it is not needed any more."""
    server = run_server(**faulty_ops.install(tmp_path), TVETL_SECONDS="5", TVETL_DECODERS="1")
    hang = threading.Thread(
        target=server.put, args=("/src/hang.png", faulty_ops.picture(faulty_ops.LEVELS["native loop"]))
    )
    hang.start()
    time.sleep(0.2)
    with Good(server) as good:
        hang.join()
    assert good.wrong == []
    assert max(good.seconds) < 3, "they would have waited 5.3 s"
    figure("a hang where each worker has one decoder", f"the others waited {max(good.seconds):.2f} s of its 5 s")
    for _ in range(3):
        assert server.put("/src/good.png", faulty_ops.picture(200)).status == 200
    running = [process for process in processes(server) if _is_running(process)]
    assert len(running) <= 4, "the arbiter, a worker, its fork server, a decoder"


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux says whom it ends first")
def test_where_memory_is_short_the_kernel_ends_a_decoder_first(
    tmp_path: Path, run_server: Callable[..., Server]
) -> None:
    ours = Path("/proc/self/oom_score_adj")
    before = ours.read_text(encoding="ascii")
    try:
        if os.geteuid() == 0:  # nobody else could go down again
            ours.write_text("990", encoding="ascii")  # as Kubernetes does to a pod that asks for little
        server = run_server(**faulty_ops.install(tmp_path))
    finally:
        if os.geteuid() == 0:
            ours.write_text(before, encoding="ascii")
    server.put("/src/good.png", faulty_ops.picture(200))
    scores = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii")) for pid in processes(server)}
    here, kinds = scores[server.process.pid], family(server)
    assert os.geteuid() != 0 or here == 990
    assert {scores[process] for kind in ("worker", "fork server") for process in kinds[kind]} == {here}
    assert all(scores[process] > here for process in kinds["decoder"])


def test_ctrl_c_ends_all_that_was_started(tmp_path: Path, run_server: Callable[..., Server]) -> None:
    server = run_server(**faulty_ops.install(tmp_path))
    server.put("/src/good.png", faulty_ops.picture(200))
    all_of_them = processes(server)
    assert len(all_of_them) >= 4
    for process in all_of_them:  # as a terminal does to its foreground
        os.kill(process, signal.SIGINT)
    assert server.process.wait(PATIENCE) == 0
    _end_of(all_of_them)


def test_what_is_left_alone_ends_by_itself(tmp_path: Path, run_server: Callable[..., Server]) -> None:
    """The first process is killed while an object is being decoded that would never end."""
    server = run_server(**faulty_ops.install(tmp_path), TVETL_SECONDS="60")
    hang = threading.Thread(target=_try, args=(server,))
    hang.start()
    time.sleep(1)
    all_of_them, (worker,) = processes(server), family(server)["worker"]
    server.process.kill()
    server.process.wait(PATIENCE)
    os.kill(worker, signal.SIGKILL)  # which would wait for its requests
    _end_of(all_of_them)
    hang.join()


def _try(server: Server) -> None:
    with pytest.raises((OSError, HTTPException)):
        server.put("/src/hang.png", faulty_ops.picture(faulty_ops.LEVELS["deaf to the timer"]))


def _end_of(all_of_them: list[int]) -> None:
    end = time.monotonic() + PATIENCE
    alive = list(all_of_them)
    while alive and time.monotonic() < end:
        time.sleep(0.05)
        alive = [process for process in alive if _is_running(process)]
    assert not alive


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
