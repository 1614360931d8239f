"""Registering an ETL: in the form that the cluster takes, with a look at its pods' logs, and undone where it fails.

What differs between the SDK's versions is in :func:`_send` alone: 1.x registers a pod YAML with ``Etl.init_spec``; 2.x
has only the runtime form, while AIStore 5.0 takes both.
"""

from __future__ import annotations

import base64
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import requests
from aistore.sdk import Client, Etl
from aistore.sdk.errors import AISError
from aistore.sdk.request_client import RequestClient

from tvetl import proxies
from tvetl.access import Access, read_access
from tvetl.cluster import connection
from tvetl.cluster.error_mapping import GARBLED, container_end, last_line, message_of, sentence
from tvetl.cluster.snapshots import EtlInfo
from tvetl.errors import NameTaken, NotFound, NotReachable, RegistrationError, TvetlError, Unavailable, UsageError
from tvetl.pod import CA_VARIABLE, Container, PodSpec

Form = Literal["auto", "spec", "runtime"]

#: How much longer than AIStore we wait for a start: it needs a moment to stop the pods before it answers.
GRACE = 30.0
#: Bytes of a variable that every kernel takes, with its name.
_LONGEST_VARIABLE = 100_000
#: How our server's last line begins when it ends by itself: "tvetl-server: PipelineError: $.steps[0]: ...".
_LAST_WORDS = re.compile(r"tvetl-server: \w+: ")
#: What to do about a start that failed, by its reason: the first pattern that is found there.
_HINTS: Sequence[tuple[str, str]] = (
    (r"needs torch|without CUDA|TVETL_DEVICE needs",
     "`--image` names another image; `make build VARIANT=cpu` makes one with torch, VARIANT=cuda one for GPUs."),
    (r"SettingsError", "`--env NAME=VALUE` sets it; docs/server.md lists the settings."),
    (r"PipelineError", "`tvetl validate` takes the pipeline, so the image {image!r} is perhaps of another version."),
    (r"PluginError", "An op that the image {image!r} brings is at fault."),
    (r"DeviceError", "`--gpu` and `--runtime-class` give the pods a GPU; docs/gpu.md says what they need."),
    (r"ErrImage|ImagePull|InvalidImageName|pull\w* (the )?image|image can't be pulled|cannot be run here|manifest unk",
     "Can every node of the cluster get {image!r}? `minikube image load IMAGE` brings one into Minikube; it needs the "
     "spec form."),
    (r"OOMKilled|status 137", "The node had too little memory for it: TVETL_WORKERS (`--env`) makes it smaller."),
    (r"exec format|StartError|CreateContainer|RunContainer", "Is {image!r} a tvetl-server for the nodes' processors?"),
    (r"deadline exceeded", "Does each target's node offer {gpu}, with one of it free? `kubectl describe nodes` "
     "tells."),
    (r"ended with status|exited with status", "`docker run --rm {image}` shows why it ends."),
    (r"", "--timeout (now {seconds} s) gives a slow start its time; `kubectl -n ais get events` shows what it waits "
     "for."),
)  # fmt: skip
_RUNTIME_HINT = "`--form runtime` registers image and environment alone, without resources and security settings."


class Registrar(Protocol):
    """The part of :class:`tvetl.cluster.Cluster`, which imports this module, that is used here."""

    _acts: Client

    def etls(self) -> Sequence[EtlInfo]: ...
    def show(self, name: str) -> Container | None: ...
    def logs(self, name: str) -> dict[str, str]: ...
    def unregister(self, name: str) -> None: ...
    def _explained(self) -> AbstractContextManager[None]: ...
    def _refused(self, error: AISError) -> TvetlError: ...
    def _text(self, error: AISError) -> str: ...


class Taken(Exception):
    """AIStore answered 409: the name exists."""


