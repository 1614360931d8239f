"""What a command prints, to whom: people at a terminal, a file or pipe, and programs that asked for JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvetl.cluster import Cluster
from tvetl.command import terminal
from tvetl.jobs import JobProgress
from tvetl.local import LocalCluster

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
PROGRAM = [sys.executable, "-c", "from tvetl.command.cli import main; main()"]
NOBODY = "http://127.0.0.1:9"
PIPELINE = '{"version": 1, "steps": [{"op": "CenterCrop", "size": 8}], "output": {"format": "png"}}'


@pytest.fixture
def at(local: LocalCluster, crops: str, images: str, tmp_path: Path) -> dict[str, Any]:
    """The environment and folder of a command, before a cluster with an ETL and a bucket."""
    (tmp_path / "p.json").write_text(PIPELINE, encoding="utf-8")
    return {"env": {**os.environ, "AIS_ENDPOINT": local.endpoint, "COLUMNS": "200"}, "cwd": tmp_path}


#: Commands, with their exit status.
ANSWERS = {
    "list": 0,
    "show test-crops": 0,
    "doctor": 0,
    "conformance --list": 0,
    "transform images output-out --etl test-crops --show-config": 0,
}
TELL = {
    "list": 0,
    "validate p.json": 0,
    "register test-output p.json": 0,
    "get images/photo_1.txt --etl test-crops --output x": 4,
    "transform images output-out --etl test-crops": 4,
    "list --endpoint http://127.0.0.1:9": 5,
    "get": 2,
    "rm test-output": 0,
}


def test_with_json_both_streams_have_json_alone(tvetl: Command, at: dict[str, Any]) -> None:
    for command, status in TELL.items():
        done = tvetl(*command.split(), "--json", **at)
        assert done.returncode == status, (command, done.stderr)
        assert all(line.startswith(b"{") for line in done.stderr.splitlines()), (command, done.stderr)
        told = [json.loads(line) for line in done.stderr.splitlines()]
        if done.stdout:
            json.loads(done.stdout)  # one value
        if status in (1, 2, 5) and "doctor" not in command:
            assert {"error", "message", "hint"} <= set(told[-1]), command
    (tmp := at["cwd"] / "tvetl.yaml").write_text("nonsense: 1\n", encoding="utf-8")
    assert json.loads(tvetl("list", "--json", **at).stderr)["error"] == "UsageError"
    tmp.unlink()


def test_without_json_no_line_is_json_and_a_job_of_a_moment_shows_no_progress(
    tvetl: Command, at: dict[str, Any]
) -> None:
    for command in ("register test-output p.json", "transform images output-out --etl test-crops"):
        done = tvetl(*command.split(), **at)
        assert not [line for line in done.stderr.splitlines() if line.startswith((b"{", b"["))], command
        assert b"Traceback" not in done.stderr and b"\x1b" not in done.stderr, command
    again = tvetl("transform", "images", "output-out", "--etl", "test-crops", "--again", **at)
    assert re.fullmatch(rb"1 failed; errors.jsonl names all of them:\n  photo_1.txt: .*\n", again.stderr), again.stderr


@pytest.mark.parametrize("command", ANSWERS)
def test_a_table_has_titles_wherever_it_is_printed(tvetl: Command, at: dict[str, Any], command: str) -> None:
    done = tvetl(*command.split(), **at)
    assert done.returncode == ANSWERS[command], done.stderr
    titles, *rows = done.stdout.decode().splitlines()
    columns = titles.split("\t")
    assert len(columns) > 1 and all(columns), "each column has one"
    assert rows and rows[0].count("\t") == len(columns) - 1
    if command == "list":
        assert re.split(r" {2,}", at_a_terminal(command, at).partition("\n")[0].strip()) == columns


def at_a_terminal(command: str, at: dict[str, Any]) -> str:
    """What a command prints, both streams together, where these are a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*PROGRAM, *command.split()], stdin=theirs, stdout=theirs, stderr=theirs, **at) as running:
        os.close(theirs)
        said = b""
        try:
            while block := os.read(ours, 1 << 16):
                said += block
        except OSError:  # Linux: nobody writes any more
            pass
        running.wait(60)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).replace("\r", "")


def test_at_a_terminal_a_job_has_a_bar_and_with_json_none(at: dict[str, Any]) -> None:
    assert "━" in at_a_terminal("transform images output-bar --etl test-crops --again", at)
    for line in at_a_terminal("transform images output-bar --etl test-crops --again --json", at).splitlines():
        json.loads(line)


def test_an_empty_listing_says_so(tvetl: Command, tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "empty") as running:
        done = tvetl("list", "--endpoint", running.endpoint)
        assert (done.stdout, b"there is no ETL" in done.stderr) == (b"name\tstage\tobjects read\n", True)
        assert json.loads(tvetl("list", "--json", "--endpoint", running.endpoint).stdout) == []


def told_in_an_hour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, as_json: bool) -> list[str]:
    now = 1000.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    monkeypatch.setattr(terminal, "err", terminal.Console(stderr=True, soft_wrap=True, highlight=False))
    monkeypatch.setattr(terminal._Speech, "json", as_json)
    with terminal.progress("objects", 36_000) as advance:
        for tenth in range(36_000):
            now += 0.1
            advance.job(JobProgress(tenth, 36_000, tenth / 10, 7 * tenth))
    return capsys.readouterr().err.splitlines()


def test_progress_off_a_terminal_is_a_sentence_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told_in_an_hour(monkeypatch, capsys, as_json=False)
    assert 60 <= len(lines) <= 120
    assert re.fullmatch(r"objects: \d+ of 36000, 10/s, [\d.]+ B, [\d:]+ left", lines[0]), lines[0]


def test_progress_for_programs_is_a_line_of_json_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told_in_an_hour(monkeypatch, capsys, as_json=True)
    assert 3000 <= len(lines) <= 3601
    assert json.loads(lines[-1])["done"] == 35_999


def test_warnings_and_logs_of_libraries_are_json_too(tmp_path: Path) -> None:
    program = (
        "import logging, warnings\nfrom tvetl.command import terminal\nterminal.speak(as_json=True)\n"
        "warnings.warn('old', FutureWarning)\nlogging.getLogger('aistore').warning('odd %s', 1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert [json.loads(line) for line in done.stderr.splitlines()] == [
        {"note": "warning: old"},
        {"note": "warning: odd 1"},
    ]


def test_words_between_colons_are_no_emoji(tvetl: Command, tmp_path: Path) -> None:
    pipeline = tmp_path / "p.json"
    pipeline.write_text('{"steps":[{"op":"my.Op","name":":dog:"}],"output":{"format":"png"}}', encoding="utf-8")
    for options in ([], ["--json"]):
        assert b'":dog:"' in tvetl("validate", str(pipeline), *options).stdout
    assert b":dog:" in tvetl("validate", ":dog:.json").stderr


def test_names_of_objects_bring_no_control_characters(tvetl: Command, cluster: Cluster, at: dict[str, Any]) -> None:
    cluster.create_bucket("output-names")
    name = "a\n\x1b[31m.jpg"
    cluster.put("output-names", name, b"")
    for words in (["transform", "output-names", "output-none"], ["get", f"output-names/{name}"]):
        done = tvetl(*words, "--etl", "test-crops", **at)
        assert done.returncode
        assert b"\x1b" not in done.stderr, words
        assert rb"\x1b[31m.jpg" in done.stderr, words
        assert b"  a\n" not in done.stderr, words
    for bucket in ("output-names", "output-none"):
        cluster.delete_bucket(bucket)
