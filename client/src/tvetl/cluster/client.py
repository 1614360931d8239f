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
    object_error,
    refused,
    row,
    rows,
    unanswered,
)
from tvetl.cluster.listing import What
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

    Connects when first asked for something. Buckets are named ``images`` (provider ais) or by URL, ``s3://images``, ``ais://@cluster#namespace/images``.
    ``patience`` is how many seconds a read waits for bytes; ``connections`` how many to each node are kept open, so
    that as many threads can read through one Cluster. Not for use across a fork: make another one there. ``access`` is
    that of another Cluster to the same, else the environment says it, now.

    ``pipelines`` are those of ETLs by name, as registered: where AIStore authenticates, only administrators may look at
    ETLs, though others may use them. The cluster is not asked what these run then; 45 s are taken for their time for an
    object. With a wrong one the ETL makes its own images all the same. Datasets refuse pixels where its ``Normalize``
    is another, and a preview's views are not equal. Nothing else tells: datasets ask for its seed, and jobs record
    results as its own, so that they make again what is right, or keep old results beside new ones.
    """

    def __init__(
        self, endpoint: str, *, patience: float = connection.TIMEOUT[1], connections: int = 10,
        access: Access | None = None, pipelines: Mapping[str, Pipeline] | None = None,
    ) -> None:  # fmt: skip
        self.endpoint = connection.checked_endpoint(endpoint)
        # Reads may be repeated when the network hiccups; what starts, stops or registers something is said once.
        self._access = access or read_access()
        self._reads = connection.connect(self.endpoint, self._access, 3, patience, connections)
        self._acts = connection.connect(self.endpoint, self._access, 1, connection.TIMEOUT[1])
        self._given = given(pipelines or {})

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
            told = rows(self._json("etl"))
            found = [EtlInfo(str(r["id"]), str(r.get("stage", "")), int(str(r.get("obj_count", 0)))) for r in told]
        return sorted(found, key=lambda etl: etl.name)

    def stopped(self, name: str) -> EtlStopped | None:
        """Why an ETL does not run, and since when, where AIStore tells it; None where it runs, or there is none."""
        stage = next((etl.stage for etl in self.etls() if etl.name == name), None)
        with suppress(TvetlError), self._explained():
            runs = self._json("cluster", {"ID": "", "Kind": "etl-inline"}, what="qryxstats")
            return stopped(name, stage, runs) if stage else None
        return stopped(name, stage, None) if stage else None

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
            told = str(row(row(self._json(f"etl/{name}"))["init_msg"]).get("obj_timeout", ""))
        return notation.seconds(told) or 45.0

    def errors(self, name: str, job: str = "") -> list[ObjectError]:
        """What failed in one job of the ETL, or in reading objects inline; AIStore keeps 128 a target.

        Raises EtlStopped once the ETL is stopped, NotFound where there is none.
        """
        with self._explained(name):
            details = row(self._json(f"etl/{name}", uuid=job))
            row(details["init_msg"])
            told = rows(details.get("obj_errors"))
            return [object_error(str(r["obj_name"]), str(r["msg"]), int(str(r.get("ecode") or 0))) for r in told]

    def logs(self, name: str) -> dict[str, str]:
        """What the ETL's pods wrote, by target. Raises EtlStopped once the ETL is stopped, NotFound without one."""
        with self._explained(name):
            check_name(name)
            told = rows(self._json(f"etl/{name}/logs"))
            return {str(r["target_id"]): base64.b64decode(str(r["logs"])).decode(errors="replace") for r in told}

    # Buckets and objects

    def create_bucket(self, bucket: str) -> None:
        """Make an ais bucket, if it is not there yet; buckets of other providers must exist."""
        handle = self._bucket(bucket, self._acts)
        with self._explained(), connection.ignoring(409):  # the SDK's exist_ok knows no namespaces
            if handle.provider.value == "ais":
                connection.make(handle)

    def delete_bucket(self, bucket: str) -> None:
        """Delete an ais bucket with all its objects, if it is there."""
        with self._explained(), connection.ignoring(404):
            self._bucket(bucket, self._acts).delete(missing_ok=True)

    def bucket_id(self, bucket: str) -> str:
        """What another bucket of the same name, made later, does not have. Raises NotFound."""
        try:
            with self._explained():
                return str(row(json.loads(self._bucket(bucket).head()["Ais-Bucket-Props"])).get("bid", ""))
        except NotFound as error:  # which an answer to HEAD has no words for
            raise NotFound(f"the bucket {bucket!r} does not exist") from error

    def pages(self, bucket: str, prefix: str = "", what: What = "") -> Iterator[list[tuple[str, str]]]:
        """The bucket's listing as it comes, mostly in order: names, each with what `What` names.

        Raises NotFound.
        """
        with self._explained():
            yield from listing.pages(self._bucket(bucket), prefix, what)

    def names(self, bucket: str, prefix: str = "") -> Names:
        """The names of the bucket's objects, in order, in little memory. Raises NotFound."""
        with self._explained():
            return listing.names(self._bucket(bucket), prefix)

    def objects(self, bucket: str, prefix: str = "") -> list[str]:
        """The same as a list, which of millions of names takes twice as much. Raises NotFound."""
        return [*self.names(bucket, prefix)]

    def sizes(self, bucket: str, prefix: str = "") -> Table[int]:
        """The bucket's objects in order of name, with their sizes in bytes. Raises NotFound."""
        with self._explained():
            return listing.sizes(self._bucket(bucket), prefix)

    def tags(self, bucket: str, prefix: str = "") -> Table[str]:
        """The same with something that changes whenever an object is written: version and checksum. Raises NotFound."""
        with self._explained():
            return listing.tags(self._bucket(bucket), prefix)

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

        A pipeline's draws are by the object's name. One that AIStore would change on the way is told in ``like``.
        Raises ObjectFailed where the ETL refuses the object, NotFound where there is no such object or ETL, and
        EtlStopped where the ETL does not run.
        """
        if not addressable(name):
            raise ObjectFailed(f"{name!r} is no name that an object can be read by", code="bad_name")
        asked = dict(arguments or {})
        if etl and "like" not in asked and arrival(name) == "changed":
            container = self.show(etl)
            if container and container.pipeline:  # another's ETL does not know the argument
                asked["like"] = drawn_as(bucket, name)
        config = ETLConfig(name=etl, args=asked) if etl else None
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
        """What an answer of this cluster's with status 400 or more says, as :meth:`get` would raise it."""
        return refused(self.endpoint, status, self._access.bearer.hidden(text))

    # Jobs

    def start_bucket_job(
        self, source: str, destination: str, etl: str, *,
        prefix: str, prepend: str, extensions: Mapping[str, str], continue_on_error: bool, workers: int = 0,
    ) -> str:  # fmt: skip
        """Begin to transform a whole bucket, or what of it begins with ``prefix``; gives the job's id.

        ``workers`` is how many objects each target reads at once: 0 is AIStore's own choice, one for each of its
        mountpaths, and -1 one after the other.
        """
        with self._explained(etl):
            return job_id(
                self._bucket(source, self._acts).transform(
                    etl_name=etl, to_bck=self._bucket(destination), prefix_filter=prefix, prepend=prepend,
                    ext=dict(extensions) or None, cont_on_err=continue_on_error, num_workers=workers,
                )
            )  # fmt: skip

    def start_list_job(
        self, source: str, destination: str, etl: str, *,
        names: Sequence[str], prepend: str, extensions: Mapping[str, str], continue_on_error: bool, workers: int = 0,
    ) -> str:  # fmt: skip
        """Begin to transform objects by name; gives the job's id, which may be that of an idle job taken up again."""
        with self._explained(etl):
            return job_id(
                self._bucket(source, self._acts)
                .objects(obj_names=[*names])
                .transform(
                    to_bck=self._bucket(destination), etl_name=etl, prepend=prepend,
                    ext=dict(extensions) or None, continue_on_error=continue_on_error, num_workers=workers,
                )
            )  # fmt: skip

    def snapshot(self, job: str) -> Snapshot:
        """How far the job is. ``known`` is False before the first target has heard of it."""
        return summed(self._snaps(job))

    def transforming(self, source: str, destination: str) -> dict[str, Snapshot]:
        """The jobs that transform from one bucket into the other, by id: those at work, and list jobs that are idle."""
        with self._explained():
            running = self._reads.cluster().list_running_jobs()
        found = {}
        for match in filter(None, (re.fullmatch(r"etl-(?:bck|listrange)\[(.+)\]", entry) for entry in running)):
            snaps = self._snaps(match[1])
            if between(snaps, source, destination) and not (now := summed(snaps)).ended:
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
        """Turn what the SDK and the network raise into our kinds, each with what to try.

        AIStore's targets say of an ``etl`` that is stopped what they say of one that does not exist.
        """
        try:
            yield
        except AISError as error:
            told = self._refused(error)
            if etl and etl in told.message and isinstance(told, NotFound):
                with suppress(NotAllowed):
                    told = self.stopped(etl) or told
            raise told from self._access.bearer.unquoted(error)
        except (requests.RequestException, TimeoutError, *GARBLED) as error:
            raise unanswered(self.endpoint, error) from self._access.bearer.unquoted(error)
        except OSError as error:
            raise (no_such_file(error) or error) from None

    def _refused(self, error: AISError) -> TvetlError:
        missing = error.status_code == 404 and getattr(error.req, "method", "") == "HEAD"  # AIStore has no words then
        at = node(self.endpoint, error.req_url or self.endpoint)
        told = refused(at, error.status_code, self._text(error), None if missing else proxies.before(at))
        if isinstance(told, TokenRefused):
            told.hint += self._access.bearer.apart(told.message)
        looked = getattr(error.req, "method", "") == "GET" and "/v1/etl" in (error.req_url or "")
        return hidden(told) if looked and isinstance(told, NotAllowed) else told

    def _text(self, error: AISError) -> str:
        """What came with the status; some servers quote what they were asked."""
        return self._access.bearer.hidden(str(error.message))
