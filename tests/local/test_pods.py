"""Transformers as processes: checked as AIStore checks pods, driven as a target drives them, gone when all is over."""

from __future__ import annotations

import base64
import http.client
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

pytest.importorskip("msgspec", reason="the stand-in's requirements are not installed")

from tvetl.errors import TvetlError
from tvetl.local import LocalCluster
from tvetl.local.http import ApiError
from tvetl.local.pods import InitMessage, command, duration, plan


def ask(cluster: LocalCluster, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """A request, redirects followed; status and body, as data where it is JSON."""
    url = cluster.endpoint + path
    for _ in range(2):
        host, _, target = url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=30)
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        connection.request(method, "/" + target, data)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        if answer.status not in (301, 307):
            break
        url = answer.getheader("Location", "")
    return answer.status, json.loads(raw) if raw[:1] in (b"{", b"[") else raw


def register(cluster: LocalCluster, pod: Callable[..., str], name: str = "rec-etl", obj_timeout: str = "5s") -> None:
    spec = base64.b64encode(pod().encode()).decode()
    message = {
        "name": name,
        "spec": spec,
        "communication": "hpush://",
        "init_timeout": "30s",
        "obj_timeout": obj_timeout,
    }
    assert ask(cluster, "PUT", "/v1/etl", message)[0] == 200


def processes(cluster: LocalCluster) -> set[int]:
    """Processes that have the cluster's folder in their environment: transformers and their watchdogs."""
    mark = f"TVETL_ROOTS={cluster.root.resolve()}".encode()
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:
            pass
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are counted in /proc")


def pause_until(promise: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not promise() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert promise()


@needs_proc
def test_nothing_lingers_after_stop(make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]) -> None:
    cluster = make_cluster(2)
    register(cluster, pod)
    register(cluster, pod, "rec-etl2")
    assert len(processes(cluster)) == 8, "two ETLs, two targets, each a transformer and its watchdog"
    assert ask(cluster, "POST", "/v1/etl/rec-etl/stop")[0] == 200
    assert len(processes(cluster)) == 4
    cluster.stop()
    assert processes(cluster) == set()


@needs_proc
def test_nothing_lingers_when_the_cluster_is_killed(tmp_path: Path, pod: Callable[..., str]) -> None:
    program = (
        "import sys, pathlib, time\n"
        "from tvetl.local import LocalCluster\n"
        "cluster = LocalCluster(pathlib.Path(sys.argv[1]), targets=2, allow={'localhost/rec:1': sys.argv[2:]})\n"
        "cluster.start(); print(cluster.endpoint, flush=True); time.sleep(600)\n"
    )
    recorder = [sys.executable, str(Path(__file__).parents[1] / "support/local/recorder.py")]
    argv = [sys.executable, "-c", program, str(tmp_path / "ais"), *recorder]
    path = os.pathsep.join(sys.path)
    victim = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    try:
        cluster = LocalCluster(tmp_path / "ais")
        assert victim.stdout
        cluster.endpoint = victim.stdout.readline().strip()
        register(cluster, pod)
        assert len(processes(cluster)) == 4
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    pause_until(lambda: not processes(cluster))


@needs_proc
def test_serve_says_where_it_is_and_ends_on_a_signal(tmp_path: Path, pod: Callable[..., str]) -> None:
    program = (
        "import sys, pathlib\n"
        "from tvetl.local import serve\n"
        "allow = {'localhost/rec:1': sys.argv[2:]}\n"
        "serve(pathlib.Path(sys.argv[1]), allow=allow, log=lambda line: print(line, flush=True))\n"
    )
    recorder = [sys.executable, str(Path(__file__).parents[1] / "support/local/recorder.py")]
    argv = [sys.executable, "-c", program, str(tmp_path / "ais"), *recorder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout
            cluster = LocalCluster(tmp_path / "ais")
            cluster.endpoint = re.findall(r"http://127.0.0.1:\d+", server.stdout.readline())[0]
            assert server.stdout.readline().strip() == f"export AIS_ENDPOINT={cluster.endpoint}"
            register(cluster, pod)
            assert len(processes(cluster)) == 2
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
        finally:
            server.kill()
    assert processes(cluster) == set()


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "local.md"
    example = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(guide), "exec"), {})  # noqa: S102 - our own words, which must be true


