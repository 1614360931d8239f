"""A cluster through the AIStore SDK: the only module that imports it, and both its lines work.

Each method is one thing a user asks for; errors of the SDK and of the network leave as kinds of
:class:`tvetl.errors.TvetlError`. What differs between the SDK's lines is in :meth:`Cluster._send` alone:
1.x registers a pod YAML with ``Etl.init_spec``; 2.x has only the runtime form, while AIStore 5.0 takes both.
Not here: waiting for jobs and judging them (:mod:`tvetl.jobs`).
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import requests
from aistore.sdk import Bucket, Client, Etl
from aistore.sdk.errors import AISError, InvalidBckProvider
from aistore.sdk.etl import ETLConfig
from aistore.sdk.request_client import RequestClient
from aistore.sdk.retry_config import RetryConfig
from aistore.sdk.types import BucketModel, JobSnap
from aistore.version import __version__ as sdk_version
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed
from urllib3.util.retry import Retry

from tvetl.errors import (
    NameTaken,
    NotAIStore,
    NotFound,
    ObjectFailed,
    RegistrationError,
    TvetlError,
    Unavailable,
    UsageError,
)
from tvetl.pod import Container, PodSpec, check_name, container_of
from tvetl.refusals import (
    GARBLED,
    ended,
    garbled,
    job_id,
    last_line,
    not_reached,
    object_error,
    refused,
    row,
    rows,
    sentence,
    too_late,
)
from tvetl.refusals import Json as Json
from tvetl.refusals import ObjectError as ObjectError

Form = Literal["auto", "spec", "runtime"]

#: Seconds to connect, as the SDK; seconds to wait for bytes: longer than any object may take (45 s by default), so
#: that the cluster's reason arrives and not our own time-out.
_TIMEOUT = (3.0, 120.0)
#: How much longer than AIStore we wait for a start: it needs a moment to stop the pods before it answers.
_GRACE = 30.0
#: Seconds for the start of a stopped ETL, whose own time for it we do not know: AIStore's default, and the grace.
_START = 300.0 + _GRACE
#: Seconds before a 429 or 503 is asked again, twice as many before the second time.
_BACKOFF = 0.5
#: Seconds before what the network lost is asked again.
_PAUSE = 0.2
#: Go's zero time: how AIStore writes "not yet".
_NEVER = "0001-01-01T00:00:00Z"
#: How our server's last line begins when it ends by itself: "tvetl-server: PipelineError: $.steps[0]: ...".
_LAST_WORDS = re.compile(r"tvetl-server: \w+: ")
_RUNTIME_HINT = "`--form runtime` registers image and environment alone, without resources and security settings."
_MINIKUBE = "`minikube image load IMAGE` brings one into Minikube; it needs the spec form."


@dataclass(frozen=True)
class EtlInfo:
    """One ETL of the cluster: its stage is Initializing, Running or Aborted (which also means stopped)."""

    name: str
    stage: str
    objects: int = 0


@dataclass(frozen=True)
class Registered:
    """An ETL that runs: ``form`` says how it came to be (init_spec, spec, runtime), or "reused" that it ran already."""

    name: str
    form: str
    seconds: float

    @property
    def reused(self) -> bool:
        return self.form == "reused"


@dataclass(frozen=True)
class Snapshot:
    """What all targets together say of a job.

    ``done`` counts objects, each once, at the target that read it; ``bytes`` are those of the results stored. ``idle``
    says that a list job, which never ends, has nothing left to do.
    """

    known: bool
    done: int
    bytes: int
    idle: bool
    ended: bool
    aborted: str


@dataclass(frozen=True)
class Target:
    """A storage node that serves objects: its URL, and the digest of its id, from which an object's place follows."""

    digest: int
    url: str


