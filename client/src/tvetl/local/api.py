"""The part of AIStore's API that tvetl needs, as two tables of routes: a proxy's and a target's.

A route gets the node, the request, and the path after the resource, still escaped.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import unquote

import msgspec

from tvetl.fetch.places import digest, places
from tvetl.local import object_names
from tvetl.local.copying import Copying
from tvetl.local.etl import Etl, Etls
from tvetl.local.http import ApiError, HttpRequest, HttpResponse, NodeServer
from tvetl.local.messages import BUCKET_PROPS, Action, Query, Value
from tvetl.local.pods import InitMessage
from tvetl.local.store import Stat, Store
from tvetl.local.xactions import Xaction, Xactions, bck, new_id

_PRESENT = 64  # the flag of an object that is in the cluster
_PAGE = 10_000  # names on a page of a listing, as AIStore's default for its own buckets
_ARCHIVES = 8  # the flag of a listing with the members of archives

Route = Callable[[NodeServer, HttpRequest, str], HttpResponse]


class Api:
    """The routes, over the store, the ETLs and the jobs of one cluster."""

    def __init__(
        self, store: Store, etls: Etls, xactions: Xactions, proxy: NodeServer, targets: Sequence[NodeServer]
    ) -> None:
        self._store, self.etls, self.xactions, self._proxy, self._targets = store, etls, xactions, proxy, targets
        self._began = time.time_ns()
        self.version = 1  # of the map, of which ``targets`` are
        self._copying = Copying(store, etls, xactions, proxy, self.home)
        self._at_proxy: dict[str, Route] = {
            "GET daemon": self._smap, "GET health": self._health, "GET buckets": self._bucket_get,
            "HEAD buckets": self._bucket_head, "POST buckets": self._bucket_post, "DELETE buckets": self._bucket_delete,
            "GET objects": self._redirect, "HEAD objects": self._redirect, "PUT objects": self._redirect,
            "DELETE objects": self._redirect, "GET etl": self._etl_get,
            "PUT etl": self._etl_put, "POST etl": self._etl_post, "DELETE etl": self._etl_delete,
            "GET cluster": self._cluster_get, "PUT cluster": self._cluster_put,
        }  # fmt: skip
        self._at_target: dict[str, Route] = {
            "GET health": self._health, "GET objects": self._object_get, "HEAD objects": self._object_head,
            "PUT objects": self._object_put, "DELETE objects": self._object_delete, "PUT etl": self._direct_put,
        }  # fmt: skip

    def answer(self, node: NodeServer, request: HttpRequest) -> HttpResponse:
        """Call the route for ``/v1/<resource>/<path>``."""
        version, _, resource_path = request.path.lstrip("/").partition("/")
        resource, _, path = resource_path.partition("/")
        routes = self._at_proxy if node is self._proxy else self._at_target
        route = routes.get(f"{request.method} {resource}")
        if version != "v1" or route is None:
            raise _unsupported(f"answer {request.method} {request.path}")
        return route(node, request, path)

    # -- the cluster ------------------------------------------------------------------------------------------------

    def home(self, bucket: str, name: str) -> NodeServer:
        """The target that an object belongs to: the highest random weight, as in AIStore."""
        targets = list(self._targets)
        return targets[places(bucket, [name], [digest(target.id) for target in targets])[0]]

    def _smap(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        if request.query.get("what") != "smap":
            raise _unsupported(f"answer what={request.query.get('what')}")
        proxy = _daemon(self._proxy, "proxy") | {"flags": 2, "verifying_key": ""}
        created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self._began // 10**9))
        return HttpResponse.json({
            "pmap": {self._proxy.id: proxy}, "proxy_si": proxy,
            "tmap": {target.id: _daemon(target, "target") for target in self._targets},
            "uuid": "tvetl-local", "creation_time": created, "version": str(self.version),
        })  # fmt: skip

    def _health(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        up = str(time.time_ns() - self._began)
        return HttpResponse(headers={"Ais-Cluster-Uptime": up, "Ais-Node-Uptime": up})

    def _redirect(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        bucket, name = _bucket_and_object(request, path)
        self._store.bucket(bucket)
        status = 301 if request.method == "GET" else 307
        query = (request.raw_query + "&" if request.raw_query else "") + f"pid={self._proxy.id}&utm={time.time_ns():x}"
        return HttpResponse.redirect(request, f"{self.home(bucket, name).url}{request.path}?{query}", status)

    # -- buckets ----------------------------------------------------------------------------------------------------

    def _bucket_get(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        action = request.message(Action)
        value = action.value or Value()
        if not path.strip("/"):
            return HttpResponse.json([bck(name) for name in self._store.buckets()])
        bucket = _bucket_of(request, path)
        self._store.bucket(bucket)
        if action.action != "list":
            raise _unknown(action.action)
        return self._list(bucket, value)

    def _list(self, bucket: str, value: Value) -> HttpResponse:
        if int(value.flags or 0) & _ARCHIVES:
            raise _unsupported("list the members of archives")
        entries = self._store.entries(bucket, value.prefix)
        page = [entry for entry in entries if entry.name > value.continuation_token or not value.continuation_token]
        size = value.pagesize or _PAGE
        more, page = len(page) > size, page[:size]
        props = [prop.strip() for prop in value.props.split(",")] if value.props else ["name", "size"]
        lines = []
        for entry in page:
            line: dict[str, object] = {"n": entry.name}
            try:
                if "checksum" in props:
                    stat, file = self._store.open(bucket, entry.name)
                    file.close()
                    line["cs"] = stat.checksum
                if "version" in props:
                    line["v"] = str(self._store.stat(bucket, entry.name).version)
            except ApiError as error:
                if error.status == 404:  # deleted since we looked
                    continue
                raise
            if "size" in props and entry.size:
                line["s"] = entry.size
            lines.append(line | {"f": _PRESENT})
        token = page[-1].name if more else ""
        uuid = value.uuid or new_id()
        body = msgspec.msgpack.encode({"UUID": uuid, "ContinuationToken": token, "Entries": lines, "Flags": 0})
        return HttpResponse(200, body, {"Content-Type": "application/msgpack"})

    def _bucket_head(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        if "bsumm_remote" in request.query:
            raise _unsupported("count objects for the summary of a bucket")
        bucket = _bucket_of(request, path)
        created = str(self._store.bucket(bucket).stat().st_ctime_ns)
        bid = str(self._store.identity(bucket))
        given = {"bid": bid, "created": created, "provider": str(bck(bucket)["provider"])}
        props = msgspec.json.encode(BUCKET_PROPS | given).decode()
        return HttpResponse(headers={"Ais-Bucket-Props": props})

    def _bucket_post(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        bucket = _bucket_of(request, path)
        action = request.message(Action)
        value = action.value or Value()
        if action.action == "create-bck":
            self._store.create(bucket)
            return HttpResponse()
        self._store.bucket(bucket)
        detail = object_names.shown(bucket)
        found: Iterable[str]
        if action.action in ("copy-bck", "etl-bck"):
            to = object_names.from_uname(request.query.get("bck_to", ""))[0]
            found = (entry.name for entry in self._store.entries(bucket, value.prefix))
            detail += f"/{value.prefix}" if value.prefix else ""
        elif action.action in ("copy-listrange", "etl-listrange"):
            at = value.tobck
            to = object_names.bucket_key(at.provider, at.space, at.name) if at else bucket
            found = self._listed(bucket, value)
        else:
            raise _unknown(action.action)
        return HttpResponse.text(self._copying.start(action.action, bucket, to, value, found, detail).id)

    def _bucket_delete(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        bucket = _bucket_of(request, path)
        action = request.message(Action)
        self._store.bucket(bucket)
        if action.action == "destroy-bck":
            self._store.destroy(bucket)
            return HttpResponse()
        if action.action != "delete-listrange":
            raise _unknown(action.action)

        def work(job: Xaction, name: str) -> None:
            target = self.home(bucket, name)
            try:
                job.count(target, "loc", self._store.delete(bucket, name))
            except ApiError as error:
                job.failed(target, name, error, go_on=True)

        value = action.value or Value()
        detail = f"list:[{', '.join(value.objnames)}]" if value.objnames else f"template:{value.template}"
        listed = self._listed(bucket, value)
        job = self.xactions.start(action.action, listed, work, detail=detail, bucket=bucket, source=bucket)
        return HttpResponse.text(job.id)

    def _listed(self, bucket: str, value: Value) -> Iterable[str]:
        """The objects of a list, of a template's ranges, or (a template without ranges) with that prefix."""
        if value.objnames is not None:
            return value.objnames
        if value.template and "{" in value.template:
            return object_names.expand(value.template)
        return (entry.name for entry in self._store.entries(bucket, value.template or ""))

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _cluster_get(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        query, what = request.message(Query), request.query.get("what")
        kind = query.kind_ or query.kind
        if what == "qryxstats":
            return HttpResponse.json(self.xactions.query(query.job, kind))
        if what == "status":
            found = self.xactions.find(query.job, kind)
            if not found:
                raise ApiError(404, f"xaction {kind} not found", "ErrXactNotFound")
            return HttpResponse.text(msgspec.json.encode(found[-1].status).decode())
        if what == "running_all":
            running = [f"{job.kind}[{job.id}]" for job in self.xactions.find(kind=kind) if not job.end]
            return HttpResponse.json(sorted(name for name in running if name.startswith(kind)))
        raise _unsupported(f"answer what={what}")

    def _cluster_put(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        action = request.message(Action)
        if action.action != "stop" or action.value is None:
            raise _unknown(action.action)
        for job in self.xactions.find(action.value.job, action.value.kind):
            job.stop("user abort")
        return HttpResponse()

    # -- ETLs -------------------------------------------------------------------------------------------------------

    def _etl_get(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        name, _, part = path.partition("/")
        if not name:
            return HttpResponse.json([
                {"id": etl.name, "stage": etl.stage, "xaction_id": etl.xid, "obj_count": etl.objects,
                 "in_bytes": etl.in_bytes, "out_bytes": etl.out_bytes} for etl in self.etls.all()
            ])  # fmt: skip
        etl = self.etls.known(name)
        at_work = ("Running", "Initializing") if part.startswith("logs") else ("Running",)
        if etl.stage not in at_work:
            target = self._targets[0]
            place = {"url_path": f"/v1/etl/{name}/{part or 'details'}", "node": target.label}
            raise ApiError(
                404, f"{target.label}: {name} does not exist", "ErrNotFound", caller=self._proxy.label, **place
            )
        if part.startswith("logs"):
            wanted = [target for target in self._targets if part in ("logs", f"logs/{target.id}")]
            tails = [(target.id, etl.pods[target.id].tail()) for target in wanted if target.id in etl.pods]
            return HttpResponse.json(
                [{"target_id": key, "logs": base64.b64encode(tail).decode()} for key, tail in tails]
            )
        if part:
            raise _unsupported(f"answer {request.path}")
        shown: dict[str, object] = {"init_msg": etl.message}
        jobs = self.xactions.find(request.query["uuid"]) if request.query.get("uuid") else []
        errors = [line for job in jobs for snap in job.snaps.values() for line in snap.objects]
        return HttpResponse.json(shown | ({"obj_errors": errors} if errors else {}))

    def _etl_put(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        return HttpResponse.text(self.etls.init(request.message(InitMessage)))

    def _etl_post(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        name, _, action = path.partition("/")
        self.etls.known(name)
        if action == "start":
            return HttpResponse.text(self.etls.start(name))
        if action != "stop":
            raise _unknown(action)
        self.etls.stop(name)
        return HttpResponse()

    def _etl_delete(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        self.etls.delete(path)
        return HttpResponse()

    def _direct_put(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        """A transformer's result for an object of this target: ``_object/<etl>/<secret>/<unique name>``."""
        kind, name, secret, where = [*path.split("/", 3), "", "", ""][:4]
        etl = self.etls.running(name, node)
        if kind != "_object" or not secrets.compare_digest(secret, etl.secret):
            raise ApiError(403, f"{node.label}: not the secret of {name}")
        stat = self._store.put(*object_names.from_uname(unquote(where)), request)
        if request.query.get("uuid"):
            self.xactions.find(request.query["uuid"])[0].count(node, "came", stat.size)
        return HttpResponse()

    # -- objects ----------------------------------------------------------------------------------------------------

    def _object_get(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        bucket, name = _bucket_and_object(request, path)
        query = request.query
        if query.get("archpath"):
            raise _unsupported("read members of archives")
        if query.get("etl_name"):
            etls = self._running_etls(node, query)
            latest = query.get("latest-ver") == "true"
            args = query.get("etl_args", "")
            return self.etls.push(etls, node, bucket, name, latest=latest, args=args).relayed()
        headers = {"Content-Type": "application/octet-stream"}
        stat, file = self._store.open(bucket, name, f"{node.label}: ")
        headers |= _about(stat)
        span = _span(request.headers.get("range"), stat.size)
        if span is None:
            return HttpResponse(200, headers=headers, file=file, length=stat.size)
        headers |= {"Accept-Ranges": "bytes", "Content-Range": f"bytes {span.start}-{span.stop - 1}/{stat.size}"}
        return HttpResponse(206, headers=headers, file=file, offset=span.start, length=len(span))

    def _running_etls(self, node: NodeServer, query: Mapping[str, str]) -> list[Etl]:
        """The ETLs that a request names, in their order, or a target's 404."""
        names = [query.get("etl_name", ""), *query.get("etl_pipeline", "").split(",")]
        return [self.etls.running(name, node) for name in names if name]

    def _object_head(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        bucket, name = _bucket_and_object(request, path)
        stat, file = self._store.open(bucket, name, f"{node.label}: ")
        file.close()
        about, root = _about(stat), str(self._store.root)
        about |= {"Ais-Location": f"{node.label}:mp[{root}]", "Ais-Mirror-Copies": "1"}
        headers = {"Ais-Present": "true"}
        if "props" not in request.query:
            at = bck(bucket)
            named = {"Ais-Bucket-Name": str(at["name"]), "Ais-Bucket-Provider": str(at["provider"]), "Ais-Name": name}
            return HttpResponse(headers=headers | about | named | {"Ais-Mirror-Paths": f"[{root}]"}, length=stat.size)
        about["Ais-Mirror-Paths"] = root
        begins = {
            "Ais-" + ("Mirror" if prop == "copies" else prop.title()) for prop in request.query["props"].split(",")
        }
        headers |= {key: value for key, value in about.items() if any(key.startswith(begin) for begin in begins)}
        return HttpResponse(headers=headers, length=stat.size)

    def _object_put(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        bucket, name = _bucket_and_object(request, path)
        query = request.query
        if "object_to" in query:
            etls = self._running_etls(node, query)
            latest = query.get("latest-ver") == "true"
            to = object_names.from_uname(query["object_to"])
            status = self._copying.copy(node, (bucket, name), to, etls, latest=latest, args=query.get("etl_args", ""))
            odd = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}  # recorded
            return HttpResponse(status, headers=odd if status == 204 else {})
        if set(query) & {"append_type", "archpath", "uploads", "uploadId"}:
            raise _unsupported("append to objects, or take them in parts")
        return HttpResponse(headers=_about(self._store.put(bucket, name, request)))

    def _object_delete(self, node: NodeServer, request: HttpRequest, path: str) -> HttpResponse:
        bucket, name = _bucket_and_object(request, path)
        try:
            self._store.delete(bucket, name)
        except ApiError as error:
            if error.tcode == "ErrNotFound":
                raise ApiError(404, f"{object_names.shown(bucket)}/{name} doesn't exist") from None
            raise
        return HttpResponse()


def _about(stat: Stat) -> dict[str, str]:
    return {
        "Ais-Atime": str(stat.time), "Ais-Checksum-Type": "xxhash2",
        "Ais-Checksum-Value": stat.checksum, "Ais-Version": str(stat.version),
    }  # fmt: skip


def _daemon(node: NodeServer, kind: str) -> dict[str, object]:
    port = node.url.rpartition(":")[2]
    net = {"node_ip_addr": "127.0.0.1", "daemon_port": port, "direct_url": node.url}
    nets: dict[str, object] = dict.fromkeys(("public_net", "intra_data_net", "intra_control_net"), net)
    return nets | {"daemon_type": kind, "daemon_id": node.id, "flags": 0, "id_digest": digest(node.id)}


def _unsupported(what: str) -> ApiError:
    return ApiError(501, f"the stand-in for AIStore does not {what}")


def _unknown(action: str) -> ApiError:
    return _unsupported(f'know the action "{action}"')


def _bucket_of(request: HttpRequest, path: str) -> str:
    name = unquote(path.partition("/")[0])
    return object_names.bucket_key(request.query.get("provider") or "ais", request.query.get("namespace", ""), name)


def _bucket_and_object(request: HttpRequest, path: str) -> tuple[str, str]:
    return _bucket_of(request, path), unquote(path.partition("/")[2], errors="surrogateescape")


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
