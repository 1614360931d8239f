"""The link of a decoder to the device's process: sends an image, and waits for its results."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

from tvetl_server.engine import DeviceRequest, NotByDevice
from tvetl_server.engine.pixels import Array, Encoded
from tvetl_server.processes.device import timing
from tvetl_server.processes.device.messages import Part, pack_request, unpack_reply
from tvetl_server.processes.device.semaphore import Semaphore
from tvetl_server.processes.device.status import SharedStatus, State
from tvetl_server.processes.ipc import memory, receive, send, take, write

__all__ = ["Link", "has_ended"]


class Link:
    """Implements :class:`tvetl_server.engine.Device`. It is made once, and works in every forked process."""

    def __init__(
        self, register: socket.socket, supervisor: socket.socket, status: SharedStatus, semaphore: Semaphore
    ) -> None:
        """``register`` leads to the device's process, for new connections; ``supervisor`` to the supervisor."""
        self._register = register
        self._supervisor = supervisor
        self._status = status
        self._semaphore = semaphore
        self._connection: socket.socket | None = None
        self._inbox = self._outbox = -1

    @property
    def descriptors(self) -> list[int]:
        """The descriptors that a process must inherit to use this."""
        return [self._register.fileno(), self._supervisor.fileno(), *self._semaphore.descriptors]

    def cpu_slot(self) -> contextlib.AbstractContextManager[None]:
        return self._semaphore.hold()

    def transform(self, request: DeviceRequest) -> list[Array | Encoded]:
        if self._status.state != State.UP or has_ended(self._supervisor):
            raise NotByDevice("lost")
        # Half of the time that is left; the CPU needs the other half where the device fails.
        timeout = 2 * timing.HANG if request.deadline is None else (request.deadline - time.monotonic()) / 2
        if timeout <= 0:
            raise NotByDevice("late")
        try:
            parts = self._exchange(request, timeout)
        except OSError as error:
            self._disconnect()
            raise NotByDevice("late" if isinstance(error, TimeoutError) else "lost") from error
        if not parts:
            raise NotByDevice("refused")
        data = memoryview(take(self._outbox, sum(part.length for part in parts)))
        results: list[Array | Encoded] = []
        for part in parts:
            results.append(part.result(data[: part.length]))
            data = data[part.length :]
        return results

    def _exchange(self, request: DeviceRequest, timeout: float) -> list[Part]:
        """Send the request, and receive the reply. Raises OSError where none comes in time."""
        if self._connection and has_ended(self._connection):  # the device's process has died
            self._disconnect()
        connection = self._connection or self._connect()
        connection.settimeout(timeout)
        write(self._inbox, request.data)
        send(connection, pack_request(request))
        reply, _ = receive(connection, alone=True)
        if reply is None:
            raise ConnectionResetError("the device's process has ended")
        return unpack_reply(reply)

    def _connect(self) -> socket.socket:
        """A connection, and memory for files and for results, of this process alone."""
        ours, theirs = socket.socketpair()
        self._inbox = memory()
        self._outbox = memory()
        self._connection = ours
        with theirs:
            socket.send_fds(self._register, [b"."], [theirs.fileno(), self._inbox, self._outbox])
        return ours

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None
        for descriptor in (self._inbox, self._outbox):
            if descriptor >= 0:  # without a free descriptor one may be missing
                os.close(descriptor)
        self._inbox = self._outbox = -1


def has_ended(connection: socket.socket) -> bool:
    """Whether the other end is closed, while ours is open."""
    if connection.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(connection, 0)  # the kernel reports its end, whatever is asked for
    return bool(poll.poll(0))
