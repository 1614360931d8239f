"""A decoder: a process that transforms one object at a time and ends with the connection to its worker."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, NoReturn, Protocol

from tvetl_server import problems
from tvetl_server.engine import Engine, spool
from tvetl_server.processes.decoders.messages import GRACE, FileRequest, Process, Refusal, Success, TransformRequest
from tvetl_server.processes.ipc import read, receive, send, write
from tvetl_server.processes.jail import Jail

__all__ = ["Decoder", "Files"]

_log = logging.getLogger(__name__)


class Files(Protocol):
    """Reads an object by its file's name; :class:`tvetl_server.serving.source.Files` is the one."""

    def read(self, fqn: str) -> bytes | IO[bytes]: ...


@dataclass(frozen=True)
class Decoder:
    """Answers the requests of one worker."""

    engine: Engine
    files: Files
    jail: Jail
    outbox: int
    """Shared memory for results."""

    def serve(self, connection: int) -> NoReturn:
        """Answer the worker's requests until it closes the connection."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # for processes that steps may start, without a jail
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also while native code runs
        with socket.socket(fileno=connection) as worker:
            self.jail.confine_decoder()
            spool.make_file = partial(_ask_for_file, worker)
            send(worker, Process(os.getpid()).pack())
            while True:
                message, memory = receive(worker, alone=True)
                if message is None:
                    os._exit(0)
                request = TransformRequest.unpack(message)
                signal.setitimer(signal.ITIMER_REAL, max(0.0, request.deadline - time.monotonic()) + GRACE)
                reply, file = self._reply(request, memory)
                signal.setitimer(signal.ITIMER_REAL, 0)
                with file or contextlib.nullcontext():
                    send(worker, reply.pack(), [file.fileno()] if file else [])

    def _reply(self, request: TransformRequest, memory: Sequence[int]) -> tuple[Success | Refusal, IO[bytes] | None]:
        """The reply, and the open file that goes with it."""
        try:
            return self._transform(request, memory)
        except Exception as error:  # noqa: BLE001  the worker answers with it
            problem = problems.problem_of(error)
            if problem is problems.INTERNAL:
                _log.error("A bug, at %r", request.name, exc_info=error)
            return Refusal(problem, str(error)), None

    def _transform(self, request: TransformRequest, memory: Sequence[int]) -> tuple[Success, IO[bytes] | None]:
        """``memory`` has the object where it has no file; it is closed."""
        if not request.name:
            self.engine.self_test()
            return Success(0, "", 0, 0.0, 0.0, {}), None
        start = time.perf_counter()
        source = request.source
        data = self.files.read(source) if isinstance(source, str) else _read_and_close(memory[0], source)
        then = time.perf_counter()
        with contextlib.nullcontext() if isinstance(data, bytes) else data:
            result = self.engine.transform(data, request.name, request.arguments, request.deadline)
            size = len(data) if isinstance(data, bytes) else os.fstat(data.fileno()).st_size
        if isinstance(result.body, bytes):
            write(self.outbox, result.body)
            length, file = len(result.body), None
        else:
            length, file = os.fstat(result.body.fileno()).st_size, result.body
        seconds = then - start, time.perf_counter() - then
        return Success(length, result.content_type, size, *seconds, result.ways), file


def _ask_for_file(worker: socket.socket, least: int) -> IO[bytes] | None:
    """A file on disk that the worker has made; None where there is no room."""
    send(worker, FileRequest(least).pack())
    _, descriptors = receive(worker, alone=True)
    return os.fdopen(descriptors[0], "w+b") if descriptors else None


def _read_and_close(memory: int, length: int) -> bytes:
    """An object's bytes; from then on its memory is the worker's alone."""
    try:
        return read(memory, length)
    finally:
        os.close(memory)
