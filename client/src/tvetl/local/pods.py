"""Pods as AIStore checks them and as they run here: for each target a process in a process group of its own."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import yaml

from tvetl.local import watchdog
from tvetl.local.http import ApiError
from tvetl.local.object_names import check_etl
from tvetl.notation import seconds

_LOG_TAIL = 64 << 10  # bytes of a log that are handed out; what went wrong last is at its end
_PROBE_EVERY = 0.1  # seconds between looks whether a server is ready


class HttpGet(msgspec.Struct):
    path: str = ""
    port: int | str = 0


class Probe(msgspec.Struct, rename="camel"):
    http_get: HttpGet | None = None


class FieldRef(msgspec.Struct, rename="camel"):
    field_path: str


class ValueFrom(msgspec.Struct, rename="camel"):
    field_ref: FieldRef | None = None


class Variable(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str
    value: str = ""
    value_from: ValueFrom | None = None


class Port(msgspec.Struct):
    name: str = ""


class Container(msgspec.Struct, rename="camel"):
    image: str = ""
    ports: list[Port] = []
    env: list[Variable] = []
    readiness_probe: Probe | None = None


class Affinity(msgspec.Struct, rename="camel"):
    node_affinity: dict[str, object] | None = None
    pod_anti_affinity: dict[str, object] | None = None


class PodSpec(msgspec.Struct):
    containers: list[Container] = []
    affinity: Affinity | None = None


class Metadata(msgspec.Struct):
    name: str = ""
    annotations: dict[str, str] = {}


class PodYaml(msgspec.Struct):
    """The members of a pod that AIStore (or this stand-in) reads; others are ignored."""

    kind: str
    spec: PodSpec
    metadata: Metadata = msgspec.field(default_factory=Metadata)


class Runtime(msgspec.Struct, omit_defaults=True):
    image: str = ""
    command: list[str] = []
    env: list[Variable] = []


class InitMessage(msgspec.Struct, omit_defaults=True):
    """The body of ``PUT /v1/etl``, in the order in which AIStore returns it."""

    spec: str = ""
    name: str = ""
    communication: str = ""
    init_timeout: str = "5m"
    obj_timeout: str = "45s"
    support_direct_put: bool = False
    runtime: Runtime | None = None
    resources: dict[str, object] | None = None


class Plan(msgspec.Struct, frozen=True):
    """How to start a pod: times in seconds, ``label`` for error messages."""

    image: str
    probe: str
    env: list[Variable]
    init_timeout: float
    obj_timeout: float
    label: str


def plan(message: InitMessage) -> Plan:
    """Check a registration as AIStore does and fill in its defaults; 400 with AIStore's message."""
    wrong = check_etl(message.name)
    container, label = None, ""
    if not (message.runtime and message.runtime.image):
        try:
            pod = _parse(message.spec)
            container, label = _check(pod), f'etl="{pod.metadata.name}",'
            message.support_direct_put = _flag(pod.metadata.annotations.get("support_direct_put", "false"))
        except ValueError as error:
            raise ApiError(400, _invalid(message.name, "runtime.image must be specified", str(error))) from error
    if wrong:
        raise ApiError(400, f"invalid etl.InitMsg: ETLSpecMsg error: {wrong}; InitSpecMsg error: {wrong}")
    message.communication = message.communication or "hpush://"
    if message.communication.rstrip(":/") != "hpush":
        raise ApiError(400, f'the stand-in speaks only hpush to a transformer, not "{message.communication}"')
    times = duration(message.init_timeout), duration(message.obj_timeout)
    if container is not None and container.readiness_probe and container.readiness_probe.http_get:
        return Plan(container.image, container.readiness_probe.http_get.path, container.env, *times, label)
    assert message.runtime is not None
    message.resources = message.resources or {}
    return Plan(message.runtime.image, "/health", message.runtime.env, *times, label)


def _invalid(name: str, as_runtime: str, as_spec: str) -> str:
    place = f'[etl="{name}"] '
    return f"invalid etl.InitMsg: ETLSpecMsg error: {place}{as_runtime}; InitSpecMsg error: {place}{as_spec}"


def _parse(spec: str) -> PodYaml:
    text = b""
    try:
        text = base64.b64decode(spec, validate=True)
        pod = msgspec.convert(yaml.safe_load(text), PodYaml)
    except (binascii.Error, yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f'failed to parse pod spec: {error}\n"{text.decode(errors="replace")}"') from error
    if pod.kind != "Pod":
        raise ValueError(f"failed to parse pod spec: expected pod spec, got: {pod.kind}")
    return pod


