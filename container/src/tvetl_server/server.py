"""What the command runs: settings -> pipeline -> engine -> gunicorn."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
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
from tvetl_server.processes.forking import fork, let_others_look
from tvetl_server.processes.jail import Jail
from tvetl_server.serving import gunicorn_conf
from tvetl_server.serving.app import Ready, create_app
from tvetl_server.serving.source import Files
from tvetl_server.serving.worker import ConnectionCounts, Worker
from tvetl_server.settings import Settings, cpus, describe, read_settings, with_aistores

__all__ = ["run"]

_log = logging.getLogger(__name__)

_USAGE = """usage: tvetl-server [--check | --ops | --help]

Transforms images for AIStore: listens for the objects that a storage target pushes.

  --check  read the settings, print the normalized pipeline and its digest, and exit
  --ops    list the ops that a pipeline may have here, those of plugins included, as a line of JSON, and exit
  --help   show this text

The environment has all settings:

{settings}
"""


def run(words: Sequence[str], env: MutableMapping[str, str], kept: int | None = None) -> int:
    """Run the command with these words and this environment. Returns the exit status.

    ``kept`` is a descriptor of the file with AIStore's variables where ``env`` does not have them. Only workers read
    that file, once they have forked what decodes.
    """
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
        if kept is not None and (status := _check_apart(env, kept)):
            return status
        settings, pipeline, plugins = _read(env)
    except TvetlError as error:
        _explain(error)
        return error.exit_code
    if words:
        print(canonical(pipeline))
        print(digest(pipeline))
        return 0
    # Read by nvImageCodec when it is loaded: it would write a line to stderr for each file that it leaves to the CPU.
    env.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    _log_to_stderr()
    gunicorn_conf.allow_long_request_lines()
    _log.info("Pipeline %s: %s", digest(pipeline)[:12], canonical(pipeline))
    _log.info("Resizing is done by %s", resizer())
    try:
        return _serve(settings, pipeline, plugins, kept)
    except TvetlError as error:
        _explain(error)
        return error.exit_code


def _check_apart(env: Mapping[str, str], kept: int) -> int:
    """Check all settings in a process of its own, as this one is to know no secret. Its exit status."""

    def check() -> None:
        try:
            read_settings({**env, **_variables(kept)})
        except TvetlError as error:
            _explain(error)
            os._exit(error.exit_code)
        os._exit(0)

    return os.waitstatus_to_exitcode(os.waitpid(fork(check, "The check of the settings"), 0)[1])


def _variables(kept: int) -> dict[str, str]:
    """What wsgi.py has laid aside."""
    lines = os.fsdecode(os.pread(kept, os.fstat(kept).st_size, 0)).split("\0")
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _serve(settings: Settings, pipeline: Pipeline, plugins: Mapping[str, PluginOp], kept: int | None) -> int:
    """Serve until a signal ends it. Returns the exit status. Raises DeviceError or JailError."""
    if kept is not None:
        let_others_look(yes=False)  # at the descriptor, and at the workers' memory
    files = Files(settings.roots, settings.limits.max_bytes, settings.limits.max_shard_bytes)
    jail = Jail(settings.jail, files=files.roots, folders=settings.jail_folders, memory=settings.limits.memory)
    _log.log(logging.WARNING if any(jail.parts.values()) else logging.INFO, "The jail of decoders: %s", jail)
    server = partial(_Server, settings, pipeline, plugins, jail, files, kept)
    holds = {part: not why for part, why in jail.parts.items()}
    if settings.device == "none":
        server(Metrics(2 * settings.workers, jail=holds)).run()
        return 0
    _log.info("Pixels from the device are close to torchvision's on PIL images, not equal: docs/gpu.md says how far")
    # The last row is the device's.
    metrics = Metrics(2 * settings.workers + 1, device=True, jail=holds)
    device = DeviceProcess(
        partial(_runner, settings, pipeline),
        batch=settings.batch,
        processors=cpus(),
        counts=metrics,
        row=2 * settings.workers,
        needed=settings.without_device != "cpu",
        stops=settings.without_device == "stop",
        closed=() if kept is None else (kept,),
    )
    try:
        server(metrics, device).run()
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
        plugins: Mapping[str, PluginOp],
        jail: Jail,
        files: Files,
        kept: int | None = None,
        metrics: Metrics | None = None,
        device: DeviceProcess | None = None,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._plugins = plugins
        self._jail = jail
        self._files = files
        self._kept = kept
        self._device = device
        # A row for each worker, and one for each that still stops while its successor runs.
        self.metrics = metrics or Metrics(rows=2 * settings.workers)
        self.connections = ConnectionCounts(2 * settings.workers)
        self._free_rows = list(range(2 * settings.workers))
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_conf.config(self._settings).items():
            self.cfg.set(name, value)
        self.cfg.set("worker_class", Worker)
        self.cfg.set("logger_class", _logger_class())
        self.cfg.set("when_ready", self._before_workers)
        self.cfg.set("pre_fork", self._before_fork)
        self.cfg.set("post_fork", self._after_fork)
        self.cfg.set("child_exit", self._after_exit)

    def load(self) -> flask.Flask:
        """Make a worker's decoders, test one, and make the WSGI application; called in a new worker."""
        try:
            link = self._device.link() if self._device else None
            decoders = Decoders(
                lambda: Engine(self._pipeline, self._settings.limits, self._plugins, link),
                self._files,
                self._settings.decoders,
                self.metrics,
                self._jail,
                link.descriptors if link else (),
                lambda: os.kill(os.getpid(), signal.SIGTERM),
                self._settings.limits.result,
            )
            ready = Ready(decoders)
            ready()  # before the first object; /health repeats a failed test, and reports it
            return create_app(self._with_aistores(), decoders, self.metrics, ready, self._about)
        except Exception:  # noqa: BLE001
            # The arbiter has made the same engine, so the cause is temporary: most likely memory, not the pipeline. An
            # exception would end the arbiter, and with it the ETL. The arbiter replaces a worker that exits.
            _log.exception("A worker could not start; the next one is tried")
            time.sleep(1)
            sys.exit(1)

    def _with_aistores(self) -> Settings:
        """The settings with AIStore's, which this worker knows from now on: its fork server is there, without them."""
        if self._kept is None:
            return self._settings
        settings = with_aistores(self._settings, _variables(self._kept))
        _WithoutSecret.secret = settings.target_url.secret if settings.target_url else ""
        return settings

    def _about(self) -> list[str]:
        """Lines for /health."""
        return [f"jail: {self._jail}", *([self._device.state] if self._device else [])]

    def _before_workers(self, arbiter: gunicorn.arbiter.Arbiter) -> None:
        gunicorn_conf.set_socket_timeouts(listener.sock for listener in arbiter.LISTENERS)

    def _before_fork(self, _: gunicorn.arbiter.Arbiter, worker: Worker) -> None:
        worker.row = self._free_rows.pop(0) if self._free_rows else 0

    def _after_fork(self, _: gunicorn.arbiter.Arbiter, worker: Worker) -> None:
        self.metrics.use_row(worker.row)
        self.metrics.hide_from_children()
        self.connections.hide_from_children()

    def _after_exit(self, _: gunicorn.arbiter.Arbiter, worker: Worker) -> None:
        self._free_rows.append(worker.row)
        self.metrics.clear_in_flight(worker.row)
        self.connections.clear(worker.row)


