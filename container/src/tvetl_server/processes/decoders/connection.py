"""One decoder as its worker sees it: a connection to the process, and shared memory for its results."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tvetl.spec import Arguments
from tvetl_server.problems import Refused
from tvetl_server.processes.decoders.messages import GRACE, Process, Refusal, Success, TransformRequest, unpack_reply
from tvetl_server.processes.ipc import Buffer, memory, receive, send, take
from tvetl_server.processes.result_body import Body, FileBody

__all__ = ["SLOW", "Admit", "DecoderConnection", "DecoderDied", "DecoderResult"]

#: Seconds that an object may occupy its decoder before a spare one takes the next objects.
SLOW = 0.5

#: Seconds that forking a decoder may take.
_FORK = 10.0

#: Called with the size of a result, in bytes, before it is read; may wait, or raise.
Admit = Callable[[int], None]


class DecoderDied(Exception):
    """The decoder has closed its connection, does not answer, or answers nonsense."""


@dataclass
class DecoderResult(Success):
    """A result, as the worker has it."""

    body: Body
    """For the caller to close, where it is an open file."""


class DecoderConnection:
    """A decoder, for one request at a time."""

    def __init__(self, connect: Callable[[int, int], None]) -> None:
        """``connect`` starts a decoder with its end of a connection, and memory for results. Raises RuntimeError."""
        self._socket, theirs = socket.socketpair()
        self.outbox = memory()
        try:
            with theirs:
                connect(theirs.fileno(), self.outbox)
            self._socket.settimeout(_FORK)
            message, _ = receive(self._socket, alone=True)
            self.process = Process.unpack(message or b"").id
        except (OSError, ValueError, RuntimeError) as error:
            self.close()
            raise RuntimeError("A decoder could not be forked.") from error

    def transform(
        self,
        source: Buffer | str,
        name: str,
        arguments: Arguments,
        deadline: float,
        admit: Admit,
        is_slow: Callable[[], None] | None,
    ) -> DecoderResult:
        """``is_slow`` is called where the reply takes more than SLOW seconds. Raises DecoderDied, or Refused."""
        given, memory = (source, ()) if isinstance(source, str) else (source.length, (source.descriptor,))
        timeout = max(0.0, deadline - time.monotonic()) + 4 * GRACE
        try:
            self._socket.settimeout(SLOW if is_slow else timeout)
            send(self._socket, TransformRequest(name, given, arguments, deadline).pack(), memory)
            try:
                message, descriptors = receive(self._socket, alone=True)
            except TimeoutError:
                if not is_slow:
                    raise
                is_slow()
                self._socket.settimeout(timeout)
                message, descriptors = receive(self._socket, alone=True)
            reply = unpack_reply(message or b"")
        except (OSError, ValueError) as error:
            raise DecoderDied from error
        if isinstance(reply, Refusal):
            raise Refused(reply.problem, reply.message)
        file = FileBody(descriptors[0], reply.length) if descriptors else None  # closes the descriptor
        try:
            admit(reply.length)
        except BaseException:
            os.ftruncate(self.outbox, 0)
            raise
        return DecoderResult(**vars(reply), body=file or take(self.outbox, reply.length))

    def close(self) -> None:
        """The decoder ends at the end of its connection."""
        self._socket.close()
        os.close(self.outbox)
