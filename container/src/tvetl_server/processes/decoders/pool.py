"""The pool of decoders of one worker: each object gets a free decoder, and a second one where the first dies."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection

from tvetl.spec import Arguments
from tvetl_server.engine import Engine
from tvetl_server.errors import DamagedImage, OutOfTime
from tvetl_server.metrics import Metrics
from tvetl_server.processes.decoders.connection import Admit, DecoderConnection, DecoderDied, DecoderResult
from tvetl_server.processes.decoders.decoder import Files
from tvetl_server.processes.decoders.forkserver import ForkServer
from tvetl_server.processes.ipc import Buffer
from tvetl_server.processes.jail import Jail

__all__ = ["Decoders"]

_log = logging.getLogger(__name__)


class Decoders:
    """A fixed number of decoders, for any number of threads."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        files: Files,
        count: int,
        metrics: Metrics,
        jail: Jail,
        kept: Collection[int] = (),
        lost: Callable[[], None] = lambda: None,
        largest: int = 2**30,
    ) -> None:
        """Forks: call it before this process has threads.

        ``make_engine`` is called in the fork server, once; raises RuntimeError where it fails (the log says why).
        The new processes enter ``jail``, and close all descriptors but those in ``kept``: a listener would occupy its
        port beyond the worker's end. ``lost`` is called when the fork server has died: only a new worker can start
        another. A result in memory has at most ``largest`` bytes.
        """
        self._metrics = metrics
        self._lost = lost
        self._forkserver = ForkServer(make_engine, files, jail, kept)
        self._largest = largest
        threading.Thread(target=self._watch, name="watch of the fork server", daemon=True).start()
        self._spare = threading.Semaphore(1)
        self._free = _FreeList()
        for _ in range(count):
            self._free.put(self._new())

    def transform(
        self, source: Buffer | str, name: str, arguments: Arguments, deadline: float, admit: Admit = lambda _: None
    ) -> DecoderResult:
        """The engine's result for an object, given by its bytes or its file's name.

        A decoder that dies is replaced once, as something else may have killed it. After SLOW seconds a spare decoder
        takes the next objects; there is one spare for all. The caller may reuse the buffer afterwards. Raises Refused
        with the engine's error, DamagedImage where the second decoder dies, too, and OutOfTime where none is free, or
        done, by ``deadline`` (on time.monotonic()).
        """
        self._metrics.waits(1)
        try:
            decoder = self._free.get(max(0.0, deadline - time.monotonic()))
        finally:
            self._metrics.waits(-1)
        has_spare = False

        def take_spare() -> None:
            nonlocal has_spare
            has_spare = self._spare.acquire(blocking=False)
            if has_spare:
                self._free.put(None)

        try:
            for _ in range(2):
                decoder = decoder or self._new()
                try:
                    is_slow = None if has_spare else take_spare
                    return decoder.transform(source, name, arguments, deadline, admit, is_slow)
                except DecoderDied:
                    self._end(decoder)
                    decoder = None
                    if time.monotonic() >= deadline:
                        _log.warning("A decoder was ended, as it did not give up in time: %r", name)
                        raise OutOfTime("The object took longer than allowed, and its decoder was ended.") from None
                    _log.warning("A decoder died of %r, or was killed", name)
            raise DamagedImage("The image is damaged, or worse: its decoder died of it, twice.")
        finally:
            # If another thread took the spare meanwhile, there is one decoder too many: this one ends.
            if not has_spare or self._free.take_back():
                self._free.put(decoder)
            elif decoder:
                self._end(decoder)
            if has_spare:
                self._spare.release()

    def self_test(self) -> None:
        """Decode a real image in one of them; raises as :meth:`transform` does."""
        self.transform("", "", Arguments(), time.monotonic() + 60)

    def _new(self) -> DecoderConnection:
        return DecoderConnection(self._forkserver.fork, self._largest)

    def _end(self, decoder: DecoderConnection) -> None:
        decoder.close()
        with contextlib.suppress(RuntimeError):
            self._forkserver.kill(decoder.process)

    def _watch(self) -> None:
        """In a thread, until the fork server has died. The decoders go on without it."""
        self._forkserver.wait()
        _log.error("The process that forks decoders is gone; this worker makes room for another")
        self._lost()


class _FreeList:
    """The free decoders, for threads in the order of their calls. None is a decoder that is forked when it is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[DecoderConnection | None] = []
        self._waiting: deque[queue.SimpleQueue[DecoderConnection | None]] = deque()

    def put(self, decoder: DecoderConnection | None) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(decoder)
            else:
                self._free.append(decoder)

    def get(self, timeout: float) -> DecoderConnection | None:
        """The one used last. Raises OutOfTime where none is free within ``timeout`` seconds."""
        with self._lock:
            if self._free:
                return self._free.pop()
            mine: queue.SimpleQueue[DecoderConnection | None] = queue.SimpleQueue()
            self._waiting.append(mine)
        try:
            return mine.get(timeout=min(timeout, threading.TIMEOUT_MAX))
        except queue.Empty:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise OutOfTime("The object waited too long for others to be transformed.") from None
        return mine.get()  # put at the last moment

    def take_back(self) -> bool:
        """Remove one that is not forked yet; returns whether there was one."""
        with self._lock:
            has_one = None in self._free
            if has_one:
                self._free.remove(None)
            return has_one
