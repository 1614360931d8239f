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
from pathlib import Path
from typing import IO, NoReturn, Protocol

from tvetl_server import problems
from tvetl_server.engine import Engine
from tvetl_server.processes.decoders.messages import GRACE, Process, Refusal, Success, TransformRequest
from tvetl_server.processes.ipc import read, receive, send, write

__all__ = ["Decoder", "Files"]

_log = logging.getLogger(__name__)

#: oom_score_adj: where memory is short the kernel ends a decoder before its parents. This is the highest value, as
#: Kubernetes gives all processes of a pod with small requests up to 999.
_OOM_SCORE = 1000


class Files(Protocol):
    """Reads an object by its file's name; :class:`tvetl_server.serving.source.Files` is the one."""

    def read(self, fqn: str) -> bytes | IO[bytes]: ...


@dataclass(frozen=True)
class Decoder:
    """Answers the requests of one worker."""

    engine: Engine
    files: Files
    outbox: int
    """Shared memory for results."""

    def serve(self, connection: int) -> NoReturn:
        """Answer the worker's requests until it closes the connection."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # for processes that steps may start
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also while native code runs
        with contextlib.suppress(OSError):  # no such file: not Linux
            Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
        with socket.socket(fileno=connection) as worker:
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


def _read_and_close(memory: int, length: int) -> bytes:
    """An object's bytes; from then on its memory is the worker's alone."""
    try:
        return read(memory, length)
    finally:
        os.close(memory)