class _WithoutSecret(logging.Formatter):
    """Removes the write secret from every log line, tracebacks included."""

    secret = ""
    """Set in a worker, once it knows it."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        line = self._inner.format(record)
        return line.replace(self.secret, "...") if self.secret else line


def _log_to_stderr() -> None:
    """Set up our own log: lines for people, and the access log as lines of JSON."""
    root = logging.getLogger("tvetl_server")
    root.setLevel(logging.INFO)
    root.propagate = False
    plain = logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s")
    for logger, formatter in ((root, plain), (root.getChild("access"), logging.Formatter("%(message)s"))):
        handler = logging.StreamHandler()
        handler.setFormatter(_WithoutSecret(formatter))
        logger.handlers = [handler]
        logger.propagate = False


def _logger_class() -> type:
    """gunicorn's logger without the secret: it quotes URLs when a request fails below the application."""
    from gunicorn.glogging import Logger  # only once main() runs: it sets up logging when imported

    class LoggerWithoutSecret(Logger):  # type: ignore[misc]  # gunicorn has no types
        def setup(self, cfg: object) -> None:
            super().setup(cfg)
            for handler in self.error_log.handlers:
                handler.setFormatter(_WithoutSecret(handler.formatter or logging.Formatter()))

    return LoggerWithoutSecret
