"""The pod that tvetl writes, on a real Kubernetes, with a test in the target's place."""

from __future__ import annotations

import errno
import http.client
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tvetl.pod import PodSpec
from tvetl.spec import Pipeline, parse_arguments
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

HOST = "10.200.0.1"  # this machine, as pods see it
Start = Callable[..., Any]


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


def here(pipeline: Pipeline, data: bytes, name: str) -> bytes:
    """The same transform in this process."""
    return Engine(pipeline, Limits()).transform(data, name, parse_arguments(None)).body


@pytest.fixture
def pod(image: str, pipeline: Callable[..., Pipeline]) -> Callable[..., PodSpec]:
    return lambda format="jpeg", **options: PodSpec(
        "pod-test", pipeline(format), image, pull_policy=options.pop("pull_policy", "Never"), **options
    )


@pytest.fixture(scope="session")
def photograph(photographs: list[Path]) -> bytes:
    return photographs[-1].read_bytes()


def test_under_pod_security_restricted_it_starts_and_transforms_bodies(
    start: Start, pod: Callable[..., PodSpec], pipeline: Callable[..., Pipeline], photograph: bytes
) -> None:
    running = start(pod("npy"))
    status, body, _ = running.put("pets/rocket.jpg", photograph)
    assert (status, body) == (200, here(pipeline("npy"), photograph, "pets/rocket.jpg"))
    print(f"\npod created to Ready: {running.seconds:.2f} s")


def test_it_runs_as_nobody_in_particular_and_can_write_nowhere_but_in_memory(
    start: Start, pod: Callable[..., PodSpec]
) -> None:
    running = start(pod(env={"TVETL_JAIL": "require"}))
    assert "The jail of decoders: landlock, seccomp, limits" in running.logs()
    first, *others = running.processes()
    for process in (first, *others):  # AIStore's address and secret
        assert b"AIS_" not in Path(f"/proc/{process}/environ").read_bytes()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{first}/status").read_text().splitlines())
    assert status["Uid"].split() == ["10001"] * 4 and status["Gid"].split() == ["0"] * 4
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    for folder in ("", "tmp", "var/tmp"):
        with pytest.raises(OSError) as refused:  # even this machine's root may not, through the container's own view
            Path(f"/proc/{first}/root/{folder}/written").write_bytes(b"")
        assert refused.value.errno == errno.EROFS
    Path(f"/proc/{first}/root/dev/shm/written").write_bytes(b"")


def test_it_reads_roots_files_of_mode_0640_by_name_and_nothing_else(
    start: Start, pod: Callable[..., PodSpec], pipeline: Callable[..., Pipeline], photographs: list[Path], disk: Any
) -> None:
    running = start(pod(), disk=disk)
    for path in photographs:
        name = f"breeds/Bengal é {path.name}"
        fqn = disk.put("pets", name, path.read_bytes())
        status, body, _ = running.put(f"pets/{quote(name)}", fqn=fqn)
        assert status == 200, body
        assert np.array_equal(pixels(body), pixels(here(pipeline(), path.read_bytes(), f"pets/{name}")))
    gone = running.put("pets/gone.jpg", fqn=f"{disk.mounted}/mp1/@ais/pets/%ob/gone.jpg")
    assert (gone[0], json.loads(gone[1])["error"]) == (404, "file_gone")
    for fqn in ("/etc/passwd", f"{disk.mounted}/mp1/@ais/pets/%ob/../../../../../../../etc/passwd", "/proc/1/environ"):
        status, body, _ = running.put("pets/x.jpg", fqn=fqn)
        assert (status, json.loads(body)["error"]) == (403, "outside_roots")
    nowhere = running.put("dogs/x.jpg", fqn=f"{disk.mounted}/mp1/@ais/dogs/%ob/x.jpg")
    assert (nowhere[0], json.loads(nowhere[1])["error"]) == (403, "unreadable_file")


def test_its_result_goes_directly_to_another_target(
    start: Start, pod: Callable[..., PodSpec], pipeline: Callable[..., Pipeline], photograph: bytes
) -> None:
    came: list[tuple[str, bytes]] = []

    class OtherTarget(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), OtherTarget) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://{HOST}:{server.server_port}"
        running = start(pod(), target=address)
        status, _, headers = running.put(
            "pets/a.jpg", photograph, node_url=f"{address}/ais%2F@%23%2Fdst%2Fa.jpg?uuid=1"
        )
        server.shutdown()
    expected = here(pipeline(), photograph, "pets/a.jpg")
    assert (status, headers["Ais-Direct-Put-Length"]) == (204, str(len(came[0][1])))
    assert came[0][0] == "/v1/etl/_object/pod-test/secret/ais%2F@%23%2Fdst%2Fa.jpg?uuid=1"
    assert np.array_equal(pixels(came[0][1]), pixels(expected))


