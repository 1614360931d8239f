"""What k8s/ holds passes the API server of a real Kubernetes: its schema, its admission, its access rules."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

PLACES = ("base", "overlays/minikube", "overlays/minikube-two", "overlays/gpu")
#: Takes what would be stored, without storing it; an unknown or doubled field is an error, and not a warning.
TRIED = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")


@pytest.fixture(scope="module")
def ais(kube: Any, repository: Path) -> Iterator[str]:
    """The namespace and the access rules for real: what is only tried needs the one, and has the other tested."""
    was_there = "ais" in kube("get", "namespace", "-o", "name")
    for file in ("namespace.yaml", "access.yaml"):
        kube("-n", "ais", "apply", "--server-side", "--force-conflicts", "-f", str(repository / "k8s" / "base" / file))
    yield "ais"
    if not was_there:
        kube("delete", "namespace", "ais", "--wait=false")


@pytest.mark.parametrize("place", PLACES)
def test_the_api_server_takes_every_overlay_field_by_field(kube: Any, ais: str, repository: Path, place: str) -> None:
    text = kube("kustomize", str(repository / "k8s" / place))
    said = subprocess.run(
        ["kubectl", f"--kubeconfig={kube.kubeconfig}", *TRIED, "-f", "-"],
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 0 and "Warning" not in said.stderr, said.stderr
    assert len(said.stdout.splitlines()) == len([part for part in yaml.safe_load_all(text) if part])


@pytest.mark.parametrize("file", ["cpu.yaml", "gpu.yaml"])
def test_the_api_server_takes_the_pods_under_restricted(
    kube: Any, namespaces: dict[str, str], repository: Path, file: str
) -> None:
    pod = str(repository / "k8s" / "pods" / file)
    said = kube("-n", namespaces["restricted"], *TRIED, "-f", pod, check=False)
    assert "serverside-applied" in said and "Warning" not in said, said


def test_a_misspelt_field_would_have_been_seen(kube: Any, namespaces: dict[str, str], repository: Path) -> None:
    pod = yaml.safe_load((repository / "k8s" / "pods" / "cpu.yaml").read_text(encoding="utf-8"))
    pod["spec"]["containers"][0]["readynessProbe"] = {}
    said = kube("-n", namespaces["restricted"], *TRIED, "-f", "-", input=pod, check=False)
    assert 'unknown field "spec.containers[0].readynessProbe"' in said or "field not declared" in said, said


def test_a_node_of_aistore_may_look_after_pods_and_services_of_its_namespace_and_nothing_else(
    kube: Any, ais: str
) -> None:
    def may(verb: str, what: str, namespace: str = ais) -> bool:
        what, _, below = what.partition("/")
        asked = ("auth", "can-i", verb, what, f"--subresource={below}", "-n", namespace)
        return kube(*asked, "--as=system:serviceaccount:ais:ais", check=False).strip().splitlines()[-1] == "yes"

    for verb in ("get", "list", "watch", "create", "delete"):
        assert may(verb, "pods") and may(verb, "services")
    assert may("get", "pods/log")
    for what in ("secrets", "configmaps", "nodes", "deployments", "pods/exec", "serviceaccounts/token"):
        assert not may("get", what) and not may("create", what), what
    assert not may("get", "pods", "default") and not may("create", "pods", "kube-system")


def test_the_target_keeps_its_objects_where_a_transformer_finds_them_again(kube: Any, repository: Path) -> None:
    """AIStore hands on volumes and mount paths, and no sub-path: with one, no named file would exist in the pod."""
    for place in PLACES:
        for part in yaml.safe_load_all(kube("kustomize", str(repository / "k8s" / place))):
            if part["kind"] == "StatefulSet" and part["metadata"]["name"] == "ais-target":
                (container,) = part["spec"]["template"]["spec"]["containers"]
                mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
                assert not any("subPath" in mount or "subPathExpr" in mount for mount in mounts.values())
                volumes = {volume["name"]: volume for volume in part["spec"]["template"]["spec"]["volumes"]}
                assert "hostPath" in volumes[mounts["/mnt/data/ais"]["name"]]


def test_a_pod_with_a_gpu_waits_for_a_node_that_offers_one(
    kube: Any, namespaces: dict[str, str], image: str, repository: Path
) -> None:
    """No GPU here: a node that claims one stands in, so that what is tested is the claim and the placing alone."""
    pod = yaml.safe_load((repository / "k8s" / "pods" / "gpu.yaml").read_text(encoding="utf-8"))
    pod["spec"]["containers"][0]["image"] = image
    namespace, name = namespaces["restricted"], pod["metadata"]["name"]
    node = kube("get", "nodes", "-o", "name").split()[0]
    wait = ("-n", namespace, "wait", f"pod/{name}", "--timeout=30s")
    claim = "/status/capacity/nvidia.com~1gpu"
    try:
        kube("-n", namespace, "create", "-f", "-", input=pod)
        kube(*wait, "--for=condition=PodScheduled=false")
        assert "nvidia.com/gpu" in kube("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.conditions}")
        kube("taint", *node.split("/"), "nvidia.com/gpu=present:NoSchedule")
        patch = json.dumps([{"op": "add", "path": claim, "value": "1"}])
        kube("patch", node, "--subresource=status", "--type=json", "-p", patch)
        kube(*wait, "--for=condition=PodScheduled")
    finally:
        kube("-n", namespace, "delete", "pod", name, "--grace-period=0", "--force", check=False)
        kube("taint", *node.split("/"), "nvidia.com/gpu-", check=False)
        patch = json.dumps([{"op": "remove", "path": claim}])
        kube("patch", node, "--subresource=status", "--type=json", "-p", patch, check=False)
