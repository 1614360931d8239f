"""The supervisor: a process that starts the device's process, and starts it again where it died or hangs."""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from typing import NoReturn

from tvetl_server.engine.driver import DeviceError
from tvetl_server.metrics import Metrics
from tvetl_server.processes.device import timing
from tvetl_server.processes.device.messages import READY, pack_error, unpack_error
from tvetl_server.processes.device.process import BatchServer
from tvetl_server.processes.device.status import SharedStatus, State
from tvetl_server.processes.forking import fork, ignore_signals
from tvetl_server.processes.ipc import send

__all__ = ["Supervisor"]

_log = logging.getLogger(__name__)


@dataclass
class Supervisor:
    """Runs one device's process after the other. It loads none of the device's libraries."""

    connection: socket.socket
    """To its parent, the server's first process."""
    server: BatchServer
    metrics: Metrics
    status: SharedStatus
    needed: bool
    """Whether a device that is missing at the start ends the server."""
    stops: bool
    """Whether a device that is lost later does."""

    def __post_init__(self) -> None:
        self._parent = os.getppid()
        self._has_reported = False

    def run(self) -> NoReturn:
        ignore_signals()
        ends: list[float] = []
        while True:
            end = self._run_once()
            self.metrics.device_is(up=False)
            now = time.monotonic()
            ends = [*(before for before in ends if before > now - timing.DEATHS_WITHIN), now]
            if isinstance(end, str):
                self.metrics.device_died()
                if len(ends) < timing.DEATHS:
                    self.status.set(State.DOWN, "the device's process has died and is started again")
                    _log.error("The device's process has died (%s) and is started again", end)
                    continue
                end = DeviceError(f"its process died {timing.DEATHS} times")
            self._handle_loss(end)
            ends.clear()

    def _handle_loss(self, error: DeviceError) -> None:
        """End the server, or do without the device for a while, as is set."""
        self.status.set(State.LOST, f"the device is not there: {error}")
        was_up = self._has_reported
        self._report(pack_error(error))
        if was_up and self.stops:
            _log.error("The device is lost: %s", error)
            os.kill(self._parent, signal.SIGTERM)
        if self.stops if was_up else self.needed:
            self._wait(math.inf)
        _log.warning("There is no device: %s. The CPU does all; next try in %g s", error, timing.RETRY)
        self._wait(timing.RETRY)

    def _report(self, message: bytes) -> None:
        """Tell the first process the outcome of the start, once."""
        if not self._has_reported:
            send(self.connection, message)
            self._has_reported = True

    def _run_once(self) -> DeviceError | str:
        """One life of the device's process. Returns the reason why there is no device, or how the process died."""
        pipe, write_end = os.pipe()

        def run() -> None:
            os.close(pipe)
            self.connection.close()
            self.server.run(write_end)

        child = fork(run, "The device's process")
        os.close(write_end)
        message = self._watch(child, pipe)
        os.close(pipe)
        _, status = os.waitpid(child, 0)
        if message and message != READY:
            return unpack_error(message)
        return f"signal {-code}" if (code := os.waitstatus_to_exitcode(status)) < 0 else f"status {code}"

    def _watch(self, child: int, pipe: int) -> bytes:
        """Wait for the end of the process; its report. Kills it where it hangs."""
        message = b""
        limit = timing.START
        self.status.busy_since = time.monotonic()
        while True:
            while not self._wait(timing.POLL, pipe, child):
                if (since := self.status.busy_since) and time.monotonic() - since > limit:
                    _log.error("The device's process hangs: it has been busy for %g s, and is ended", limit)
                    os.kill(child, signal.SIGKILL)
            part = os.read(pipe, 4096)
            if not part:
                return message
            message += part
            if message == READY:
                limit = timing.HANG
                self.metrics.device_is(up=True)
                self._report(READY)

    def _wait(self, seconds: float, pipe: int | None = None, child: int = 0) -> bool:
        """Wait for ``pipe``; whether it can be read. Where the first process has ended, kill ``child`` and exit."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            watched = [self.connection.fileno()] if pipe is None else [self.connection.fileno(), pipe]
            ready, _, _ = select.select(watched, [], [], min(left, timing.POLL))
            if self.connection.fileno() in ready or os.getppid() != self._parent:
                if child:
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            if ready:
                return True
        return False
