"""The pool of decoders: results, errors, crashes, hangs, and leaks."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.alone import alone, descriptors

from tvetl.spec import Arguments
from tvetl_server.errors import DamagedImage, FileGone, NotAnImage, OutOfTime
from tvetl_server.metrics import Metrics
from tvetl_server.problems import Refused
from tvetl_server.processes import ipc
from tvetl_server.processes.decoders import Decoders
from tvetl_server.processes.jail import Jail

PATIENCE = 60.0


@dataclass
class Made:
    body: bytes
    content_type: str = "text/plain"
    ways: Mapping[str, int] = field(default_factory=dict)


def shown(arguments: Arguments) -> str:
    return f"{sorted(arguments.given)} {replace(arguments, given=frozenset())}"


class Words:
    """An engine that does what the object's bytes say."""

    def self_test(self) -> None:
        pass

    def transform(self, data: bytes, name: str, arguments: Arguments, deadline: float | None = None) -> Made:
        word, _, rest = data.partition(b" ")
        if word == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == b"die-once":
            path = Path(rest.decode())
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if word == b"sleep":
            time.sleep(float(rest))
        if word == b"refuse":
            raise NotAnImage("no image")
        if word == b"bug":
            raise ZeroDivisionError
        if word == b"large":
            return Made(b"x" * int(rest))
        if word == b"who":
            return Made(b"%d" % os.getpid())
        if word == b"arguments":
            return Made(shown(arguments).encode())
        return Made(data[::-1])


class Folder:
    def read(self, fqn: str) -> bytes:
        if fqn == "/gone":
            raise FileGone("gone")
        return fqn.encode("utf-8", "surrogateescape")


@pytest.fixture
def make() -> Iterator[Callable[..., Decoders]]:
    with ExitStack() as stack:

        def some(count: int = 1, lost: Callable[[], None] = lambda: None) -> Decoders:
            made = Decoders(Words, Folder(), count, Metrics(), Jail("off"), (), lost)
            stack.callback(_close, made, parent(int(does(made, b"who"))))
            return made

        yield some


def _close(made: Decoders, forkserver: int) -> None:
    """As at the end of the worker, whose descriptors are closed with it."""
    made._forkserver._connection.shutdown(socket.SHUT_RDWR)
    os.waitpid(forkserver, 0)
    for decoder in made._free._free:
        if decoder:
            decoder.close()


