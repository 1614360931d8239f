"""Registering starts the ETL or says why not, and never leaves a name behind."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from aistore.sdk import Etl

from tvetl.cluster import Cluster
from tvetl.errors import ClusterError, NameTaken, NotFound, NotReachable, RegistrationError, UsageError
from tvetl.pod import PodSpec, Resources
from tvetl.spec import Pipeline

#: Seconds that no start and no answer may take here; only a hang would.
LONG = 60
HAS_INIT_SPEC = hasattr(Etl, "init_spec")
PodOf = Callable[..., PodSpec]


@pytest.fixture
def pod(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[PodOf]:
    """Makes pods of one name, which is free before and after."""

    def make(size: int = 32, **fields: Any) -> PodSpec:
        return PodSpec("test-register", pipeline(size), start_timeout=LONG, **fields)

    yield make
    if any(etl.name == "test-register" for etl in cluster.etls()):
        cluster.unregister("test-register")


def test_a_registered_etl_runs_what_was_asked(cluster: Cluster, pod: PodOf) -> None:
    done = cluster.register(pod())
    assert done.form == ("init_spec" if HAS_INIT_SPEC else "spec")
    assert [etl.stage for etl in cluster.etls() if etl.name == "test-register"] == ["Running"]
    assert cluster.show("test-register") == pod().container
    assert cluster.errors("test-register") == []
    assert len(cluster.logs("test-register")) == 2  # one pod a target


def test_the_runtime_form_runs_the_same(cluster: Cluster, pod: PodOf) -> None:
    assert cluster.register(pod(), form="runtime").form == "runtime"
    assert cluster.show("test-register") == pod().container


def test_the_same_again_is_reused_whichever_form_it_has(cluster: Cluster, pod: PodOf) -> None:
    cluster.register(pod(), form="runtime")
    assert cluster.register(pod()).reused


def test_another_pipeline_does_not_take_the_name(cluster: Cluster, pod: PodOf) -> None:
    cluster.register(pod(32))
    with pytest.raises(NameTaken, match="other pipeline") as taken:
        cluster.register(pod(33))
    assert "--replace" in taken.value.hint
    assert cluster.show("test-register") == pod(32).container


def test_replace_puts_the_new_one_in_its_place(cluster: Cluster, pod: PodOf) -> None:
    cluster.register(pod(32))
    assert not cluster.register(pod(33), replace=True).reused
    assert cluster.show("test-register") == pod(33).container


def test_replace_needs_nothing_to_replace(cluster: Cluster, pod: PodOf) -> None:
    assert not cluster.register(pod(), replace=True).reused


def test_a_stopped_etl_keeps_its_name_and_can_be_started(cluster: Cluster, pod: PodOf) -> None:
    cluster.register(pod())
    cluster.stop("test-register")
    with pytest.raises(NotFound):
        cluster.show("test-register")
    with pytest.raises(NameTaken, match="aborted") as taken:
        cluster.register(pod())
    assert "tvetl start test-register" in taken.value.hint
    cluster.start("test-register")
    assert cluster.show("test-register") == pod().container


def test_an_image_that_cannot_be_had_is_named_and_frees_the_name(cluster: Cluster, pod: PodOf) -> None:
    with pytest.raises(RegistrationError, match="nobody/nothing:1") as failed:
        cluster.register(pod(image="nobody/nothing:1"))
    assert "nobody/nothing:1" in failed.value.hint
    assert "test-register" not in [etl.name for etl in cluster.etls()]
    cluster.register(pod())


def test_a_server_that_refuses_to_start_is_quoted(cluster: Cluster, pod: PodOf) -> None:
    with pytest.raises(RegistrationError, match="TVETL_MAX_PIXELS"):
        cluster.register(pod(env={"TVETL_MAX_PIXELS": "a lot"}))
    assert "test-register" not in [etl.name for etl in cluster.etls()]


def test_unregistering_what_is_not_there_says_so(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="no-such-etl"):
        cluster.unregister("no-such-etl")


def test_no_cluster_is_another_error_than_a_cluster_that_refuses() -> None:
    with pytest.raises(NotReachable, match=r"127\.0\.0\.1:9") as absent:
        Cluster("http://127.0.0.1:9").etls()  # port 9: discard, which nobody runs
    assert "tvetl local" in absent.value.hint


@pytest.mark.parametrize("endpoint", ["", "localhost:8080", "ftp://host", "http://"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError):
        Cluster(endpoint)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"resources": Resources.with_gpu()}, "(?m)no GPU$"),
        ({"resources": Resources.with_gpu(), "runtime_class": "nvidia"}, "(?m)no GPU and no runtime class$"),
    ],
)
def test_a_pod_with_a_gpu_is_never_registered_without_it(script: Any, pod: PodOf, asked: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Cluster(script.endpoint).register(pod(**asked), form="runtime", replace=True)
    assert script.asked == []
    script.answer = lambda method, path, body: (400, '{"message": "runtime.image must be specified"}')
    with pytest.raises(RegistrationError, match=words):
        Cluster(script.endpoint).register(pod(**asked))
    assert {method for method, path, body in script.asked} <= {"PUT", "GET"}, "who has the name keeps it"


# What a real AIStore does and the stand-in has no reason to


def test_the_body_sent_is_init_specs_own(script: Any, pod: PodOf, shared: Any) -> None:
    script.answer = lambda method, path, body: (200, "etl-xaction")
    Cluster(script.endpoint).register(pod())
    (sent,) = [body for method, path, body in script.asked if method == "PUT"]
    recorded = _recorded_body(shared / "wire" / "sdk-1.26-client.jsonl", "etl-init-spec")
    assert set(sent) == set(recorded)
    assert sent["communication"] == recorded["communication"]
    assert yaml.safe_load(base64.b64decode(sent["spec"])) == pod().to_data()


def test_a_cluster_that_dropped_specs_gets_the_runtime_form(script: Any, pod: PodOf) -> None:
    def answer(method: str, path: str, body: Any) -> tuple[int, str]:
        if method == "PUT" and "runtime" not in body:
            return 400, json.dumps({"message": '[etl="test-register"] runtime.image must be specified', "status": 400})
        return 200, "etl-xaction"

    script.answer = answer
    assert Cluster(script.endpoint).register(pod()).form == "runtime"
    (sent,) = [body for method, path, body in script.asked if method == "PUT" and "runtime" in body]
    assert sent["runtime"]["image"] == pod().image
    assert {item["name"]: item["value"] for item in sent["runtime"]["env"]} == pod().container.env
    assert sent["support_direct_put"] is True


def test_a_spec_that_was_asked_for_is_never_replaced_by_the_runtime_form(script: Any, pod: PodOf) -> None:
    script.answer = lambda method, path, body: (400, '{"message": "runtime.image must be specified"}')
    with pytest.raises(RegistrationError, match=r"runtime\.image"):
        Cluster(script.endpoint).register(pod(), form="spec")
    assert not [body for method, path, body in script.asked if method == "PUT" and "runtime" in body]


def test_the_reason_arrives_though_it_comes_after_the_init_timeout(script: Any, pipeline: Any) -> None:
    def answer(method: str, path: str, body: Any) -> tuple[int, str]:
        if method == "PUT":
            time.sleep(2)  # the init_timeout is 1 s, and so would the SDK's own HTTP time-out be
            return 400, '{"message": "[t[x1],etl=\\"r\\",pod=\\"p\\",service=\\"s\\"] context canceled", "status": 400}'
        if path.endswith("/logs"):
            logs = base64.b64encode(b"starting\nTVETL_PIPELINE: no such file\n\n").decode()
            return 200, json.dumps([{"target_id": "x1", "logs": logs}])
        return 200, ""

    script.answer = answer
    with pytest.raises(RegistrationError) as failed:
        Cluster(script.endpoint).register(PodSpec("test-slow", pipeline(), start_timeout=1))
    assert failed.value.message.endswith("did not start: context canceled; TVETL_PIPELINE: no such file")
    assert [method for method, path, body in script.asked].count("PUT") == 1  # and it was asked once
    assert ("DELETE", "/v1/etl/test-slow", None) in script.asked


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("reason: Error, message: [12] [INFO] x\\ntvetl-server: SettingsError: got 'a', or \\\"b\\\"\\n, exitCode: 2",
         "tvetl-server: SettingsError: got 'a', or \"b\""),
        ("reason: OOMKilled, message: , exitCode: 137", "its container ended with status 137 (OOMKilled)"),
    ],
)  # fmt: skip
def test_the_reason_that_aistore_quotes_is_told_where_the_pod_is_gone(
    script: Any, pod: PodOf, status: str, said: str
) -> None:
    quoted = f't[x1],etl="r",pod="p",service="s",pod_status="container: server, state: Terminated, {status}"'

    def answer(method: str, path: str, body: Any) -> tuple[int, str]:
        if method == "PUT":
            return 400, json.dumps({"message": f"[{quoted}] context canceled", "status": 400})
        return 404, '{"message": "etl job test-register does not exist", "status": 404}'

    script.answer = answer
    with pytest.raises(RegistrationError) as failed:
        Cluster(script.endpoint).register(pod())
    assert failed.value.message == f"the ETL 'test-register' did not start: {said}"


def test_a_pod_that_found_no_gpu_is_told_where_to_look(script: Any, pod: PodOf) -> None:
    node = '[t[x1],etl="r",pod="p",service="s"]'
    refusal = json.dumps({"message": f"{node} {node} context deadline exceeded", "status": 400})
    script.answer = lambda method, path, body: (400, refusal) if method == "PUT" else (404, "")
    with pytest.raises(RegistrationError, match="did not start: context deadline exceeded") as failed:
        Cluster(script.endpoint).register(pod(resources=Resources.with_gpu("nvidia.com/mig-1g.10gb")))
    assert "offer nvidia.com/mig-1g.10gb" in failed.value.hint


def test_what_kubernetes_says_in_place_of_a_log_is_kept(script: Any, pod: PodOf) -> None:
    waiting = 'container "server" is waiting to start: trying and failing to pull image'

    def answer(method: str, path: str, body: Any) -> tuple[int, str]:
        if method == "PUT":
            return 400, '{"message": "context canceled", "status": 400}'
        return (500, json.dumps({"message": waiting})) if path.endswith("/logs") else (200, "")

    script.answer = answer
    with pytest.raises(RegistrationError, match="failing to pull image") as failed:
        Cluster(script.endpoint).register(pod())
    assert "minikube image load" in failed.value.hint


IMAGE, GPU = "Can every node of the cluster get", "Does each target's node offer"


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("tvetl-server: PipelineError: $.steps[0].op: AugMix needs torch; the image's cpu one has it", "VARIANT=cpu"),
        ("tvetl-server: SettingsError: TVETL_IMAGE_TYPES: got 'x', expected a list", "--env NAME=VALUE"),
        ("tvetl-server: PipelineError: $.steps[0].op: no such op", "another version"),
        ("tvetl-server: PluginError: image_ops: no such module", "An op that the image"),
        ("tvetl-server: DeviceError: this torch is built without CUDA", "VARIANT=cuda"),
        ("tvetl-server: DeviceError: torch cannot use the GPU: no device", "--runtime-class"),
        ('container "server" in pod "p" is waiting to start: trying and failing to pull image', IMAGE),
        ('container "server" in pod "p" is waiting to start: ErrImageNeverPull', IMAGE),
        ('container "server" in pod "p" is waiting to start: ImagePullBackOff', IMAGE),
        ("its container ended with status 137 (OOMKilled)", "too little memory"),
        ("exec /usr/bin/python3: exec format error", "the nodes' processors"),
        ("its container ended with status 1 (Error)", "docker run --rm mine:1"),
        ("context deadline exceeded", "--timeout (now 60 s)"),
        ("context canceled; starting the image's engine", "--timeout (now 60 s)"),
    ],
)  # fmt: skip
def test_a_hint_belongs_to_its_cause(script: Any, pod: PodOf, said: str, hint: str) -> None:
    script.answer = lambda method, path, body: (
        (400, json.dumps({"message": f'[t[x1],etl="r",pod="p"] {said}'})) if method == "PUT" else (404, "")
    )
    with pytest.raises(RegistrationError) as failed:
        Cluster(script.endpoint).register(pod(image="mine:1"))
    assert said in failed.value.message
    assert hint in failed.value.hint
    assert (IMAGE in failed.value.hint) == (hint == IMAGE) and GPU not in failed.value.hint


@pytest.mark.parametrize(("status", "hint"), [(401, "AIS_AUTHN_TOKEN"), (403, "AIS_AUTHN_TOKEN"), (400, "")])
def test_what_was_refused_before_a_start_leaves_the_name_to_who_has_it(
    script: Any, pod: PodOf, status: int, hint: str
) -> None:
    message = "invalid etl.InitMsg: something is missing" if status == 400 else "not an administrator"
    script.answer = lambda method, path, body: (
        (status, json.dumps({"message": message})) if method == "PUT" else (200, "[]")
    )
    with pytest.raises(ClusterError, match=message) as refused:
        Cluster(script.endpoint).register(pod())
    assert hint in refused.value.hint
    assert "DELETE" not in {method for method, _, _ in script.asked}


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (404, "p[x1]: etl job crops-1 does not exist", "tvetl list"),
        (404, "t[x1]: ais://pets/petlover.jpg does not exist", ""),
        (404, 'bucket "ais://etl-results" does not exist', ""),
        (403, 'bucket "ais://photos": PUT access denied (allowed: [GET])', "access attributes"),
        (403, "token lacks permissions", "AIS_AUTHN_TOKEN"),
    ],
)
def test_a_refusals_hint_belongs_to_it(script: Any, status: int, message: str, hint: str) -> None:
    script.answer = lambda method, path, body: (status, json.dumps({"message": message}))
    with pytest.raises(ClusterError) as refused:
        Cluster(script.endpoint).etls()
    assert hint in refused.value.hint and bool(hint) == bool(refused.value.hint)


def test_an_error_comes_at_once_and_with_its_body(script: Any) -> None:
    script.answer = lambda method, path, body: (503, '{"message": "the cluster is starting", "status": 503}')
    began = time.monotonic()
    with pytest.raises(ClusterError, match="the cluster is starting"):
        Cluster(script.endpoint).etls()
    assert time.monotonic() - began < LONG  # the SDK's default repeats it for 93 s, and then loses the body


def _recorded_body(recording: Any, step: str) -> Any:
    for line in recording.read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        if exchange["step"] == step and exchange["request"]["method"] == "PUT":
            return json.loads(exchange["request"]["body"]["text"])
    raise AssertionError(f"no step {step!r} in {recording}")
