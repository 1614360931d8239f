"""The command: environment -> settings -> pipeline -> engine -> gunicorn; alone in reading the environment."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import flask
import gunicorn.app.base
import gunicorn.arbiter

from tvetl.errors import TvetlError
from tvetl.spec import Pipeline, canonical, digest, parse
from tvetl.spec.ops import is_plugin
from tvetl_server.engine import Engine, runnable
from tvetl_server.engine.driver import DeviceError
from tvetl_server.engine.resize import resizer
from tvetl_server.metrics import Metrics
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, installed
from tvetl_server.processes.decoders import Decoders
from tvetl_server.processes.device import DeviceProcess, Runner
from tvetl_server.serving import gunicorn_conf
from tvetl_server.serving.app import Ready, create_app
from tvetl_server.serving.source import Files
from tvetl_server.serving.worker import ConnectionCounts, Worker
from tvetl_server.settings import Settings, cpus, describe, read_settings

__all__ = ["main"]

_log = logging.getLogger("tvetl_server.wsgi")  # not __name__: that is "__main__" under python -m

_USAGE = """usage: tvetl-server [--check | --ops | --help]

Transforms images for AIStore: listens for the objects that a storage target pushes.

  --check  read the settings, print the normalized pipeline and its digest, and exit
  --ops    list the ops that a pipeline may have here, those of plugins included, as a line of JSON, and exit
  --help   show this text

The environment has all settings:

{settings}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for bad settings or a bad pipeline (the last line says why)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--help"], ["-h"]):
        print(_USAGE.format(settings=describe()), end="")
        return 0
    if words not in ([], ["--check"], ["--ops"]):
        print(f"tvetl-server: no such option: {' '.join(words)}; see --help", file=sys.stderr)
        return 2
    try:
        if words == ["--ops"]:
            print(json.dumps([*runnable(), *sorted(installed())]))
            return 0
        settings, pipeline, plugins = _read(os.environ)
    except TvetlError as error:
        _explain(error)
        return error.exit_code
    if words:
        print(canonical(pipeline))
        print(digest(pipeline))
        return 0
    # Read by nvImageCodec when it is loaded: it would write a line to stderr for each file that it leaves to the CPU.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    _log_to_stderr(settings)
    gunicorn_conf.allow_long_request_lines()
    _log.info("Pipeline %s: %s", digest(pipeline)[:12], canonical(pipeline))
    _log.info("Resizing is done by %s", resizer())
    try:
        return _serve(settings, pipeline, plugins)
    except TvetlError as error:
        _explain(error)
        return error.exit_code


def _serve(settings: Settings, pipeline: Pipeline, plugins: Mapping[str, PluginOp]) -> int:
    """Serve until a signal ends it. Returns the exit status. Raises DeviceError."""
    if settings.device == "none":
        _Server(settings, pipeline, plugins).run()
        return 0
    _log.info("Pixels from the device are close to torchvision's on PIL images, not equal: docs/gpu.md says how far")
    # The last row is the device's.
    metrics = Metrics(rows=2 * settings.workers + 1, device=True)
    device = DeviceProcess(
        partial(_runner, settings, pipeline),
        batch=settings.batch,
        processors=cpus(),
        counts=metrics,
        row=2 * settings.workers,
        needed=settings.without_device != "cpu",
        stops=settings.without_device == "stop",
    )
    try:
        _Server(settings, pipeline, plugins, metrics, device).run()
    except SystemExit as stop:  # gunicorn returns by it
        if stop.code:
            raise
    finally:
        device.close()
    if device.lost and settings.without_device == "stop":
        print(f"tvetl-server: DeviceError: {device.state}", file=sys.stderr, flush=True)
        return 1
    return 0


def _runner(settings: Settings, pipeline: Pipeline) -> Runner:
    """Load the GPU's code; called in the device's process. Raises DeviceError."""
    try:
        # Its C++ writes to file descriptor 2 which libraries for other formats are missing.
        with _quiet_stderr():
            importlib.import_module("nvidia.nvimgcodec")
        from tvetl_server.engine.cuda import Gpu
    except ImportError as error:
        raise DeviceError(
            f"TVETL_DEVICE needs torch and nvImageCodec ({error})", hint="The image's cuda variant has them."
        ) from error
    return Gpu(settings.device, pipeline, settings.visible_gpus)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _read(env: Mapping[str, str]) -> tuple[Settings, Pipeline, Mapping[str, PluginOp]]:
    """Settings, pipeline and plugin ops, checked: this container can run them. Raises TvetlError."""
    settings = read_settings(env)
    pipeline = parse(settings.pipeline)
    # Plugins are loaded only for a pipeline that uses them: a broken one harms no other pipeline.
    plugins = installed() if any(is_plugin(step.op) for step in pipeline.steps) else NO_PLUGINS
    Engine(pipeline, settings.limits, plugins)
    return settings, pipeline, plugins