def test_stop_ends_open_connections_and_frees_the_port(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    cluster.start()
    port = int(cluster.endpoint.rpartition(":")[2])
    idle = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    idle.request("GET", "/v1/health")
    idle.getresponse().read()
    cluster.stop()
    assert idle.sock.recv(1) == b"", "the other side has closed it"
    with LocalCluster(tmp_path, port=port) as again:
        assert again.endpoint.endswith(str(port))
        with pytest.raises(TvetlError, match="another cluster"):
            LocalCluster(tmp_path).start()
    cluster.stop()  # twice does no harm


def test_a_body_is_sent_again_when_the_transformer_asks_for_it(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    ask(cluster, "POST", "/v1/buckets/src", {"action": "create-bck"})
    ask(cluster, "PUT", "/v1/objects/src/busy.jpg", b"DATA")
    register(cluster, pod)
    assert ask(cluster, "GET", "/v1/objects/src/busy.jpg?etl_name=rec-etl")[0] == 503, "without a body it is final"
    ask(cluster, "PUT", "/v1/objects/src/busy2.jpg", b"DATA")
    assert ask(cluster, "GET", "/v1/objects/src/busy2.jpg?etl_name=rec-etl&latest-ver=true") == (200, b"T:DATA")


def test_a_transformer_that_does_not_answer_in_time_fails_that_object_only(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    ask(cluster, "POST", "/v1/buckets/src", {"action": "create-bck"})
    for name in ("slow.jpg", "a.jpg"):
        ask(cluster, "PUT", f"/v1/objects/src/{name}", b"DATA")
    register(cluster, pod, obj_timeout="700ms")
    status, error = ask(cluster, "GET", "/v1/objects/src/slow.jpg?etl_name=rec-etl")
    assert (status, "no answer within 700ms" in error["message"]) == (500, True)
    assert ask(cluster, "GET", "/v1/objects/src/a.jpg?etl_name=rec-etl") == (200, b"T:fqn")


def test_a_transformer_without_direct_put_may_answer_with_the_bytes(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster(2)
    ask(cluster, "POST", "/v1/buckets/src", {"action": "create-bck"})
    for i in range(12):
        ask(cluster, "PUT", f"/v1/objects/src/plain{i}.jpg", b"DATA")
    register(cluster, pod)
    value = {"id": "rec-etl", "coer": True}
    status, job = ask(
        cluster, "POST", "/v1/buckets/src?bck_to=ais%2F%40%23%2Fdst%2F", {"action": "etl-bck", "value": value}
    )
    assert status == 200
    query = {"ID": job.decode()}
    pause_until(lambda: ask(cluster, "GET", "/v1/cluster?what=status", query)[1]["end_time"] > 0)
    stats = [snap["stats"] for (snap,) in ask(cluster, "GET", "/v1/cluster?what=qryxstats", query)[1].values()]
    total = {key: sum(int(stat[key]) for stat in stats) for key in stats[0]}
    assert total["loc-objs"] + total["out-objs"] == 12
    assert total["out-objs"] == total["in-objs"] > 0
    assert total["loc-bytes"] + total["out-bytes"] == 12 * len("T:fqn")
    assert sorted(path.read_bytes() for path in (cluster.root / "dst").iterdir()) == [b"T:fqn"] * 12


def test_a_direct_put_needs_the_secret(make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]) -> None:
    cluster = make_cluster()
    ask(cluster, "POST", "/v1/buckets/src", {"action": "create-bck"})
    register(cluster, pod)
    smap = ask(cluster, "GET", "/v1/daemon?what=smap")[1]
    cluster.endpoint = smap["tmap"]["target0"]["public_net"]["direct_url"]
    status, error = ask(cluster, "PUT", "/v1/etl/_object/rec-etl/guess/ais%2F@%23%2Fsrc%2Fx", b"x")
    assert (status, error["message"]) == (403, "t[target0]: not the secret of rec-etl")
    assert list((cluster.root / "src").iterdir()) == []


def test_logs_are_what_the_process_wrote(make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]) -> None:
    cluster = make_cluster(2)
    register(cluster, pod)
    logs = ask(cluster, "GET", "/v1/etl/rec-etl/logs")[1]
    assert [entry["target_id"] for entry in logs] == ["target0", "target1"]
    assert all(b"recorder on" in base64.b64decode(entry["logs"]) for entry in logs)


BAD_PODS = [
    ("name: default, containerPort", "name: http, containerPort", 'expected port name: "default", got: "http"'),
    ("port: default}}", "port: 8000}}", 'readinessProbe port must be the "default" port'),
    ("readinessProbe:", "livenessProbe:", "readinessProbe section is required in a container spec"),
    ("{path: /health, port: default}", "{port: default}", "expected non-empty path for readinessProbe"),
    ("httpGet:", "exec:", "httpGet missing in the readinessProbe"),
    (
        "ports: [{name: default, containerPort: 8000}]",
        "ports: []",
        "unsupported number of container ports (0), expected: 1",
    ),
    ("    - name: server", "    - {name: a}\n    - name: server", "unsupported number of containers (2), expected: 1"),
    (
        "spec:\n",
        "spec:\n  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {}}}\n",
        "NodeAffinities",
    ),
    ("spec:\n", "spec:\n  affinity: {podAntiAffinity: {x: []}}\n", "NodeAntiAffinities"),
    ("kind: Pod", "kind: Service", "expected pod spec, got: Service"),
    ('support_direct_put: "true"', 'support_direct_put: "perhaps"', "strconv.ParseBool"),
    ("spec:\n", "spec: [\n", "failed to parse pod spec"),
]


@pytest.mark.parametrize(("old", "new", "reason"), BAD_PODS)
def test_a_pod_that_aistore_would_refuse_is_refused_in_its_words(
    pod: Callable[..., str], old: str, new: str, reason: str
) -> None:
    assert old in pod()
    spec = base64.b64encode(pod().replace(old, new).encode()).decode()
    with pytest.raises(ApiError) as raised:
        plan(InitMessage(spec=spec, name="rec-etl"))
    assert raised.value.status == 400
    assert reason in raised.value.message


@pytest.mark.parametrize("name", ["", "short", "x" * 33, "Upper-case", "under_score"])
def test_names_of_etls_are_6_to_32_of_lower_case_digits_and_dashes(name: str, pod: Callable[..., str]) -> None:
    with pytest.raises(ApiError, match="ETL name"):
        plan(InitMessage(spec=base64.b64encode(pod().encode()).decode(), name=name))


def test_only_our_server_and_allowed_images_run() -> None:
    server, allow = ["serve"], {"registry/other:1": ["other"]}
    for image in ("tvetl-server", "tvetl-server:1.0", "host:5000/a/tvetl-server@sha256:0", "x/tvetl-server:1-cuda"):
        assert command(image, server, allow) == server
    assert command("registry/other:1", server, allow) == ["other"]
    for image in ("registry/other:2", "evil-tvetl-server", "tvetl-server/evil", ""):
        with pytest.raises(ApiError, match="cannot be run here"):
            command(image, server, allow)


def test_times_are_gos() -> None:
    assert [duration(text) for text in ("5m", "1h2m3s", "500ms", "1.5s")] == [300, 3723, 0.5, 1.5]
    with pytest.raises(ApiError, match="invalid duration"):
        duration("5")
