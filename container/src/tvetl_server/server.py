"""The start of the server: settings, pipeline, engine, the device's process, gunicorn."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial

import flask
import gunicorn.app.base
import gunicorn.arbiter
import gunicorn.glogging

from tvetl.errors import TvetlError
from tvetl.spec import Pipeline, canonical, digest, parse
from tvetl.spec.ops import is_plugin
from tvetl_server.engine import Device, Engine, runnable
from tvetl_server.engine.driver import DeviceError
from tvetl_server.engine.resize import resizer
from tvetl_server.metrics import Metrics
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, installed
from tvetl_server.processes.decoders import Decoders
from tvetl_server.processes.device import DeviceProcess, Runner
from tvetl_server.processes.forking import fork, set_dumpable
from tvetl_server.processes.jail import Jail
from tvetl_server.serving import gunicorn_conf
from tvetl_server.serving.app import Ready, create_app
from tvetl_server.serving.source import Files
from tvetl_server.serving.worker import ConnectionCounts, Worker
from tvetl_server.settings import Settings, cpus, describe, read_settings, with_ais_variables

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


def run(words: Sequence[str], env: MutableMapping[str, str], secrets: int | None = None) -> int:
    """Run the command with these words and this environment. Returns the exit status.

    ``secrets`` is a descriptor of the file with AIStore's variables, where wsgi.py has taken these from ``env``. Only
    workers read that file, once they have forked their decoders' fork server.
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
        if secrets is not None and (status := _check_apart(env, secrets)):
            return status
        settings, pipeline, plugins = _read(env)
        if words:
            print(canonical(pipeline))
            print(digest(pipeline))
            return 0
        # nvImageCodec reads it when it is loaded, and would write a line to stderr for each file it leaves to the CPU.
        env.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
        _log_to_stderr()
        gunicorn_conf.allow_long_request_lines()
        _log.info("Pipeline %s: %s", digest(pipeline)[:12], canonical(pipeline))
        _log.info("Resizing is done by %s", resizer())
        return _serve(settings, pipeline, plugins, secrets)
    except TvetlError as error:
        _explain(error)
        return error.exit_code


def _check_apart(env: Mapping[str, str], secrets: int) -> int:
    """Check all settings in a process of its own, as this one is to know no secret. Its exit status."""

    def check() -> None:
        try:
            read_settings({**env, **_variables(secrets)})
        except TvetlError as error:
            _explain(error)
            os._exit(error.exit_code)
        os._exit(0)

    return os.waitstatus_to_exitcode(os.waitpid(fork(check, "The check of the settings"), 0)[1])


def _variables(secrets: int) -> dict[str, str]:
    """AIStore's variables, as wsgi.py has written them."""
    lines = os.fsdecode(os.pread(secrets, os.fstat(secrets).st_size, 0)).split("\0")
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _serve(settings: Settings, pipeline: Pipeline, plugins: Mapping[str, PluginOp], secrets: int | None) -> int:
    """Serve until a signal ends it. Returns the exit status. Raises DeviceError or JailError."""
    if secrets is not None:
        set_dumpable(yes=False)  # so that no other process reads that file, or the workers' memory
    files = Files(settings.roots, settings.limits.max_bytes, settings.limits.max_shard_bytes)
    jail = Jail(settings.jail, files=files.roots, folders=settings.jail_folders, memory=settings.limits.memory)
    _log.log(logging.WARNING if any(jail.parts.values()) else logging.INFO, "The jail of decoders: %s", jail)
    holds = {part: not why for part, why in jail.parts.items()}
    # A row for each worker, and one for each that still stops while its successor runs; the last is the device's.
    metrics = Metrics(2 * settings.workers + 1, device=settings.device != "none", jail=holds)
    device = _start_device(settings, pipeline, metrics, secrets) if settings.device != "none" else None
    make_engine = partial(Engine, pipeline, settings.limits, plugins)
    try:
        _Server(settings, make_engine, jail, files, secrets, metrics, device).run()
    except SystemExit as stop:  # gunicorn returns by it
        if stop.code:
            raise
    finally:
        if device:
            device.close()
    if device and device.lost and settings.without_device == "stop":
        print(f"tvetl-server: DeviceError: {device.state}", file=sys.stderr, flush=True)
        return 1
    return 0


def _start_device(settings: Settings, pipeline: Pipeline, metrics: Metrics, secrets: int | None) -> DeviceProcess:
    _log.info("Pixels from the device are close to torchvision's on PIL images, not equal: docs/gpu.md says how far")
    return DeviceProcess(
        partial(_runner, settings, pipeline),
        batch=settings.batch,
        processors=cpus(),
        metrics=metrics,
        row=2 * settings.workers,
        needed=settings.without_device != "cpu",
        stops=settings.without_device == "stop",
        closed=() if secrets is None else (secrets,),
    )


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
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull:  # noqa: PTH123
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


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
        make_engine: Callable[[Device | None], Engine],
        jail: Jail,
        files: Files,
        secrets: int | None,
        metrics: Metrics,
        device: DeviceProcess | None,
    ) -> None:
        self._settings = settings
        self._make_engine = make_engine
        self._jail = jail
        self._files = files
        self._secrets = secrets
        self._device = device
        self.metrics = metrics
        self.connections = ConnectionCounts(2 * settings.workers)
        self._free_rows = list(range(2 * settings.workers))
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_conf.config(self._settings).items():
            self.cfg.set(name, value)
        self.cfg.set("worker_class", Worker)
        self.cfg.set("logger_class", _Logger)
        self.cfg.set("when_ready", self._before_workers)
        self.cfg.set("pre_fork", self._before_fork)
        self.cfg.set("post_fork", self._after_fork)
        self.cfg.set("child_exit", self._after_exit)

    def load(self) -> flask.Flask:
        """Make a worker's decoders, test one, and make the WSGI application; called in a new worker."""
        try:
            link = self._device.link() if self._device else None
            decoders = Decoders(
                partial(self._make_engine, link),
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
            return create_app(self._settings_with_secrets(), decoders, self.metrics, ready, self._about)
        except Exception:  # noqa: BLE001
            # The arbiter has made the same engine, so the cause is temporary: most likely memory, not the pipeline. An
            # exception would end the arbiter, and with it the ETL. The arbiter replaces a worker that exits.
            _log.exception("A worker could not start; the next one is tried")
            time.sleep(1)
            sys.exit(1)

    def _settings_with_secrets(self) -> Settings:
        """The settings with AIStore's secrets. A worker reads them only now, as its fork server must not have them."""
        if self._secrets is None:
            return self._settings
        settings = with_ais_variables(self._settings, _variables(self._secrets))
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
    """Set in each worker, once that has read the secret."""

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


class _Logger(gunicorn.glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's logger without the secret: it quotes URLs when a request fails below the application."""

    def setup(self, cfg: object) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(_WithoutSecret(handler.formatter or logging.Formatter()))