def _explain(error: TvetlError) -> None:
    """Print every problem on a line. The error comes last: AIStore and kubectl show the last line."""
    problems = getattr(error, "problems", ())
    if len(problems) > 1:
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    print(f"tvetl-server: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


class _Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's application object. Each worker makes an engine and a WSGI application of its own."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        plugins: Mapping[str, PluginOp] = NO_PLUGINS,
        metrics: Metrics | None = None,
        device: DeviceProcess | None = None,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._plugins = plugins
        self._device = device
        # A row for each worker, and one for each that still stops while its successor runs.
        self.metrics = metrics or Metrics(rows=2 * settings.workers)
        self.connections = ConnectionCounts(2 * settings.workers)
        self._free_rows = list(range(2 * settings.workers))
        self._listeners: list[int] = []  # descriptors of a worker that its decoders must close
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_conf.config(self._settings).items():
            self.cfg.set(name, value)
        self.cfg.set("worker_class", Worker)
        self.cfg.set("logger_class", _logger_class(self._settings))
        self.cfg.set("when_ready", self._before_workers)
        self.cfg.set("pre_fork", self._before_fork)
        self.cfg.set("post_fork", self._after_fork)
        self.cfg.set("child_exit", self._after_exit)

    def load(self) -> flask.Flask:
        """Make a worker's decoders, test one, and make the WSGI application; called in a new worker."""
        try:
            limits = self._settings.limits
            decoders = Decoders(
                lambda: Engine(self._pipeline, limits, self._plugins, self._device.link() if self._device else None),
                Files(self._settings.roots, limits.max_bytes, limits.max_shard_bytes),
                self._settings.decoders,
                self.metrics,
                self._listeners,
                lambda: os.kill(os.getpid(), signal.SIGTERM),
            )
            ready = Ready(decoders)
            ready()  # before the first object; /health repeats a failed test, and reports it
            device = self._device
            return create_app(self._settings, decoders, self.metrics, ready, (lambda: device.state) if device else None)
        except Exception:  # noqa: BLE001
            # The arbiter has made the same engine, so the cause is temporary: most likely memory, not the pipeline. An
            # exception would end the arbiter, and with it the ETL. The arbiter replaces a worker that exits.
            _log.exception("A worker could not start; the next one is tried")
            time.sleep(1)
            sys.exit(1)

    def _before_workers(self, arbiter: gunicorn.arbiter.Arbiter) -> None:
        gunicorn_conf.set_socket_timeouts(listener.sock for listener in arbiter.LISTENERS)

    def _before_fork(self, _: gunicorn.arbiter.Arbiter, worker: Worker) -> None:
        worker.row = self._free_rows.pop(0) if self._free_rows else 0

    def _after_fork(self, _: gunicorn.arbiter.Arbiter, worker: Worker) -> None:
        self.metrics.use_row(worker.row)
        self._listeners = [listener.fileno() for listener in worker.sockets]

    def _after_exit(self, _: gunicorn.arbiter.Arbiter, worker: Worker) -> None:
        self._free_rows.append(worker.row)
        self.metrics.clear_in_flight(worker.row)
        self.connections.clear(worker.row)


class _WithoutSecret(logging.Formatter):
    """Removes the write secret from every log line, tracebacks included."""

    def __init__(self, inner: logging.Formatter, secret: str) -> None:
        super().__init__()
        self._inner = inner
        self._secret = secret

    def format(self, record: logging.LogRecord) -> str:
        line = self._inner.format(record)
        return line.replace(self._secret, "...") if self._secret else line


def _secret(settings: Settings) -> str:
    return settings.target_url.secret if settings.target_url else ""


def _log_to_stderr(settings: Settings) -> None:
    """Set up our own log: lines for people, and the access log as lines of JSON."""
    root = logging.getLogger("tvetl_server")
    root.setLevel(logging.INFO)
    root.propagate = False
    plain = logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s")
    for logger, formatter in ((root, plain), (root.getChild("access"), logging.Formatter("%(message)s"))):
        handler = logging.StreamHandler()
        handler.setFormatter(_WithoutSecret(formatter, _secret(settings)))
        logger.handlers = [handler]
        logger.propagate = False


def _logger_class(settings: Settings) -> type:
    """gunicorn's logger without the secret: it quotes URLs when a request fails below the application."""
    from gunicorn.glogging import Logger  # only once main() runs: it sets up logging when imported

    class LoggerWithoutSecret(Logger):  # type: ignore[misc]  # gunicorn has no types
        def setup(self, cfg: object) -> None:
            super().setup(cfg)
            for handler in self.error_log.handlers:
                handler.setFormatter(_WithoutSecret(handler.formatter or logging.Formatter(), _secret(settings)))

    return LoggerWithoutSecret


if __name__ == "__main__":
    sys.exit(main())
