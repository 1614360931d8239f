"""The process: environment -> settings -> pipeline -> engine -> gunicorn. The only module that looks at the world."""

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
import gunicorn.workers.base

from tvetl.errors import TvetlError
from tvetl.spec import Pipeline, canonical, digest, parse
from tvetl.spec.ops import is_own
from tvetl_server.engine import Engine, runnable
from tvetl_server.engine.driver import DeviceError
from tvetl_server.engine.resize import resizer
from tvetl_server.metrics import Metrics
from tvetl_server.plugin_ops import NONE, OwnOp, installed
from tvetl_server.processes.decoders import Decoders
from tvetl_server.processes.device import DeviceProcess, Runner
from tvetl_server.serving import gunicorn_conf
from tvetl_server.serving.app import Ready, create_app
from tvetl_server.serving.source import Files
from tvetl_server.serving.worker import Shares, worker_class
from tvetl_server.settings import Settings, cpus, describe, read_settings

__all__ = ["main"]

_log = logging.getLogger("tvetl_server.wsgi")  # not __name__: that is "__main__" under python -m

_USAGE = """usage: tvetl-server [--check | --ops | --help]

Transforms images for AIStore: listens for the objects that a storage target pushes.

  --check  read the settings, show the pipeline as it is understood and its digest, and leave
  --ops    list the ops that a pipeline may have here, own ones included, as a line of JSON, and leave
  --help   this text

Everything is set by the environment:

{settings}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Gives the exit status: 0, or 2 where settings or pipeline cannot work (the reason is last)."""
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
        settings, pipeline, own = _understand(os.environ)
    except TvetlError as error:
        _explain(error)
        return error.exit_code
    if words:
        print(canonical(pipeline))
        print(digest(pipeline))
        return 0
    # nvImageCodec would write a line on stderr for every file that it leaves to the CPU; read when it is loaded.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    _log_to_stderr(settings)
    gunicorn_conf.allow_long_request_lines()
    gunicorn_conf.keep_the_date()
    _log.info("Pipeline %s: %s", digest(pipeline)[:12], canonical(pipeline))
    _log.info("Resizing is done by %s", resizer())
    try:
        return _serve(settings, pipeline, own)
    except TvetlError as error:
        _explain(error)
        return error.exit_code


def _serve(settings: Settings, pipeline: Pipeline, own: Mapping[str, OwnOp]) -> int:
    """Until it is told to end; gives the exit status. Raises DeviceError."""
    if settings.device == "none":
        _Server(settings, pipeline, own).run()
        return 0
    _log.info("Pixels from the device are close to torchvision's on PIL images, not equal: docs/gpu.md says how far")
    # The last row is the device's.
    counts = Metrics(rows=2 * settings.workers + 1, device=True)
    device = DeviceProcess(
        partial(_runner, settings, pipeline),
        batch=settings.batch,
        processors=cpus(),
        counts=counts,
        row=2 * settings.workers,
        needed=settings.without_device != "cpu",
        stops=settings.without_device == "stop",
    )
    try:
        _Server(settings, pipeline, own, counts, device).run()
    except SystemExit as end:  # gunicorn's own way to return
        if end.code:
            raise
    finally:
        device.close()
    if device.lost and settings.without_device == "stop":
        print(f"tvetl-server: DeviceError: {device.state}", file=sys.stderr, flush=True)
        return 1
    return 0


def _runner(settings: Settings, pipeline: Pipeline) -> Runner:
    """In the device's process. Raises DeviceError."""
    try:
        # Its C++ writes to file descriptor 2 which libraries for other formats it did not find; nobody asked.
        with _quiet_stderr():
            importlib.import_module("nvidia.nvimgcodec")
        from tvetl_server.engine.cuda import Gpu
    except ImportError as error:
        raise DeviceError(
            f"TVETL_DEVICE needs torch and nvImageCodec ({error})", hint="The image's cuda variant has them."
        ) from error
    return Gpu(settings.device, pipeline, settings.visible)


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


