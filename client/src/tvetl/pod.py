"""An ETL as data: from image, pipeline and settings to the pod that AIStore starts on every target.

The same :class:`PodSpec` gives the pod YAML of ``init_spec``, and the image and environment of the runtime form. Not
here: any request to a cluster.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import yaml

from tvetl import __version__
from tvetl.errors import UsageError
from tvetl.spec import Pipeline, canonical, parse
from tvetl.tls import is_text

DEFAULT_IMAGE = f"tvetl-server:{__version__}"
#: As `make build VARIANT=cuda` calls it: torch with CUDA in it, and TVETL_DEVICE=cuda set.
GPU_IMAGE = f"{DEFAULT_IMAGE}-cuda"
PIPELINE_VARIABLE = "TVETL_PIPELINE"
CA_VARIABLE = "AIS_CLIENT_CA"
#: The image is complete in itself: the runtime form of registering has no way to name another port or path.
PORT = 8000
HEALTH = "/health"

PullPolicy = Literal["IfNotPresent", "Never", "Always"]

#: The SDK's rule, repeated so that a bad name is refused before anything is sent. AIStore calls the pod
#: <name>-<target id>, which Kubernetes wants under 63 characters.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{4,30})[a-z0-9]")

#: A busy pod must stay ready, or its service stops routing and the objects in flight fail: 30 misses of 10 s each.
#: The period is Kubernetes' shortest, 1 s in place of 10, so that a pod is found ready soon after its start. There is
#: no initial delay: Kubernetes probes at once, and then every period.
_PROBE = {"periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 30}

#: Secrets that must not stand in a pod: a private key, or a token (a JWT).
_SECRET = re.compile(r"PRIVATE KEY-----|\beyJ[\w-]+\.[\w-]+\.")
_REFERENCE = re.compile(r"(secret|configmap)/([a-z0-9][a-z0-9.-]*)/([\w.-]+)")

#: An extended resource of a device plugin: a domain, and what it offers.
_GPU = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
#: Clusters keep other pods off their GPU nodes with this taint; harmless where there is none.
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}

#: User 10001 with group 0 reads the targets' files (mode 0640, group root); without group 0 it cannot.
_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 0,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Resources:
    """The resources of a pod, in Kubernetes' own quantities; an empty string leaves one out.

    The requests are small, so that three ETLs fit beside the rest of a two-CPU Minikube. A pod that does not fit stays
    pending: AIStore waits until the start's time-out, and gives no reason. Requests are also the pod's share of a busy
    node, so raise them where much else runs.

    There is no CPU limit, which would throttle a pod in the middle of an object. There is no memory limit either: the
    server has a worker for each CPU, so one number does not fit all nodes. A pod that exceeds its limit ends with its
    ETL and jobs. To protect others on the node, set ``memory_limit`` and TVETL_WORKERS (docs/server.md, Memory).

    ``gpu`` is a resource of the node's device plugin, one for each pod. "nvidia.com/gpu" is a whole GPU, or a time
    slice without memory of its own, where the plugin shares GPUs. "nvidia.com/mig-1g.10gb" is a MIG slice.
    """

    cpu: str = "250m"
    memory: str = "256Mi"
    cpu_limit: str = ""
    memory_limit: str = ""
    gpu: str = ""

    @classmethod
    def with_gpu(cls, gpu: str = "nvidia.com/gpu") -> Resources:
        """A GPU, and main memory for it: estimated in k8s/README.md, not measured."""
        return cls(gpu=gpu, memory="4Gi", memory_limit="12Gi")

    def __post_init__(self) -> None:
        if self.gpu and not _GPU.fullmatch(self.gpu):
            hint = "It looks like nvidia.com/gpu or nvidia.com/mig-1g.10gb; `kubectl describe node` lists them."
            raise UsageError(f"{self.gpu!r} is not the name of a resource", hint=hint)

    def to_data(self) -> dict[str, dict[str, str]]:
        # Kubernetes takes a GPU as a limit only: a request is then the same, and nothing is overcommitted.
        requests = {"cpu": self.cpu, "memory": self.memory}
        limits = {"cpu": self.cpu_limit, "memory": self.memory_limit, **({self.gpu: "1"} if self.gpu else {})}
        return {
            kind: {name: amount for name, amount in amounts.items() if amount}
            for kind, amounts in (("requests", requests), ("limits", limits))
            if any(amounts.values())
        }


def has_secret(name: str, value: str) -> bool:
    """Whether a variable has a private key or a token in clear."""
    return bool(_SECRET.search(value)) or name == "AIS_AUTHN_TOKEN" or (name == "AIS_CRT_KEY" and is_text(value))


@dataclass(frozen=True)
class Reference:
    """A variable's value that Kubernetes fills in: a ``key`` of a Secret or ConfigMap in AIStore's namespace."""

    kind: Literal["secret", "configmap"]
    name: str
    key: str

    @classmethod
    def of(cls, text: str) -> Reference:
        """Of ``secret/NAME/KEY`` or ``configmap/NAME/KEY``. Raises UsageError."""
        match = _REFERENCE.fullmatch(text)
        if not match:
            hint = "It looks like secret/ais-client/tls.key or configmap/ais-ca/ca.crt."
            raise UsageError(f"{text!r} names no key of a Secret or ConfigMap", hint=hint)
        return cls("secret" if match[1] == "secret" else "configmap", match[2], match[3])

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}/{self.key}"

    def to_data(self) -> dict[str, object]:
        """Kubernetes' ``valueFrom``."""
        return {_SOURCES[self.kind]: {"name": self.name, "key": self.key}}


