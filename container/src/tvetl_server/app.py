"""The routes: PUT of an object, GET /health, GET /metrics; knows Flask, and no server."""

from __future__ import annotations

import json
import logging
import threading
import time
from functools import partial
from typing import BinaryIO, Protocol, cast
from urllib.parse import unquote

from flask import Flask, Request, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from tvetl.spec import Arguments, parse_arguments

from . import delivery, metrics, problems, source
from .errors import NoSource, TransformFailed
from .settings import Settings

__all__ = ["Engine", "Ready", "Result", "create_app"]

_log = logging.getLogger(__name__)
_access = logging.getLogger("tvetl_server.access")


class Result(Protocol):
    """What an engine makes of an object."""

    @property
    def body(self) -> bytes: ...

    @property
    def content_type(self) -> str: ...


class Engine(Protocol):
    """Bytes to bytes; :class:`tvetl_server.engine.Engine` is the one."""

    def transform(self, data: bytes, name: str, arguments: Arguments, deadline: float | None = None) -> Result: ...

    def self_test(self) -> None: ...


class Ready:
    """Whether this process can transform: true once the engine has really decoded an image here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._tested = False

    def __call__(self) -> bool:
        """Tests until it succeeds once; what went wrong is in the log."""
        if not self._tested:
            with self._lock:
                try:
                    self._engine.self_test()
                    self._tested = True
                except Exception:  # noqa: BLE001  whatever it is, the answer is "not ready"
                    _log.exception("The self-test failed")
        return self._tested


class _AnyPath(BaseConverter):
    """Everything, slashes at either end and in a row too: objects may be called so."""

    regex = r"[\s\S]*"  # a line end too
    part_isolating = False


def create_app(
    settings: Settings, engine: Engine, counts: metrics.Metrics | None = None, ready: Ready | None = None
) -> Flask:
    """The WSGI application: settings and engine in, routes out. ``counts`` is shared by the workers."""
    app = Flask("tvetl_server", static_folder=None)
    app.url_map.merge_slashes = False  # dbl//slash.jpg is a name; a redirect would lose it
    app.url_map.strict_slashes = False
    app.url_map.converters["any_path"] = _AnyPath
    objects = _Objects(settings, engine, counts or metrics.Metrics())
    is_ready = ready or Ready(engine)

    @app.put("/<any_path:_>")
    def put(_: str) -> Response:
        return objects.put(request)

    @app.get("/health")
    def health() -> Response:
        return Response("ok\n", 200) if is_ready() else Response("the self-test failed; see the log\n", 503)

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(objects.counts.text(), 200, content_type=metrics.CONTENT_TYPE)

    @app.errorhandler(HTTPException)
    def no_route(error: HTTPException) -> Response:
        # Whatever Flask itself refuses is a method (hpull's GET among them), as every path is an object's.
        problem, message = problems.METHOD_NOT_ALLOWED, "Objects come by PUT: register the ETL for hpush."
        if error.code == problems.INTERNAL.status:  # Flask has logged it
            problem, message = problems.INTERNAL, "Something went wrong inside the transformer."
        return Response(problems.body(problem, message, ""), problem.status, content_type="application/json")

    return app


class _Objects:
    """One object: read, transform, deliver."""

    def __init__(self, settings: Settings, engine: Engine, counts: metrics.Metrics) -> None:
        self.counts = counts
        self._settings = settings
        self._engine = engine
        self._files = source.Files(settings.roots, settings.limits.max_bytes)
        self._delivery = delivery.Delivery(settings)

    def put(self, http: Request) -> Response:
        """The answer to one PUT, whatever happens."""
        start = time.monotonic()
        deadline = start + self._settings.limits.seconds
        target = str(http.environ.get("RAW_URI", ""))
        job = _Job(name=unquote(target.partition("?")[0], errors="replace").lstrip("/"))
        with self.counts.in_flight():
            try:
                answer = self._work(http, target, job, deadline)
                response = _respond(answer)
            except Exception as error:  # noqa: BLE001  the one place where errors become answers
                response = self._refuse(error, job)
                # After the answer: it may be the reason why the sender stops.
                response.call_on_close(partial(source.discard, _stream(http), deadline, _connection(http)))
        self.counts.count(response.status_code, job.code, job.bytes_in, job.bytes_out)
        if self._settings.access_log:
            _access.info(job.line(response.status_code, time.monotonic() - start))
        return response

    def _work(self, http: Request, target: str, job: _Job, deadline: float) -> delivery.Answer:
        asked = source.parse_target(target)
        job.name = asked.name
        arguments = parse_arguments(asked.etl_args)
        route = self._delivery.route(http.headers.get(delivery.NODE_URL_HEADER))
        with self.counts.stage("read"):
            data, from_body = self._read(http, asked, deadline)
        job.bytes_in = len(data)
        with self.counts.stage("transform"):
            result = self._engine.transform(data, asked.name, arguments, deadline)
        if not result.body:
            # An empty 200 is stored as an empty object.
            raise TransformFailed("The result is empty.")
        job.bytes_out = len(result.body)
        if route is None:
            job.code = "answered"
            return delivery.Answer(200, result.body, result.content_type)
        with self.counts.stage("deliver"):
            answer = self._delivery.send(
                route, asked.path, result.body, result.content_type, asked.etl_args, from_body=from_body
            )
        job.code = {200: "forwarded", 204: "delivered"}.get(answer.status, "next_stage")
        return answer

    def _read(self, http: Request, asked: source.Request, deadline: float) -> tuple[bytes, bool]:
        """The object's bytes, and whether they came in the request. A body wins: it needs no trust in a name."""
        environ = http.environ
        chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
        length = int(environ.get("CONTENT_LENGTH") or 0)  # a number: the server has checked it
        if chunked or length:
            limit = self._settings.limits.max_bytes
            data = source.read_body(_stream(http), None if chunked else length, limit, deadline, _connection(http))
            if data:
                return data, True
        if asked.fqn is not None:
            return self._files.read(asked.fqn), False
        raise NoSource(
            "Neither a file name nor a body came with the request; of a name with # or ? in it AIStore sends only the "
            "part before that."
        )

    def _refuse(self, error: Exception, job: _Job) -> Response:
        """The error as an answer; one that is not in the table is a bug, and only the log says which."""
        problem = problems.problem_of(error)
        message = str(error)
        if problem is problems.INTERNAL:
            _log.error("A bug, at %r", job.name, exc_info=error)
            message = "Something went wrong inside the transformer; its log says what."
        elif problem.status >= 500:
            _log.warning("%s at %r: %s", problem.code, job.name, message)
        job.code = problem.code
        body = problems.body(problem, message, job.name)
        response = Response(body, problem.status, content_type="application/json")
        if problem.code == "delivery_retry":
            response.headers[delivery.RETRY_HEADER] = delivery.RETRY_REASON
        return response


class _Job:
    """What is known of one request while it runs; for the counts and the access log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.code = problems.INTERNAL.code
        self.bytes_in = 0
        self.bytes_out = 0

    def line(self, status: int, seconds: float) -> str:
        fields: dict[str, object] = {"object": self.name, "status": status, "code": self.code}
        fields |= {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "ms": round(seconds * 1000, 2)}
        return json.dumps(fields, ensure_ascii=False)


def _stream(http: Request) -> BinaryIO:
    """The body as the server gives it: Flask's own wrapper hides that one is short."""
    return cast(BinaryIO, http.environ["wsgi.input"])


def _connection(http: Request) -> source.Socket | None:
    return cast("source.Socket | None", http.environ.get("gunicorn.socket"))


def _respond(answer: delivery.Answer) -> Response:
    if answer.status == 204:
        # No Content-Length and no type with 204 (RFC 9110); the length that counts has its own header.
        response = Response(status=204)
        del response.headers["Content-Type"]
        if answer.length is not None:
            response.headers[delivery.LENGTH_HEADER] = str(answer.length)
        return response
    return Response(answer.body, answer.status, content_type=answer.content_type)
