"""ETLs: registering and ending them, and sending an object to one as an AIStore target does (hpush)."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import cast
from urllib.parse import quote, quote_plus, unquote

from tvetl.local.http import BLOCK, ApiError, Body, HttpResponse, NodeServer, disk_error, read_head
from tvetl.local.object_names import shown
from tvetl.local.pods import InitMessage, Plan, Pod, Variable, command, plan
from tvetl.local.store import OURS, Store
from tvetl.local.xactions import Xactions
from tvetl.notation import bucket as bucket_name
from tvetl.notation import path_escape

_TRIES = 10  # how often a target tries a refused or reset connection, and a transient 503 (recorded)
_SHORT = 2048  # bytes of an answer up to which Go's net/http gives a length (bufferBeforeChunkingSize)
_BUFFER = 1 << 16  # bytes that an answer's head and its beginning are read with
_PAUSE = 0.1  # seconds between tries; AIStore waits a second and more, which serves nobody on one machine
#: A path that Go sends exactly as written, because every character may stand in one (net/url, validEncoded).
_GO_PATH_AS_IS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@\[\]%/]*")


@dataclass
class Etl:
    """A registered ETL in any stage."""

    message: InitMessage
    plan: Plan
    stage: str = "Initializing"
    xid: str = ""
    secret: str = ""
    pods: dict[str, Pod] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
    objects: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # of the counts

    @property
    def name(self) -> str:
        return self.message.name


class EtlResponse(Body):
    """A transformer's answer, read as it arrives. With 204 the result was put elsewhere.

    Reads its head at once: raises EOFError, ValueError and OSError. The caller closes it, read or not.
    """

    def __init__(self, etl: Etl, pod: Pod, connection: socket.socket, request: str) -> None:
        self._etl, self._pod, self._connection, self._request = etl, pod, connection, request
        self._file = cast(BufferedReader, connection.makefile("rb", _BUFFER))
        self.size, self.status = 0, 100  # bytes read so far
        while self.status < 200:
            line, self.headers = read_head(self._file)
            version, code, *_ = line.split(" ")
            self.status = int(code)
        self._last = version != "HTTP/1.1" or "close" in self.headers.get("connection", "").lower()
        bare = self.status in (204, 304)
        super().__init__(self._file, {} if bare else self.headers, to_end=not bare)

    def read(self, most: int = BLOCK) -> bytes:
        """The next bytes as they come, none at the end. Raises ApiError where they break off."""
        try:
            block = super().read(most)
        except OSError as error:
            self.close()
            raise ApiError(500, f"{self._request}: {error}") from error
        self.size += len(block)
        return block

    def rest(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def relayed(self) -> HttpResponse:
        """The target's answer, which hands this one on as it arrives. Only a short one has a length, as in Go."""
        begun = b""
        while len(begun) <= _SHORT and (piece := self.read()):
            begun += piece
        if len(begun) <= _SHORT:
            self.close()
            return HttpResponse(self.status, begun, _sniffed(begun))

        def blocks() -> Iterator[bytes]:
            with closing(self):
                yield begun
                yield from iter(self.read, b"")

        return HttpResponse(self.status, headers=_sniffed(begun), blocks=blocks())

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.close()
        with self._etl.lock:
            self._etl.out_bytes += self.size
        if self.whole and not self._last:
            self._pod.give(self._connection)
        else:
            self._connection.close()


