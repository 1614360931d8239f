"""The alert rules fire when they should, and rules and dashboard ask for nothing that /metrics does not have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tvetl_server.metrics import STAGES, WAYS, Metrics
from tvetl_server.problems import PROBLEMS


@pytest.fixture(scope="session")
def monitoring(repository: Path) -> Path:
    return repository / "k8s" / "monitoring"


@pytest.fixture(scope="session")
def promtool(monitoring: Path) -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("needs promtool, which comes with Prometheus (Debian: apt-get install prometheus)")
    return found


def queries(monitoring: Path) -> dict[str, str]:
    """Every query of the rules and of the dashboard, by where it stands."""
    rules = yaml.safe_load((monitoring / "rules.yaml").read_text(encoding="utf-8"))
    board = json.loads((monitoring / "dashboard.json").read_text(encoding="utf-8"))
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    return found | {
        f"{panel['title']}, {target['refId']}": target["expr"].replace("$__rate_interval", "1m").replace("$pod", ".*")
        for row in board["panels"]
        for panel in (row["panels"] if row["type"] == "row" else [row])
        for target in panel["targets"]
    }


def test_the_rules_fire_when_they_should_and_are_silent_else(monitoring: Path, promtool: str) -> None:
    for verb, file in (("check", "rules.yaml"), ("test", "rules.test.yaml")):
        done = subprocess.run(
            [promtool, verb, "rules", file], cwd=monitoring, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_queries_are_prometheus_language(monitoring: Path, promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel_{at}", "expr": query} for at, query in enumerate(queries(monitoring).values())]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_asked_for_that_is_not_measured(monitoring: Path) -> None:
    measured = {
        line.partition("{")[0].partition(" ")[0] for line in Metrics(device=True).text().splitlines() if line[0] != "#"
    }
    codes = {problem.code for problem in PROBLEMS.values()} | {"internal", "next_stage"}
    asked = queries(monitoring)
    assert len(asked) > 10
    for where, query in asked.items():
        assert {*re.findall(r"\btvetl_\w+", query)} <= measured, where
        for pattern in re.findall(r'code[=!]~?"([^"]*)"', query):
            assert {*pattern.split("|")} <= codes, where
        assert {*re.findall(r'stage="([^"]*)"', query)} <= {*STAGES}, where
        for pattern in re.findall(r'way[=!]~?"([^"]*)"', query):
            assert {*pattern.split("|")} <= {*WAYS}, where


def test_every_alert_is_tried_and_says_what_to_do(monitoring: Path) -> None:
    rules = yaml.safe_load((monitoring / "rules.yaml").read_text(encoding="utf-8"))
    tried = (monitoring / "rules.test.yaml").read_text(encoding="utf-8")
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert f'alertname="{rule["alert"]}"' in tried
            assert rule["annotations"]["do"] and rule["labels"]["severity"] in ("critical", "warning", "info")