def trusting(pod: PodSpec, endpoint: str, access: Access | None = None) -> PodSpec:
    """The pod with the authority of AIS_CLIENT_CA, where a cluster speaks https and the pod names none.

    Results are put to targets, whose certificates are mostly of that authority. A certificate is no secret. Raises
    UsageError where it is too large for a variable.
    """
    access = access or read_access()
    ca = access.authority
    if not ca or not endpoint.startswith("https:") or CA_VARIABLE in pod.given:
        return pod
    access.tls()
    text = Path(ca).read_text(encoding="utf-8", errors="replace") if Path(ca).is_file() else ""
    certificates = "\n".join(re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL))
    if not certificates or len(certificates) > _LONGEST_VARIABLE:
        hint = "`--env AIS_CLIENT_CA=FILE` names a file in the targets' volumes, which pods get; or let it name one CA."
        raise UsageError(f"AIS_CLIENT_CA is no file that pods can be given: {ca}", hint=hint)
    return replace(pod, env={**pod.env, CA_VARIABLE: certificates})


def start(cluster: Registrar, pod: PodSpec, form: Form) -> str:
    """Start an ETL and wait until it is ready; returns the form it took. Raises Taken, RegistrationError."""
    last_words = ""
    with _Watch(cluster, pod.name) as watch:
        try:
            return _send(cluster, pod, form)
        except AISError as error:
            if error.status_code == 409:
                raise Taken from error
            reason = sentence(error.status_code, cluster._text(error))[0]
            if _wants_runtime(error):  # nothing was started, so the name is not ours to free
                why = f"; the runtime form carries no {words}" if (words := " and no ".join(pod.beyond_runtime)) else ""
                message = f"the ETL {pod.name!r} did not start: this cluster takes no pod YAML ({reason}){why}"
                raise RegistrationError(message, hint=_RUNTIME_HINT) from error
            mapped = cluster._refused(error)
            started = error.status_code not in (401, 403) and "invalid etl.InitMsg" not in reason
            if not started or isinstance(mapped, (Unavailable, NotReachable)):  # the name may be another's
                raise mapped from error
            # AIStore takes the pod away in the moment in which it ends, mostly before its log could be read.
            last_words = container_end(message_of(cluster._text(error)) or "")
            cause: Exception = error
        except requests.ReadTimeout as error:
            proxy = proxies.before(str(getattr(error.request, "url", "")))
            through = f" through {proxy}" if proxy else ""
            reason = f"AIStore did not answer within {pod.start_timeout + GRACE:.0f} s{through}"
            cause = error
        except (requests.RequestException, *GARBLED) as error:
            with cluster._explained():
                raise error
        except BaseException:  # Ctrl-C: do not leave half an ETL behind
            _free(cluster, pod.name)
            raise
        seen = watch.finish()
    freed = _free(cluster, pod.name)
    # The server may have quoted the pod's last line itself. Where we ended the wait, its answer is no reason.
    more = [line for line in seen if line not in reason]
    reason = last_words or "; ".join(more if watch.ended and more else [reason, *more])
    hint = _start_hint(pod, reason) + ("" if freed else f" The name is still taken: `tvetl rm {pod.name}`.")
    raise RegistrationError(f"the ETL {pod.name!r} did not start: {reason}", hint=hint) from cause


def _send(cluster: Registrar, pod: PodSpec, form: Form) -> str:
    """Ask AIStore for the ETL; returns the form it took."""
    patient = Requests(cluster._acts.cluster().client, pod.start_timeout + GRACE)
    etl = Etl(patient, pod.name)
    timeouts = {"init_timeout": f"{pod.start_timeout}s", "obj_timeout": f"{pod.object_timeout}s"}
    if form in ("auto", "spec"):
        try:
            return _send_spec(patient, pod, timeouts)
        except AISError as error:
            if form == "spec" or pod.beyond_runtime or not _wants_runtime(error):
                raise
    command = [*pod.command] or None
    env = pod.container.env
    etl.init(image=pod.image, command=command, comm_type="hpush", direct_put=pod.direct_put, **timeouts, **env)
    return "runtime"


def check_same(cluster: Registrar, pod: PodSpec) -> None:
    """Raises NameTaken unless the name is that of a running ETL with the same image and pipeline."""
    stage = next((etl.stage for etl in cluster.etls() if etl.name == pod.name), "gone")
    running = cluster.show(pod.name) if stage == "Running" else None
    if running is None:
        hint = f"`tvetl start {pod.name}` starts what is there; `--replace` puts this one in its place."
        raise NameTaken(f"there is an ETL {pod.name!r} already, and it is {stage.lower()}", hint=hint)
    if different := pod.container.differences(running):
        hint = "Choose another name, or put this one in its place with `--replace`."
        raise NameTaken(f"another ETL {pod.name!r} runs already: other {', '.join(different)}", hint=hint)