def _check(pod: PodYaml) -> Container:
    """The one container; ValueError in AIStore's words (ext/etl/api.go, boot.go)."""
    if len(pod.spec.containers) != 1:
        raise ValueError(f"unsupported number of containers ({len(pod.spec.containers)}), expected: 1")
    container = pod.spec.containers[0]
    if len(container.ports) != 1:
        raise ValueError(f"unsupported number of container ports ({len(container.ports)}), expected: 1")
    if container.ports[0].name != "default":
        raise ValueError(f'expected port name: "default", got: "{container.ports[0].name}"')
    probe = container.readiness_probe
    if probe is None:
        raise ValueError("readinessProbe section is required in a container spec")
    if probe.http_get is None:
        raise ValueError("httpGet missing in the readinessProbe")
    if not probe.http_get.path:
        raise ValueError("expected non-empty path for readinessProbe")
    if probe.http_get.port != "default":
        raise ValueError('readinessProbe port must be the "default" port')
    if pod.spec.affinity and pod.spec.affinity.node_affinity:
        raise ValueError("error in YAML spec: pod should not have any NodeAffinities defined")
    if pod.spec.affinity and pod.spec.affinity.pod_anti_affinity:
        raise ValueError("error in YAML spec, pod should not have any NodeAntiAffinities defined")
    return container


def _flag(text: str) -> bool:
    """Go's strconv.ParseBool."""
    if text.lower() not in ("1", "t", "true", "y", "yes", "on", "0", "f", "false", "n", "no", "off", ""):
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text.lower() in ("1", "t", "true", "y", "yes", "on")


def duration(text: str) -> float:
    """Seconds of a duration as Go writes it, or 400."""
    found = seconds(text)
    if found is None:
        raise ApiError(400, f'invalid duration "{text}": expected something like 5m or 1h30m')
    return found


def command(image: str, server: Sequence[str], allow: Mapping[str, Sequence[str]]) -> list[str]:
    """The command for an image, or 400. A pod's own ``command`` is never run, so that a pod YAML can do no harm."""
    if image in allow:
        return list(allow[image])
    if re.split("[:@]", image.rpartition("/")[2])[0] == "tvetl-server":
        return list(server)
    raise ApiError(
        400, f'image "{image}" cannot be run here: only tvetl-server can, and what `allow` maps to a command', "ErrETL"
    )


class Pod:
    """A running transformer: its name, its port on loopback, its log file, and its end.

    ``gone`` is called when its process and the rest of its group have ended.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, gone: Callable[[Pod], None]
    ) -> None:
        self.name, self.log = name, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.ended = threading.Event()
        self.status = 0
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:  # appended, as the reason of the last end must survive a restart
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", watchdog.__file__, *command], stdin=subprocess.PIPE, stdout=output,
                stderr=subprocess.STDOUT, env={**env, "PORT": str(self.port)}, start_new_session=True,
            )  # fmt: skip
        self._idle: list[tuple[float, socket.socket]] = []
        self._idle_lock = threading.Lock()
        threading.Thread(target=self._wait, args=(gone,), name=name, daemon=True).start()

    def _wait(self, gone: Callable[[Pod], None]) -> None:
        pid = self._process.pid
        if hasattr(os, "waitid"):  # not on macOS before Python 3.13
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # not reaped yet, so the group's number is still ours
        else:
            self._process.wait()
        self._kill(signal.SIGKILL)
        self.status = self._process.wait()
        self.ended.set()
        gone(self)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after `watchdog.GRACE` seconds; returns when the processes are gone."""
        if self.ended.is_set():
            return
        self._kill(signal.SIGTERM)
        if self._process.stdin:
            self._process.stdin.close()
        if not self.ended.wait(watchdog.GRACE):
            self._kill(signal.SIGKILL)
            self.ended.wait()
        with self._idle_lock:
            for _, connection in self._idle:
                connection.close()
            self._idle.clear()

    def ready(self, path: str, deadline: float, cancelled: threading.Event) -> str | None:
        """Wait for the readiness probe's 2xx or 3xx: None, or the reason why it never comes."""
        while not self.ended.is_set():
            if cancelled.is_set():
                return "context canceled"
            if time.monotonic() > deadline:
                return f"not ready in time, the probe was {path}{self._last_words()}"
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", path)
                if 200 <= connection.getresponse().status < 400:
                    return None
            except (OSError, http.client.HTTPException):  # not yet
                pass
            finally:
                connection.close()
            self.ended.wait(_PROBE_EVERY)
        return "context canceled" if cancelled.is_set() else f"it exited with status {self.status}{self._last_words()}"

    def _last_words(self) -> str:
        lines = self.tail().decode(errors="replace").split("\n")
        return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), ", and said nothing")

    def tail(self) -> bytes:
        """The end of this process's log."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - _LOG_TAIL))
            return file.read()

    # -- connections, kept as a target keeps them -----------------------------------------------------------------

    def take(self, timeout: float) -> socket.socket:
        """A connection: an idle one that the server has not closed, else a new one."""
        with self._idle_lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < IDLE and not _readable(connection):
                    return connection
                connection.close()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def give(self, connection: socket.socket) -> None:
        with self._idle_lock:
            if not self.ended.is_set():
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()


#: Seconds that a target keeps an idle connection to a transformer (recorded).
IDLE = 6.0


def _readable(sock: socket.socket) -> bool:
    """Whether an idle connection is readable, which means that the server closed it."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
