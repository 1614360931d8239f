"""A pod says what AIStore demands, and nothing that the data does not say."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tvetl.errors import UsageError
from tvetl.pod import PodSpec, Reference, Resources, container_of
from tvetl.spec import Pipeline, canonical, parse

GOLDEN = Path(__file__).with_name("pod.golden.yaml")
BLOG = Path(__file__).parents[2] / "examples" / "pipelines" / "blog.yaml"


def blog_pod(name: str = "transform-images") -> PodSpec:
    return PodSpec(name, parse(BLOG.read_text(encoding="utf-8")), "tvetl-server:1", env={"TVETL_WORKERS": "2"})


def test_the_pod_of_the_blogs_pipeline_is_the_golden_one() -> None:
    assert blog_pod().to_yaml() == GOLDEN.read_text(encoding="utf-8")


def test_the_yaml_reads_back_as_the_data() -> None:
    assert yaml.safe_load(blog_pod().to_yaml()) == blog_pod().to_data()


def test_aistore_finds_all_that_it_demands() -> None:
    pod = yaml.safe_load(blog_pod().to_yaml())
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert port["name"] == "default"
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "default"}
    assert pod["metadata"]["annotations"]["support_direct_put"] == "true"
    assert set(pod["spec"]) == {"containers"}  # no affinity, which it refuses, no volumes, which it replaces
    assert "volumeMounts" not in container


def test_the_pod_runs_as_was_tried_on_a_cluster() -> None:
    security = yaml.safe_load(blog_pod().to_yaml())["spec"]["containers"][0]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, 10001, 0)
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_resource_that_is_not_named_is_not_written() -> None:
    assert Resources(cpu="").to_data() == {"requests": {"memory": "256Mi"}}
    assert Resources(memory_limit="2Gi").to_data()["limits"] == {"memory": "2Gi"}


def test_a_pod_with_a_gpu_asks_for_it_and_may_go_where_it_is(pipeline: Callable[..., Pipeline]) -> None:
    for gpu in ("nvidia.com/gpu", "nvidia.com/mig-1g.10gb"):
        pod = PodSpec("test-etl", pipeline(), resources=Resources.with_gpu(gpu), runtime_class="nvidia").to_data()
        spec = pod["spec"]
        assert isinstance(spec, dict)
        assert spec["containers"][0]["resources"]["limits"] == {"memory": "12Gi", gpu: "1"}
        assert spec["runtimeClassName"] == "nvidia"
        assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert set(spec) == {"containers", "runtimeClassName", "tolerations"}


def test_a_resource_without_a_domain_is_refused() -> None:
    for name in ("gpu", "nvidia.com/", "nvidia.com/gpu: 1\n"):
        with pytest.raises(UsageError, match="not the name of a resource"):
            Resources(gpu=name)


@pytest.mark.parametrize("name", ["six-ch", "transform-images", "0etl-name0", "a" * 32])
def test_names_that_aistore_takes_are_taken(name: str) -> None:
    assert blog_pod(name).name == name


@pytest.mark.parametrize(
    "name", ["", "short", "a" * 33, "-begins", "ends-in-", "Upper-case", "under_score", "new-line\n"]
)
def test_names_that_aistore_refuses_are_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        blog_pod(name)
    assert "6 to 32" in refused.value.hint


def test_the_pipeline_has_one_source(pipeline: Callable[..., Pipeline]) -> None:
    with pytest.raises(UsageError):
        PodSpec("test-etl", pipeline(), env={"TVETL_PIPELINE": "{}"})


def test_both_forms_of_registering_are_read_back_as_the_same_container() -> None:
    pod = blog_pod()
    spec = {"spec": base64.b64encode(pod.to_yaml().encode()).decode()}
    env = [{"name": name, "value": value} for name, value in pod.container.env.items()]
    runtime = {"runtime": {"image": pod.image, "env": env}}
    assert container_of(spec) == container_of(runtime) == pod.container
    assert pod.container.env["TVETL_PIPELINE"] == canonical(pod.pipeline)


def test_what_differs_is_named(pipeline: Callable[..., Pipeline]) -> None:
    one = PodSpec("test-etl", pipeline(32), "tvetl-server:1", env={"TVETL_WORKERS": "1"}).container
    other = PodSpec("test-etl", pipeline(33), "tvetl-server:2", env={"TVETL_THREADS": "1"}).container
    assert one.differences(one) == []
    assert one.differences(other) == ["image", "pipeline", "TVETL_THREADS", "TVETL_WORKERS"]


def test_every_example_pipeline_makes_a_pod(repository: Path) -> None:
    files = sorted((repository / "examples" / "pipelines").glob("*.yaml"))
    assert files
    for file in files:
        pod = PodSpec(f"demo-{file.stem}", parse(file.read_text(encoding="utf-8")))
        assert parse(pod.container.env["TVETL_PIPELINE"]) == pod.pipeline


def test_variables_of_secrets_and_configmaps_are_kubernetes_to_fill_in(pipeline: Callable[..., Pipeline]) -> None:
    """A volume would be taken away by AIStore, and a value in the YAML be read by whoever lists ETLs."""
    given = {"AIS_CRT_KEY": "secret/ais-client/tls.key", "AIS_CLIENT_CA": "configmap/ais-ca/ca.crt"}
    pod = PodSpec("test-etl", pipeline(), env_from={name: Reference.of(text) for name, text in given.items()})
    (container,) = yaml.safe_load(pod.to_yaml())["spec"]["containers"]
    found = {item["name"]: item.get("valueFrom") for item in container["env"]}
    assert found["AIS_CRT_KEY"] == {"secretKeyRef": {"name": "ais-client", "key": "tls.key"}}
    assert found["AIS_CLIENT_CA"] == {"configMapKeyRef": {"name": "ais-ca", "key": "ca.crt"}}
    spec = base64.b64encode(pod.to_yaml().encode()).decode()
    running = container_of({"spec": spec})
    assert running and running.differences(pod.container) == [] and running.env.items() >= given.items()
    other = replace(pod, env_from={**pod.env_from, "AIS_CRT_KEY": Reference.of("secret/another/tls.key")})
    assert running.differences(other.container) == ["AIS_CRT_KEY"]
    assert pod.beyond_runtime == ["Secret or ConfigMap"]


@pytest.mark.parametrize("text", ["", "secret", "secret/a", "vault/a/b", "secret/A/b", "secret/a/b/c", "secret/a/"])
def test_a_reference_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no key of a Secret or ConfigMap"):
        Reference.of(text)


def test_a_key_or_a_token_in_clear_is_refused_and_not_repeated(pipeline: Callable[..., Pipeline]) -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----"
    for name, value in (
        ("AIS_CRT_KEY", key),
        ("ANY", f"x{key}"),
        ("AIS_AUTHN_TOKEN", "opaque"),
        ("B", "eyJh.eyJz.c2ln"),
    ):
        with pytest.raises(UsageError, match=f"{name} has a secret") as refused:
            PodSpec("test-etl", pipeline(), env={name: value})
        assert f"--env-from {name}=secret/" in refused.value.hint
        assert value not in str(refused.value) + refused.value.hint
    with pytest.raises(UsageError, match="A has two values"):
        PodSpec("test-etl", pipeline(), env={"A": "1"}, env_from={"A": Reference.of("secret/a/b")})
