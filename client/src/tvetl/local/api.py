"""The part of AIStore's API that the recordings show, as a table of routes: what a proxy answers and what a target.

A route gets the node, the request and the rest of the path, still escaped, in the parts that it asks for.
"""

from __future__ import annotations

import base64
import secrets
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from io import SEEK_END, BytesIO
from typing import BinaryIO
from urllib.parse import unquote

import msgspec

from tvetl.local import object_names
from tvetl.local.etl import Answer, Etl, Etls
from tvetl.local.http import ApiError, NodeServer, Reply, Request
from tvetl.local.pods import InitMessage
from tvetl.local.store import Stat, Store
from tvetl.local.xactions import Job, Jobs, bck, new_id

_PAGE = 10_000  # names on a page of a listing, as AIStore's default for its own buckets
_SHORT = 2048  # bytes of an answer up to which Go's net/http tells a length (bufferBeforeChunkingSize)
_ARCHIVES = 8  # the flag of a listing that looks into archives

#: What AIStore tells of a bucket with nothing set; the SDK wants the whole of it.
_PROPS: dict[str, object] = msgspec.json.decode(
    '{"backend_bck":{"name":"","provider":"","namespace":{"uuid":"","name":""}},"write_policy":{"data":"immediate",'
    '"md":"immediate"},"provider":"ais","Renamed":"","checksum":{"type":"xxhash2","validate_cold_get":false,'
    '"validate_warm_get":false,"validate_obj_move":false,"enable_read_range":false},"extra":{"aws":{},"gcp":{},'
    '"oci":{}},"rate_limit":{"backend":{"interval":"1m","max_tokens":1000,"enabled":false,"num_retries":3},'
    '"frontend":{"interval":"1m","max_tokens":1000,"enabled":false,"burst_size":375}},"ec":{"compression":"never",'
    '"bundle_multiplier":2,"burst_buffer":512,"objsize_limit":262144,"data_slices":2,"parity_slices":2,'
    '"enabled":false,"disk_only":false},"chunks":{"objsize_limit":"0B","max_monolithic_size":"1TiB",'
    '"chunk_size":"1GiB"},"mirror":{"copies":2,"burst_buffer":512,"enabled":false},"lru":{"dont_evict_time":"2h0m",'
    '"capacity_upd_time":"10m","batch_size":32768,"enabled":false},"access":"18446744073709551615","features":"0",'
    '"bid":"0","created":"0","versioning":{"enabled":true,"validate_warm_get":false,"synchronize":false}}'
)


class Bck(msgspec.Struct):
    name: str = ""
    provider: str = "ais"


class Value(msgspec.Struct, rename={"latest": "latest-ver", "job": "ID", "kind": "Kind", "etl": "id"}):
    """The value of an action: of all actions together, as no two disagree about a member."""

    prefix: str = ""
    pagesize: int = 0
    uuid: str = ""
    props: str = ""
    continuation_token: str = ""
    flags: str = "0"
    objnames: list[str] | None = None
    template: str | None = None
    ext: dict[str, str] | None = None
    coer: bool = False
    prepend: str = ""
    dry_run: bool = False
    latest: bool = False
    etl: str = ""
    pipeline: list[str] | None = None
    tobck: Bck | None = None
    job: str = ""
    kind: str = ""


class Action(msgspec.Struct):
    action: str = ""
    name: str = ""
    value: Value | None = None


class Query(msgspec.Struct, rename={"job": "ID", "kind_": "Kind"}):
    """A question about jobs; ``running_all`` asks with members of other names."""

    job: str = ""
    kind_: str = ""
    kind: str = ""


class Wanted(msgspec.Struct):
    objname: str
    bucket: str = ""
    archpath: str = ""


class Batch(msgspec.Struct, rename={"wanted": "in"}):
    wanted: list[Wanted]
    mime: str = ".tar"
    coer: bool = False
    onob: bool = False
    strm: bool = False


Route = Callable[[NodeServer, Request, str], Reply]


