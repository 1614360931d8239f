"""Messages and shared memory between processes: whole, apart, and never beyond their end."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest
from support.alone import descriptors

from tvetl_server.processes import ipc


def test_reading_beyond_shared_memory_is_an_error() -> None:
    memory = ipc.memory()
    ipc.write(memory, b"abc")
    assert ipc.read(memory, 3) == b"abc"
    with pytest.raises(RuntimeError):
        ipc.read(memory, 4)
    os.close(memory)


def test_a_message_in_pieces_is_one_message() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        framed = ipc._LENGTH.pack(200_000) + b"x" * 200_000

        def drip() -> None:
            for at in range(0, len(framed), 7001):
                ours.sendall(framed[at : at + 7001])
            ours.close()

        sender = threading.Thread(target=drip)
        sender.start()
        assert ipc.receive(theirs) == (b"x" * 200_000, [])
        assert ipc.receive(theirs) == (None, [])
        sender.join()
    assert json.loads(ipc.pack(["\udcff"])) == ["\udcff"]


def test_messages_sent_back_to_back_stay_apart() -> None:
    """The fork server sends no answer: a worker may tell it to kill a decoder and ask for another at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ipc.send(ours, b"1")
        ipc.send(ours, b"", [ours.fileno()])
        ipc.send(ours, b"23")
        first, second, third = (ipc.receive(theirs) for _ in range(3))
        assert (first, third) == ((b"1", []), (b"23", []))
        assert (second[0], len(second[1])) == (b"", 1)
        os.close(second[1][0])


def test_descriptors_of_a_message_that_breaks_off_are_closed() -> None:
    """Its rest comes too late, or the sender has ended."""
    for late in (True, False):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.settimeout(0.05 if late else None)
            before = descriptors()
            socket.send_fds(ours, [ipc._LENGTH.pack(100) + b"x"], [0, 1])
            if late:
                with pytest.raises(TimeoutError):
                    ipc.receive(theirs, alone=True)
            else:
                ours.shutdown(socket.SHUT_WR)
                assert ipc.receive(theirs, alone=True) == (None, [])
            assert descriptors() == before