def _understand(env: Mapping[str, str]) -> tuple[Settings, Pipeline, Mapping[str, OwnOp]]:
    """Settings, pipeline and own ops, and that this container can run it. Raises TvetlError."""
    settings = read_settings(env)
    pipeline = parse(settings.pipeline)
    # Foreign code runs only where it is asked for: a broken package harms no pipeline without it.
    own = installed() if any(is_own(step.op) for step in pipeline.steps) else NONE
    Engine(pipeline, settings.limits, own)
    return settings, pipeline, own


def _explain(error: TvetlError) -> None:
    """All that is wrong, a line each; the reason is the last line, as that is what AIStore and kubectl show."""
    problems = getattr(error, "problems", ())
    if len(problems) > 1:
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    print(f"tvetl-server: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


class _Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with our settings; each worker makes its own engine and application."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        own: Mapping[str, OwnOp] = NONE,
        counts: Metrics | None = None,
        device: DeviceProcess | None = None,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._own = own
        self._device = device
        # A row a worker, and as many for those that still stop while their successors run.
        self._counts = counts or Metrics(rows=2 * settings.workers)
        self._shares = Shares(2 * settings.workers)
        self._free_rows = list(range(2 * settings.workers))
        self._not_theirs: list[int] = []  # descriptors of a worker that its decoders shall not have
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_conf.config(self._settings).items():
            self.cfg.set(name, value)
        self.cfg.set("worker_class", worker_class(self._counts, self._shares))
        self.cfg.set("logger_class", _logger_class(self._settings))
        self.cfg.set("when_ready", self._before_workers)
        self.cfg.set("pre_fork", self._before_fork)
        self.cfg.set("post_fork", self._after_fork)
        self.cfg.set("child_exit", self._after_exit)

    def load(self) -> flask.Flask:
        """In a new worker: its decoders, one of them tried out, and its application."""
        try:
            limits = self._settings.limits
            decoders = Decoders(
                lambda: Engine(self._pipeline, limits, self._own, self._device.link() if self._device else None),
                Files(self._settings.roots, limits.max_bytes, limits.max_shard_bytes),
                self._settings.decoders,
                self._counts,
                self._not_theirs,
                lambda: os.kill(os.getpid(), signal.SIGTERM),
            )
            ready = Ready(decoders)
            ready()  # the first object shall not pay for it; where it fails, /health tries again and says so
            device = self._device
            return create_app(self._settings, decoders, self._counts, ready, (lambda: device.state) if device else None)
        except Exception:  # noqa: BLE001
            # The master made the same engine, so this is the moment (memory, most likely), not the pipeline. As an
            # exception it would end the master too, and with it the ETL; so: leave, and be replaced.
            _log.exception("A worker could not start; another is tried")
            time.sleep(1)
            sys.exit(1)

    def _before_workers(self, arbiter: gunicorn.arbiter.Arbiter) -> None:
        gunicorn_conf.end_waits(listener.sock for listener in arbiter.LISTENERS)

    def _before_fork(self, _: gunicorn.arbiter.Arbiter, worker: gunicorn.workers.base.Worker) -> None:
        worker.tvetl_row = self._free_rows.pop(0) if self._free_rows else 0

    def _after_fork(self, _: gunicorn.arbiter.Arbiter, worker: gunicorn.workers.base.Worker) -> None:
        self._counts.use_row(worker.tvetl_row)
        self._not_theirs = [listener.fileno() for listener in worker.sockets]

    def _after_exit(self, _: gunicorn.arbiter.Arbiter, worker: gunicorn.workers.base.Worker) -> None:
        self._free_rows.append(worker.tvetl_row)
        self._counts.clear_in_flight(worker.tvetl_row)
        self._shares.clear(worker.tvetl_row)


class _WithoutSecret(logging.Formatter):
    """Takes the write secret out of whatever is logged, tracebacks included."""

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
    """Our own log: lines for people, and where asked for, a line of JSON a request."""
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
    """gunicorn's own logger, which quotes URLs when a request fails below the application, with the same care."""
    from gunicorn.glogging import Logger  # only once main() runs: it sets up logging when imported

    class Careful(Logger):  # type: ignore[misc]  # gunicorn has no types
        def setup(self, cfg: object) -> None:
            super().setup(cfg)
            for handler in self.error_log.handlers:
                handler.setFormatter(_WithoutSecret(handler.formatter or logging.Formatter(), _secret(settings)))

    return Careful


if __name__ == "__main__":
    sys.exit(main())
