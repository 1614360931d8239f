"""A real one-node Kubernetes, the slim image on it, and a test that plays the target.

The cluster comes from ../shared/kube/kube, which needs root; elsewhere every test here is skipped. One that is up
already is used and left up, else it is started (the first time about 8 minutes) and taken down at the end.
"""

from __future__ import annotations

import faulthandler
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tvetl.pod import DEFAULT_IMAGE, PodSpec
from tvetl.spec import Pipeline, parse

#: As ../shared/kube/kube has them: the node in its own network namespace, this machine as the node sees it.
NODE, HOST = "10.200.0.2", "10.200.0.1"
REPOSITORY = Path(__file__).resolve().parents[2]


def _pipeline(format: str = "jpeg") -> Pipeline:
    steps: list[dict[str, object]] = [{"op": "RandomResizedCrop", "size": 64}, {"op": "RandomHorizontalFlip"}]
    if format == "npy":
        steps += [{"op": "ToTensor"}, {"op": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}]
    return parse({"version": 1, "steps": steps, "output": {"format": format}, "seed": 4})


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Pipeline]:
    """A seeded crop of 64 x 64 to ``format``."""
    return _pipeline


@dataclass
class Kube:
    """The cluster: ``kubectl``, and the script that owns it."""

    script: Path
    kubeconfig: Path = field(default_factory=Path)

    def __call__(self, *arguments: str, check: bool = True, input: object = None, timeout: float = 120) -> str:
        """Run kubectl; ``input`` (data) goes in as JSON. Gives what it printed, errors too where ``check`` is off."""
        text = None if input is None else json.dumps(input)
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout, check=False)
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def data(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def do(self, *arguments: str, timeout: float = 600) -> str:
        """Run a verb of the script: load, push, base."""
        done = subprocess.run([self.script, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"kube {' '.join(arguments)}: {done.stderr[-2000:]}"
        return done.stdout.strip()


def _answers(kube: Kube) -> bool:
    return kube.kubeconfig.is_file() and "ok" in kube("get", "--raw", "/readyz", check=False, timeout=20)


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    script = REPOSITORY.parent / "shared" / "kube" / "kube"
    if not script.is_file():
        pytest.skip("needs ../shared/kube/kube (a one-node Kubernetes), which is not beside this checkout")
    if os.geteuid() != 0:
        pytest.skip("needs root, for a Kubernetes of its own (../shared/kube/kube)")
    for tool in ("go", "kubectl", "apt-get"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}, for a Kubernetes of its own (../shared/kube/kube)")
    faulthandler.cancel_dump_traceback_later()  # building it takes minutes, and is no hang
    cluster = Kube(script)
    cluster.kubeconfig = Path(cluster.do("env").removeprefix("export KUBECONFIG="))
    was_up = _answers(cluster)
    if not was_up:
        cluster.do("up", timeout=1800)
    yield cluster
    if not was_up:
        cluster.do("down", timeout=120)


@pytest.fixture(scope="session")
def image(kube: Kube) -> str:
    """The slim image on the node: built by `make build`, or TEST_IMAGE of podman's store."""
    faulthandler.cancel_dump_traceback_later()
    name = os.environ.get("TEST_IMAGE", "")
    if not name:
        kube.do("base")
        # A host in the name, as podman's store has it: Kubernetes would take a name without one for another host's.
        name = f"localhost/{DEFAULT_IMAGE}"
        build = ["make", "--no-print-directory", "build", "VARIANT=slim", "BASE=localhost/python-base", f"IMAGE={name}"]
        done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    kube.do("load", name)
    return name


@pytest.fixture(scope="session")
def namespaces(kube: Kube) -> Iterator[dict[str, str]]:
    """A namespace that enforces Pod Security "restricted", and an "open" one for pods with a target's hostPath."""
    made = {kind: f"tvetl-{kind}-{uuid.uuid4().hex[:6]}" for kind in ("restricted", "open")}
    for kind, name in made.items():
        level = "restricted" if kind == "restricted" else "privileged"
        labels = {"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": "latest"}
        metadata = {"name": name, "labels": labels}
        kube("create", "-f", "-", input={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    yield made
    for name in made.values():
        kube("delete", "namespace", name, "--wait=false")


@dataclass
class Disk:
    """A target's disk on the node, laid out as AIStore does: root's files, mode 0640, in folders of 0750."""

    folder: Path
    mounted: str = "/mnt/data/ais"

    def put(self, bucket: str, name: str, data: bytes) -> str:
        """Store an object; gives the file name that a target would send."""
        place = Path("mp1", "@ais", bucket, "%ob", name)
        file = self.folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(self.folder).parents:
            (self.folder / folder).chmod(0o750)
        file.write_bytes(data)
        file.chmod(0o640)
        return f"{self.mounted}/{place}"


@pytest.fixture(scope="session")
def disk(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(tmp_path_factory.mktemp("disk"))


@dataclass
class Pod:
    """A transformer's pod with its service, as a target has it."""

    kube: Kube
    namespace: str
    name: str
    port: int
    created: float = 0.0
    seconds: float = 0.0
    """From its creation to Ready, as kubectl tells it: a tenth of a second later than it was."""

    def status(self) -> Any:
        return self.kube.data("-n", self.namespace, "get", "pod", self.name)["status"]

    def ready(self, timeout: int = 60) -> None:
        wait = ("wait", "--for=condition=Ready", f"pod/{self.name}", f"--timeout={timeout}s")
        said = self.kube("-n", self.namespace, *wait, check=False, timeout=timeout + 30)
        assert "condition met" in said, said + self.logs()
        self.seconds = time.time() - self.created
        until(
            self._listening
        )  # the node's rules for the port come a moment after Ready; targets repeat what is refused

    def _listening(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex((NODE, self.port)) == 0

    def logs(self) -> str:
        return self.kube("-n", self.namespace, "logs", self.name, check=False)

    def processes(self) -> list[int]:
        """The pod's processes by their ids on this machine, the container's first one first."""
        container = self.status()["containerStatuses"][0]["containerID"].rpartition("/")[2]
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if container in (folder / "cgroup").read_text():
                    found.append(int(folder.name))
            except OSError:  # it has ended
                pass
        return sorted(found)

    def workers(self) -> list[int]:
        """Those of its processes that the first one has started."""
        first, *others = self.processes()
        found = []
        for process in others:
            try:
                # proc_pid_stat(5): the parent is the second field behind the name in brackets
                if int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]) == first:
                    found.append(process)
            except OSError:  # it has ended
                pass
        return found

    def put(
        self, path: str, body: bytes = b"", fqn: str = "", node_url: str = "", timeout: float = 60
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Send one object through the node's port, as a target does: a file name, or a body."""
        query = f"?etl_fqn={quote(quote(fqn, safe=''), safe='')}" if fqn else ""
        headers = {"User-Agent": "Go-http-client/1.1"} | ({"Ais-Node-Url": node_url} if node_url else {})
        connection = http.client.HTTPConnection(NODE, self.port, timeout=timeout)
        try:
            connection.request("PUT", f"/{path}{query}", body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()


@pytest.fixture
def start(kube: Kube, namespaces: dict[str, str]) -> Iterator[Callable[..., Pod]]:
    """Start a pod as AIStore would: the template, with the target's volumes and environment; and its service."""
    running: list[Pod] = []

    def start(pod: PodSpec, *, disk: Disk | None = None, target: str = f"http://{HOST}:1", ready: bool = True) -> Pod:
        namespace = namespaces["open" if disk else "restricted"]
        name = f"{pod.name}-{uuid.uuid4().hex[:6]}"
        service = kube_service(name)
        kube("-n", namespace, "create", "-f", "-", input=service)
        port = kube.data("-n", namespace, "get", "service", name)["spec"]["ports"][0]["nodePort"]
        running.append(Pod(kube, namespace, name, port, time.time()))
        kube("-n", namespace, "create", "-f", "-", input=as_aistore_starts_it(pod, name, disk, target))
        if ready:
            running[-1].ready()
        return running[-1]

    yield start
    for pod in running:
        for kind in ("pod", "service"):
            kube("-n", pod.namespace, "delete", kind, pod.name, "--ignore-not-found", "--grace-period=0", "--force")


def kube_service(name: str) -> dict[str, object]:
    spec = {"type": "NodePort", "selector": {"etl": name}, "ports": [{"port": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def as_aistore_starts_it(pod: PodSpec, name: str, disk: Disk | None, target: str) -> Any:
    """What AIStore changes in a pod before it creates it, as ext/etl/boot.go of AIStore 5.0 does."""
    data: Any = json.loads(json.dumps(pod.to_data()))
    data["metadata"] |= {"name": name, "labels": {"app": "ais", "etl": name}}
    (container,) = data["spec"]["containers"]
    container["env"] += [
        {"name": "AIS_TARGET_URL", "value": f"{target}/v1/etl/_object/{pod.name}/secret"},
        {"name": "direct_put", "value": "true" if pod.direct_put else "false"},
    ]
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    if disk:
        container["volumeMounts"] = [{"name": "disks", "mountPath": disk.mounted, "readOnly": True}]
        data["spec"]["volumes"] = [{"name": "disks", "hostPath": {"path": str(disk.folder), "type": "Directory"}}]
    return data


def until(true: Callable[[], object], seconds: float = 60, every: float = 0.05) -> None:
    """Wait until ``true()``, looking often; fails after ``seconds``, which is meant for hangs."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(every)


@pytest.fixture(name="until")
def _until() -> Callable[..., None]:
    return until
