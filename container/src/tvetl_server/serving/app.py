"""The routes: PUT of an object, GET /health, GET /metrics; knows Flask, and no server."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from tvetl.spec import parse_arguments
from tvetl_server import metrics, problems
from tvetl_server.errors import NoSource, OutOfTime, TransformFailed
from tvetl_server.processes.decoders import Decoders
from tvetl_server.processes.ipc import Buffer, Buffers
from tvetl_server.processes.result_body import Body, FileBody
from tvetl_server.serving import delivery, source
from tvetl_server.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Ready", "create_app"]

#: Bytes of a source or a result that each thread may hold; of larger ones there are at most so many in a worker.
_SMALL = 2 * 2**20
_BODIES = 4
_RESULTS = 8

_log = logging.getLogger(__name__)
_access = logging.getLogger("tvetl_server.access")


class Ready:
    """Whether this worker can transform: true once one of its decoders has really decoded an image."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self._lock = threading.Lock()
        self._tested = False

    def __call__(self) -> bool:
        """Tests until it succeeds once; what went wrong is in the log."""
        if not self._tested:
            with self._lock:
                try:
                    self._decoders.self_test()
                    self._tested = True
                except Exception:  # noqa: BLE001  whatever it is, the answer is "not ready"
                    _log.exception("The self-test failed")
        return self._tested


def create_app(
    settings: Settings,
    decoders: Decoders,
    counts: metrics.Metrics | None = None,
    ready: Ready | None = None,
    device: Callable[[], str] | None = None,
) -> Flask:
    """The WSGI application: settings and decoders in, routes out. ``counts`` is shared by the workers.

    ``device`` says in words what there is beside the CPU, for /health.
    """
    app = Flask("tvetl_server", static_folder=None)
    objects = _Objects(settings, decoders, counts or metrics.Metrics())
    is_ready = ready or Ready(decoders)

    @app.get("/health")
    def health() -> Response:
        if not is_ready():
            return Response("the self-test failed; see the log\n", 503)
        return Response(f"ok\n{device()}\n" if device else "ok\n", 200)

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(objects.counts.text(), 200, content_type=metrics.CONTENT_TYPE)

    @app.errorhandler(HTTPException)
    def no_route(error: HTTPException) -> Response:
        # Whatever Flask itself refuses is a method (hpull's GET among them), as every path of a PUT is an object's.
        problem, message = problems.METHOD_NOT_ALLOWED, "Objects come by PUT: register the ETL for hpush."
        if error.code == problems.INTERNAL.status:  # Flask has logged it
            problem, message = problems.INTERNAL, "Something went wrong inside the transformer."
        return Response(problems.body(problem, message, ""), problem.status, content_type="application/json")

    app.wsgi_app = _puts_first(objects, app.wsgi_app)  # type: ignore[assignment,method-assign]  # Flask's own way to wrap it
    return app


def _puts_first(objects: _Objects, others: WSGIApplication) -> WSGIApplication:
    """Objects without Flask's routing, request and response: a third of the time that HTTP takes.

    It would also merge the slashes of ``dbl//slash.jpg`` or redirect, and such a name would be lost.
    """

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return others(environ, start_response)
        job = objects.put(environ)
        start_response(f"{job.status} {_REASONS.get(job.status, '')}", job.headers)
        return job

    return application


_REASONS = {status.value: status.phrase for status in HTTPStatus}


