"""A job over very many objects ends, and is complete however often it was killed: nothing missing, nothing twice."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

#: Seconds that no job may take here; only a hang would.
LONG = 240


def small_image(at: int) -> bytes:
    """A JPEG of 16 x 16 pixels, another for every number: what is tested is the job, not the pixels."""
    made = io.BytesIO()
    Image.new("RGB", (16, 16), (at % 256, at // 256 % 256, 99)).save(made, "JPEG")
    return made.getvalue()


def fill(local: LocalCluster, bucket: str, contents: dict[str, bytes]) -> None:
    """A bucket of the stand-in is a folder."""
    folder = local.root / bucket
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def test_of_5000_objects_exactly_the_500_bad_ones_are_reported(
    local: LocalCluster, cluster: Cluster, crops: str, tmp_path: Path
) -> None:
    contents = {f"{at:04}.jpg": small_image(at) for at in range(5000)}
    bad = sorted(random.Random(5).sample(sorted(contents), 500))
    for at, name in enumerate(bad):
        contents[name] = (b"This is no image.\n", contents[name][:200], b"")[at % 3]
    fill(local, "five-thousand", contents)
    seen: list[jobs.JobProgress] = []

    job = jobs.transform_bucket(cluster, "five-thousand", "five-thousand-out", crops)
    report = jobs.wait(cluster, job, seen.append, timeout=LONG)
    assert [error.object for error in report.failed] == bad
    assert (report.done, report.kept, report.aborted) == (4500, 0, "")
    assert {error.code for error in report.failed} <= {"not_an_image", "damaged_image", "truncated_body", "no_source"}
    assert [error.size for error in report.failed] == [len(contents[name]) for name in bad]
    assert cluster.objects("five-thousand-out") == sorted({*contents} - {*bad})
    assert max(now.done for now in seen if now.stage == "objects") == 4500
    assert sum(now.stage == "reading errors" for now in seen) == 500 - 2 * 128  # AIStore kept 128 a target

    # Mended, they are done by --retry, and then there is nothing left.
    report.write_errors(tmp_path / "errors.jsonl")
    names = jobs.failed_names(tmp_path / "errors.jsonl")
    assert names == bad
    for at, name in enumerate(bad):
        cluster.put("five-thousand", name, small_image(at))
    again = jobs.wait(
        cluster, jobs.transform_objects(cluster, "five-thousand", "five-thousand-out", crops, names=names)
    )
    assert (again.wanted, again.done, again.ok) == (500, 500, True)
    nothing = jobs.wait(cluster, jobs.transform_bucket(cluster, "five-thousand", "five-thousand-out", crops))
    assert (nothing.wanted, nothing.kept, nothing.done, nothing.ok) == (5000, 5000, 0, True)


#: Loads what a client needs once, and then is one client after another: for each line, seconds and arguments, it forks
#: a process that runs the command, kills it after so many seconds, and says its exit status.
CLIENTS = """
import os, signal, sys, time
import tvetl.command.cli, tvetl.cluster, tvetl.jobs
for line in sys.stdin:
    seconds, *arguments = line.split()
    child = os.fork()
    if not child:
        sys.argv = ["tvetl", *arguments]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            tvetl.command.cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(0)
    if seconds != "never":
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)  # nobody else has its number, until its status is asked for
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Runs the command, and kills it after some seconds if told to; gives its exit status."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    with process as running:

        def run(*arguments: str, kill_after: float | None = None) -> int:
            assert running.stdin
            assert running.stdout
            seconds = "never" if kill_after is None else f"{kill_after:.4f}"
            running.stdin.write(" ".join([seconds, *arguments]) + "\n")
            running.stdin.flush()
            return int(running.stdout.readline())

        yield run
        if running.stdin:
            running.stdin.close()


def test_killed_at_20_random_points_and_run_again_nothing_is_missing_and_nothing_is_done_twice(
    local: LocalCluster,
    cluster: Cluster,
    pipeline: Callable[..., Pipeline],
    clients: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    cluster.register(PodSpec("test-first", pipeline(size=8, seed=1), start_timeout=60))
    cluster.register(PodSpec("test-other", pipeline(size=9, seed=1), start_timeout=60))
    names = [f"{at:03}.jpg" for at in range(150)]
    fill(local, "killed", {name: small_image(at) for at, name in enumerate(names)})
    command = ("transform", "killed", "killed-out", "--json", "-e", local.endpoint, "--etl")
    began = time.monotonic()
    assert clients(*command, "test-first") == 0
    whole = time.monotonic() - began
    cluster.delete_bucket("killed-out")

    at_random = random.Random(20)
    killed = trial = 0
    while killed < 20:  # some end before they are killed
        trial += 1
        assert trial < 40, "the clients end too soon to be killed"
        versions = "1"
        if trial % 2:  # not an empty destination, but one full of another pipeline's results
            assert clients(*command, "test-other") == 0
            versions = "2"
        for _ in range(2):  # the second one is killed when it goes on with what the first left
            killed += clients(*command, "test-first", kill_after=at_random.uniform(0, whole)) == -signal.SIGKILL
        assert clients(*command, "test-first") == 0
        tags = cluster.tags("killed-out")
        assert sorted(tags) == names, f"missing in trial {trial}"
        written = {tag.partition(":")[0] for tag in tags.values()}
        assert written == {versions}, f"done twice in trial {trial}"
        with Image.open(io.BytesIO(cluster.get("killed-out", at_random.choice(names)))) as image:
            assert image.size == (8, 8)
        cluster.delete_bucket("killed-out")
    capfd.readouterr()  # the progress of all of them
    cluster.unregister("test-first")
    cluster.unregister("test-other")