@dataclass(frozen=True)
class Access:
    """How the SDK connects to a node, for whoever connects beside it.

    ``token`` is AuthN's, "" without one. ``verify`` and ``certificate`` are as requests has them, for nodes that speak
    https. ``through_proxy`` says that the environment sends requests to this endpoint through an HTTP proxy.
    """

    token: str
    verify: bool | str
    certificate: str | tuple[str, str] | None
    through_proxy: bool
    user_agent: str = f"ais/python/{sdk_version}"

    def tls(self) -> ssl.SSLContext:
        """Raises OSError where a certificate cannot be read."""
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            where = Path(DEFAULT_CA_BUNDLE_PATH if self.verify is True else self.verify)
            context.load_verify_locations(**{"capath" if where.is_dir() else "cafile": str(where)})
        if self.certificate:
            context.load_cert_chain(*([self.certificate] if isinstance(self.certificate, str) else self.certificate))
        return context


class Cluster:
    """An AIStore cluster (or ``tvetl local``) at ``endpoint``, like ``http://192.168.49.2:8080``.

    Connects when first asked for something. Buckets are named ``images`` (provider ais) or by URL, ``s3://images``.
    ``patience`` is how many seconds a read waits for bytes; ``connections`` how many to each node are kept open, so
    that as many threads can read through one Cluster. Not for use across a fork: make another one there.
    """

    def __init__(self, endpoint: str, *, patience: float = _TIMEOUT[1], connections: int = 10) -> None:
        self.endpoint = _checked(endpoint)
        # Reads may be repeated when the network hiccups; what starts, stops or registers something is said once.
        self._reads = _client(self.endpoint, 3, patience, connections)
        self._acts = _client(self.endpoint, 1, _TIMEOUT[1])

    def close(self) -> None:
        """End the connections that are kept open; asked for something again, it connects again."""
        for client in (self._reads, self._acts):
            client.cluster().client.session_manager.session.close()

    # ETLs

    def register(self, pod: PodSpec, *, form: Form = "auto", replace: bool = False) -> Registered:
        """Start the ETL on every target and wait until it is ready.

        ``form``: "spec" sends the pod YAML, "runtime" only image and environment, "auto" the first where the cluster
        takes it. The same image and pipeline running already under this name is success; ``replace`` starts anew.
        Raises NameTaken, RegistrationError (with the cluster's and the pod's reasons; the name is free again), and
        UsageError where the runtime form was asked for and cannot carry the pod (:attr:`PodSpec.beyond_runtime`).
        """
        if form == "runtime" and pod.beyond_runtime:
            words = " and no ".join(pod.beyond_runtime)
            raise UsageError(f"the runtime form carries no {words}", hint="The pod YAML does: `--form spec`.")
        if replace:
            with suppress(NotFound):
                self.unregister(pod.name)
        began = time.monotonic()
        try:
            used = self._start(pod, form)
        except _Taken:
            self._check_same(pod)
            used = "reused"
        return Registered(pod.name, used, time.monotonic() - began)

    def unregister(self, name: str) -> None:
        """Stop the ETL and free its name. Raises NotFound."""
        with self._explained():
            etl = self._etl(name)
            with suppress(AISError):
                etl.stop()  # a stopped one answers an error, and can be deleted
            etl.delete()

    def stop(self, name: str) -> None:
        """Stop the ETL's pods and jobs; it can be started again. Its errors and logs are gone then."""
        with self._explained():
            self._etl(name).stop()

    def start(self, name: str) -> None:
        """Start a stopped ETL again, and wait until it is ready."""
        with self._explained():
            self._etl(name, _START).start()

    def etls(self) -> list[EtlInfo]:
        """All ETLs of the cluster, by name."""
        with self._explained():
            told = rows(self._json("etl"))
            found = [EtlInfo(str(r["id"]), str(r.get("stage", "")), int(str(r.get("obj_count", 0)))) for r in told]
        return sorted(found, key=lambda etl: etl.name)

    def show(self, name: str) -> Container | None:
        """Image, command and environment of a running ETL. Raises NotFound, for a stopped one too."""
        with self._explained():
            return container_of(row(row(self._json(f"etl/{name}"))["init_msg"]))

    def object_seconds(self, name: str) -> float:
        """How long the cluster gives this ETL for one object (``obj_timeout``); AIStore's 45 where it does not say."""
        with self._explained():
            told = str(row(row(self._json(f"etl/{name}"))["init_msg"]).get("obj_timeout", ""))
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", told)  # Go writes 45s, 2m, 1m30s
        return sum(float(n) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[unit] for n, unit in parts) or 45.0

    def errors(self, name: str, job: str = "") -> list[ObjectError]:
        """What failed in one job of the ETL, or in reading objects inline; AIStore keeps 128 a target.

        Raises NotFound once the ETL is stopped.
        """
        with self._explained():
            details = row(self._json(f"etl/{name}", uuid=job))
            row(details["init_msg"])
            told = rows(details.get("obj_errors"))
            return [object_error(str(r["obj_name"]), str(r["msg"]), int(str(r.get("ecode") or 0))) for r in told]

    def logs(self, name: str) -> dict[str, str]:
        """What the ETL's pods wrote, by target. Raises NotFound once the ETL is stopped."""
        with self._explained():
            check_name(name)
            told = rows(self._json(f"etl/{name}/logs"))
            return {str(r["target_id"]): base64.b64decode(str(r["logs"])).decode(errors="replace") for r in told}

    # Buckets and objects

    def create_bucket(self, bucket: str) -> None:
        """Make an ais bucket, if it is not there yet; buckets of other providers must exist."""
        with self._explained():
            handle = self._bucket(bucket, self._acts)
            if handle.provider.value == "ais":
                handle.create(exist_ok=True)

    def delete_bucket(self, bucket: str) -> None:
        """Delete an ais bucket with all its objects, if it is there."""
        with self._explained():
            self._bucket(bucket, self._acts).delete(missing_ok=True)

    def bucket_id(self, bucket: str) -> str:
        """What another bucket of the same name, made later, does not have. Raises NotFound."""
        with self._explained():
            return str(row(json.loads(self._bucket(bucket).head()["Ais-Bucket-Props"])).get("bid", ""))

    def objects(self, bucket: str, prefix: str = "") -> list[str]:
        """The names of the bucket's objects, in order. Raises NotFound."""
        with self._explained():
            return sorted(entry.name for entry in self._bucket(bucket).list_all_objects(prefix=prefix, props="name"))

    def sizes(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """The bucket's objects in order of name, with their sizes in bytes. Raises NotFound."""
        with self._explained():
            entries = self._bucket(bucket).list_all_objects(prefix=prefix, props="name,size")
            return {entry.name: int(entry.size or 0) for entry in sorted(entries, key=lambda entry: entry.name)}

    def tags(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """The bucket's objects with something that changes whenever they are written: version and checksum."""
        with self._explained():
            entries = self._bucket(bucket).list_all_objects(prefix=prefix, props="name,version,checksum")
            return {entry.name: f"{entry.version or ''}:{entry.checksum or ''}" for entry in entries}

    def has(self, bucket: str, name: str) -> bool:
        """Whether there is such an object."""
        try:
            with self._explained():
                self._bucket(bucket).object(name).head()
        except NotFound:
            return False
        return True

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store one object."""
        with self._explained():
            self._bucket(bucket).object(name).get_writer().put_content(data)

    def get(self, bucket: str, name: str, etl: str = "", arguments: Mapping[str, Json] | None = None) -> bytes:
        """Read one object, transformed by the ETL where one is named; ``arguments`` are its ``etl_args``.

        Raises ObjectFailed where the ETL refuses the object, NotFound where there is no such object or running ETL.
        """
        config = ETLConfig(name=etl, args=dict(arguments or {})) if etl else None
        with self._explained():
            data = bytes(self._bucket(bucket).object(name).get_reader(etl=config).read_all())
        if etl and not data:
            raise ObjectFailed(f"{name}: the ETL answered nothing", code="empty_answer", status=200)
        return data

    # For reading straight from the targets (tvetl.fetch)

    def targets(self) -> list[Target]:
        """The targets that objects can be read from, of a cluster map asked for now: none in maintenance."""
        with self._explained():
            nodes = self._reads.cluster().client.get_smap(True).tmap.values()
            active = [node for node in nodes if not node.in_maint_or_decomm()]
            return [Target(node.id_digest, node.public_net.direct_url) for node in active]

    def access(self) -> Access:
        """Token and TLS settings as the SDK takes them from its environment variables."""
        client = self._reads.cluster().client
        settings = client.session_manager.session.merge_environment_settings(self.endpoint, {}, None, None, None)
        through_proxy = bool(select_proxy(self.endpoint, settings["proxies"]))
        return Access(client.token or "", settings["verify"], settings["cert"], through_proxy)

    def refused(self, status: int, text: str) -> TvetlError:
        """What an answer of this cluster's with status 400 or more says, as :meth:`get` would raise it."""
        return refused(self.endpoint, status, self._without_token(text))

    # Jobs

    def start_bucket_job(
        self,
        source: str,
        destination: str,
        etl: str,
        *,
        prefix: str,
        prepend: str,
        extensions: Mapping[str, str],
        continue_on_error: bool,
    ) -> str:
        """Begin to transform a whole bucket, or what of it begins with ``prefix``; gives the job's id."""
        with self._explained():
            return job_id(
                self._bucket(source, self._acts).transform(
                    etl_name=etl,
                    to_bck=self._bucket(destination),
                    prefix_filter=prefix,
                    prepend=prepend,
                    ext=dict(extensions) or None,
                    cont_on_err=continue_on_error,
                )
            )

    def start_list_job(
        self,
        source: str,
        destination: str,
        etl: str,
        *,
        names: Sequence[str],
        prepend: str,
        extensions: Mapping[str, str],
        continue_on_error: bool,
    ) -> str:
        """Begin to transform objects by name; gives the job's id, which may be that of an idle job taken up again."""
        with self._explained():
            return job_id(
                self._bucket(source, self._acts)
                .objects(obj_names=[*names])
                .transform(
                    to_bck=self._bucket(destination),
                    etl_name=etl,
                    prepend=prepend,
                    ext=dict(extensions) or None,
                    continue_on_error=continue_on_error,
                )
            )

    def snapshot(self, job: str) -> Snapshot:
        """How far the job is. ``known`` is False before the first target has heard of it."""
        return _summed(self._snaps(job))

    def transforming(self, source: str, destination: str) -> dict[str, Snapshot]:
        """The jobs that transform from one bucket into the other, by id: those at work, and list jobs that are idle."""
        with self._explained():
            running = self._reads.cluster().list_running_jobs()
        found = {}
        for match in filter(None, (re.fullmatch(r"etl-(?:bck|listrange)\[(.+)\]", entry) for entry in running)):
            snaps = self._snaps(match[1])
            ends = {(_url(snap.source_bck), _url(snap.destination_bck)) for snap in snaps}
            if ends == {(_plain(source), _plain(destination))} and not (now := _summed(snaps)).ended:
                found[match[1]] = now
        return found

    def _snaps(self, job: str) -> list[JobSnap]:
        """A job as each target sees it."""
        with self._explained():
            try:
                return [*self._reads.job(job).get_details().list_snapshots()]
            except AISError as error:
                if isinstance(self._refused(error), NotFound):
                    return []
                raise

    def abort(self, job: str) -> None:
        """End a job; what it has stored stays."""
        with self._explained():
            self._acts.job(job).abort()

    # How

    def _etl(self, name: str, seconds: float = 0) -> Etl:
        check_name(name)
        return Etl(_Requests(self._acts.cluster().client, seconds or _TIMEOUT[1]), name)

    def _bucket(self, bucket: str, client: Client = None) -> Bucket:
        provider, _, name = bucket.rpartition("://")
        try:
            return (client or self._reads).bucket(name.rstrip("/"), provider=provider or "ais")
        except InvalidBckProvider as error:
            raise UsageError(f"AIStore knows no provider {provider!r}", hint="ais, s3, gs and others do.") from error

    def _json(self, path: str, **params: str) -> Json:
        with self._explained():
            answer: Json = self._reads.cluster().client.request("GET", path, params=params).json()
            return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the SDK and the network raise into our kinds, each with what to try."""
        try:
            yield
        except TvetlError:
            raise
        except AISError as error:
            raise self._refused(error) from error
        except requests.RequestException as error:
            raise not_reached(self.endpoint, error) from error
        except TimeoutError as error:
            raise too_late(self.endpoint) from error
        except GARBLED as error:
            raise garbled(self.endpoint, error) from error

    def _refused(self, error: AISError) -> TvetlError:
        return refused(self.endpoint, error.status_code, self._text(error))

    def _text(self, error: AISError) -> str:
        """What came with the status."""
        return self._without_token(str(error.message))

    def _without_token(self, text: str) -> str:
        """Some servers quote what they were asked."""
        token = self._reads.cluster().client.token
        return text.replace(token, "***") if token else text

    # Registering

    def _start(self, pod: PodSpec, form: Form) -> str:
        last = ""
        with _Watch(self, pod.name) as watch:
            try:
                return self._send(pod, form)
            except AISError as error:
                if error.status_code == 409:
                    raise _Taken from error
                if _wants_runtime(error):  # nothing was started, so the name is not ours to free
                    why = (
                        f"; the runtime form carries no {words}"
                        if (words := " and no ".join(pod.beyond_runtime))
                        else ""
                    )
                    said = f"this cluster takes no pod YAML ({sentence(error.status_code, self._text(error))[0]}){why}"
                    raise RegistrationError(
                        f"the ETL {pod.name!r} did not start: {said}", hint=_RUNTIME_HINT
                    ) from error
                told = self._refused(error)
                if isinstance(told, (Unavailable, NotAIStore)):
                    raise told from error
                reason = sentence(error.status_code, self._text(error))[0]
                last = ended(self._text(error))
                cause: Exception = error
            except requests.ReadTimeout as error:
                reason = f"AIStore did not answer within {pod.start_timeout + _GRACE:.0f} s"
                cause = error
            except (requests.RequestException, *GARBLED) as error:
                with self._explained():
                    raise error
            except BaseException:  # Ctrl-C: do not leave half an ETL behind
                self._free(pod.name)
                raise
            seen = watch.finish()
        freed = self._free(pod.name)
        # The server may have quoted the pod's last line itself. That we ended the wait is no reason of its own.
        reasons = [] if watch.ended else [reason]
        said = last or "; ".join(reasons + [line for line in seen if line not in reason])
        hint = _start_hint(pod, said) + ("" if freed else f" The name is still taken: `tvetl rm {pod.name}`.")
        raise RegistrationError(f"the ETL {pod.name!r} did not start: {said}", hint=hint) from cause

    def _send(self, pod: PodSpec, form: Form) -> str:
        """Ask AIStore for the ETL; returns the form it took."""
        patient = _Requests(self._acts.cluster().client, pod.start_timeout + _GRACE)
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

    def _check_same(self, pod: PodSpec) -> None:
        """The name is taken: fine if by the same thing, running. Raises NameTaken otherwise."""
        stage = next((etl.stage for etl in self.etls() if etl.name == pod.name), "gone")
        running = self.show(pod.name) if stage == "Running" else None
        if running is None:
            hint = f"`tvetl start {pod.name}` starts what is there; `--replace` puts this one in its place."
            raise NameTaken(f"there is an ETL {pod.name!r} already, and it is {stage.lower()}", hint=hint)
        if different := pod.container.differences(running):
            hint = "Choose another name, or put this one in its place with `--replace`."
            raise NameTaken(f"another ETL {pod.name!r} runs already: other {', '.join(different)}", hint=hint)

    def _free(self, name: str) -> bool:
        """Give a name back after a start that failed: AIStore keeps it otherwise. False where that failed too."""
        try:
            self.unregister(name)
        except NotFound:
            return True
        except TvetlError:
            return False
        return True


class _Taken(Exception):
    """AIStore answered 409: the name exists."""


class _Requests:
    """The SDK's request client for what starts and ends ETLs: it waits as long as we say, and knows AIStore's answers.

    ``Etl.init*`` use the server's own time-out for the HTTP request, so that the caller gets a bare read time-out just
    before the server answers with the reason; the SDK's other calls wait five minutes, even to connect. And to take
    the page of some other server for AIStore's answer would be to call done what nobody did.
    """

    def __init__(self, inner: RequestClient, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    def request(self, method: str, path: str, **kwargs: object) -> requests.Response:
        kwargs["timeout"] = (_TIMEOUT[0], self._seconds)
        answer: requests.Response = self._inner.request(method, path=path, **kwargs)
        said = answer.text.strip()  # as recorded: "etl-BXA4oVuUT" to a start, nothing to an end
        if not re.fullmatch(r"etl-[\w-]{1,60}", said) and (said or method.upper() == "PUT"):
            raise ValueError(f"this is no id of an ETL: {said[:1000]}")
        return answer


def _send_spec(client: _Requests, pod: PodSpec, timeouts: Mapping[str, str]) -> str:
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

    def __init__(self, cluster: Cluster, name: str) -> None:
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
                self._cluster._free(self._name)
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


def _client(endpoint: str, attempts: int, patience: float, connections: int = 10) -> Client:
    """An SDK client that gives up soon: the SDK's own repeats 5xx for 93 s and then loses the reason.

    429 and 503 are repeated for 1.5 s in all, and then returned with their body.
    """
    repeats = attempts - 1
    http = Retry(
        total=repeats,
        connect=0,
        read=False,
        other=0,
        backoff_factor=_BACKOFF,
        status_forcelist=[429, 503],
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    network = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_fixed(_PAUSE),
        retry=retry_if_exception_type(requests.ConnectionError),
        reraise=True,
    )
    retries = RetryConfig(http_retry=http, network_retry=network)
    return Client(endpoint, timeout=(_TIMEOUT[0], patience), retry_config=retries, max_pool_size=connections)


def _summed(snaps: Sequence[JobSnap]) -> Snapshot:
    stats = [snap.stats for snap in snaps if snap.stats]
    return Snapshot(
        known=bool(snaps),
        done=sum(s.objects + s.out_objects for s in stats),
        bytes=sum(s.bytes + s.in_bytes for s in stats),  # at the target that stored them; out_bytes may say 0
        idle=bool(snaps) and all(s.is_idle for s in snaps),
        ended=bool(snaps) and all(s.end_time not in ("", _NEVER) for s in snaps),
        aborted=next((s.abort_err or "aborted" for s in snaps if s.aborted or s.abort_err), ""),
    )


def _url(bucket: BucketModel | None) -> str:
    return f"{bucket.provider}://{bucket.name}" if bucket else ""


def _plain(bucket: str) -> str:
    """A bucket by URL, also where it was named alone."""
    provider, _, name = bucket.rpartition("://")
    return f"{provider or 'ais'}://{name.rstrip('/')}"


def _checked(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if "@" in endpoint:  # not repeated, as it may be a password
        raise UsageError("an endpoint has no user and no password in it", hint="AIS_AUTHN_TOKEN has AIStore's token.")
    if not good:
        raise UsageError(f"{endpoint!r} is not an endpoint", hint="It looks like http://192.168.49.2:8080.")
    return endpoint.rstrip("/")


def _wants_runtime(error: AISError) -> bool:
    """Whether the cluster no longer knows pod specs: it asks for an image, and says nothing of the spec."""
    message, _ = sentence(error.status_code, str(error.message))
    return error.status_code == 400 and "runtime.image" in message and "InitSpecMsg" not in message


def _start_hint(pod: PodSpec, said: str) -> str:
    if pod.resources.gpu and "deadline exceeded" in said:
        return (
            f"Does each target's node offer {pod.resources.gpu}, with one of it free? `kubectl describe nodes` tells."
        )
    if "image" in said.lower():
        return f"Can every node of the cluster get {pod.image!r}? {_MINIKUBE}"
    return f"`tvetl validate` checks a pipeline; --timeout (now {pod.start_timeout} s) gives a slow start its time."
