"""How our processes hand objects to each other: messages on a socket, and what they speak of in shared memory.

A message is a length, then JSON; descriptors may come along (SCM_RIGHTS).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import Any

__all__ = [
    "Buffer",
    "Buffers",
    "memory",
    "pack",
    "read",
    "read_into",
    "receive",
    "send",
    "take",
    "unpack",
    "write",
]

#: Bytes of shared memory that are kept from one object to the next.
_KEPT = 8 * 2**20

#: Buffers that are kept for the next objects: about as many as are received at a time.
_WAITING = 4
#: Bytes of the smallest; the next are twice as large each.
_SMALLEST = 2**18

_LENGTH = struct.Struct("!I")
#: Bytes asked for where one message comes.
_AT_ONCE = 65536

#: json.dumps and json.loads make these anew, and guess the encoding, for each message.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def pack(message: object) -> bytes:
    """For :func:`send`: anything that JSON has."""
    return _encode(message).encode("utf-8", "surrogatepass")


def unpack(message: bytes) -> Any:  # noqa: ANN401  JSON, of our own making
    """Raises ValueError where it is none."""
    return _decode(message.decode("utf-8", "surrogatepass"))


def send(connection: socket.socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """The message, and up to three descriptors with it. Raises OSError."""
    framed = _LENGTH.pack(len(message)) + message
    sent = socket.send_fds(connection, [framed], list(descriptors)) if descriptors else connection.send(framed)
    if sent < len(framed):
        connection.sendall(framed[sent:])


def receive(connection: socket.socket, *, alone: bool = False) -> tuple[bytes | None, list[int]]:
    """The next message and what came with it, and no byte of the one behind it; None at the end.

    ``alone`` says that there is none behind it, as each is answered before the next is sent: then one call does.
    """
    data, descriptors, _, _ = socket.recv_fds(connection, _AT_ONCE if alone else _LENGTH.size, 3)
    if 0 < len(data) < _LENGTH.size:
        data = _exactly(connection, _LENGTH.size, data)
    if len(data) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        data = _exactly(connection, end, data)
        if len(data) == end:
            return data[_LENGTH.size :], descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    return None, []


def _exactly(connection: socket.socket, length: int, data: bytes) -> bytes:
    """``length`` bytes, of which ``data`` is there already; less only at the end."""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            break
        data += part
    return data


def memory() -> int:
    """A descriptor of memory that has no name; of a file that has none where the system knows no such memory."""
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create("tvetl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Put it at the beginning of shared memory, which grows."""
    done = os.pwrite(descriptor, data, 0)
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done:], done)


def read(descriptor: int, length: int) -> bytes:
    """The first bytes of shared memory. Raises RuntimeError where there are less."""
    data = os.pread(descriptor, length, 0)
    while len(data) < length:
        part = os.pread(descriptor, length - len(data), len(data))
        if not part:
            raise RuntimeError("There is less in shared memory than was said.")
        data += part
    return data


def take(descriptor: int, length: int) -> bytes:
    """The same, for the last time: what is too large to keep is given back."""
    data = read(descriptor, length)
    if length > _KEPT:
        os.ftruncate(descriptor, 0)
    return data


def read_into(descriptor: int, data: memoryview) -> None:
    """The beginning of shared memory into memory of ours, all of it. Raises RuntimeError where there is less."""
    done = os.preadv(descriptor, [data], 0)
    while done < len(data):
        part = os.preadv(descriptor, [data[done:]], done)
        if not part:
            raise RuntimeError("There is less in shared memory than was said.")
        done += part


class Buffer:
    """Shared memory in which an object is received: what comes in has its place there from the first."""

    def __init__(self) -> None:
        self.descriptor = memory()
        if hasattr(fcntl, "F_ADD_SEALS"):  # a decoder has it, too: if that made it smaller, our map would end with us
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        #: Bytes of the object.
        self.length = 0
        self._map: mmap.mmap | None = None

    def room(self, size: int) -> memoryview:
        """The first ``size`` bytes, to be written; what was in them is kept."""
        if self._map is None or len(self._map) < size:
            # The kernel gives memory for what is written, not for what could be. Views of the old map keep that.
            there = max(_SMALLEST, 1 << (size - 1).bit_length())
            os.ftruncate(self.descriptor, there)
            self._map = mmap.mmap(self.descriptor, there)
        return memoryview(self._map)[:size]

    def is_small(self) -> bool:
        return self._map is None or len(self._map) <= _KEPT

    def close(self) -> None:
        self._map = None
        os.close(self.descriptor)


class Buffers:
    """Those of a worker. For any number of threads."""

    def __init__(self) -> None:
        self._kept: list[Buffer] = []

    def get(self) -> Buffer:
        try:
            return self._kept.pop()  # the one that was given back last, as its memory is still in a cache
        except IndexError:
            return Buffer()

    def put(self, buffer: Buffer) -> None:
        """Nobody reads it any more."""
        if len(self._kept) < _WAITING and buffer.is_small():
            self._kept.append(buffer)
        else:
            buffer.close()