class _Objects:
    """One object: receive, transform, deliver."""

    def __init__(self, settings: Settings, decoders: Decoders, counts: metrics.Metrics) -> None:
        self.counts = counts
        self._settings = settings
        self._decoders = decoders
        self._delivery = delivery.Delivery(settings)
        self._buffers = Buffers()
        self._bodies = _Room(_BODIES)
        self._results = _Room(_RESULTS)

    def put(self, environ: WSGIEnvironment) -> _Job:
        """The answer to one PUT, whatever happens."""
        # Its time begins when it is there, not when a thread is free.
        start = getattr(environ.get("gunicorn.socket"), "since", None) or time.monotonic()
        target = str(environ.get("RAW_URI", ""))
        job = _Job(start + self._settings.limits.seconds)
        with self.counts.in_flight():
            try:
                self._work(environ, target, job)
            except Exception as error:  # noqa: BLE001  the one place where errors become answers
                job.name = job.name or unquote(target.partition("?")[0], errors="replace").lstrip("/")
                self._refuse(error, job)
                # Once that is sent: it may be the reason why the sender stops.
                job.afterwards.append(partial(source.discard, _stream(environ), job.deadline, _connection(environ)))
        self.counts.count(job.status, job.code, job.bytes_in, job.bytes_out)
        if self._settings.access_log:
            _access.info(job.line(time.monotonic() - start))
        return job

    def _work(self, environ: WSGIEnvironment, target: str, job: _Job) -> None:
        asked = source.parse_target(target)
        job.name = asked.name
        arguments = parse_arguments(asked.etl_args)
        route = self._delivery.route(environ.get(_NODE_URL))
        began = time.perf_counter()
        with self._source(environ, asked, job) as given:
            received = time.perf_counter()
            result = self._decoders.transform(
                given, asked.name, arguments, job.deadline, lambda size: self._results.enter(job, size)
            )
        spent = time.perf_counter() - received
        self.counts.spent("read", received - began + result.read)
        self.counts.spent("queue", spent - result.read - result.transformed)
        self.counts.spent("transform", result.transformed)
        self.counts.ways(result.ways)
        job.bytes_in = result.bytes_in
        if isinstance(result.body, FileBody):
            job.afterwards.append(result.body.close)
        if not len(result.body):
            # An empty 200 is stored as an empty object.
            raise TransformFailed("The result is empty.")
        job.bytes_out = len(result.body)
        if route is None:
            job.code = "answered"
            job.answer(200, result.body, result.content_type)
            return
        with self.counts.stage("deliver"):
            answer = self._delivery.send(
                route,
                asked.path,
                result.body,
                result.content_type,
                asked.etl_args,
                from_body=isinstance(given, Buffer),
            )
        job.code = {200: "forwarded", 204: "delivered"}.get(answer.status, "next_stage")
        if answer.status == 204:
            # No Content-Length and no type with 204 (RFC 9110); the length that counts has its own header.
            job.status = 204
            job.headers = [] if answer.length is None else [(delivery.LENGTH_HEADER, str(answer.length))]
        else:
            job.answer(answer.status, answer.body, answer.content_type)

    @contextlib.contextmanager
    def _source(self, environ: WSGIEnvironment, asked: source.Request, job: _Job) -> Iterator[Buffer | str]:
        """The object's bytes, or the name of its file. A body wins: it needs no trust in a name."""
        chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
        length = int(environ.get("CONTENT_LENGTH") or 0)  # a number: the server has checked it
        if chunked or length:
            limit = self._settings.limits.max_bytes
            self._bodies.enter(job, limit if chunked else length)
            buffer = self._buffers.get()
            try:
                known = None if chunked else length
                source.read_body(_stream(environ), buffer, known, limit, job.deadline, _connection(environ))
                if buffer.length:
                    yield buffer
                    return
            finally:
                self._buffers.put(buffer)
        if asked.fqn is None:
            raise NoSource(
                "Neither a file name nor a body came with the request; of a name with # or ? in it AIStore sends only "
                "the part before that."
            )
        yield asked.fqn

    def _refuse(self, error: Exception, job: _Job) -> None:
        """The error as an answer; one that is not in the table is a bug, and only the log says which."""
        problem = problems.problem_of(error)
        message = str(error)
        if problem is problems.INTERNAL:
            _log.error("A bug, at %r", job.name, exc_info=error)
            message = "Something went wrong inside the transformer; its log says what."
        elif problem.status >= 500:
            _log.warning("%s at %r: %s", problem.code, job.name, message)
        job.code = problem.code
        job.answer(problem.status, problems.body(problem, message, job.name), "application/json")
        if problem.code == "delivery_retry":
            job.headers.append((delivery.RETRY_HEADER, delivery.RETRY_REASON))


class _Job:
    """One request while it runs, and then its answer, as WSGI takes it."""

    def __init__(self, deadline: float) -> None:
        self.name = ""
        #: On time.monotonic().
        self.deadline = deadline
        self.code = problems.INTERNAL.code
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.afterwards: list[Callable[[], None]] = []
        self._body: Body = b""

    def answer(self, status: int, body: Body, content_type: str) -> None:
        self.status = status
        self.headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._body, FileBody):
            return iter(self._body)
        return iter([self._body] if self._body else [])

    def close(self) -> None:
        """The answer is sent, or cannot be."""
        self._body = b""
        for do in self.afterwards:
            do()

    def line(self, seconds: float) -> str:
        fields: dict[str, object] = {"object": self.name, "status": self.status, "code": self.code}
        fields |= {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "ms": round(seconds * 1000, 2)}
        return json.dumps(fields, ensure_ascii=False)


class _Room:
    """Memory for a few large objects at a time; small ones, as many as there are threads, come and go."""

    def __init__(self, places: int) -> None:
        self._places = threading.Semaphore(places)

    def enter(self, job: _Job, size: int) -> None:
        """Take a place until the job's answer is sent, if ``size`` bytes need one. Raises OutOfTime."""
        if size <= _SMALL:
            return
        if not self._places.acquire(timeout=max(0.0, job.deadline - time.monotonic())):
            raise OutOfTime("The object waited too long for others to make room in memory.")
        job.afterwards.append(self._places.release)


#: As WSGI names it.
_NODE_URL = f"HTTP_{delivery.NODE_URL_HEADER.upper().replace('-', '_')}"


def _stream(environ: WSGIEnvironment) -> BinaryIO:
    return cast(BinaryIO, environ["wsgi.input"])


def _connection(environ: WSGIEnvironment) -> source.Socket | None:
    return cast("source.Socket | None", environ.get("gunicorn.socket"))
