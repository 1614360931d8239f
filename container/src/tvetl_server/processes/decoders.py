"""The engine in processes beside the worker: an image that kills its decoder, or keeps it for ever, costs itself.

A worker speaks HTTP; each of its decoders is a process that takes one object at a time: it gets shared memory with the
bytes, or the file's name, and leaves the result in other memory. Decoders are forked by a nursery, which the worker
forks while it has one thread: it never decodes, so what it forks is always fresh, in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from tvetl.spec import Arguments
from tvetl_server import problems
from tvetl_server.errors import DamagedImage, OutOfTime
from tvetl_server.metrics import Metrics
from tvetl_server.problems import Refused
from tvetl_server.processes.ipc import Buffer, memory, pack, read, receive, send, take, unpack, write
from tvetl_server.processes.result_body import Body, FileBody

__all__ = ["Answer", "Decoders", "Engine", "Result"]

_log = logging.getLogger(__name__)

#: Seconds beyond an object's own limit after which the kernel ends a decoder that has not given up by itself.
GRACE = 0.5

#: Seconds that an object may keep its decoder before another takes the next objects, beside it.
SLOW = 0.5

#: Seconds that the birth of a decoder may take.
_BIRTH = 10.0

#: Where memory is short the kernel shall end a decoder before its parents (oom_score_adj): the highest there is, as
#: Kubernetes gives all processes of a pod with small requests up to 999.
_FIRST_TO_GO = 1000

#: Freed bytes that a decoder keeps; about what an image of 12 megapixels takes.
_KEPT = 2**24

#: mallopt(3), of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class Result(Protocol):
    """What an engine makes of an object."""

    @property
    def body(self) -> bytes | IO[bytes]: ...

    @property
    def content_type(self) -> str: ...

    @property
    def ways(self) -> Mapping[str, int]: ...


class Engine(Protocol):
    """Bytes to bytes; :class:`tvetl_server.engine.Engine` is the one."""

    def transform(
        self, data: bytes | IO[bytes], name: str, arguments: Arguments, deadline: float | None = None
    ) -> Result: ...

    def self_test(self) -> None: ...


class Files(Protocol):
    """Where a file's name leads to; :class:`tvetl_server.serving.source.Files` is the one."""

    def read(self, fqn: str) -> bytes | IO[bytes]: ...


Admit = Callable[[int], None]


@dataclass(frozen=True)
class Answer:
    """A result that came back from a decoder."""

    body: Body
    """For the caller to close, where it is an open file."""
    content_type: str
    bytes_in: int
    #: Seconds.
    read: float
    transformed: float
    ways: Mapping[str, int]
    """Where there is a device, how many images went there, or why not: metrics.WAYS."""


