"""The routes: PUT of an object, GET /health and GET /metrics. PUT bypasses Flask, which serves the other two.

Flask's routing, request and response would be a third of the time that HTTP takes. It would also merge the slashes of
``dbl//slash.jpg``, or redirect, and the object's name would be lost.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from tvetl.spec import parse_arguments
from tvetl.tls import Tls
from tvetl_server import problems
from tvetl_server.errors import NoSource, OutOfTime, TransformFailed
from tvetl_server.metrics import CONTENT_TYPE, Metrics
from tvetl_server.processes.decoders import Decoders
from tvetl_server.processes.decoders.connection import DecoderResult
from tvetl_server.processes.ipc import Buffer, Buffers
from tvetl_server.processes.result_body import Body, FileBody
from tvetl_server.serving import delivery, source
from tvetl_server.serving.environ import ServerRequest
from tvetl_server.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Ready", "create_app"]

#: Bytes of a source or a result that every thread may hold at a time.
_SMALL = 2 * 2**20
#: Larger sources and results that a worker holds at a time.
_SOURCES = 4
_RESULTS = 8

_REASONS = {status.value: status.phrase for status in HTTPStatus}

#: The header's name in a WSGI environment.
_NODE_URL = f"HTTP_{delivery.NODE_URL_HEADER.upper().replace('-', '_')}"

_log = logging.getLogger(__name__)
_access = logging.getLogger("tvetl_server.access")


class Ready:
    """Whether this worker can transform: true once one of its decoders has really decoded an image."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self._lock = threading.Lock()
        self._tested = False

    def __call__(self) -> bool:
        """Runs the self-test until it succeeds once; a failure is logged."""
        if not self._tested:
            with self._lock:
                try:
                    self._decoders.self_test()
                    self._tested = True
                except Exception:  # noqa: BLE001  any failure means "not ready"
                    _log.exception("The self-test failed")
        return self._tested


def create_app(
    settings: Settings,
    decoders: Decoders,
    metrics: Metrics | None = None,
    ready: Ready | None = None,
    about: Callable[[], Sequence[str]] = list,
) -> Flask:
    """The WSGI application. All workers share ``metrics``; ``about`` tells lines for /health."""
    app = Flask("tvetl_server", static_folder=None)
    handler = _ObjectHandler(settings, decoders, metrics or Metrics())
    is_ready = ready or Ready(decoders)
    over_https = settings.target_url is not None and settings.target_url.scheme == "https"
    secured = [str(settings.tls)] if over_https or settings.tls != Tls() else []

    @app.get("/health")
    def health() -> Response:
        if not is_ready():
            return Response("the self-test failed; see the log\n", 503)
        return Response("".join(f"{line}\n" for line in ("ok", *about(), *secured)), 200)

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(handler.metrics.text(), 200, content_type=CONTENT_TYPE)

    @app.errorhandler(HTTPException)
    def no_route(error: HTTPException) -> Response:
        # Every path of a PUT is an object's, so Flask only refuses other methods, such as hpull's GET.
        problem, message = problems.METHOD_NOT_ALLOWED, "Objects come by PUT: register the ETL for hpush."
        if error.code == problems.INTERNAL.status:  # Flask has logged it
            problem, message = problems.INTERNAL, "Something went wrong inside the transformer."
        return Response(problems.body(problem, message, ""), problem.status, content_type="application/json")

    app.wsgi_app = _bypass(handler, app.wsgi_app)  # type: ignore[assignment,method-assign]  # Flask's own way to wrap it
    return app