def _free(cluster: Registrar, name: str) -> bool:
    """Give a name back after a start that failed: AIStore keeps it otherwise. False where that failed too."""
    try:
        cluster.unregister(name)
    except NotFound:
        return True
    except TvetlError:
        return False
    return True


class Requests:
    """The SDK's request client with our time-out, for requests that start and end ETLs; it checks AIStore's answers.

    ``Etl.init*`` use the server's own time-out for the HTTP request, so that the caller gets a bare read time-out just
    before the server answers with the reason. The SDK's other calls wait five minutes, even to connect. The page of
    some other server, taken for AIStore's answer, would pass for success.
    """

    def __init__(self, inner: RequestClient, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    def request(self, method: str, path: str, **kwargs: object) -> requests.Response:
        kwargs["timeout"] = (connection.TIMEOUT[0], self._seconds)
        answer: requests.Response = self._inner.request(method, path=path, **kwargs)
        text = answer.text.strip()  # as recorded: "etl-BXA4oVuUT" to a start, nothing to an end
        if not re.fullmatch(r"etl-[\w-]{1,60}", text) and (text or method.upper() == "PUT"):
            raise ValueError(f"this is no id of an ETL: {text[:1000]}")
        return answer


def _send_spec(client: Requests, pod: PodSpec, timeouts: Mapping[str, str]) -> str:
    if hasattr(Etl, "init_spec"):
        with warnings.catch_warnings():
            # It warns that AIStore 5.1 drops it. "auto" then takes the runtime form, so no user need know.
            warnings.simplefilter("ignore", FutureWarning)
            Etl(client, pod.name).init_spec(pod.to_yaml(), communication_type="hpush", **timeouts)
        return "init_spec"
    spec = base64.b64encode(pod.to_yaml().encode()).decode()
    client.request("PUT", "etl", json={"name": pod.name, **timeouts, "communication": "hpush://", "spec": spec})
    return "spec"


class _Watch:
    """The pods' last log lines while AIStore waits for them: afterwards the pods are gone, and the reason with them.

    Looks once a second from a thread of its own, and keeps the last line of each log, or the error in its place
    ("image can't be pulled"). Where our own server has logged twice why it ended, it would do so at each restart. So we
    free the name, and AIStore answers then (recorded), not at the end of the start's time.
    """

    def __init__(self, cluster: Registrar, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self._done = threading.Event()
        self._seen: dict[str, None] = {}
        self._ending = 0
        self.ended = False
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def finish(self) -> list[str]:
        """Look a last time; at most four different lines, the last ones."""
        self._done.set()
        self._look()
        return [*self._seen][-4:]

    def _look_on(self) -> None:
        while not self._done.wait(1.0):
            self._look()
            self._ending = self._ending + 1 if any(map(_LAST_WORDS.match, self._seen)) else 0
            if self._ending == 2:
                self.ended = True
                _free(self._cluster, self._name)
                return

    def _look(self) -> None:
        try:
            lines = {last for log in self._cluster.logs(self._name).values() if (last := last_line(log))}
        except NotFound:
            return
        except TvetlError as error:
            lines = {error.message}
        if lines:
            self._seen = dict.fromkeys(sorted(lines))


def _wants_runtime(error: AISError) -> bool:
    """Whether the cluster no longer knows pod specs: it asks for an image, and does not mention the spec."""
    message, _ = sentence(error.status_code, str(error.message))
    return error.status_code == 400 and "runtime.image" in message and "InitSpecMsg" not in message


def _start_hint(pod: PodSpec, reason: str) -> str:
    """What to do about a start that failed for this reason."""
    gpu = pod.resources.gpu
    for pattern, hint in _HINTS:
        if re.search(pattern, reason) and (gpu or "{gpu}" not in hint):
            return hint.format(image=pod.image, gpu=gpu, seconds=pod.start_timeout)
    raise AssertionError("the last hint is for all")