class Decoders:
    """Some decoders, for any number of threads: each object gets one that is free."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        files: Files,
        count: int,
        counts: Metrics,
        not_theirs: Iterable[int] = (),
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Forks: call it before this process has threads.

        ``make_engine`` is called in the nursery, once; raises RuntimeError where it fails (the log says why).
        ``not_theirs`` are descriptors that the new processes shall not keep open: a port would stay taken by whoever
        outlives us. ``lost`` is called when the nursery has died: only a fresh process can have a fresh one.
        """
        self._nursery, theirs = socket.socketpair()
        self._counts = counts
        self._lost = lost
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            with _no_return():
                for descriptor in (self._nursery.fileno(), *not_theirs):
                    os.close(descriptor)
                _Nursery(theirs, make_engine(), files).run()
        theirs.close()
        if not self._nursery.recv(1):
            raise RuntimeError("The process that forks decoders could not start.")
        threading.Thread(target=self._watch, name="nursery's watch", daemon=True).start()
        self._spare = threading.Semaphore(1)
        self._births = threading.Lock()
        self._free = _Free()
        for _ in range(count):
            self._free.put(self._new())

    def transform(
        self, source: Buffer | str, name: str, arguments: Arguments, deadline: float, admit: Admit = lambda _: None
    ) -> Answer:
        """What the engine makes of an object, given by its bytes or its file's name; or its error as Refused.

        The bytes may be changed as soon as it is done, whatever comes of it.

        ``admit`` is called with the size of the result, in bytes, before that is taken over, and may wait or raise.
        A decoder that dies is tried once more with another: it may have been killed for what others did. One object at
        a time may take its decoder's time and no other's: for what it keeps SLOW seconds there is a spare. Raises
        DamagedImage where that dies too, OutOfTime where none is free, or done, before ``deadline`` (on
        time.monotonic()).
        """
        self._counts.waits(1)
        try:
            decoder = self._free.get(max(0.0, deadline - time.monotonic()))
        finally:
            self._counts.waits(-1)
        slow = False

        def is_slow() -> None:
            nonlocal slow
            slow = self._spare.acquire(blocking=False)
            if slow:
                self._free.put(None)

        try:
            for _ in range(2):
                decoder = decoder or self._new()
                try:
                    return decoder.transform(source, name, arguments, deadline, admit, None if slow else is_slow)
                except _DecoderDied:
                    self._end(decoder)
                    decoder = None
                    if time.monotonic() >= deadline:
                        _log.warning("A decoder was ended, as it did not give up in time: %r", name)
                        raise OutOfTime("The object took longer than allowed, and its decoder was ended.") from None
                    _log.warning("A decoder died of %r, or was killed", name)
            raise DamagedImage("The image is damaged, or worse: its decoder died of it, twice.")
        finally:
            if slow:
                # The spare may have its place by now; where nobody wanted that, it takes it again.
                if self._free.take_back():
                    self._free.put(decoder)
                elif decoder:
                    self._end(decoder)
                self._spare.release()
            else:
                self._free.put(decoder)

    def self_test(self) -> None:
        """Decode a real image in one of them; raises what is wrong."""
        self.transform("", "", Arguments(), time.monotonic() + 60)

    def _new(self) -> _Decoder:
        ours, theirs = socket.socketpair()
        decoder = _Decoder(ours)
        try:
            with theirs:
                self._tell(b"", [theirs.fileno(), decoder.outbox])
        except BaseException:
            decoder.close()
            raise
        decoder.born()
        return decoder

    def _end(self, decoder: _Decoder) -> None:
        decoder.close()
        with contextlib.suppress(RuntimeError):
            self._tell(pack(decoder.process))

    def _tell(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            with self._births:
                send(self._nursery, message, descriptors)
        except OSError as error:
            raise RuntimeError("The process that forks decoders is gone.") from error

    def _watch(self) -> None:
        """In a thread: until the nursery is gone; what it has forked goes on."""
        with contextlib.suppress(OSError):
            self._nursery.recv(1)
        _log.error("The process that forks decoders is gone; this worker makes room for another")
        self._lost()


class _DecoderDied(Exception):
    """The connection to a decoder is at its end, or it does not answer."""


class _Decoder:
    """One decoding process, seen from the worker."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        #: Shared memory, for results.
        self.outbox = memory()

        #: Its id; 0 until that is known.
        self.process = 0

    def born(self) -> None:
        """Wait for its first word. Raises RuntimeError where none comes."""
        try:
            self._connection.settimeout(_BIRTH)
            word, _ = receive(self._connection, alone=True)
            self.process = unpack(word or b"")
        except (OSError, ValueError) as error:
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
    ) -> Answer:
        """``is_slow`` is called where the answer takes more than SLOW seconds."""
        given, memory = (source, ()) if isinstance(source, str) else (source.length, (source.descriptor,))
        left = max(0.0, deadline - time.monotonic()) + 4 * GRACE
        try:
            self._connection.settimeout(SLOW if is_slow else left)
            send(self._connection, pack([name, given, _to_list(arguments), deadline]), memory)
            try:
                reply, descriptors = receive(self._connection, alone=True)
            except TimeoutError:
                if not is_slow:
                    raise
                is_slow()
                self._connection.settimeout(left)
                reply, descriptors = receive(self._connection, alone=True)
            code, *rest = unpack(reply or b"")
            problem = problems.BY_CODE[code] if code else None
        except (OSError, ValueError, KeyError) as error:  # also what is no answer: it is not itself any more
            raise _DecoderDied from error
        if problem:
            raise Refused(problem, *rest)
        length, *others = rest
        file = FileBody(descriptors[0], length) if descriptors else None  # closed with it
        try:
            admit(length)
        except BaseException:
            os.ftruncate(self.outbox, 0)
            raise
        return Answer(file or take(self.outbox, length), *others)

    def close(self) -> None:
        """Let it go: it ends at the end of its connection."""
        self._connection.close()
        os.close(self.outbox)


class _Free:
    """Decoders that are free, for who waits longest; None stands for one that is yet to be born."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[_Decoder | None] = []
        self._waiting: deque[_Turn] = deque()

    def put(self, decoder: _Decoder | None) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().give(decoder)
            else:
                self._free.append(decoder)

    def get(self, timeout: float) -> _Decoder | None:
        """The one that was at work last. Raises OutOfTime where there is none within ``timeout`` seconds."""
        with self._lock:
            if self._free:
                return self._free.pop()
            turn = _Turn()
            self._waiting.append(turn)
        if not turn.come(timeout):
            with self._lock:
                if turn in self._waiting:  # else it came this moment
                    self._waiting.remove(turn)
                    raise OutOfTime("The object waited too long for others to be transformed.")
        return turn.decoder

    def take_back(self) -> bool:
        """Take one that is yet to be born; whether there was one."""
        with self._lock:
            found = None in self._free
            if found:
                self._free.remove(None)
            return found


class _Turn:
    """A thread that waits for a decoder."""

    def __init__(self) -> None:
        self.decoder: _Decoder | None = None
        self._come = threading.Lock()
        self._come.acquire()

    def give(self, decoder: _Decoder | None) -> None:
        self.decoder = decoder
        self._come.release()

    def come(self, timeout: float) -> bool:
        return self._come.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


class _Nursery:
    """Forks decoders: on each message, one for the descriptors that come with it."""

    def __init__(self, control: socket.socket, engine: Engine, files: Files) -> None:
        self._control = control
        self._engine = engine
        self._files = files
        self._children: set[int] = set()

    def run(self) -> NoReturn:
        # Ctrl-C and a group's SIGTERM are for the first process, which lets requests finish; we end with the worker.
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(ignored, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, self._bury)
        gc.freeze()  # what is here now stays shared with all of them
        _keep_freed_memory()
        self._control.send(b".")
        while True:
            message, descriptors = receive(self._control)
            if message is None:  # the worker is gone, and nobody waits for what is still worked on
                self._kill(*self._children)
                os._exit(0)
            # A child is known before it is buried, and not buried while it is killed.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            if descriptors:
                self._fork(descriptors)
            else:
                self._kill(unpack(message))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _fork(self, descriptors: Sequence[int]) -> None:
        try:
            child = os.fork()
        except OSError as error:  # no process left, or no memory; who asked sees the end of the connection
            _log.error("A decoder could not be forked: %s", error.strerror)
        else:
            if child == 0:
                with _no_return():
                    self._control.close()
                    self._decode(*descriptors)
            self._children.add(child)
        for descriptor in descriptors:
            os.close(descriptor)

    def _kill(self, *ids: int) -> None:
        for child in self._children.intersection(ids):  # no other: an id may have been given again
            os.kill(child, signal.SIGKILL)

    def _bury(self, *_: object) -> None:
        """A signal's handler: forget the dead. Only now may their ids be given again."""
        with contextlib.suppress(ChildProcessError):
            while dead := os.waitpid(-1, os.WNOHANG)[0]:
                self._children.discard(dead)

    def _decode(self, connection: int, outbox: int) -> NoReturn:
        """The life of a decoder."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # for what steps may start
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever native code it is in
        with contextlib.suppress(OSError):  # no such file: not Linux
            Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_GO), encoding="ascii")
        with socket.socket(fileno=connection) as worker:
            send(worker, pack(os.getpid()))
            while True:
                message, memory = receive(worker, alone=True)
                if message is None:
                    os._exit(0)
                name, source, arguments, deadline = unpack(message)
                signal.setitimer(signal.ITIMER_REAL, max(0.0, deadline - time.monotonic()) + GRACE)
                result: list[IO[bytes]] = []
                try:
                    reply = self._answer(source, memory, outbox, name, _from_list(arguments), deadline, result)
                except Exception as error:  # noqa: BLE001  the worker makes an answer of it
                    problem = problems.problem_of(error)
                    if problem is problems.INTERNAL:
                        _log.error("A bug, at %r", name, exc_info=error)
                    reply = [problem.code, str(error)]
                signal.setitimer(signal.ITIMER_REAL, 0)
                send(worker, pack(reply), [file.fileno() for file in result])
                for file in result:
                    file.close()

    def _answer(
        self,
        source: str | int,
        memory: Sequence[int],
        outbox: int,
        name: str,
        arguments: Arguments,
        deadline: float,
        files: list[IO[bytes]],
    ) -> list[object]:
        """The reply; ``files`` gets the result, where that is an open file. ``memory`` is closed."""
        if not name:
            self._engine.self_test()
            return ["", 0, "", 0, 0.0, 0.0, {}]
        start = time.perf_counter()
        data = self._files.read(source) if isinstance(source, str) else _all_of(memory[0], source)
        then = time.perf_counter()
        with contextlib.nullcontext() if isinstance(data, bytes) else data:
            result = self._engine.transform(data, name, arguments, deadline)
            size = len(data) if isinstance(data, bytes) else os.fstat(data.fileno()).st_size
        if isinstance(result.body, bytes):
            write(outbox, result.body)
            length = len(result.body)
        else:
            files.append(result.body)
            length = os.fstat(result.body.fileno()).st_size
        return ["", length, result.content_type, size, then - start, time.perf_counter() - then, dict(result.ways)]


def _all_of(memory: int, length: int) -> bytes:
    """The bytes of an object in shared memory, which is the worker's own again."""
    try:
        return read(memory, length)
    finally:
        os.close(memory)


def _keep_freed_memory() -> None:
    """From one object to the next: glibc would give it to the kernel, and ask for it again page by page."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # glibc
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the highest there is
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


@contextlib.contextmanager
def _no_return() -> Iterator[None]:
    """In a process just forked: whatever happens, nothing of what its parent would do next is done here."""
    try:
        yield
    except BaseException:  # noqa: BLE001
        _log.exception("A process that decodes ended by itself")
    finally:
        os._exit(1)


def _to_list(arguments: Arguments) -> list[object]:
    """For the way to a decoder; nothing was asked for, mostly."""
    if not arguments.given:
        return []
    return [sorted(arguments.given), *(getattr(arguments, name) for name in _FIELDS[1:])]


def _from_list(values: Sequence[Any]) -> Arguments:
    if not values:
        return Arguments()
    asked = dict(zip(_FIELDS, values, strict=True))
    asked["given"] = frozenset(asked["given"])
    if isinstance(asked["size"], list):
        asked["size"] = tuple(asked["size"])
    return Arguments(**asked)


_FIELDS = ("given", "seed", "epoch", "view", "views", "format", "quality", "size", "pixels")
