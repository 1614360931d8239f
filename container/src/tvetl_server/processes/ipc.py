"""How processes pass objects to each other: messages over a socket, and the bytes that they speak of in shared memory.

A message is a length, then a list in JSON. File descriptors may come with it (SCM_RIGHTS).
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

__all__ = ["Buffer", "Buffers", "memory", "pack", "read", "read_into", "receive", "send", "take", "unpack", "write"]

#: Bytes of shared memory that are kept from one object to the next.
_KEPT = 8 * 2**20

#: Buffers that are kept for the next objects: about as many as are received at a time.
_BUFFERS = 4
#: Bytes of the smallest buffer; the next sizes double.
_SMALLEST = 2**18

_LENGTH = struct.Struct("!I")
#: Bytes asked for at once where a single message comes.
_CHUNK = 65536

#: Kept: json.dumps and json.loads make new ones, and guess the encoding, for each message.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def pack(fields: Sequence[object]) -> bytes:
    """A message for :func:`send`, of anything that JSON has."""
    return _encode(fields).encode("utf-8", "surrogatepass")


def unpack(message: bytes) -> list[object]:
    """The fields of a message; tuples have become lists. Raises ValueError where it is no list."""
    try:
        fields = _decode(message.decode("utf-8", "surrogatepass"))
    except RecursionError as error:
        raise ValueError("a message is not so deep") from error
    if not isinstance(fields, list):
        raise ValueError("a message is a list")
    return fields


def send(connection: socket.socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """The message, and up to three descriptors with it. Raises OSError."""
    framed = _LENGTH.pack(len(message)) + message
    sent = socket.send_fds(connection, [framed], list(descriptors)) if descriptors else connection.send(framed)
    if sent < len(framed):
        connection.sendall(framed[sent:])


def receive(connection: socket.socket, *, alone: bool = False, longest: int = 2**32) -> tuple[bytes | None, list[int]]:
    """The next message and its descriptors; None at the end. No byte of the message after it is read.

    ``alone`` says that no message follows before this one is answered: then one call suffices. A message of more than
    ``longest`` bytes counts as the end.
    """
    data, descriptors, _, _ = socket.recv_fds(connection, _CHUNK if alone else _LENGTH.size, 3)
    message = None
    try:
        message = _completed(connection, data, longest)
    finally:
        if message is None:
            for descriptor in descriptors:
                os.close(descriptor)
    return message, [] if message is None else descriptors


def _completed(connection: socket.socket, data: bytes, longest: int) -> bytes | None:
    """The message that begins with ``data``; None at the end of the connection, and where it is too long."""
    if 0 < len(data) < _LENGTH.size:
        data = _exactly(connection, _LENGTH.size, data)
    if len(data) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end <= longest:
        data = _exactly(connection, end, data)
    return data[_LENGTH.size :] if len(data) == end else None


def _exactly(connection: socket.socket, length: int, data: bytes) -> bytes:
    """``length`` bytes that begin with ``data``; less only at the end of the connection."""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            break
        data += part
    return data


def memory(name: str = "tvetl") -> int:
    """A descriptor of shared memory: an anonymous one, or a deleted file where the system has no such memory."""
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write(descriptor: int, data: bytes | memoryview) -> None:
    """To the beginning of shared memory, which grows."""
    done = os.pwrite(descriptor, data, 0)
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done:], done)


def read(descriptor: int, length: int) -> bytes:
    """The first bytes of shared memory. Raises RuntimeError where it has fewer."""
    data = os.pread(descriptor, length, 0)
    while len(data) < length:
        part = os.pread(descriptor, length - len(data), len(data))
        if not part:
            raise RuntimeError("There is less in shared memory than was said.")
        data += part
    return data


def take(descriptor: int, length: int) -> bytes:
    """As :func:`read`; memory that is too large to keep is then freed."""
    data = read(descriptor, length)
    if length > _KEPT:
        os.ftruncate(descriptor, 0)
    return data


def read_into(descriptor: int, data: memoryview) -> None:
    """Fill ``data`` from the beginning of shared memory. Raises RuntimeError where it has fewer bytes."""
    done = os.preadv(descriptor, [data], 0)
    while done < len(data):
        part = os.preadv(descriptor, [data[done:]], done)
        if not part:
            raise RuntimeError("There is less in shared memory than was said.")
        done += part


class Buffer:
    """Shared memory into which an object is received, so that a decoder needs no copy of it."""

    def __init__(self) -> None:
        self.descriptor = memory()
        if hasattr(fcntl, "F_ADD_SEALS"):  # if a decoder could shrink it, reading our map would end this process
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        #: Bytes of the object.
        self.length = 0
        self._map: mmap.mmap | None = None

    def room(self, size: int) -> memoryview:
        """The first ``size`` bytes, to be written; their content is kept."""
        if self._map is None or len(self._map) < size:
            # The kernel allocates only the pages that are written. Views of the old map keep that.
            capacity = max(_SMALLEST, 1 << (size - 1).bit_length())
            os.ftruncate(self.descriptor, capacity)
            self._map = mmap.mmap(self.descriptor, capacity)
        return memoryview(self._map)[:size]

    def is_small(self) -> bool:
        return self._map is None or len(self._map) <= _KEPT

    def close(self) -> None:
        self._map = None
        os.close(self.descriptor)


class Buffers:
    """A worker's pool of buffers, for any number of threads."""

    def __init__(self) -> None:
        self._kept: list[Buffer] = []

    def get(self) -> Buffer:
        try:
            return self._kept.pop()  # the one returned last, as its memory is still in a cache
        except IndexError:
            return Buffer()

    def put(self, buffer: Buffer) -> None:
        """Return one that no process reads any more."""
        if len(self._kept) < _BUFFERS and buffer.is_small():
            self._kept.append(buffer)
        else:
            buffer.close()
