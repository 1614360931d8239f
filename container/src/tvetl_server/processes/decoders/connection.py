"""One decoder as its worker sees it: a connection to the process, and shared memory for its results."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvetl.spec import Arguments
from tvetl_server.engine import spool
from tvetl_server.problems import Refused
from tvetl_server.processes.decoders.messages import (
    GRACE,
    FileRequest,
    Process,
    Refusal,
    Success,
    TransformRequest,
    unpack_reply,
)
from tvetl_server.processes.ipc import Buffer, memory, pack, receive, send, take
from tvetl_server.processes.result_body import Body, FileBody

__all__ = ["SLOW", "Admit", "DecoderConnection", "DecoderDied", "DecoderResult"]

#: Seconds that an object may occupy its decoder before a spare one takes the next objects.
SLOW = 0.5

#: Bytes of the longest message from a decoder.
_LONGEST = 2**20

#: Seconds that forking a decoder may take.
_FORK = 10.0

#: oom_score_adj: where memory is short the kernel ends a decoder before its parents. This is the highest value, as
#: Kubernetes gives all processes of a pod with small requests up to 999.
_OOM_SCORE = 1000

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

    def __init__(self, connect: Callable[[int, int], None], largest: int) -> None:
        """``connect`` starts a decoder with its end of a connection, and memory for results. Raises RuntimeError.

        A result in that memory has at most ``largest`` bytes.
        """
        self._largest = largest
        self._socket, theirs = socket.socketpair()
        self.outbox = memory()
        try:
            with theirs:
                connect(theirs.fileno(), self.outbox)
            self._limit(socket.SO_RCVTIMEO, _FORK)
            message, _ = receive(self._socket, alone=True)
            self.process = Process.unpack(message or b"").id
            self._limit(socket.SO_RCVTIMEO, SLOW)
            self._limit(socket.SO_SNDTIMEO, SLOW)  # an idle decoder reads at once
            with contextlib.suppress(OSError):  # no such file: not Linux
                Path(f"/proc/{self.process}/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
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
        try:
            send(self._socket, TransformRequest(name, given, arguments, deadline).pack(), memory)
            try:
                reply, file = self._receive()
            except BlockingIOError:  # after SLOW
                if is_slow:
                    is_slow()
                reply, file = self._receive_until(deadline)
            if isinstance(reply, FileRequest):
                self._lend_file(reply.least)
                reply, file = self._receive_until(deadline)
        except (OSError, ValueError) as error:
            raise DecoderDied from error
        if isinstance(reply, Refusal):
            raise Refused(reply.problem, reply.message)
        if isinstance(reply, FileRequest):  # a second one
            raise DecoderDied
        try:
            admit(reply.length)
        except BaseException:
            os.ftruncate(self.outbox, 0)
            raise
        return DecoderResult(**vars(reply), body=file or take(self.outbox, reply.length))

    def _receive(self) -> tuple[Success | Refusal | FileRequest, FileBody | None]:
        """The next message, and the file with a result where one came.

        Raises OSError or ValueError, and BlockingIOError where no message comes in time.
        """
        message, descriptors = receive(self._socket, alone=True, longest=_LONGEST)
        try:
            reply = unpack_reply(message or b"")
            if not isinstance(reply, Success):
                return reply, None
            status = os.fstat(descriptors[0] if descriptors else self.outbox)
            room = status.st_size if descriptors else min(status.st_size, self._largest)
            if not stat.S_ISREG(status.st_mode) or reply.length > room:
                raise ValueError("There is no such result.")
            return reply, FileBody(os.dup(descriptors[0]), reply.length) if descriptors else None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _receive_until(self, deadline: float) -> tuple[Success | Refusal | FileRequest, FileBody | None]:
        """The same for a decoder that may take until its deadline."""
        self._limit(socket.SO_RCVTIMEO, max(0.0, deadline - time.monotonic()) + 4 * GRACE)
        try:
            return self._receive()
        finally:
            self._limit(socket.SO_RCVTIMEO, SLOW)

    def _limit(self, option: int, seconds: float) -> None:
        """Let the kernel bound each send or receive. Python's own time-outs cost two more system calls for each."""
        self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))

    def _lend_file(self, least: int) -> None:
        """Give it a file on disk, as it may make none. Raises OSError."""
        with spool.on_disk(least) or contextlib.nullcontext() as file:
            send(self._socket, pack([]), [file.fileno()] if file else [])

    def close(self) -> None:
        """The decoder ends at the end of its connection."""
        self._socket.close()
        os.close(self.outbox)
