"""Starting the sides, asking them, and what the kernel says they cost. Linux."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote

from benchmarks.work import BUCKET
from support.serving import by_name, free_port, sampled

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Broken(Exception):
    """A side does not start, or fails; the message says which and where its log is."""


# --- processes ----------------------------------------------------------------------------------------------------


@contextmanager
def on(cpus: Sequence[int]) -> Iterator[None]:
    """What is started inside runs on these processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(**settings: str) -> dict[str, str]:
    """What a side's process gets: little, and one thread for each library that would start more."""
    passed = ("PATH", "HOME", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
    inherited = {name: os.environ[name] for name in passed if name in os.environ}
    # What the caller's Python finds, too, for who runs this without a .venv of ours.
    inherited["PYTHONPATH"] = os.pathsep.join(
        [str(REPOSITORY / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return {**inherited, "OMP_NUM_THREADS": "1", "PYNVIMGCODEC_VERBOSITY": "0", **settings}


def tree(root: int) -> list[int]:
    """This process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows
        found += parents.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third (state) on; none where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(root: int) -> float:
    """CPU time of the processes of a tree and of their children that ended."""
    return sum(sum(map(int, fields[11:15])) * _TICK for pid in tree(root) if (fields := _stat(pid)))


def megabytes(root: int) -> float:
    """Memory that the processes of a tree hold now, what they share counted once, as a container is charged for it."""
    own, files = 0, 0
    for pid in tree(root):
        # Of files, which are mostly the same libraries, the largest process's; of forked pages, each process's share.
        own += _kilobytes(pid, "smaps_rollup", "Pss_Anon") + _kilobytes(pid, "smaps_rollup", "Pss_Shmem")
        files = max(files, _kilobytes(pid, "status", "RssFile"))
    return (own + files) * 1024 / 1e6


def _kilobytes(pid: int, file: str, name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


@contextmanager
def peak(root: int) -> Iterator[list[float]]:
    """The most that a tree holds meanwhile, looked at 20 times a second: the list's last."""
    most = 0.0

    def look() -> float:
        nonlocal most
        most = max(most, megabytes(root))
        return most

    with sampled(look, 0.05) as found:
        yield found


@dataclass
class Sample:
    """One round of one side."""

    images: int
    seconds: float
    cpu: float
    p50: float | None = None
    p99: float | None = None


# --- a server -----------------------------------------------------------------------------------------------------


class Server:
    """A transformer's process, its workers below it."""

    def __init__(self, name: str, command: Sequence[str], settings: Mapping[str, str], port: int, log: Path) -> None:
        self.port, self._name, self._log = port, name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, env=environment(**settings), stdout=out, stderr=out, start_new_session=True, cwd=REPOSITORY
            )

    def wait(self, target: str) -> None:
        """Until it has answered this object."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.put(target)
            except (OSError, HTTPException):
                time.sleep(0.01)
            else:
                return
        self.stop()
        raise Broken(f"{self._name} does not answer; its log is {self._log.relative_to(REPOSITORY)}")

    def put(self, target: str, body: bytes = b"") -> bytes:
        """The answer to one object; raises Broken where it is none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("PUT", target, body=body, headers={"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise Broken(f"{self._name} answers {answer.status} to {target}: {content[:300]!r}")
        return content

    def get(self, path: str) -> str:
        """What it answers to GET; nothing where that is no 200."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.read().decode()
        connection.close()
        return content if answer.status == 200 else ""

    def load(self, requests: Path, seconds: float, connections: int, cpus: Sequence[int]) -> Sample:
        """Drive it with wrk over so many connections."""
        wrk = shutil.which("wrk")
        if wrk is None:
            raise Broken("make bench needs wrk, the HTTP load driver: apt-get install wrk")
        script = str(Path(__file__).with_name("wrk.lua"))
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "120s", "-s", script]
        before = cpu_seconds(self.process.pid)
        with on(cpus):
            done = subprocess.run(
                [*command, f"http://127.0.0.1:{self.port}", "--", str(requests)],
                capture_output=True,
                text=True,
                check=True,
            )
        cpu = cpu_seconds(self.process.pid) - before
        found = json.loads(done.stdout.splitlines()[-1])
        if found["failed"]:
            raise Broken(f"{self._name} failed {found['failed']} of {found['images']} requests of {requests.name}")
        self._settle()
        return Sample(found["images"], found["seconds"], cpu, found["p50"], found["p99"])

    def _settle(self) -> None:
        """What was under way when the driver left is not the next side's trouble."""
        for _ in range(100):
            before = cpu_seconds(self.process.pid)
            time.sleep(0.1)
            if cpu_seconds(self.process.pid) - before <= 0.02:
                return

    def stop(self) -> None:
        stop(self.process)


def stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a process of ours and all that it started (its session)."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def ours(pipeline: str, root: Path, workers: int, log: Path, name: str = "tvetl", **settings: str) -> Server:
    """tvetl-server as it is shipped."""
    port = free_port()
    given = {"TVETL_PIPELINE": pipeline, "TVETL_WORKERS": str(workers), "TVETL_ROOTS": str(root)}
    given |= {"TVETL_HOST": "127.0.0.1", "PORT": str(port), **settings}
    return Server(name, [sys.executable, "-m", "tvetl_server.wsgi"], given, port, log)


def fastapi(pipeline: str, workers: int, log: Path) -> Server:
    """Peer 1; the words behind uvicorn are those of the published transformers' Dockerfile."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peer_fastapi:app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", str(workers), "--log-level", "info", "--no-access-log"]
    return Server("FastAPIServer", command, _peer(pipeline), port, log)


def flask(pipeline: str, workers: int, log: Path) -> Server:
    """Peer 2; the words behind gunicorn are those of the published pod's comment, but for the noise."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "benchmarks.peer_flask:app", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", str(workers)]
    return Server("FlaskServer", command, _peer(pipeline), port, log)


def _peer(pipeline: str) -> dict[str, str]:
    return {"PIPELINE": pipeline, "AIS_TARGET_URL": "http://127.0.0.1:1"}


# --- a loop -------------------------------------------------------------------------------------------------------


class Loop:
    """As many processes of loops.py as the servers have workers."""

    def __init__(self, kind: str, workers: int, log: Path, **settings: str) -> None:
        self._name, self._log = kind, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.processes = []
        for _ in range(workers):
            with log.open("ab") as out:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "benchmarks.loops", kind],
                        env=environment(**settings),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=out,
                        text=True,
                        start_new_session=True,
                        cwd=REPOSITORY,
                    )
                )

    def ask(self, everyone: bool = True, **words: object) -> list[dict[str, float]]:
        """Send one request to every process (or the first), and gather the answers."""
        asked = self.processes if everyone else self.processes[:1]
        for process in asked:
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(words) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass
        answers = []
        for process in asked:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                last = self._log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
                raise Broken(f"the loop {self._name} ended: {last}")
            answers.append(json.loads(line))
        return answers

    def run(self, pipeline: str, objects: Sequence[tuple[str, Path]], seconds: float) -> Sample:
        """A round of all processes at once."""
        listed = [(name, str(path)) for name, path in objects]
        answers = self.ask(do="run", pipeline=pipeline, objects=listed, seconds=seconds)
        images = sum(int(answer["images"]) for answer in answers)
        # All begin together; a rate is the sum of the processes' rates.
        rate = sum(answer["images"] / answer["seconds"] for answer in answers)
        return Sample(images, images / rate, sum(answer["cpu"] for answer in answers))

    def stop(self) -> None:
        for process in self.processes:
            stop(process)


# --- requests -----------------------------------------------------------------------------------------------------


def target(name: str, path: Path | None, etl_args: str = "") -> str:
    """The target of a push, as AIStore's targets write it: by file name, or (``path`` None) by body."""
    fields = [by_name(str(path))] if path is not None else []
    fields += [f"etl_args={quote(etl_args, safe='')}"] if etl_args else []
    return f"/{quote(name)}" + (f"?{'&'.join(fields)}" if fields else "")


def write_requests(to: Path, objects: Sequence[tuple[str, Path]], *, by_body: bool = False) -> Path:
    """The list that wrk.lua reads."""
    to.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{target(name, None if by_body else path)}\t{path if by_body else ''}\n" for name, path in objects]
    to.write_text("".join(lines), encoding="utf-8")
    return to


def object_name(name: str) -> str:
    return f"{BUCKET}/{name}"