def _bypass(handler: _ObjectHandler, flask: WSGIApplication) -> WSGIApplication:
    """Give a PUT to ``handler``, and any other request to ``flask``."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return flask(environ, start_response)
        exchange = handler.put(ServerRequest(environ), environ.get(_NODE_URL))
        start_response(f"{exchange.status} {_REASONS.get(exchange.status, '')}", exchange.headers)
        return exchange

    return application


class _ObjectHandler:
    """Answers a PUT: receive the object, transform it, deliver the result."""

    def __init__(self, settings: Settings, decoders: Decoders, metrics: Metrics) -> None:
        self.metrics = metrics
        self._settings = settings
        self._decoders = decoders
        self._delivery = delivery.Delivery(settings)
        self._buffers = Buffers()
        self._source_quota = _Quota(_SOURCES)
        self._result_quota = _Quota(_RESULTS)

    def put(self, request: ServerRequest, node_url: str | None) -> _Exchange:
        """The response to one PUT, in case of an error too."""
        # The deadline runs from the request's arrival, not from when a thread is free.
        exchange = _Exchange(request.arrived + self._settings.limits.seconds)
        with self.metrics.in_flight():
            try:
                self._handle(request, node_url, exchange)
            except Exception as error:  # noqa: BLE001  the one place where errors become responses
                exchange.name = exchange.name or unquote(request.target.partition("?")[0], errors="replace").lstrip("/")
                self._refuse(error, exchange)
                # After the response is sent: it may make the client stop sending.
                exchange.on_close.append(partial(source.discard, request, exchange.deadline))
        self.metrics.count(exchange.status, exchange.code, exchange.bytes_in, exchange.bytes_out)
        if self._settings.access_log:
            _access.info(exchange.log_line(time.monotonic() - request.arrived))
        return exchange

    def _handle(self, request: ServerRequest, node_url: str | None, exchange: _Exchange) -> None:
        target = source.parse_target(request.target)
        exchange.name = target.name
        arguments = parse_arguments(target.etl_args)
        route = self._delivery.route(node_url)
        start = time.perf_counter()
        with self._source(request, target, exchange) as given:
            received = time.perf_counter()
            admit = partial(self._result_quota.acquire, exchange)
            result = self._decoders.transform(given, target.name, arguments, exchange.deadline, admit)
        self._measure(result, received - start, time.perf_counter() - received)
        exchange.bytes_in = result.bytes_in
        if isinstance(result.body, FileBody):
            exchange.on_close.append(result.body.close)
        if not len(result.body):
            # An empty 200 is stored as an empty object.
            raise TransformFailed("The result is empty.")
        exchange.bytes_out = len(result.body)
        if route is None:
            exchange.code = "answered"
            exchange.respond(200, result.body, result.content_type)
        else:
            self._deliver(route, target, result, exchange, from_body=isinstance(given, Buffer))

    def _measure(self, result: DecoderResult, receiving: float, decoder: float) -> None:
        """Count the seconds that the object took: until it was received, and until the decoder's result."""
        self.metrics.spent("read", receiving + result.read)
        self.metrics.spent("queue", decoder - result.read - result.transformed)
        self.metrics.spent("transform", result.transformed)
        self.metrics.ways(result.ways)

    def _deliver(
        self,
        route: delivery.Route,
        target: source.ObjectTarget,
        result: DecoderResult,
        exchange: _Exchange,
        *,
        from_body: bool,
    ) -> None:
        with self.metrics.stage("deliver"):
            delivered = self._delivery.send(
                route, target.path, result.body, result.content_type, target.etl_args, from_body=from_body
            )
        exchange.code = {200: "forwarded", 204: "delivered"}.get(delivered.status, "next_stage")
        if delivered.status == 204:
            # RFC 9110: neither Content-Length nor a type. The length of the result has its own header.
            exchange.status = 204
            exchange.headers = [] if delivered.length is None else [(delivery.LENGTH_HEADER, str(delivered.length))]
        else:
            exchange.respond(delivered.status, delivered.body, delivered.content_type)

    @contextlib.contextmanager
    def _source(
        self, request: ServerRequest, target: source.ObjectTarget, exchange: _Exchange
    ) -> Iterator[Buffer | str]:
        """The object's bytes, or the name of its file. A body wins: it needs no trust in a name."""
        if request.chunked or request.length:
            limit = self._settings.limits.max_bytes
            self._source_quota.acquire(exchange, limit if request.chunked else request.length)
            buffer = self._buffers.get()
            try:
                source.read_body(request, buffer, limit, exchange.deadline)
                if buffer.length:
                    yield buffer
                    return
            finally:
                self._buffers.put(buffer)
        if target.fqn is None:
            raise NoSource(
                "The request has neither a body nor a file name. Of a name with # in it, AIStore sends only the part "
                "before that: rename the object."
            )
        yield target.fqn

    def _refuse(self, error: Exception, exchange: _Exchange) -> None:
        """Respond with the error. One that is not in the table is a bug, and only the log describes it."""
        problem = problems.problem_of(error)
        message = str(error)
        if problem is problems.INTERNAL:
            _log.error("A bug, at %r", exchange.name, exc_info=error)
            message = "Something went wrong inside the transformer; see its log."
        elif problem.status >= 500:
            _log.warning("%s at %r: %s", problem.code, exchange.name, message)
        exchange.code = problem.code
        exchange.respond(problem.status, problems.body(problem, message, exchange.name), "application/json")
        if problem.code == "delivery_retry":
            exchange.headers.append((delivery.RETRY_HEADER, delivery.RETRY_REASON))


class _Exchange:
    """One PUT while it is handled, and then its response, which WSGI iterates and closes."""

    def __init__(self, deadline: float) -> None:
        self.name = ""
        #: On time.monotonic().
        self.deadline = deadline
        self.code = problems.INTERNAL.code
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.on_close: list[Callable[[], None]] = []
        self._body: Body = b""

    def respond(self, status: int, body: Body, content_type: str) -> None:
        self.status = status
        self.headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._body, FileBody):
            return iter(self._body)
        return iter([self._body] if self._body else [])

    def close(self) -> None:
        """The response is sent, or cannot be."""
        self._body = b""
        for callback in self.on_close:
            callback()

    def log_line(self, seconds: float) -> str:
        fields: dict[str, object] = {"object": self.name, "status": self.status, "code": self.code}
        fields |= {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "ms": round(seconds * 1000, 2)}
        return json.dumps(fields, ensure_ascii=False)


class _Quota:
    """A semaphore for large objects in memory. Small ones need no place: there is at most one for each thread."""

    def __init__(self, places: int) -> None:
        self._places = threading.Semaphore(places)

    def acquire(self, exchange: _Exchange, size: int) -> None:
        """Take a place for ``size`` bytes until the exchange is closed. Raises OutOfTime."""
        if size <= _SMALL:
            return
        if not self._places.acquire(timeout=max(0.0, exchange.deadline - time.monotonic())):
            raise OutOfTime("The object waited too long for memory that other objects used.")
        exchange.on_close.append(self._places.release)