def parent(process: int) -> int:
    """The id of the process that forked it."""
    return int(Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


def does(some: Decoders, source: bytes | str, seconds: float = PATIENCE, **more: Any) -> bytes:
    asked = more.pop("arguments", Arguments())
    given = source if isinstance(source, str) else received(source)
    try:
        return some.transform(given, "src/a", asked, time.monotonic() + seconds, **more).body
    finally:
        if not isinstance(given, str):
            given.close()


def received(data: bytes) -> ipc.Buffer:
    """A buffer as it is after a body was received."""
    buffer = ipc.Buffer()
    buffer.room(max(1, len(data)))[: len(data)] = data
    buffer.length = len(data)
    return buffer


def test_an_object_may_be_bytes_or_the_name_of_a_file(make: Callable[..., Decoders]) -> None:
    some = make()
    given = received(b"abc")
    answer = some.transform(given, "src/a", Arguments(), time.monotonic() + PATIENCE)
    given.close()
    assert (answer.body, answer.content_type, answer.bytes_in) == (b"cba", "text/plain", 3)
    assert answer.read >= 0 <= answer.transformed
    assert does(some, "/ab\udcff") == b"\xffba/"
    assert does(some, b"") == b""


def test_arguments_arrive_as_they_were(make: Callable[..., Decoders]) -> None:
    some = make()
    for asked in (
        Arguments(),
        Arguments(seed=2**63, size=(3, 4), given=frozenset({"seed", "size"})),
        Arguments(epoch=1, view=2, format="npy", size=5, given=frozenset({"epoch", "view", "format", "size"})),
    ):
        assert does(some, b"arguments", arguments=asked).decode() == shown(asked)


def test_one_decoder_serves_one_object_after_the_other(make: Callable[..., Decoders]) -> None:
    some = make()
    assert len({does(some, b"who") for _ in range(5)}) == 1


def test_errors_keep_their_codes(make: Callable[..., Decoders]) -> None:
    some = make()
    for source, code in ((b"refuse", "not_an_image"), ("/gone", "file_gone"), (b"bug", "internal")):
        with pytest.raises(Refused) as refused:
            does(some, source)
        assert refused.value.problem.code == code
    assert does(some, b"ab") == b"ba", "none of them ends the decoder"


def test_a_crash_costs_its_own_object_after_a_second_try(make: Callable[..., Decoders], tmp_path: Path) -> None:
    some = make()
    with pytest.raises(DamagedImage):
        does(some, b"die")
    assert does(some, b"ab") == b"ba"
    assert does(some, b"die-once %s" % os.fsencode(tmp_path / "died")) != b"", "it is tried once more"


def test_an_idle_decoder_that_is_killed_costs_no_object(make: Callable[..., Decoders]) -> None:
    some = make()
    for _ in range(5):
        os.kill(int(does(some, b"who")), signal.SIGKILL)
        assert does(some, b"ab") == b"ba"


def test_a_decoder_that_does_not_read_is_replaced_before_the_deadline(make: Callable[..., Decoders]) -> None:
    some = make()
    os.kill(int(does(some, b"who")), signal.SIGSTOP)
    long = Arguments(like="b/" + "x" * 10**6, given=frozenset({"like"}))  # more than its socket holds
    assert does(some, b"ab", seconds=8, arguments=long) == b"ba"


def test_a_decoder_beyond_the_deadline_is_ended(make: Callable[..., Decoders]) -> None:
    some = make()
    before = int(does(some, b"who"))
    with pytest.raises(OutOfTime):
        does(some, b"sleep 100", seconds=0.3)
    end = time.monotonic() + PATIENCE
    while Path(f"/proc/{before}/cmdline").exists() and time.monotonic() < end:
        does(some, b"ab")  # gives the fork server time to reap it
        if Path(f"/proc/{before}/stat").exists() and " Z " in Path(f"/proc/{before}/stat").read_text():
            break
        time.sleep(0.01)
    assert int(does(some, b"who")) != before


def test_an_object_that_gets_no_decoder_in_time_is_an_error(make: Callable[..., Decoders]) -> None:
    some = make()
    some._spare.acquire()
    busy = threading.Thread(target=does, args=(some, b"sleep 2"))
    busy.start()
    time.sleep(0.2)
    with pytest.raises(OutOfTime, match="waited too long"):
        does(some, b"ab", seconds=0.3)
    busy.join()
    assert does(some, b"ab") == b"ba"


def test_a_slow_object_leaves_its_place_to_a_spare_decoder(make: Callable[..., Decoders]) -> None:
    """The spare is released: the next slow object gets it again."""
    some = make()
    for _ in range(2):
        done: list[bytes] = []
        slow = threading.Thread(target=lambda found: found.append(does(some, b"sleep 2")), args=(done,))
        slow.start()
        time.sleep(0.1)
        assert does(some, b"ab", seconds=1.5) == b"ba"
        assert not done
        slow.join()
        assert done == [b"2 peels"]
    assert len(some._free._free) == 1


def test_a_result_that_is_not_admitted_is_dropped(make: Callable[..., Decoders]) -> None:
    some = make()

    def full(size: int) -> None:
        assert size == 10**6
        raise OutOfTime("full")

    with pytest.raises(OutOfTime):
        does(some, b"large 1000000", admit=full)
    assert does(some, b"ab") == b"ba"


def test_memory_of_large_objects_is_freed(make: Callable[..., Decoders]) -> None:
    some = make()
    assert len(does(some, b"large %d" % (20 * 2**20))) == 20 * 2**20
    assert does(some, b"x" * 20 * 2**20) == b"x" * 20 * 2**20
    decoder = some._free.get(1)
    assert decoder is not None
    assert os.fstat(decoder.outbox).st_size == 0
    some._free.put(decoder)


@pytest.mark.parametrize(
    "reply",
    [
        b'["no such code", "x"]',
        b"[" * 100_000,
        b'["damaged_image", ["x"]]',
        b'["", 1099511627776, "image/png", 1, 0.1, 0.1, {}]',  # more than there is
        b'["", -1, "image/png", 1, 0.1, 0.1, {}]',
        b'["", 0, "image/png\\r\\nSet-Cookie: a", 1, 0.1, 0.1, {}]',
        b'["", 0, "image/png", 1, NaN, 0.1, {}]',
        b'["", 0, "image/png", "1", 0.1, 0.1, {}]',
        b'["", 0, "image/png", 1, 0.1, 0.1, {"device": -1}]',
    ],
)
def test_a_reply_that_is_nonsense_counts_as_a_death(make: Callable[..., Decoders], reply: bytes) -> None:
    """Also one by which a decoder that was taken over would spoil a header, a sum, or memory."""
    some = make()
    does(some, b"ab")
    decoder = some._free.get(1)
    assert decoder is not None
    ours, theirs = socket.socketpair()
    decoder._socket.close()
    decoder._socket = ours
    ipc.send(theirs, reply)
    some._free.put(decoder)
    assert does(some, b"ab") == b"ba"
    theirs.close()


def test_descriptors_that_come_with_nonsense_are_closed(make: Callable[..., Decoders]) -> None:
    """And what is no file is no result."""
    some = make()
    does(some, b"ab")
    here, there = os.pipe()
    before = descriptors()
    for reply in (b"nonsense", b'["", 1, "image/png", 1, 0.1, 0.1, {}]'):
        decoder = some._free.get(1)
        assert decoder is not None
        ours, theirs = socket.socketpair()
        decoder._socket.close()
        decoder._socket = ours
        ipc.send(theirs, reply, [here, there, here])
        some._free.put(decoder)
        assert does(some, b"ab") == b"ba"
        theirs.close()
    gc.collect()
    assert not [new for new in descriptors() - before if new[1].startswith("pipe:")]
    os.close(here)
    os.close(there)


def test_an_engine_that_cannot_be_made_is_an_error_at_once() -> None:
    def no() -> None:
        raise MemoryError

    def promise() -> None:
        with pytest.raises(RuntimeError, match="could not start"):
            Decoders(no, Folder(), 1, Metrics(), Jail("off"))  # type: ignore[arg-type]
        os.wait()

    alone(promise)


def test_the_end_of_the_fork_server_is_noticed_and_its_decoders_go_on(make: Callable[..., Decoders]) -> None:
    heard = threading.Event()
    some = make(lost=heard.set)
    child = int(does(some, b"who"))
    os.kill(parent(child), signal.SIGKILL)
    assert heard.wait(PATIENCE)
    assert int(does(some, b"who")) == child
    with pytest.raises(RuntimeError):
        does(some, b"die")


def test_all_decoders_end_with_the_worker_even_busy_ones(make: Callable[..., Decoders]) -> None:
    some = make(2)

    def hang() -> None:
        with pytest.raises(RuntimeError):
            does(some, b"sleep 100")

    asked = threading.Thread(target=hang)
    asked.start()
    child = int(does(some, b"who"))
    time.sleep(0.1)
    some._forkserver._connection.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + PATIENCE
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()
    asked.join(PATIENCE)
    assert not asked.is_alive()


def test_replaced_decoders_leak_no_descriptor() -> None:
    def promise() -> None:
        before = descriptors()
        some = Decoders(Words, Folder(), 1, Metrics(), Jail("off"))
        for _ in range(20):
            os.kill(int(does(some, b"who")), signal.SIGKILL)
            does(some, b"ab")
        gc.collect()
        # The connections to the fork server and to the last decoder, and that one's memory for results.
        assert len(descriptors() - before) == 3

    alone(promise)


def test_a_fork_server_ends_without_an_error_while_its_decoders_end_too(capfd: pytest.CaptureFixture[str]) -> None:
    """All of them see the worker's end at once: some decoders are gone before the fork server kills them."""

    def promise() -> None:
        logging.basicConfig(force=True)  # to stderr, and not to pytest
        Decoders(Words, Folder(), 32, Metrics(), Jail("off"), (kept,))

    for _ in range(10):
        ended, kept = os.pipe()
        alone(promise)
        os.close(kept)
        assert not os.read(ended, 1)  # the last of these processes has ended
        os.close(ended)
    assert "Traceback" not in capfd.readouterr().err


def test_more_requests_than_decoders_are_all_answered(make: Callable[..., Decoders]) -> None:
    some = make(2)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(does(some, b"ab"))) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"ba"] * 50


def test_a_slow_decoder_is_kept_where_no_spare_was_needed(make: Callable[..., Decoders]) -> None:
    some = make(1)
    before = does(some, b"who")
    does(some, b"sleep 1")
    assert does(some, b"who") == before
