"""The device as the server's first process sees it: started, reported on, and closed."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Collection

from tvetl_server.engine.driver import DeviceError
from tvetl_server.metrics import Metrics
from tvetl_server.processes.device import timing
from tvetl_server.processes.device.link import Link, has_ended
from tvetl_server.processes.device.messages import READY, unpack_error
from tvetl_server.processes.device.process import BatchServer, Runner
from tvetl_server.processes.device.semaphore import Semaphore
from tvetl_server.processes.device.status import SharedStatus, State
from tvetl_server.processes.device.supervisor import Supervisor
from tvetl_server.processes.forking import fork, set_dumpable
from tvetl_server.processes.ipc import receive

__all__ = ["DeviceProcess"]


class DeviceProcess:
    """The device's process and its supervisor, for the server's first process."""

    def __init__(
        self,
        make: Callable[[], Runner],
        *,
        batch: int,
        processors: int,
        metrics: Metrics,
        row: int,
        needed: bool,
        stops: bool,
        closed: Collection[int] = (),
    ) -> None:
        """Forks, and waits until the device is up: call it before this process has threads.

        ``make`` is called in the device's process, and may raise DeviceError. ``batch`` images go together; where the
        device fails, ``processors`` decoders at a time use the CPU. ``row`` of ``metrics`` is for the device. Raises
        DeviceError where a ``needed`` device is not there; else ``state`` says why. Where ``stops``, a device that is
        lost later ends this process by SIGTERM. Both processes close the descriptors in ``closed``.
        """
        self._status = SharedStatus()
        # In whole packets, so that any number of processes may register at once. A datagram could go elsewhere, too.
        kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
        self._register, self._registrations = socket.socketpair(type=kind)
        self._register.settimeout(timing.POLL)
        self._semaphore = Semaphore(processors)
        first = os.getpid() if stops else None
        server = BatchServer(self._registrations, make, batch, metrics, self._status, first)
        self._connection, theirs = socket.socketpair()

        def run() -> None:
            for descriptor in (self._connection.detach(), *closed):
                os.close(descriptor)
            set_dumpable(yes=True)
            metrics.use_row(row)
            Supervisor(theirs, server, metrics, self._status, needed, stops).run()

        self._supervisor = fork(run, "The supervisor of the device's process")
        theirs.close()
        error = self._wait()
        if error and needed:
            self.close()
            raise error

    def _wait(self) -> DeviceError | None:
        """Wait until the device is up; the reason where it is not."""
        self._connection.settimeout(timing.START)
        try:
            message, _ = receive(self._connection)
        except TimeoutError:
            return DeviceError(f"it is not ready after {timing.START:g} seconds")
        if message is None:
            return DeviceError("its process could not be started")
        return None if message == READY else unpack_error(message)

    def link(self) -> Link:
        """For an engine."""
        return Link(self._register, self._connection, self._status, self._semaphore)

    @property
    def state(self) -> str:
        """A description of the device, or the reason why there is none."""
        if has_ended(self._connection):
            return "the device is not there: its processes were killed"
        return self._status.message

    @property
    def lost(self) -> bool:
        """Whether it will not come back, or not soon."""
        return self._status.state == State.LOST

    def close(self) -> None:
        """End both processes and close all descriptors that lead to them; a second call does nothing."""
        for connection in (self._connection, self._register, self._registrations):
            connection.close()
        self._semaphore.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._supervisor, 0)