class Api:
    """The routes, over the store, the ETLs and the jobs of one cluster."""

    def __init__(
        self, store: Store, etls: Etls, jobs: Jobs, proxy: NodeServer, targets: Sequence[NodeServer], direct: bool
    ) -> None:  # fmt: skip
        self._store, self._etls, self._jobs, self._proxy, self._targets = store, etls, jobs, proxy, targets
        self._direct, self._began = direct, time.time_ns()
        self.version = 1  # of the map, of which ``targets`` are
        etls.ended = jobs.end
        self._at_proxy: dict[str, Route] = {
            "GET daemon": self._smap, "GET health": self._health, "GET buckets": self._bucket_get,
            "HEAD buckets": self._bucket_head, "POST buckets": self._bucket_post, "DELETE buckets": self._bucket_delete,
            "GET objects": self._redirect, "HEAD objects": self._redirect, "PUT objects": self._redirect,
            "DELETE objects": self._redirect, "GET ml": self._redirect_batch, "GET etl": self._etl_get,
            "PUT etl": self._etl_put, "POST etl": self._etl_post, "DELETE etl": self._etl_delete,
            "GET cluster": self._cluster_get, "PUT cluster": self._cluster_put,
        }  # fmt: skip
        self._at_target: dict[str, Route] = {
            "GET health": self._health, "GET objects": self._object_get, "HEAD objects": self._object_head,
            "PUT objects": self._object_put, "DELETE objects": self._object_delete, "GET ml": self._batch,
            "PUT etl": self._direct_put,
        }  # fmt: skip

    def answer(self, node: NodeServer, request: Request) -> Reply:
        """Find the route for ``/v1/<what>/<rest>`` and follow it."""
        version, _, path = request.path.lstrip("/").partition("/")
        what, _, rest = path.partition("/")
        routes = self._at_proxy if node is self._proxy else self._at_target
        route = routes.get(f"{request.method} {what}")
        if version != "v1" or route is None:
            raise ApiError(501, f"the stand-in for AIStore does not answer {request.method} {request.path}")
        return route(node, request, rest)

    # -- the cluster ------------------------------------------------------------------------------------------------

    def home(self, bucket: str, name: str) -> NodeServer:
        """The target that an object belongs to: the highest random weight, as in AIStore."""
        digest = object_names.digest(object_names.uname(bucket, name))
        return max(self._targets, key=lambda target: object_names.weight(object_names.digest(target.id) ^ digest))

    def _smap(self, node: NodeServer, request: Request, rest: str) -> Reply:
        if request.query.get("what") != "smap":
            raise ApiError(501, f"the stand-in for AIStore does not answer what={request.query.get('what')}")
        proxy = _daemon(self._proxy, "proxy") | {"flags": 2, "verifying_key": ""}
        created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self._began // 10**9))
        return Reply.json({
            "pmap": {self._proxy.id: proxy}, "proxy_si": proxy,
            "tmap": {target.id: _daemon(target, "target") for target in self._targets},
            "uuid": "tvetl-local", "creation_time": created, "version": str(self.version),
        })  # fmt: skip

    def _health(self, node: NodeServer, request: Request, rest: str) -> Reply:
        up = str(time.time_ns() - self._began)
        return Reply(headers={"Ais-Cluster-Uptime": up, "Ais-Node-Uptime": up})

    def _redirect(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket, name = _bucket_and_object(rest)
        self._store.bucket(bucket)
        status = 301 if request.method == "GET" else 307
        return self._to(self.home(bucket, name), request, request.path, status)

    def _redirect_batch(self, node: NodeServer, request: Request, rest: str) -> Reply:
        path = f"{request.path}/gbt-{new_id()}/{self._proxy.id}-{new_id()[:5]}/1"
        return self._to(secrets.choice(self._targets), request, path, 307)

    def _to(self, target: NodeServer, request: Request, path: str, status: int) -> Reply:
        query = (request.raw_query + "&" if request.raw_query else "") + f"pid={self._proxy.id}&utm={time.time_ns():x}"
        return Reply.redirect(request, f"{target.url}{path}?{query}", status)

    # -- buckets ----------------------------------------------------------------------------------------------------

    def _bucket_get(self, node: NodeServer, request: Request, rest: str) -> Reply:
        action = request.message(Action)
        value = action.value or Value()
        if not rest.strip("/"):
            return Reply.json([bck(name) for name in self._store.buckets()])
        bucket = _bucket(rest)
        self._store.bucket(bucket)
        if action.action == "list":
            return self._list(bucket, value)
        if action.action == "summary-bck":  # AIStore counts in the background, and is asked again with the job's id
            summary = [self._summary(bucket, value.prefix) | {"is_present": False}]
            return Reply.text(msgspec.json.encode(summary).decode() + "\n") if value.uuid else Reply.text(new_id(), 202)
        raise _unknown(action.action)

    def _list(self, bucket: str, value: Value) -> Reply:
        entries = self._store.entries(bucket, value.prefix, bool(int(value.flags or 0) & _ARCHIVES))
        page = [entry for entry in entries if entry.name > value.continuation_token or not value.continuation_token]
        size = value.pagesize or _PAGE
        more, page = len(page) > size, page[:size]
        props = [prop.strip() for prop in value.props.split(",")] if value.props else ["name", "size"]
        lines = []
        for entry in page:
            line: dict[str, object] = {"n": entry.name}
            try:
                if "checksum" in props and not entry.flags & 128:
                    stat, file = self._store.open(bucket, entry.name)
                    file.close()
                    line["cs"] = stat.checksum
                if "version" in props and not entry.flags & 128:
                    line["v"] = str(self._store.stat(bucket, entry.name).version)
            except ApiError as error:
                if error.status == 404:  # deleted since we looked
                    continue
                raise
            if "size" in props and entry.size:
                line["s"] = entry.size
            lines.append(line | {"f": entry.flags})
        token = page[-1].name if more else ""
        uuid = value.uuid or new_id()
        body = msgspec.msgpack.encode({"UUID": uuid, "ContinuationToken": token, "Entries": lines, "Flags": 0})
        return Reply(200, body, {"Content-Type": "application/msgpack"})

    def _summary(self, bucket: str, prefix: str = "") -> dict[str, object]:
        sizes = [entry.size for entry in self._store.entries(bucket, prefix)]
        total = sum(sizes)
        return bck(bucket) | {
            "ObjCount": {"obj_count_present": str(len(sizes)), "obj_count_remote": "0"},
            "ObjSize": {"obj_min_size": min(sizes, default=0), "obj_avg_size": total // max(1, len(sizes)),
                        "obj_max_size": max(sizes, default=0)},
            "TotalSize": {"size_on_disk": str(total), "size_all_present_objs": str(total),
                          "size_all_remote_objs": "0", "total_disks_size": "0"},
            "used_pct": 0, "is_present": True,
        }  # fmt: skip

    def _bucket_head(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket = _bucket(rest)
        created = str(self._store.bucket(bucket).stat().st_ctime_ns)
        bid = str(self._store.identity(bucket))
        props = msgspec.json.encode(_PROPS | {"bid": bid, "created": created}).decode()
        if "bsumm_remote" not in request.query:
            return Reply(headers={"Ais-Bucket-Props": props})
        uuid = request.query.get("uuid")
        headers = {"Ais-Bucket-Props": props, "Ais-Xaction-Id": uuid or new_id()}
        if not uuid:
            return Reply(202, headers=headers)
        return Reply(headers=headers | {"Ais-Bucket-Summ": msgspec.json.encode(self._summary(bucket)).decode()})

    def _bucket_post(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket = _bucket(rest)
        action = request.message(Action)
        value = action.value or Value()
        if action.action == "create-bck":
            self._store.create(bucket)
            return Reply()
        self._store.bucket(bucket)
        if action.action in ("copy-bck", "etl-bck"):
            to = object_names.from_uname(request.query.get("bck_to", ""))[0]
            found = (entry.name for entry in self._store.entries(bucket, value.prefix))
            detail = f"ais://{bucket}" + (f"/{value.prefix}" if value.prefix else "")
            return self._carry(action.action, bucket, to, value, found, detail)
        if action.action in ("copy-listrange", "etl-listrange"):
            to = value.tobck.name if value.tobck else bucket
            return self._carry(action.action, bucket, to, value, self._listed(bucket, value), f"ais://{bucket}")
        raise _unknown(action.action)

    def _bucket_delete(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket = _bucket(rest)
        action = request.message(Action)
        self._store.bucket(bucket)
        if action.action == "destroy-bck":
            self._store.destroy(bucket)
            return Reply()
        if action.action != "delete-listrange":
            raise _unknown(action.action)

        def work(job: Job, name: str) -> None:
            target = self.home(bucket, name)
            try:
                job.count(target, "loc", self._store.delete(bucket, name))
            except ApiError as error:
                job.failed(target, name, error, go_on=True)

        value = action.value or Value()
        detail = f"list:[{', '.join(value.objnames)}]" if value.objnames else f"template:{value.template}"
        listed = self._listed(bucket, value)
        job = self._jobs.start(action.action, listed, work, detail=detail, bucket=bucket, source=bucket)
        return Reply.text(job.id)

    def _listed(self, bucket: str, value: Value) -> Iterable[str]:
        """The objects of a list or range: given, unfolded, or (a template with nothing to unfold) by prefix."""
        if value.objnames is not None:
            return value.objnames
        if value.template and "{" in value.template:
            return object_names.expand(value.template)
        return (entry.name for entry in self._store.entries(bucket, value.template or ""))

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _carry(self, kind: str, bucket: str, to: str, value: Value, found: Iterable[str], detail: str) -> Reply:
        """Start a job that copies or transforms the objects found to the bucket ``to``, made where it is not there."""
        etls = [self._etls.running(name, self._proxy) for name in [value.etl, *(value.pipeline or [])] if name]
        if not self._store.has(to) and not value.dry_run:
            self._store.create(to)

        def work(job: Job, name: str) -> None:
            target = self.home(bucket, name)
            job.snaps[target.id].visited += 1
            new_name = object_names.renamed(name, value.ext, value.prepend)
            end = to, new_name
            try:
                self._move(target, (bucket, name), end, etls, latest=value.latest, dry=value.dry_run, job=job)
            except ApiError as error:
                job.failed(target, name, error, value.coer, value.dry_run)

        told = f"{'etl' if etls else 'cp'} {detail}=>ais://{to}" + (f"/{value.prepend}" if value.prepend else "")
        where = bucket if kind.endswith("listrange") else to
        used = tuple(etl.name for etl in etls)
        job = self._jobs.start(kind, found, work, detail=told, bucket=where, source=bucket, destination=to, etls=used)
        return Reply.text(job.id)

    def _move(
        self, target: NodeServer, source: tuple[str, str], to: tuple[str, str], etls: Sequence[Etl], *,
        latest: bool = False, args: str = "", dry: bool = False, job: Job | None = None,
    ) -> int:  # fmt: skip
        """Copy or transform one object as its target does; the status: 204 where a transformer put it in its place."""
        home = target if dry else self.home(*to)
        if etls:
            address = f"{home.url}/{object_names.go_segment(object_names.uname(*to))}" + (
                f"?owt=3&uuid={job.id}" if job else ""
            )
            answer = self._etls.transform(
                etls[0], target, *source, latest=latest, args=args, stages=etls[1:],
                destination="" if home is target else address,
            )  # fmt: skip
            with closing(answer):
                if answer.status == 204 or dry:
                    answer.rest()
                else:
                    self._store.put(*to, answer)
            status, size = answer.status, answer.size
        else:
            stat, file = self._store.open(*source, f"{target.label}: ")
            status, size = 200, stat.size
            with file:
                if not dry:
                    self._store.put(*to, file)
        if job:
            job.count(target, "loc" if home is target else "out", size)
            if home is not target and status != 204:
                job.count(home, "came", size)
        return status

    def _cluster_get(self, node: NodeServer, request: Request, rest: str) -> Reply:
        query, what = request.message(Query), request.query.get("what")
        kind = query.kind_ or query.kind
        if what == "qryxstats":
            return Reply.json(self._jobs.query(query.job, kind))
        if what == "status":
            found = self._jobs.find(query.job, kind)
            if not found:
                raise ApiError(404, f"xaction {kind} not found", "ErrXactNotFound")
            return Reply.text(msgspec.json.encode(found[-1].status).decode())
        if what == "running_all":
            running = [f"etl-inline[{etl.xid}]" for etl in self._etls.all() if etl.stage == "Running"]
            running += [f"{job.kind}[{job.id}]" for job in self._jobs.find(kind=kind) if not job.end]
            return Reply.json(sorted(name for name in running if name.startswith(kind)))
        raise ApiError(501, f"the stand-in for AIStore does not answer what={what}")

    def _cluster_put(self, node: NodeServer, request: Request, rest: str) -> Reply:
        action = request.message(Action)
        if action.action != "stop" or action.value is None:
            raise _unknown(action.action)
        for job in self._jobs.find(action.value.job, action.value.kind):
            job.stop("user abort")
        return Reply()

    # -- ETLs -------------------------------------------------------------------------------------------------------

    def _etl_get(self, node: NodeServer, request: Request, rest: str) -> Reply:
        name, _, what = rest.partition("/")
        if not name:
            return Reply.json([
                {"id": etl.name, "stage": etl.stage, "xaction_id": etl.xid, "obj_count": etl.objects,
                 "in_bytes": etl.in_bytes, "out_bytes": etl.out_bytes} for etl in self._etls.all()
            ])  # fmt: skip
        etl = self._etls.known(name)
        at_work = ("Running", "Initializing") if what.startswith("logs") else ("Running",)
        if etl.stage not in at_work:
            target = self._targets[0]
            place = {"url_path": f"/v1/etl/{name}/{what or 'details'}", "node": target.label}
            told = f"{target.label}: {name} does not exist"
            raise ApiError(404, told, "ErrNotFound", caller=self._proxy.label, **place)
        if what.startswith("logs"):
            wanted = [target for target in self._targets if what in ("logs", f"logs/{target.id}")]
            tails = [(target.id, etl.pods[target.id].tail()) for target in wanted if target.id in etl.pods]
            return Reply.json([{"target_id": key, "logs": base64.b64encode(tail).decode()} for key, tail in tails])
        if what:
            raise ApiError(501, f"the stand-in for AIStore does not answer {request.path}")
        shown: dict[str, object] = {"init_msg": etl.message}
        jobs = self._jobs.find(request.query["uuid"]) if request.query.get("uuid") else []
        errors = [line for job in jobs for snap in job.snaps.values() for line in snap.objects]
        return Reply.json(shown | ({"obj_errors": errors} if errors else {}))

    def _etl_put(self, node: NodeServer, request: Request, rest: str) -> Reply:
        return Reply.text(self._etls.init(request.message(InitMessage)))

    def _etl_post(self, node: NodeServer, request: Request, rest: str) -> Reply:
        name, _, what = rest.partition("/")
        self._etls.known(name)
        if what == "start":
            return Reply.text(self._etls.start(name))
        if what != "stop":
            raise _unknown(what)
        self._etls.stop(name)
        return Reply()

    def _etl_delete(self, node: NodeServer, request: Request, rest: str) -> Reply:
        self._etls.delete(rest)
        return Reply()

    def _direct_put(self, node: NodeServer, request: Request, rest: str) -> Reply:
        """A transformer's result for an object of this target: ``_object/<etl>/<secret>/<unique name>``."""
        kind, name, secret, where = [*rest.split("/", 3), "", "", ""][:4]
        etl = self._etls.running(name, node)
        if kind != "_object" or not secrets.compare_digest(secret, etl.secret):
            raise ApiError(403, f"{node.label}: not the secret of {name}")
        stat = self._store.put(*object_names.from_uname(unquote(where)), request)
        if request.query.get("uuid"):
            self._jobs.find(request.query["uuid"])[0].count(node, "came", stat.size)
        return Reply()

    # -- objects ----------------------------------------------------------------------------------------------------

    def _object_get(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket, name = _bucket_and_object(rest)
        query = request.query
        if not self._direct and not {"pid", "utm"} <= query.keys():  # what the proxy's redirect adds
            raise ApiError(403, f"{node.label}: direct access is not allowed")
        stages = [stage for stage in query.get("etl_pipeline", "").split(",") if stage]
        if query.get("etl_name"):
            etls = [self._etls.running(each, node) for each in [query["etl_name"], *stages]]
            latest = query.get("latest-ver") == "true"
            args = query.get("etl_args", "")
            return _relay(self._etls.transform(etls[0], node, bucket, name, latest=latest, args=args, stages=etls[1:]))
        headers = {"Content-Type": "application/octet-stream"}
        if query.get("archpath"):
            stat = self._store.stat(bucket, name, f"{node.label}: ")
            return Reply(200, self._store.member(stat, query["archpath"]), headers)
        stat, file = self._store.open(bucket, name, f"{node.label}: ")
        headers |= _about(stat)
        span = _span(request.headers.get("range"), stat.size)
        if span is None:
            return Reply(200, headers=headers, file=file, length=stat.size)
        file.seek(span.start)
        headers |= {"Accept-Ranges": "bytes", "Content-Range": f"bytes {span.start}-{span.stop - 1}/{stat.size}"}
        return Reply(206, headers=headers, file=file, length=len(span))

    def _object_head(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket, name = _bucket_and_object(rest)
        stat, file = self._store.open(bucket, name, f"{node.label}: ")
        file.close()
        about, root = _about(stat), str(self._store.root)
        about |= {"Ais-Location": f"{node.label}:mp[{root}]", "Ais-Mirror-Copies": "1"}
        headers = {"Ais-Present": "true"}
        if "props" not in request.query:
            named = {"Ais-Bucket-Name": bucket, "Ais-Bucket-Provider": "ais", "Ais-Name": name}
            return Reply(headers=headers | about | named | {"Ais-Mirror-Paths": f"[{root}]"}, length=stat.size)
        about["Ais-Mirror-Paths"] = root
        begins = {
            "Ais-" + ("Mirror" if prop == "copies" else prop.title()) for prop in request.query["props"].split(",")
        }
        headers |= {key: value for key, value in about.items() if any(key.startswith(begin) for begin in begins)}
        return Reply(headers=headers, length=stat.size)

    def _object_put(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket, name = _bucket_and_object(rest)
        query = request.query
        if "object_to" in query:
            stages = query.get("etl_pipeline", "").split(",")
            etls = [self._etls.running(each, node) for each in [query.get("etl_name", ""), *stages] if each]
            latest = query.get("latest-ver") == "true"
            to = object_names.from_uname(query["object_to"])
            status = self._move(node, (bucket, name), to, etls, latest=latest, args=query.get("etl_args", ""))
            odd = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}  # recorded
            return Reply(status, headers=odd if status == 204 else {})
        if set(query) & {"append_type", "archpath", "uploads", "uploadId"}:
            raise ApiError(501, "the stand-in for AIStore stores whole objects only: no appending, no parts")
        return Reply(headers=_about(self._store.put(bucket, name, request)))

    def _object_delete(self, node: NodeServer, request: Request, rest: str) -> Reply:
        bucket, name = _bucket_and_object(rest)
        try:
            self._store.delete(bucket, name)
        except ApiError as error:
            if error.tcode == "ErrNotFound":
                raise ApiError(404, f"ais://{bucket}/{name} doesn't exist") from None
            raise
        return Reply()

    def _batch(self, node: NodeServer, request: Request, rest: str) -> Reply:
        """Many objects as one tar archive, in the order asked for; the missing ones empty, below ``__404__``."""
        batch = request.message(Batch)
        default = rest.split("/")[1] if rest.startswith("moss/") else ""
        if batch.mime != ".tar" or not batch.strm:
            raise ApiError(501, "the stand-in for AIStore answers a batch only as a stream of .tar")
        files = [self._found(each, each.bucket or default, batch) for each in batch.wanted]

        def write(out: BinaryIO) -> None:
            with tarfile.open(mode="w|", fileobj=out, format=tarfile.GNU_FORMAT) as archive:
                for name, data in files:
                    member = tarfile.TarInfo(name)
                    with BytesIO(data) if isinstance(data, bytes) else data.path.open("rb") as file:
                        member.size = file.seek(0, SEEK_END)
                        file.seek(0)
                        archive.addfile(member, file)

        return Reply(headers={"Content-Type": "application/x-tar"}, stream=write)

    def _found(self, wanted: Wanted, bucket: str, batch: Batch) -> tuple[str, bytes | Stat]:
        name = wanted.objname + (f"/{wanted.archpath}" if wanted.archpath else "")
        shown = name if batch.onob else f"{bucket}/{name}"
        try:
            stat = self._store.stat(bucket, wanted.objname)
            return shown, self._store.member(stat, wanted.archpath) if wanted.archpath else stat
        except ApiError as error:
            if batch.coer and error.status == 404:
                return f"__404__/{shown}", b""
            raise


def _about(stat: Stat) -> dict[str, str]:
    return {
        "Ais-Atime": str(stat.time), "Ais-Checksum-Type": "xxhash2",
        "Ais-Checksum-Value": stat.checksum, "Ais-Version": str(stat.version),
    }  # fmt: skip


def _daemon(node: NodeServer, kind: str) -> dict[str, object]:
    port = node.url.rpartition(":")[2]
    net = {"node_ip_addr": "127.0.0.1", "daemon_port": port, "direct_url": node.url}
    nets: dict[str, object] = dict.fromkeys(("public_net", "intra_data_net", "intra_control_net"), net)
    return nets | {"daemon_type": kind, "daemon_id": node.id, "flags": 0, "id_digest": object_names.digest(node.id)}


def _unknown(action: str) -> ApiError:
    return ApiError(501, f'the stand-in for AIStore does not know the action "{action}"')


def _bucket(rest: str) -> str:
    return object_names.check_bucket(unquote(rest.partition("/")[0]))


def _bucket_and_object(rest: str) -> tuple[str, str]:
    bucket, _, name = rest.partition("/")
    return object_names.check_bucket(unquote(bucket)), unquote(name, errors="surrogateescape")


def _span(header: str | None, size: int) -> range | None:
    """The bytes of a Range header; None for all of them, 416 where there are none."""
    if not header or not header.startswith("bytes=") or "," in header:
        return None
    first, _, last = header[len("bytes=") :].partition("-")
    try:
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
    except ValueError:
        return None
    if start >= stop:
        raise ApiError(416, f"range {header!r} is not within {size} bytes")
    return range(start, stop)


def _relay(answer: Answer) -> Reply:
    """A transformer's answer as it arrives. Only a short one has a length: Go's server waits for as many bytes."""
    begun = b""
    while len(begun) <= _SHORT and (piece := answer.read()):
        begun += piece
    if len(begun) <= _SHORT:
        answer.close()
        return Reply(answer.status, begun, _sniffed(begun))

    def write(out: BinaryIO) -> None:
        with closing(answer):
            out.write(begun)
            while piece := answer.read():
                out.write(piece)

    return Reply(answer.status, headers=_sniffed(begun), stream=write)


def _sniffed(body: bytes) -> dict[str, str]:
    """The content type that Go guesses for a transformed object, near enough: text or not."""
    if not body:
        return {}
    text = not any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in body[:512])
    return {"Content-Type": "text/plain; charset=utf-8" if text else "application/octet-stream"}