def test_a_worker_that_is_killed_is_replaced_and_the_pod_goes_on(
    start: Start, pod: Callable[..., PodSpec], photograph: bytes, until: Callable[..., None]
) -> None:
    running = start(pod(env={"TVETL_WORKERS": "2"}))
    first, workers = running.processes()[0], running.workers()
    assert len(workers) == 2
    for victims in (workers[:1], workers):  # one, then all that are left at once
        for worker in victims:
            if worker in running.processes():
                os.kill(worker, signal.SIGKILL)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda at: running.put(f"pets/{at}.jpg", photograph)[0], range(24)))
        assert answers == [200] * 24
        until(lambda: len(running.workers()) == 2)
    assert running.processes()[0] == first and not {*workers} & {*running.processes()}
    (container,) = running.status()["containerStatuses"]
    assert container["restartCount"] == 0 and container["ready"]


def test_what_it_had_accepted_when_it_was_told_to_end_is_answered(
    kube: Any, start: Start, pod: Callable[..., PodSpec]
) -> None:
    """Killed in the middle of a job by its node; AIStore itself deletes pods with no grace at all."""
    running = start(pod(env={"TVETL_WORKERS": "2", "TVETL_THREADS": "2"}))
    large = io.BytesIO()
    Image.effect_noise((2400, 1800), 60).convert("RGB").save(large, "JPEG")  # some 50 ms of decoding
    counts: dict[str, int] = {}
    told = threading.Event()

    def send(at: int) -> None:
        while not counts.get("refused"):
            try:
                status, _, _ = running.put(f"pets/{at}.jpg", large.getvalue())
                outcome = str(status) if not told.is_set() else f"{status} late"
            except http.client.RemoteDisconnected:
                outcome = "lost"  # an end of file without an answer: final for AIStore
            except (ConnectionError, TimeoutError, OSError):
                outcome = "refused"  # AIStore repeats it
            counts[outcome] = counts.get(outcome, 0) + 1

    with ThreadPoolExecutor(8) as pool:
        senders = [pool.submit(send, at) for at in range(8)]
        time.sleep(1.0)
        told.set()
        kube("-n", running.namespace, "delete", "pod", running.name, "--wait=false")
        for sender in senders:
            sender.result(timeout=60)
    assert counts["200"] and counts["200 late"] and not counts.get("lost"), counts
    assert set(counts) == {"200", "200 late", "refused"}, counts


def test_a_start_that_fails_says_why_in_its_last_line(
    start: Start, pod: Callable[..., PodSpec], until: Callable[..., None]
) -> None:
    began = time.monotonic()
    running = start(pod(env={"TVETL_WORKERS": "many"}), ready=False)

    def ended() -> Any:
        (container,) = running.status().get("containerStatuses") or ({},)
        return container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")

    until(ended, every=0.2)
    seconds = time.monotonic() - began
    reason = "TVETL_WORKERS: got 'many'"
    assert ended()["exitCode"] != 0 and reason in ended()["message"]
    assert reason in running.logs().strip().splitlines()[-1]
    print(f"\ncreated to a reason that kubectl shows: {seconds:.1f} s")


def test_the_nodes_registry_serves_it_where_every_start_pulls(
    kube: Any, image: str, start: Start, pipeline: Callable[..., Pipeline], photograph: bytes
) -> None:
    pulled = kube.do("push", image)
    running = start(PodSpec("pod-test", pipeline(), pulled, pull_policy="Always"))
    assert running.put("pets/a.jpg", photograph)[0] == 200
    events = kube("-n", running.namespace, "get", "events", "--field-selector", f"involvedObject.name={running.name}")
    assert "Successfully pulled image" in events or "already present on machine" not in events, events


def test_from_process_to_first_answer(start: Start, pod: Callable[..., PodSpec], until: Callable[..., None]) -> None:
    """Measured and shown, not judged: the machine may be busy. What it must be on a quiet one is in the README."""
    running = start(pod(), ready=False)
    until(lambda: running.status().get("podIP"), every=0.02)
    address = running.status()["podIP"]

    def healthy() -> bool:
        try:
            connection = http.client.HTTPConnection(address, 8000, timeout=1)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    until(healthy, every=0.01)
    answered = time.time()
    running.ready()
    first, *_ = running.processes()
    ticks = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    began = booted + ticks / os.sysconf("SC_CLK_TCK")
    print(f"\nprocess start to first 200 of /health: {answered - began:.2f} s")
    assert answered > began