class Etls:
    """All ETLs of a cluster. ``server`` is the command for ``tvetl-server``, ``allow`` maps other images to theirs."""

    def __init__(
        self, store: Store, xactions: Xactions, proxy: NodeServer, targets: Sequence[NodeServer],
        server: Sequence[str], allow: Mapping[str, Sequence[str]], log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._store, self._xactions, self._proxy, self._targets = store, xactions, proxy, targets
        self._server, self._allow, self._log = server, allow, log
        self._etls: dict[str, Etl] = {}
        self._lock = threading.Lock()

    # -- registering ----------------------------------------------------------------------------------------------

    def all(self) -> list[Etl]:
        return sorted(self._etls.values(), key=lambda etl: etl.name)

    def known(self, name: str) -> Etl:
        """The ETL in any stage, or the proxy's 404."""
        if name not in self._etls:
            raise ApiError(404, f"{self._proxy.label}: etl job {name} does not exist", "ErrNotFound")
        return self._etls[name]

    def running(self, name: str, node: NodeServer) -> Etl:
        """The running ETL, or a target's 404."""
        etl = self._etls.get(name)
        if etl and etl.stage == "Running":
            return etl
        hint = f'try starting new ETL with "{self._proxy.url}/v1/etl/init" endpoint'
        raise ApiError(404, f"{node.label}: {name} does not exist - {hint}")

    def init(self, message: InitMessage) -> str:
        """Check, start on every target, wait until ready; the id of the ETL's own job."""
        with self._lock:
            if message.name in self._etls:
                raise ApiError(409, f"{self._proxy.label}: etl job {message.name} already exists")
            etl = self._etls[message.name] = Etl(message, plan(message))
        return self._launch(etl)

    def start(self, name: str) -> str:
        etl = self.known(name)
        with self._lock:
            if etl.stage != "Aborted":
                raise ApiError(400, f"can't start ETL[{name}] during {etl.stage} stage")
            etl.stage, etl.cancelled = "Initializing", threading.Event()
        return self._launch(etl)

    def stop(self, name: str) -> None:
        self._end(self.known(name))

    def delete(self, name: str) -> None:
        self.stop(name)
        with self._lock:
            self._etls.pop(name, None)

    def _end(self, etl: Etl, reason: str = "", target: NodeServer | None = None) -> None:
        """End it on every target; "" stands for a user's request. Its job and counts are not listed any more."""
        etl.cancelled.set()
        ran, etl.stage = etl.stage == "Running", "Aborted"
        self._xactions.end_etl(etl.xid, reason, target, ran)
        etl.xid, etl.objects, etl.in_bytes, etl.out_bytes = "", 0, 0, 0
        stoppers = [threading.Thread(target=pod.stop) for pod in list(etl.pods.values())]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    def _launch(self, etl: Etl) -> str:
        etl.xid, etl.secret = f"etl-{secrets.token_urlsafe(7)}", secrets.token_hex(5)
        form = "spec" if etl.message.spec else "runtime"
        self._xactions.add(etl.xid, "etl-inline", f"init-{form}[{etl.name}-{etl.message.communication}]")
        deadline = time.monotonic() + etl.plan.init_timeout
        target = self._targets[0]
        reason: str | None = None
        try:
            etl.pods = {}
            for target in self._targets:
                etl.pods[target.id] = self._pod(etl, target)
            for target in self._targets:
                reason = etl.pods[target.id].ready(etl.plan.probe, deadline, etl.cancelled)
                if reason:
                    break
        except ApiError as error:
            reason = error.message
        except OSError as error:  # no room for a log, no more processes
            reason = disk_error(error).message
        if reason or etl.cancelled.is_set():
            self._fail(etl, target, reason or "context canceled")
        etl.stage = "Running"
        for pod in etl.pods.values():
            if pod.ended.is_set():  # between its readiness and now
                self._gone(etl, pod)
        self._log(f"{etl.name}: running")
        return etl.xid

    def join(self, target: NodeServer) -> None:
        """Give a target that is new, or was away meanwhile, its pods of the running ETLs."""
        for etl in self.all():
            if etl.stage == "Running" and target.id not in etl.pods:
                pod = self._pod(etl, target)
                etl.pods = etl.pods | {target.id: pod}
                reason = pod.ready(etl.plan.probe, time.monotonic() + etl.plan.init_timeout, etl.cancelled)
                if reason:
                    self._end(etl, reason, target)

    def _fail(self, etl: Etl, target: NodeServer, reason: str) -> None:
        """Raise the reason at once, where AIStore lets the caller wait for nothing. The name stays taken."""
        pod = f"{etl.name}-{target.id}".lower()
        self._end(etl, reason, target)
        self._log(f"{etl.name}: did not start: {reason}")
        place = {"method": "POST", "url_path": "/v1/txn/begin", "caller": self._proxy.label, "node": target.label}
        message = f'[{target.label},{etl.plan.label}pod="{pod}",service="{pod}"] {reason}'
        raise ApiError(400, message, "ErrETL", **place)

    def _pod(self, etl: Etl, target: NodeServer) -> Pod:
        name = f"{etl.name}-{target.id}".lower()
        argv = command(etl.plan.image, self._server, self._allow)
        # Of our environment only what a program needs to start: a container would see no more.
        ours = {"PATH": os.pathsep.join(os.get_exec_path()), "HOME": str(Path.home()), "HOSTNAME": name}
        given = {
            "AIS_TARGET_URL": f"{target.url}/v1/etl/_object/{etl.name}/{etl.secret}",
            "direct_put": str(etl.message.support_direct_put).lower(),
            "TVETL_ROOTS": str(self._store.root),
            "TVETL_HOST": "127.0.0.1",
        }
        env = ours | {variable.name: _value(variable, name) for variable in etl.plan.env} | given
        log = self._store.root / OURS / "logs" / f"{name}.log"
        return Pod(name, argv, env, log, lambda pod: self._gone(etl, pod))

    def _gone(self, etl: Etl, pod: Pod) -> None:
        """A container that exits ends its ETL on every target, with the jobs."""
        if etl.stage == "Running" and not etl.cancelled.is_set() and pod in etl.pods.values():
            self._log(f"{pod.name} exited with status {pod.status}; see {pod.log}")
            target = next((each for each in self._targets if etl.pods.get(each.id) is pod), None)  # None: taken down
            code = 128 - pod.status if pod.status < 0 else pod.status  # of a signal, as Kubernetes counts it
            log = pod.tail().decode(errors="replace") if code else ""
            status = f"container: server, state: Terminated, reason: {'Error' if code else 'Completed'}, "
            status += f"message: {log}, exitCode: {code}"
            self._end(etl, f'[pod="{pod.name}",pod_status={json.dumps(status, ensure_ascii=False)}] {status}', target)

    # -- sending objects --------------------------------------------------------------------------------------------

    def push(
        self, etls: Sequence[Etl], target: NodeServer, bucket: str, name: str, *,
        latest: bool = False, args: str = "", destination: str = "",
    ) -> EtlResponse:  # fmt: skip
        """Send an object to the target's pod of the first ETL: its file name, or with ``latest`` its bytes.

        The pod hands its result on to the other ETLs, and the last one to ``destination``, the address of a direct put.
        Raises ApiError with the transformer's own status for 400 and up, with 500 where it could not be reached or did
        not answer.
        """
        etl, *stages = etls
        stat = self._store.stat(bucket, name, f"{target.label}: ")
        query = {"etl_args": args} if args else {}
        if not latest:
            query["etl_fqn"] = path_escape(str(stat.path))
        onward = [f"http://127.0.0.1:{stage.pods[target.id].port}" for stage in stages]
        onward += [destination] if destination else []
        headers = {"User-Agent": "Go-http-client/1.1"} | ({"Ais-Node-Url": ",".join(onward)} if onward else {})
        url = go_request_target(f"/{bucket_name(bucket).name}/{name}", query)
        pod = etl.pods[target.id]
        try:
            answer = self._push_until_answered(etl, pod, url, headers, stat.path if latest else None)
        except FileNotFoundError:
            raise ApiError(404, f"{target.label}: {shown(bucket)}/{name} does not exist", "ErrNotFound") from None
        with etl.lock:
            etl.objects += 1
            etl.in_bytes += stat.size
        if answer.status >= 400:
            with closing(answer):
                raise ApiError(answer.status, f"ETL error: {answer.rest().decode(errors='replace')}")
        return answer

    def _push_until_answered(
        self, etl: Etl, pod: Pod, url: str, headers: Mapping[str, str], body: Path | None
    ) -> EtlResponse:
        """Refused and reset connections are tried again; an end without an answer, and a time-out, are final."""
        request = f'Put "http://127.0.0.1:{pod.port}{url}"'
        for left in reversed(range(_TRIES)):
            try:
                answer = _push_once(etl, pod, request, url, headers, body)
                transient = answer.headers.get("ais-etl-retry-reason") == "direct-put-transient"
                if not (answer.status == 503 and transient and body and left):
                    return answer
                answer.close()
            except TimeoutError:
                raise ApiError(500, f"{request}: no answer within {etl.message.obj_timeout}") from None
            except (EOFError, ValueError) as error:
                raise ApiError(500, f"{request}: {error}") from error
            except ConnectionError as error:
                if pod.ended.is_set() or not left:
                    raise ApiError(500, f"{request}: {error}") from error
            etl.cancelled.wait(_PAUSE)
        raise AssertionError("the last try returns or raises")


def _push_once(
    etl: Etl, pod: Pod, request: str, url: str, headers: Mapping[str, str], body: Path | None
) -> EtlResponse:
    """One PUT; ``request`` names it in errors."""
    connection = pod.take(etl.plan.obj_timeout)
    try:
        with body.open("rb") if body else BytesIO() as file:
            size = os.fstat(file.fileno()).st_size if body else 0
            sent = {"Host": f"127.0.0.1:{pod.port}", **headers, "Content-Length": size}
            lines = [f"PUT {url} HTTP/1.1", *(f"{key}: {value}" for key, value in sent.items()), "", ""]
            connection.sendall("\r\n".join(lines).encode("latin-1"))
            if size:
                connection.sendfile(file, count=size)
        return EtlResponse(etl, pod, connection, request)
    except BaseException:
        connection.close()
        raise


def go_request_target(path: str, query: dict[str, str]) -> str:
    """The request target that Go sends for an *unescaped* path, which is how AIStore calls a transformer.

    A ``#`` ends it, query and all; a ``?`` begins the query early, which Go sends without looking at it: UTF-8 as its
    bytes (here as Latin-1), and blanks, which break the request. ``pct%41`` goes out as it is. Raises ApiError where
    Go's own parser refuses (``100%.jpg``).
    """
    encoded = "&".join(f"{key}={quote_plus(value)}" for key, value in sorted(query.items()))
    url = (path + ("?" + encoded if encoded else "")).partition("#")[0]
    if re.search(r"[\x00-\x1f\x7f]", url):
        raise ApiError(500, f'parse "{path}": net/url: invalid control character in URL')
    path, mark, rest = url.partition("?")
    broken = re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", path)
    if broken:
        raise ApiError(500, f'parse "{path}": invalid URL escape "{broken.group()}"')
    if not _GO_PATH_AS_IS.fullmatch(path):
        path = quote(unquote(path, errors="surrogateescape"), safe="$&+,/:;=@", errors="surrogateescape")
    return path + mark + rest.encode("utf-8", "surrogateescape").decode("latin-1")


def _value(variable: Variable, pod: str) -> str:
    """An environment variable's value; of Kubernetes' own fields those that make sense on one machine."""
    source = variable.value_from
    if source is None:
        return variable.value
    fields = {
        "status.hostIP": "127.0.0.1", "status.podIP": "127.0.0.1", "spec.nodeName": "localhost",
        "metadata.name": pod, "metadata.namespace": "default",
    }  # fmt: skip
    path = source.field_ref.field_path if source.field_ref else "valueFrom"
    if path not in fields:
        raise ApiError(400, f"environment variable {variable.name}: {path} has no meaning here", "ErrETL")
    return fields[path]


def _sniffed(body: bytes) -> dict[str, str]:
    """The content type that Go guesses for a transformed object, near enough: text or not."""
    if not body:
        return {}
    text = not any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in body[:512])
    return {"Content-Type": "text/plain; charset=utf-8" if text else "application/octet-stream"}
