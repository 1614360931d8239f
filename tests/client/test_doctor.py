"""The doctor finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from support.serving import jailed

from tvetl.cluster import Cluster
from tvetl.command.doctor import Finding, examine
from tvetl.local import LocalCluster

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
TAKES_BOTH = (
    "ETLSpecMsg error: runtime.image must be specified; InitSpecMsg error: unsupported number of containers (0)"
)


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def test_the_stand_in_is_healthy_and_stays_as_it_was(local: LocalCluster, cluster: Cluster, crops: str) -> None:
    before = cluster.etls()
    found = examine(local.endpoint)
    wanted = ("reachable", "version", "etl", "targets", "disks", "form", "image", "pods")
    jail = "warn" if any(jailed().values()) else "ok"
    assert levels(found) == {**dict.fromkeys(wanted, "ok"), "jail": jail}, found
    assert any(finding.message == f"{crops} runs, and its targets reach it" for finding in found)
    assert cluster.etls() == before


def test_nobody_at_the_endpoint_is_said_and_nothing_more_is_asked(tvetl: Command) -> None:
    done = tvetl("doctor", "--endpoint", "http://127.0.0.1:1", "--json")
    (finding,) = json.loads(done.stdout)
    assert done.returncode == 5 and finding["level"] == "fail" and "nobody answers" in finding["message"]
    assert "tvetl local" in finding["hint"]


@pytest.fixture
def aistore(script: Any) -> dict[str, tuple[int, Any]]:
    """A scripted AIStore 5.0 of one target; the answers are by what is asked, and a test may change them."""
    target = {"public_net": {"direct_url": script.endpoint}}
    node = {"ais_version": "5.0.1", "deployment": "K8s", "capacity": {"pct_max": 40, "cs_err": ""}}
    answers: dict[str, tuple[int, Any]] = {
        "GET /v1/health": (200, ""),
        "GET /v1/daemon?what=smap": (200, {"uuid": "x", "tmap": {"t1": target}}),
        "GET /v1/daemon?what=node_status": (200, node),
        "GET /v1/etl": (200, []),
        "GET /v1/cluster?what=cluster_config": (200, {"space": {"highwm": 90, "out_of_space": 95}}),
        "PUT /v1/etl": (400, {"message": TAKES_BOTH}),
    }

    def answer(method: str, path: str, body: Any) -> tuple[int, str]:
        status, said = answers.get(f"{method} {path}", (404, ""))
        return status, said if isinstance(said, str) else json.dumps(said)

    script.answer = answer
    return answers


def the(check: str, findings: list[Finding]) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def test_a_healthy_aistore_is_healthy_and_the_sdks_way_of_registering_is_told(aistore: Any, script: Any) -> None:
    found = examine(script.endpoint + "/")
    assert set(levels(found).values()) == {"ok"}, found
    sdk = version("aistore")
    assert f"aistore {sdk}: {'init_spec' if sdk.startswith('1.') else 'PUT /v1/etl'}" in the("form", found).message
    puts = [body for method, _, body in script.asked if method == "PUT"]
    assert len(puts) == 1 and "runtime" not in puts[0], "nothing that could start was sent"


@pytest.mark.parametrize(
    ("asked", "answer", "check", "level", "words"),
    [
        ("GET /v1/health", (503, ""), "reachable", "fail", "starting"),
        ("GET /v1/health", (404, "nginx"), "reachable", "fail", "is no AIStore"),
        ("GET /v1/daemon?what=smap", (503, ""), "reachable", "fail", "starting"),
        ("GET /v1/etl", (501, {"message": "cannot use ETL in a build without ETL support"}), "etl", "fail", "v5.0-etl"),
        ("GET /v1/etl", (401, {"message": "token required"}), "etl", "fail", "administrators"),
        ("GET /v1/etl", (400, {"message": "the operation requires Kubernetes"}), "etl", "fail", "tvetl local"),
        ("GET /v1/daemon?what=smap", (200, {"tmap": {}}), "targets", "fail", "no targets"),
        ("GET /v1/daemon?what=smap", (403, {"message": "user `ann` may not"}), "token", "warn", "SHOW-CLUSTER"),
        ("GET /v1/daemon?what=smap", (401, {"message": "token expired"}), "token", "fail", "auth login"),
        ("PUT /v1/etl", (400, {"message": "runtime.image must be specified"}), "form", "warn", "runtime form alone"),
        ("PUT /v1/etl", (400, {"message": "runtime.image must be specified"}), "image", "warn", "Push the image"),
        ("PUT /v1/etl", (403, {"message": "no"}), "form", "warn", "administrator"),
        ("GET /v1/etl", (200, [{"id": "crops-1", "stage": "Aborted"}]), "pods", "warn", "tvetl start crops-1"),
        ("GET /v1/etl", (200, [{"id": "crops-1", "stage": "Running"}]), "pods", "fail", "tvetl stop crops-1"),
    ],
)
def test_each_trouble_is_found_and_has_its_remedy(
    aistore: Any, script: Any, asked: str, answer: tuple[int, Any], check: str, level: str, words: str
) -> None:
    aistore[asked] = answer
    finding = the(check, examine(script.endpoint))
    assert finding.level == level and words in f"{finding.message} {finding.hint}", finding


@pytest.mark.parametrize(
    ("node", "check", "level", "words"),
    [
        ({"ais_version": "5.1.0"}, "version", "warn", "AIStore 5.1.0"),
        ({"capacity": {"pct_max": 91}}, "disks", "warn", "91 % full"),
        ({"capacity": {"pct_max": 96}}, "disks", "fail", "no more is stored"),
        ({"capacity": {"pct_max": 10, "cs_err": "disk fault"}}, "disks", "warn", "disk fault"),
        (
            {"capacity": {"mountpaths": {"/mnt/a": {}}}},
            "readers",
            "warn",
            "reads 1 object at once: 1 target, 1 mountpath",
        ),
        ({"capacity": {"mountpaths": {"/mnt/a": {}}}}, "readers", "warn", "tvetl transform --workers"),
        ({"capacity": {"mountpaths": {"/mnt/a": {}, "/mnt/b": {}}}}, "readers", "ok", "2 objects at once"),
    ],
)
def test_what_a_target_tells_is_judged(
    aistore: Any, script: Any, node: dict[str, Any], check: str, level: str, words: str
) -> None:
    aistore["GET /v1/daemon?what=node_status"][1].update(node)
    finding = the(check, examine(script.endpoint))
    assert finding.level == level and words in f"{finding.message} {finding.hint}", finding


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ("landlock, seccomp, limits", "ok"),
        ("seccomp, limits; without landlock: Function not implemented", "warn"),
        ("off", "warn"),
    ],
)
def test_pods_whose_decoders_are_not_jailed_are_told(aistore: Any, script: Any, words: str, level: str) -> None:
    aistore["GET /v1/etl"] = (200, [{"id": "crops-1", "stage": "Running"}])
    aistore["GET /v1/etl/crops-1/health"] = (200, [{"target_id": "t1", "health_status": "Running"}])
    log = base64.b64encode(f"[INFO] Pipeline\n[INFO] The jail of decoders: {words}\nmore\n".encode()).decode()
    aistore["GET /v1/etl/crops-1/logs"] = (200, [{"target_id": "t1", "logs": log}])
    finding = the("jail", examine(script.endpoint))
    assert finding.level == level and words in finding.message


def test_a_target_that_clients_cannot_reach_is_named(aistore: Any, script: Any) -> None:
    aistore["GET /v1/daemon?what=smap"][1]["tmap"]["t2"] = {"public_net": {"direct_url": "http://127.0.0.1:1"}}
    finding = the("targets", examine(script.endpoint))
    assert finding.level == "fail" and "http://127.0.0.1:1" in finding.message


def test_pods_that_do_not_run_and_node_ports_that_do_not_answer_are_named(
    aistore: Any, script: Any, tvetl: Command
) -> None:
    aistore["GET /v1/etl"] = (200, [{"id": "crops-1", "stage": "Running"}])
    aistore["GET /v1/etl/crops-1/health"] = (200, [{"target_id": "t1", "health_status": "Pending"}])
    assert "t1 is Pending" in the("pods", examine(script.endpoint)).message
    aistore["GET /v1/etl/crops-1/health"] = (200, [{"target_id": "t1", "health_status": "Running"}])
    message = 'Put "http://10.0.0.2:31234/b/o": dial tcp 10.0.0.2:31234: i/o timeout'
    aistore["GET /v1/etl/crops-1"] = (200, {"obj_errors": [{"obj_name": "o", "msg": message, "ecode": 502}]})
    done = tvetl("doctor", "--endpoint", script.endpoint)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 1 and "10.0.0.2:31234 (i/o timeout)" in said and "firewall" in said
