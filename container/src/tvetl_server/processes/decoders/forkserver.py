"""The fork server of a worker: a process that has the engine ready and forks decoders within milliseconds.

It never decodes, so each decoder starts from a clean state. It ends with its worker and takes all decoders along.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# Pillow would import these when it needs them. No code can be mapped in the jail, and here it is loaded once for all.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageCms,
    ImageFont,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from tvetl_server.engine import Engine
from tvetl_server.processes.decoders.decoder import Decoder, Files
from tvetl_server.processes.decoders.messages import Process
from tvetl_server.processes.forking import fork, ignore_signals, set_dumpable
from tvetl_server.processes.ipc import receive, send
from tvetl_server.processes.jail import Jail

__all__ = ["ForkServer"]

_log = logging.getLogger(__name__)

#: Freed bytes that a decoder keeps; about as many as an image of 12 megapixels takes.
_KEPT = 2**24

#: mallopt(3), of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class ForkServer:
    """The worker's connection to its fork server, for any number of threads."""

    def __init__(self, make_engine: Callable[[], Engine], files: Files, jail: Jail, kept: Collection[int]) -> None:
        """Forks: call it before this process has threads, and before it reads the secrets.

        ``make_engine`` is called in the fork server, once; raises RuntimeError where it or the jail fails (the log says
        why). Of this process's descriptors it has those in ``kept`` and the first three.
        """
        self._connection, worker = socket.socketpair()
        self._lock = threading.Lock()

        def run() -> None:
            _close_all_but([0, 1, 2, worker.fileno(), *kept])
            _Server(worker, make_engine(), files, jail).run()

        fork(run, "The fork server")
        worker.close()
        if not self._connection.recv(1):
            raise RuntimeError("The process that forks decoders could not start.")

    def fork(self, connection: int, outbox: int) -> None:
        """A decoder for this connection and this memory for results. Raises RuntimeError."""
        self._send(b"", [connection, outbox])

    def kill(self, process: int) -> None:
        """End a decoder. Raises RuntimeError."""
        self._send(Process(process).pack())

    def wait(self) -> None:
        """Until it has died."""
        with contextlib.suppress(OSError):
            self._connection.recv(1)

    def _send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            with self._lock:
                send(self._connection, message, descriptors)
        except OSError as error:
            raise RuntimeError("The process that forks decoders is gone.") from error


@dataclass(frozen=True)
class _Server:
    """The loop of the process: each message forks a decoder for the descriptors with it, or names one to kill."""

    worker: socket.socket
    engine: Engine
    files: Files
    jail: Jail
    children: set[int] = field(default_factory=set)

    def run(self) -> NoReturn:
        ignore_signals()
        signal.set_wakeup_fd(-1)  # was the worker's
        signal.signal(signal.SIGCHLD, self._reap)
        set_dumpable(yes=True)  # the worker sets a decoder's oom_score_adj, and nothing here is secret
        gc.freeze()  # these objects stay in pages that all decoders share
        _keep_freed_memory()
        self.jail.confine_fork_server()
        self.worker.send(b".")
        while True:
            message, descriptors = receive(self.worker)
            # A child must be recorded before it is reaped, and not be reaped while it is killed.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            if message is None:  # the worker has ended, and needs no results
                self._kill(*self.children)
                os._exit(0)
            if descriptors:
                self._fork(*descriptors)
            else:
                self._kill(Process.unpack(message).id)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _fork(self, connection: int, outbox: int) -> None:
        def run() -> None:
            self.worker.close()
            Decoder(self.engine, self.files, self.jail, outbox).serve(connection)

        try:
            self.children.add(fork(run, "A decoder"))
        except OSError as error:  # no process left, or no memory: the worker sees the end of the connection
            _log.error("A decoder could not be forked: %s", error.strerror)
        os.close(connection)
        os.close(outbox)

    def _kill(self, *processes: int) -> None:
        for child in self.children.intersection(processes):  # no other: the system may have reused an id
            os.kill(child, signal.SIGKILL)

    def _reap(self, *_: object) -> None:
        """The handler of SIGCHLD. Only now can the system reuse the id of a child that has ended."""
        with contextlib.suppress(ChildProcessError):
            while child := os.waitpid(-1, os.WNOHANG)[0]:
                self.children.discard(child)


def _close_all_but(kept: Collection[int]) -> None:
    """Close what this process has inherited: listeners, the file of the heartbeat, connections to others."""
    try:
        descriptors = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    except OSError:  # not Linux
        descriptors = list(range(os.sysconf("SC_OPEN_MAX")))
    for descriptor in {*descriptors}.difference(kept):
        with contextlib.suppress(OSError):  # the listing's own
            os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next object; else it returns memory, and asks for it again page by page."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # glibc
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the highest there is
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
