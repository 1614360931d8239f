"""A cluster as a user has it: each method is one thing to ask for, through the AIStore SDK.

Errors of the SDK and of the network leave as kinds of :class:`tvetl.errors.TvetlError`.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import requests
from aistore.sdk import Bucket, Client, Etl
from aistore.sdk.errors import AISError, InvalidBckProvider
from aistore.sdk.etl import ETLConfig
from aistore.sdk.namespace import Namespace
from aistore.sdk.types import JobSnap

from tvetl import notation, proxies
from tvetl.access import Access, read_access
from tvetl.cluster import connection, listing, registration
from tvetl.cluster.connection import Target
from tvetl.cluster.error_mapping import (
    GARBLED,
    Json,
    ObjectError,
    hidden,
    job_id,
    no_such_file,
    node,
    not_reached,
    object_error,
    refused,
    row,
    rows,
)
from tvetl.cluster.listing import Page, What
from tvetl.cluster.names import Names, Table
from tvetl.cluster.registration import Form
from tvetl.cluster.snapshots import EtlInfo, Registered, Snapshot, between, given, stopped, summed
from tvetl.errors import EtlStopped, NotAllowed, NotFound, ObjectFailed, TokenRefused, TvetlError, UsageError
from tvetl.pod import Container, PodSpec, check_name, container_of
from tvetl.spec import Pipeline
from tvetl.spec.seed import addressable, arrival, drawn_as

#: Seconds for the start of a stopped ETL, whose own time for it we do not know: AIStore's default, and the grace.
_START = 300.0 + registration.GRACE


class Cluster:
    """An AIStore cluster (or ``tvetl local``) at ``endpoint``, like ``http://192.168.49.2:8080``.

    Connects with the first request. Buckets are named ``images`` (provider ais) or by URL, ``s3://images`` or
    ``ais://@cluster#namespace/images``. ``patience`` is how many seconds a read waits for bytes; ``connections`` how
    many are kept open to each node, for as many threads that read through one Cluster. Not for use across a fork: make
    another one there. ``access`` is that of another Cluster at the same endpoint, else the environment's of now.

    ``pipelines`` are those of ETLs by name, as registered: where AIStore authenticates, only administrators may look at
    ETLs, though others may use them. The cluster is not asked about these, and 45 s are assumed for an object. A wrong
    pipeline changes no image, as the ETL runs its own. Datasets refuse pixels where its ``Normalize`` differs, and a
    preview's views are not equal. Nothing else detects it: datasets send its seed, and jobs record results as made by
    it. So they repeat good results, or keep old ones beside new ones.
    """

    def __init__(
        self, endpoint: str, *, patience: float = connection.TIMEOUT[1], connections: int = 10,
        access: Access | None = None, pipelines: Mapping[str, Pipeline] | None = None,
    ) -> None:  # fmt: skip
        self.endpoint = connection.checked_endpoint(endpoint)
        # Reads may be repeated when the network hiccups; whatever starts, stops or registers something is sent once.
        self._access = access or read_access()
        self._reads = connection.connect(self.endpoint, self._access, 3, patience, connections)
        self._acts = connection.connect(self.endpoint, self._access, 1, connection.TIMEOUT[1])
        self._given = given(pipelines or {})

    def close(self) -> None:
        """End the connections that are kept open; the next request connects again."""
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
        self._given.pop(pod.name, None)  # who registers may look
        if replace:
            with suppress(NotFound):
                self.unregister(pod.name)
        pod, began = registration.trusting(pod, self.endpoint, self._access), time.monotonic()
        try:
            used = registration.start(self, pod, form)
        except registration.Taken:
            registration.check_same(self, pod)
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
            etls = [
                EtlInfo(str(each["id"]), str(each.get("stage", "")), int(str(each.get("obj_count", 0))))
                for each in rows(self._json("etl"))
            ]
        return sorted(etls, key=lambda etl: etl.name)

    def stopped(self, name: str) -> EtlStopped | None:
        """Why an ETL does not run, and since when, where AIStore tells it; None where it runs, or there is none."""
        stage = next((etl.stage for etl in self.etls() if etl.name == name), "")
        if not stage:
            return None
        with suppress(TvetlError), self._explained():
            return stopped(name, stage, self._json("cluster", {"ID": "", "Kind": "etl-inline"}, what="qryxstats"))
        return stopped(name, stage, None)

    def show(self, name: str) -> Container | None:
        """Image, command and environment of a running ETL; of one of ``pipelines`` that alone, whether it runs or not.

        Raises NotFound, EtlStopped, and NotAllowed where only administrators may look.
        """
        with self._explained(name):
            return self._given.get(name) or container_of(row(row(self._json(f"etl/{name}"))["init_msg"]))

    def object_seconds(self, name: str) -> float:
        """How long the cluster gives this ETL for one object (``obj_timeout``); AIStore's 45 where it does not say."""
        if name in self._given:
            return 45.0
        with self._explained(name):
            duration = str(row(row(self._json(f"etl/{name}"))["init_msg"]).get("obj_timeout", ""))
        return notation.seconds(duration) or 45.0

    def errors(self, name: str, job: str = "") -> list[ObjectError]:
        """The objects that failed in one job of the ETL, or read inline; AIStore keeps 128 a target.

        Raises EtlStopped once the ETL is stopped, NotFound where there is none.
        """
        with self._explained(name):
            details = row(self._json(f"etl/{name}", uuid=job))
            row(details["init_msg"])
            return [
                object_error(str(each["obj_name"]), str(each["msg"]), int(str(each.get("ecode") or 0)))
                for each in rows(details.get("obj_errors"))
            ]

    def logs(self, name: str) -> dict[str, str]:
        """The logs of the ETL's pods, by target. Raises EtlStopped once the ETL is stopped, NotFound without one."""
        with self._explained(name):
            check_name(name)
            return {
                str(each["target_id"]): base64.b64decode(str(each["logs"])).decode(errors="replace")
                for each in rows(self._json(f"etl/{name}/logs"))
            }

    # Buckets and objects

    def create_bucket(self, bucket: str) -> None:
        """Make an ais bucket, if it is not there yet; buckets of other providers must exist."""
        handle = self._bucket(bucket, self._acts)
        if handle.provider.value == "ais":
            with self._explained():
                connection.make(handle)

    def delete_bucket(self, bucket: str) -> None:
        """Delete an ais bucket with all its objects, if it is there."""
        with suppress(NotFound), self._explained():
            self._bucket(bucket, self._acts).delete(missing_ok=True)

    def bucket_id(self, bucket: str) -> str:
        """The bucket's id; another bucket of the same name, made later, has another. Raises NotFound."""
        try:
            with self._explained():
                return str(row(json.loads(self._bucket(bucket).head()["Ais-Bucket-Props"])).get("bid", ""))
        except NotFound as error:  # an answer to HEAD has no message
            raise NotFound(f"the bucket {bucket!r} does not exist") from error

    def pages(self, bucket: str, prefix: str = "", what: What = "") -> Iterator[Page]:
        """The bucket's listing as it comes, mostly in order. Raises NotFound."""
        with self._explained():
            yield from listing.pages(self._bucket(bucket), prefix, what)

    def names(self, bucket: str, prefix: str = "") -> Names:
        """The names of the bucket's objects, in order, in little memory. Raises NotFound."""
        return Names(name for page in self.pages(bucket, prefix) for name, _ in page).in_order()

    def objects(self, bucket: str, prefix: str = "") -> list[str]:
        """The same as a list, which of millions of names takes twice as much. Raises NotFound."""
        return [*self.names(bucket, prefix)]

    def sizes(self, bucket: str, prefix: str = "") -> Table[int]:
        """The bucket's objects in order of name, with their sizes in bytes. Raises NotFound."""
        return listing.sizes(self.pages(bucket, prefix, "size"))

    def tags(self, bucket: str, prefix: str = "") -> Table[str]:
        """The same with version and checksum, which change whenever an object is written. Raises NotFound."""
        return listing.tags(self.pages(bucket, prefix, "tag"))

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

    def delete(self, bucket: str, name: str) -> None:
        """Delete one object. Raises NotFound."""
        with self._explained():
            self._bucket(bucket, self._acts).object(name).delete()

    def get(self, bucket: str, name: str, etl: str = "", arguments: Mapping[str, Json] | None = None) -> bytes:
        """Read one object, transformed by the ETL where one is named; ``arguments`` are its ``etl_args``.

        A pipeline's draws are by the object's name. A name that AIStore would change on the way is sent in ``like``.
        Raises ObjectFailed where the ETL refuses the object, NotFound where there is no such object or ETL, and
        EtlStopped where the ETL does not run.
        """
        if not addressable(name):
            raise ObjectFailed(f"{name!r} is no name that an object can be read by", code="bad_name")
        arguments = dict(arguments or {})
        if etl and "like" not in arguments and arrival(name) == "changed":
            container = self.show(etl)
            if container and container.pipeline:  # another's ETL does not know the argument
                arguments["like"] = drawn_as(bucket, name)
        config = ETLConfig(name=etl, args=arguments) if etl else None
        with self._explained(etl):
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
        """Token and TLS settings, for who connects beside the SDK."""
        return self._access

    def refused(self, status: int, text: str) -> TvetlError:
        """An answer of this cluster with status 400 or more, as the error that :meth:`get` would raise."""
        return refused(self.endpoint, status, self._access.bearer.hidden(text))

    # Jobs

    def start_job(
        self, source: str, destination: str, etl: str, *, names: Sequence[str] | None = None, prefix: str = "",
        prepend: str, extensions: Mapping[str, str], continue_on_error: bool, workers: int = 0,
    ) -> str:  # fmt: skip
        """Begin to transform the objects of these names, or all of the bucket whose names begin with ``prefix``.

        Gives the job's id; for names it may be that of an idle job, which AIStore takes up again. ``workers`` is how
        many objects each target reads at once: 0 is AIStore's own choice, one for each of its mountpaths, and -1 one
        after the other.
        """
        bucket, to, ext = self._bucket(source, self._acts), self._bucket(destination), dict(extensions) or None
        with self._explained(etl):
            if names is not None:
                return job_id(bucket.objects(obj_names=[*names]).transform(
                    etl_name=etl, to_bck=to, prepend=prepend, ext=ext, num_workers=workers,
                    continue_on_error=continue_on_error,
                ))  # fmt: skip
            return job_id(bucket.transform(
                etl_name=etl, to_bck=to, prepend=prepend, ext=ext, num_workers=workers,
                cont_on_err=continue_on_error, prefix_filter=prefix,
            ))  # fmt: skip

    def snapshot(self, job: str) -> Snapshot:
        """How far the job is. ``known`` is False before the first target has heard of it."""
        return summed(self._snaps(job))

    def transforming(self, source: str, destination: str) -> dict[str, Snapshot]:
        """The jobs that transform from one bucket into the other, by id: those at work, and list jobs that are idle."""
        with self._explained():
            running = self._reads.cluster().list_running_jobs()
        jobs = {}
        for match in filter(None, (re.fullmatch(r"etl-(?:bck|listrange)\[(.+)\]", entry) for entry in running)):
            snaps = self._snaps(match[1])
            if between(snaps, source, destination) and not (now := summed(snaps)).ended:
                jobs[match[1]] = now
        return jobs

    def _snaps(self, job: str) -> list[JobSnap]:
        """A job as each target sees it."""
        try:
            with self._explained():
                return [*self._reads.job(job).get_details().list_snapshots()]
        except NotFound:
            return []

    def abort(self, job: str) -> None:
        """End a job; what it has stored stays."""
        with self._explained():
            self._acts.job(job).abort()

    # Requests and their errors

    def _etl(self, name: str, seconds: float = 0) -> Etl:
        check_name(name)
        return Etl(registration.Requests(self._acts.cluster().client, seconds or connection.TIMEOUT[1]), name)

    def _bucket(self, bucket: str, client: Client = None) -> Bucket:
        named = notation.bucket(bucket)
        space = Namespace(uuid=named.cluster, name=named.namespace) if named.cluster + named.namespace else None
        try:
            return (client or self._reads).bucket(named.name, provider=named.provider, namespace=space)
        except InvalidBckProvider as error:
            raise UsageError(f"{named.provider!r} is no provider", hint="ais, s3, gs, az and oc are.") from error

    def _json(self, path: str, body: Mapping[str, Json] | None = None, /, **params: str) -> Json:
        return self._reads.cluster().client.request("GET", path, params=params, json=body).json()  # type: ignore[no-any-return]

    @contextmanager
    def _explained(self, etl: str = "") -> Iterator[None]:
        """Turn exceptions of the SDK and the network into our kinds, each with a hint.

        AIStore's targets answer the same for an ``etl`` that is stopped and for one that does not exist.
        """
        try:
            yield
        except AISError as error:
            mapped = self._refused(error)
            if etl and etl in mapped.message and isinstance(mapped, NotFound):
                with suppress(NotAllowed):
                    mapped = self.stopped(etl) or mapped
            raise mapped from self._access.bearer.unquoted(error)
        except (requests.RequestException, TimeoutError, *GARBLED) as error:
            raise not_reached(self.endpoint, error) from self._access.bearer.unquoted(error)
        except OSError as error:
            raise (no_such_file(error) or error) from None

    def _refused(self, error: AISError) -> TvetlError:
        method, url = getattr(error.req, "method", ""), error.req_url or ""
        missing = error.status_code == 404 and method == "HEAD"  # AIStore answers it without a message
        at = node(self.endpoint, url or self.endpoint)
        mapped = refused(at, error.status_code, self._text(error), None if missing else proxies.before(at))
        if isinstance(mapped, TokenRefused):
            mapped.hint += self._access.bearer.apart(mapped.message)
        return hidden(mapped) if method == "GET" and "/v1/etl" in url and isinstance(mapped, NotAllowed) else mapped

    def _text(self, error: AISError) -> str:
        """The message of an error, without tokens: some servers quote the request."""
        return self._access.bearer.hidden(str(error.message))
