"""The command says what happened, and its exit status is the table's in docs/command.md."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from aistore.sdk import Client
from PIL import Image
from typer.core import TyperGroup

from tvetl import errors
from tvetl.cluster import Cluster
from tvetl.command import cli
from tvetl.local import LocalCluster
from tvetl.pod import GPU_IMAGE, PodSpec
from tvetl.spec import Pipeline, schema

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
NOBODY = "http://127.0.0.1:9"  # port 9: discard, which nobody runs


@pytest.fixture
def pipeline_file(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text("version: 1\nsteps: [{op: Resize, size: [20, 20]}]\noutput: {format: jpeg}\n", encoding="utf-8")
    return path


def test_help_waits_for_neither_the_sdk_nor_torch() -> None:
    heavy = "{'aistore', 'requests', 'torch', 'numpy', 'PIL'}"
    program = (
        f"import sys, tvetl.command.cli; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_validate_prints_the_canonical_form(tvetl: Command, pipeline_file: Path) -> None:
    done = tvetl("validate", str(pipeline_file))
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] == [{"op": "Resize", "size": [20, 20]}]
    assert done.stderr.startswith(b"1 step to jpeg, digest ")
    assert tvetl("validate", "-", input=done.stdout).stdout == done.stdout


def test_a_pipeline_that_cannot_work_is_refused_with_every_place(tvetl: Command, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("steps: [{op: Resize, size: -3}, {op: Nonsense}]\n", encoding="utf-8")
    done = tvetl("validate", str(path))
    assert done.returncode == 2
    assert b"$.steps[0].size" in done.stderr
    assert b"$.steps[1].op" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_pod_can_be_had_without_a_cluster(tvetl: Command, pipeline_file: Path) -> None:
    done = tvetl("register", "test-command", str(pipeline_file), "--yaml", "-e", NOBODY)
    assert done.returncode == 0
    assert b"\nkind: Pod\n" in done.stdout


def test_a_pod_with_a_gpu_has_the_image_for_it(tvetl: Command, pipeline_file: Path) -> None:
    asked = ("register", "test-command", str(pipeline_file), "--gpu", "nvidia.com/gpu", "--runtime-class", "nvidia")
    spec = yaml.safe_load(tvetl(*asked, "--yaml").stdout)["spec"]
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["containers"][0]["image"] == GPU_IMAGE
    spec = yaml.safe_load(tvetl(*asked, "--yaml", "--image", "mine:1").stdout)["spec"]
    assert spec["containers"][0]["image"] == "mine:1"
    refused = tvetl(*asked, "--form", "runtime", "-e", NOBODY)
    assert refused.returncode == 2
    assert b"no GPU and no runtime class" in refused.stderr


def test_nobody_at_the_endpoint_is_status_5(tvetl: Command) -> None:
    for told in (tvetl("list", "--endpoint", NOBODY), tvetl("list", env={**os.environ, "AIS_ENDPOINT": NOBODY})):
        assert told.returncode == 5
        assert NOBODY.encode() in told.stderr
        assert b"Traceback" not in told.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["register", "x", "no-such-file.yaml"],
        ["get", "no-object", "--output", "x"],
        ["get", "images/a.jpg", "--etl", "some-etl", "--args", '{"sed": 1}', "--output", "x"],
        ["transform", "a", "b", "--etl", "some-etl", "--prefix", "p", "--name", "n"],
        ["list", "--endpoint", "localhost:8080"],
    ],
)
def test_usage_errors_are_status_2(tvetl: Command, arguments: list[str]) -> None:
    done = tvetl(*arguments)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_the_whole_way(
    tvetl: Command, local: LocalCluster, cluster: Cluster, images: str, pipeline_file: Path, tmp_path: Path
) -> None:
    at = ("--endpoint", local.endpoint)
    register = ("register", "test-command", str(pipeline_file), "--env", "NOTE=first\nsecond\nthird", *at)
    done = tvetl(*register)
    assert done.returncode == 0, done.stderr
    assert b"test-command is ready" in done.stdout
    assert tvetl(*register).stdout.endswith(b"unchanged\n")
    assert b"NOTE=first ... (3 lines)" in tvetl("show", "test-command", *at).stdout
    assert {"name": "test-command", "stage": "Running", "objects": 0} in json.loads(tvetl("list", "--json", *at).stdout)
    assert json.loads(tvetl("show", "test-command", "--json", *at).stdout)["errors"] == []

    done = tvetl("get", "images/photo_0.png", "--etl", "test-command", *at)
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.size == (20, 20)
    done = tvetl("get", "images/photo_1.txt", "--etl", "test-command", "-o", str(tmp_path / "x"), *at)
    assert done.returncode == 4
    assert b"not_an_image" in done.stderr
    assert not (tmp_path / "x").exists()

    failed = tmp_path / "failed.jsonl"
    done = tvetl("transform", images, "command-out", "--etl", "test-command", "--errors", str(failed), "--json", *at)
    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert report["done"] == report["wanted"] - 1
    assert json.loads(failed.read_text(encoding="utf-8"))["object"] == "photo_1.txt"
    done = tvetl("transform", images, "command-out", "--etl", "test-command", "--template", "photo_{0..3}.png", *at)
    assert done.returncode == 0, done.stderr
    assert b"of the template are not in the source" in done.stdout

    assert tvetl("stop", "test-command", *at).returncode == 0
    assert tvetl("show", "test-command", *at).returncode == 1
    assert tvetl("start", "test-command", *at).returncode == 0
    assert tvetl("rm", "test-command", *at).returncode == 0
    assert "test-command" not in [etl.name for etl in cluster.etls()]
    cluster.delete_bucket("command-out")


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]


def test_a_transform_is_looked_at_begun_retried_and_not_done_twice(
    tvetl: Command, local: LocalCluster, cluster: Cluster, images: str, crops: str, tmp_path: Path
) -> None:
    command = ("transform", images, "command-jobs", "--etl", crops, "--json", "--endpoint", local.endpoint)
    done = tvetl(*command, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    estimate = json.loads(done.stdout)
    assert estimate["objects"] == estimate["sample"] == len(cluster.objects(images))
    assert [error["object"] for error in estimate["failed"]] == ["photo_1.txt"]

    (tmp_path / "names").write_bytes("\ufeffphoto_0.png\r\n\r\nphoto_1.txt\r\n".encode())  # as Windows writes it
    done = tvetl(*command, "--list", "names", cwd=tmp_path)
    assert done.returncode == 4
    assert (json.loads(done.stdout)["done"], json.loads(done.stdout)["errors"]) == (1, "errors.jsonl")
    assert lines_of(done.stderr)[-1]["doing"] == "objects"  # no terminal: progress is lines of JSON
    assert json.loads((tmp_path / "errors.jsonl").read_text(encoding="utf-8"))["object"] == "photo_1.txt"
    assert tvetl(*command, "--retry", "errors.jsonl", cwd=tmp_path).returncode == 4
    done = tvetl(*command, "--name", "photo_0.png", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["kept"]) == (0, 1)
    assert (tmp_path / "errors.jsonl").read_text(encoding="utf-8") == ""  # nothing failed now
    assert tvetl(*command, "--retry", "errors.jsonl", cwd=tmp_path).returncode == 2
    cluster.delete_bucket("command-jobs")


def test_a_flag_goes_over_the_environment_over_the_file_over_the_default(tvetl: Command, tmp_path: Path) -> None:
    (tmp_path / "tvetl.yaml").write_text(
        "endpoint: http://file:1\nregister: {image: file:1, pull: Never}\ntransform: {on-interrupt: leave}\n",
        encoding="utf-8",
    )
    home = tmp_path / "home"
    (home / ".config" / "tvetl").mkdir(parents=True)
    (home / ".config" / "tvetl" / "tvetl.yaml").write_text("register: {image: user:1, timeout: 7}\n", encoding="utf-8")
    env = {**os.environ, "HOME": str(home), "TVETL_REGISTER_IMAGE": "env:1", "COLUMNS": "200"}
    env.pop("AIS_ENDPOINT", None)

    def shown(*arguments: str, **more: str) -> dict[str, tuple[str, str]]:
        done = tvetl(*arguments, "--show-config", "--json", cwd=tmp_path, env={**env, **more})
        assert done.returncode == 0, done.stderr
        return {row["option"]: (row["value"], row["from"]) for row in json.loads(done.stdout)}

    here = shown("register", "--pull", "Always")
    assert here["--pull"] == ("Always", "flag")
    assert here["--image"] == ("env:1", "environment TVETL_REGISTER_IMAGE")
    assert here["--endpoint"] == ("http://file:1", "file tvetl.yaml")
    assert here["--timeout"] == ("7", f"file {home}/.config/tvetl/tvetl.yaml")
    assert here["--form"] == ("auto", "default")
    assert shown("list", AIS_ENDPOINT="http://env:2")["--endpoint"] == ("http://env:2", "environment AIS_ENDPOINT")
    assert shown("transform")["--on-interrupt"] == ("leave", "file tvetl.yaml")  # without its arguments
    everything = tvetl("--show-config", cwd=tmp_path, env=env).stdout.decode()
    assert "register\t--image\tenv:1\tenvironment TVETL_REGISTER_IMAGE\n" in everything

    done = tvetl("list", cwd=tmp_path, env={**env, "AIS_ENDPOINT": NOBODY})
    assert (done.returncode, NOBODY.encode() in done.stderr) == (5, True)  # shown, and used
    for wrong in ("nonsense: 1\n", "register: {nonsense: 1}\n", "register: image:1\n", "- a\n", "a: [\n"):
        (tmp_path / "tvetl.yaml").write_text(wrong, encoding="utf-8")
        done = tvetl("list", cwd=tmp_path, env=env)
        assert done.returncode == 2, wrong
        assert b"tvetl.yaml" in done.stderr


def test_every_command_can_answer_in_json(tvetl: Command) -> None:
    commands = typer.main.get_command(cli.app)
    assert isinstance(commands, TyperGroup)
    for name, command in commands.commands.items():
        options = {flag for param in command.params for flag in param.opts}
        assert {"--json", "--show-config"} <= options, name


def test_an_error_in_json_is_one_line_of_it(tvetl: Command, tmp_path: Path) -> None:
    told = lines_of(tvetl("list", "--json", "--endpoint", NOBODY).stderr)
    assert [line["error"] for line in told] == ["NotReachable"]
    (tmp_path / "bad.yaml").write_text("steps: [{op: Resize, size: -3}]\n", encoding="utf-8")
    (told,) = lines_of(tvetl("validate", "bad.yaml", "--json", cwd=tmp_path).stderr)
    assert told["problems"][0]["path"] == "$.steps[0].size"


def test_validate_prints_the_schema(tvetl: Command) -> None:
    assert json.loads(tvetl("validate", "--schema").stdout) == schema()
    assert tvetl("validate").returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_options_and_names(
    tvetl: Command, local: LocalCluster, crops: str, shell: str
) -> None:
    def offered(line: str) -> str:
        asked = {
            "_TVETL_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        return tvetl(env={**os.environ, **asked, "AIS_ENDPOINT": local.endpoint}).stdout.decode()

    assert "transform" in offered("tvetl tr")
    assert "--on-interrupt" in offered("tvetl transform --on")
    assert crops in offered("tvetl show test-cr")
    assert "_TVETL_COMPLETE" in tvetl(env={**os.environ, "_TVETL_COMPLETE": f"source_{shell}"}).stdout.decode()


def test_local_runs_until_it_is_interrupted(tmp_path: Path) -> None:
    program = [sys.executable, "-u", "-c", "from tvetl.command.cli import main; main()", "local", "--port", "0"]
    with subprocess.Popen([*program, "--root", str(tmp_path / "root")], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        line = next(line for line in running.stdout if "http://" in line)
        endpoint = re.search(r"http://[\d.:]+", line)
        assert endpoint
        cluster = Cluster(endpoint[0])
        cluster.create_bucket("made")
        assert (tmp_path / "root").is_dir()
        assert cluster.objects("made") == []
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 0


#: A transformer that takes its time, and tells in a file when the first object is there.
SLOW = """
import http.server, os, pathlib, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.send_header("Content-Length", "0"), self.end_headers()
    def do_PUT(self):
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(1)
        self.send_response(200), self.send_header("Content-Length", "1"), self.end_headers(), self.wfile.write(b"x")
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.mark.parametrize("told", ["stop", "leave"])
def test_an_interrupted_transform_stops_its_job_or_leaves_it(
    tmp_path: Path, pipeline: Callable[..., Pipeline], told: str
) -> None:
    began = tmp_path / "began"
    slow = {"slow:1": [sys.executable, "-c", SLOW, str(began)]}
    with LocalCluster(tmp_path / "root", allow=slow) as running:
        cluster = Cluster(running.endpoint)
        cluster.create_bucket("many")
        for at in range(600):  # minutes of work for the one target, were it not interrupted
            cluster.put("many", f"{at:03}", b"x")
        cluster.register(PodSpec("test-slow", pipeline(), "slow:1", start_timeout=60))
        program = [sys.executable, "-c", "from tvetl.command.cli import main; main()", "transform", "many", "out"]
        options = ["--etl", "test-slow", "-e", running.endpoint, "--on-interrupt", told]
        with subprocess.Popen([*program, *options], stderr=subprocess.PIPE) as command:
            deadline = time.monotonic() + 60
            while not began.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            command.send_signal(signal.SIGINT)
            assert command.stderr
            said = command.stderr.read()
            assert command.wait(timeout=60) == 130
        if told == "leave":
            assert Client(running.endpoint).cluster().list_running_jobs(job_kind="etl-bck")
            assert b"runs on" in said
            return
        while jobs_left := Client(running.endpoint).cluster().list_running_jobs(job_kind="etl-bck"):
            assert time.monotonic() < deadline, jobs_left  # objects under way are finished first
            time.sleep(0.05)
        assert len(cluster.objects("out")) < 600


def test_the_exit_statuses_are_those_of_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "command.md").read_text(encoding="utf-8")
    table = {match[2]: int(match[1]) for match in re.finditer(r"^\| (\d+) \| .* \| `(\w+)` \|$", text, re.MULTILINE)}
    kinds = {
        name: kind.exit_code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.TvetlError) and not name.startswith("_") and kind is not errors.TvetlError
    }
    assert table == kinds