_SOURCES = {"secret": "secretKeyRef", "configmap": "configMapKeyRef"}


@dataclass(frozen=True)
class Container:
    """The parts of a registered ETL that can be compared, in whichever form it was registered.

    In ``env`` a variable of a Secret or ConfigMap is written as :class:`Reference` is.
    """

    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]

    @property
    def pipeline(self) -> Pipeline | None:
        """What it runs; None where it is no server of ours, or reads a file (``@path``). Raises PipelineError."""
        text = self.env.get(PIPELINE_VARIABLE, "")
        return parse(text) if text and not text.startswith("@") else None

    def differences(self, other: Container) -> list[str]:
        """The names of the parts that differ: "image", "command", "pipeline" or an environment variable."""
        parts = [part for part in ("image", "command") if getattr(self, part) != getattr(other, part)]
        names = [name for name in sorted({*self.env, *other.env}) if self.env.get(name) != other.env.get(name)]
        return parts + ["pipeline" if name == PIPELINE_VARIABLE else name for name in names]


@dataclass(frozen=True)
class PodSpec:
    """One ETL to register.

    ``env`` holds the server's settings (``TVETL_WORKERS`` and so on). ``start_timeout`` is for all pods to become
    ready, ``object_timeout`` for one object, both in seconds. ``runtime_class`` is the cluster's RuntimeClass for GPUs,
    where it needs one ("nvidia", with containerd or CRI-O). ``env_from`` are variables whose values Kubernetes takes
    from Secrets and ConfigMaps. The runtime form of registering carries neither resources, nor pull policy, nor runtime
    class, nor ``env_from``.
    Raises UsageError for a name that AIStore would refuse, and for a private key or a token in ``env``.
    """

    name: str
    pipeline: Pipeline
    image: str = DEFAULT_IMAGE
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    env_from: Mapping[str, Reference] = field(default_factory=dict)
    pull_policy: PullPolicy = "IfNotPresent"
    resources: Resources = field(default_factory=Resources)
    runtime_class: str = ""
    direct_put: bool = True
    start_timeout: int = 300
    object_timeout: int = 45

    def __post_init__(self) -> None:
        check_name(self.name)
        for name, value in self.env.items():
            if has_secret(name, value):
                hint = f"Keep a key in a Secret, `--env-from {name}=secret/NAME/KEY`. The server needs no token."
                raise UsageError(f"{name} has a secret, which whoever may list ETLs would read", hint=hint)
        if twice := self.env.keys() & self.env_from.keys():
            raise UsageError(f"{', '.join(sorted(twice))} has two values", hint="Name it once.")
        if PIPELINE_VARIABLE in self.given:
            raise UsageError(f"{PIPELINE_VARIABLE} is set from the pipeline", hint="Leave it out of the environment.")

    @property
    def beyond_runtime(self) -> list[str]:
        """The required parts that the runtime form of registering cannot carry: "GPU", "runtime class", and so on."""
        parts = {"GPU": self.resources.gpu, "runtime class": self.runtime_class, "Secret or ConfigMap": self.env_from}
        return [part for part, value in parts.items() if value]

    @property
    def given(self) -> Mapping[str, str]:
        """All variables but the pipeline's, those of Secrets and ConfigMaps as references."""
        return {**self.env, **{name: str(reference) for name, reference in self.env_from.items()}}

    @property
    def container(self) -> Container:
        return Container(self.image, self.command, {PIPELINE_VARIABLE: canonical(self.pipeline), **self.given})

    def to_data(self) -> dict[str, object]:
        """The pod as Kubernetes reads it; the same spec always gives the same data, in the same order.

        No volumes and no affinity: AIStore replaces the first and refuses a pod that brings the second.
        """
        annotations = {
            # AIStore reads the first; the other two speak to its `ais` command, and to people.
            "support_direct_put": "true" if self.direct_put else "false",
            "communication_type": "hpush://",
            "wait_timeout": f"{self.start_timeout}s",
        }
        spec: dict[str, object] = {"containers": [self._container_data()]}
        if self.runtime_class:
            spec["runtimeClassName"] = self.runtime_class
        if self.resources.gpu:
            spec["tolerations"] = [_GPU_TOLERATION]
        metadata = {"name": self.name, "annotations": annotations}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def _container_data(self) -> dict[str, object]:
        # The node's address: results may be put directly to targets there, and the server wants to know its hosts.
        node = {"name": "TVETL_NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
        return {
            "name": "server",
            "image": self.image,
            "imagePullPolicy": self.pull_policy,
            **({"command": list(self.command)} if self.command else {}),
            "ports": [{"name": "default", "containerPort": PORT}],
            "env": [*map(self._variable, self.container.env.items()), node],
            "readinessProbe": {"httpGet": {"path": HEALTH, "port": "default"}, **_PROBE},
            "resources": self.resources.to_data(),
            "securityContext": _SECURITY,
        }

    def _variable(self, variable: tuple[str, str]) -> dict[str, object]:
        name, value = variable
        if reference := self.env_from.get(name):
            return {"name": name, "valueFrom": reference.to_data()}
        return {"name": name, "value": value}

    def to_yaml(self) -> str:
        # Wide, so that the pipeline stays on one line and can be found with grep.
        return yaml.safe_dump(self.to_data(), sort_keys=False, width=1_000_000, allow_unicode=True)


def check_name(name: str) -> None:
    """Raises UsageError unless AIStore takes the name for an ETL."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"an ETL cannot be called {name!r}",
            hint="Use 6 to 32 characters of a-z, 0-9 and -, with a letter or digit at both ends.",
        )


def container_of(message: Mapping[str, object]) -> Container | None:
    """The container in AIStore's description of an ETL: a pod spec (base64 YAML), or the runtime form.

    None where there is neither, as for an ETL that is stopped.
    """
    if encoded := message.get("spec"):
        pod = yaml.safe_load(base64.b64decode(str(encoded)))
        runtime = pod["spec"]["containers"][0]
    elif not isinstance(runtime := message.get("runtime"), Mapping) or not runtime.get("image"):
        return None
    env = {str(item["name"]): value for item in runtime.get("env") or () if (value := _value(item)) is not None}
    return Container(str(runtime["image"]), tuple(runtime.get("command") or ()), env)


def _value(item: Mapping[str, object]) -> str | None:
    """A variable's value or reference; None of Kubernetes' own fields."""
    if "value" in item:
        return str(item["value"])
    source = item.get("valueFrom")
    for kind, name in _SOURCES.items():
        reference = source.get(name) if isinstance(source, Mapping) else None
        if isinstance(reference, Mapping):
            return f"{kind}/{reference.get('name')}/{reference.get('key')}"
    return None
