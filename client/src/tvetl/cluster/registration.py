"""Registering an ETL: sent in the form that the cluster takes, watched while it starts, freed where it did not.

What differs between the SDK's lines is in :func:`_send` alone: 1.x registers a pod YAML with ``Etl.init_spec``; 2.x has
only the runtime form, while AIStore 5.0 takes both.
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
from tvetl.cluster.error_mapping import GARBLED, ended, last_line, sentence
from tvetl.errors import NameTaken, NotFound, NotReachable, RegistrationError, TvetlError, Unavailable, UsageError
from tvetl.pod import CA_VARIABLE, Container, PodSpec

Form = Literal["auto", "spec", "runtime"]

#: How much longer than AIStore we wait for a start: it needs a moment to stop the pods before it answers.
GRACE = 30.0
#: Bytes of a variable that every kernel takes, with its name.
_LONGEST_VARIABLE = 100_000
#: How our server's last line begins when it ends by itself: "tvetl-server: PipelineError: $.steps[0]: ...".
_LAST_WORDS = re.compile(r"tvetl-server: \w+: ")
#: What to do about a start that failed, by what was said of it: the first that is found in it.
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


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def stage(self) -> str: ...


class Registrar(Protocol):
    """What registering asks of :class:`tvetl.cluster.Cluster`."""

    _acts: Client

    def etls(self) -> Sequence[_Named]: ...
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
    found = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    held = "\n".join(found)
    if not found or len(held) > _LONGEST_VARIABLE:
        hint = "`--env AIS_CLIENT_CA=FILE` names a file in the targets' volumes, which pods get; or let it name one CA."
        raise UsageError(f"AIS_CLIENT_CA is no file that pods can be given: {ca}", hint=hint)
    return replace(pod, env={**pod.env, CA_VARIABLE: held})


def start(cluster: Registrar, pod: PodSpec, form: Form) -> str:
    last = ""
    with _Watch(cluster, pod.name) as watch:
        try:
            return _send(cluster, pod, form)
        except AISError as error:
            if error.status_code == 409:
                raise Taken from error
            if _wants_runtime(error):  # nothing was started, so the name is not ours to free
                why = f"; the runtime form carries no {words}" if (words := " and no ".join(pod.beyond_runtime)) else ""
                said = f"this cluster takes no pod YAML ({sentence(error.status_code, cluster._text(error))[0]}){why}"
                raise RegistrationError(f"the ETL {pod.name!r} did not start: {said}", hint=_RUNTIME_HINT) from error
            told = cluster._refused(error)
            reason = sentence(error.status_code, cluster._text(error))[0]
            started = error.status_code not in (401, 403) and "invalid etl.InitMsg" not in reason
            if not started or isinstance(told, (Unavailable, NotReachable)):  # the name may be another's
                raise told from error
            last = ended(cluster._text(error))
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
    # The server may have quoted the pod's last line itself. That we ended the wait is no reason of its own.
    more = [line for line in seen if line not in reason]
    said = last or "; ".join(more if watch.ended and more else [reason, *more])
    hint = _start_hint(pod, said) + ("" if freed else f" The name is still taken: `tvetl rm {pod.name}`.")
    raise RegistrationError(f"the ETL {pod.name!r} did not start: {said}", hint=hint) from cause


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
    """The name is taken: fine if by the same thing, running. Raises NameTaken otherwise."""
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
    """The SDK's request client for what starts and ends ETLs: it waits as long as we say, and knows AIStore's answers.

    ``Etl.init*`` use the server's own time-out for the HTTP request, so that the caller gets a bare read time-out just
    before the server answers with the reason; the SDK's other calls wait five minutes, even to connect. And to take
    the page of some other server for AIStore's answer would be to call done what nobody did.
    """

    def __init__(self, inner: RequestClient, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    def request(self, method: str, path: str, **kwargs: object) -> requests.Response:
        kwargs["timeout"] = (connection.TIMEOUT[0], self._seconds)
        answer: requests.Response = self._inner.request(method, path=path, **kwargs)
        said = answer.text.strip()  # as recorded: "etl-BXA4oVuUT" to a start, nothing to an end
        if not re.fullmatch(r"etl-[\w-]{1,60}", said) and (said or method.upper() == "PUT"):
            raise ValueError(f"this is no id of an ETL: {said[:1000]}")
        return answer


def _send_spec(client: Requests, pod: PodSpec, timeouts: Mapping[str, str]) -> str:
    if hasattr(Etl, "init_spec"):
        with warnings.catch_warnings():
            # It says that AIStore 5.1 drops it. "auto" then takes the runtime form, so nobody need be told.
            warnings.simplefilter("ignore", FutureWarning)
            Etl(client, pod.name).init_spec(pod.to_yaml(), communication_type="hpush", **timeouts)
        return "init_spec"
    spec = base64.b64encode(pod.to_yaml().encode()).decode()
    client.request("PUT", "etl", json={"name": pod.name, **timeouts, "communication": "hpush://", "spec": spec})
    return "spec"


class _Watch:
    """What the pods say while AIStore waits for them: afterwards they are gone, and with them the reason.

    Looks once a second from a thread of its own, and keeps the last line of each log, or what stands in its place
    ("image can't be pulled"). Where our own server has said twice why it ended, it would say so each time that it is
    started again: we free the name, and AIStore's answer comes then (recorded), not at the end of the start's time.
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
    """Whether the cluster no longer knows pod specs: it asks for an image, and says nothing of the spec."""
    message, _ = sentence(error.status_code, str(error.message))
    return error.status_code == 400 and "runtime.image" in message and "InitSpecMsg" not in message


def _start_hint(pod: PodSpec, said: str) -> str:
    """What to do about a start that failed: what belongs to the reason given, and nothing else."""
    gpu = pod.resources.gpu
    for words, hint in _HINTS:
        if re.search(words, said) and (gpu or "{gpu}" not in hint):
            return hint.format(image=pod.image, gpu=gpu, seconds=pod.start_timeout)
    raise AssertionError("the last hint is for all")
