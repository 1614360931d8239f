"""The messages between decoders, the device's process, its supervisor and the server's first process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from tvetl_server.engine.device_request import DeviceRequest, DeviceSteps
from tvetl_server.engine.driver import DeviceError
from tvetl_server.engine.pixels import Array, Encoded
from tvetl_server.processes.ipc import pack, unpack

__all__ = [
    "READY",
    "Part",
    "pack_error",
    "pack_reply",
    "pack_request",
    "unpack_error",
    "unpack_reply",
    "unpack_request",
]

#: The device is up: from its process to the supervisor, and from there to the first process.
READY = b"."


def pack_error(error: DeviceError) -> bytes:
    """In place of READY: there is no device."""
    return pack([error.message, error.hint])


def unpack_error(message: bytes) -> DeviceError:
    reason, hint = cast("list[str]", unpack(message))
    return DeviceError(reason, hint=hint)


def pack_request(request: DeviceRequest) -> bytes:
    """A request whose file is in shared memory. Its deadline is not sent: only the decoder waits."""
    return pack([len(request.data), request.size, request.steps, request.jpeg, request.resized])


def unpack_request(message: bytes, file: Callable[[int], bytes | memoryview]) -> DeviceRequest:
    """``file`` reads that many bytes from shared memory. Raises ValueError or TypeError where this is no request."""
    length, (width, height), steps, jpeg, resized = cast(
        "tuple[int, list[int], list[DeviceSteps], list[int | str | None], int | list[int] | None]", unpack(message)
    )
    encoding = cast("tuple[int, str | None]", tuple(jpeg)) if jpeg else None
    size = cast("tuple[int, int]", tuple(resized)) if isinstance(resized, list) else resized
    return DeviceRequest(file(length), (width, height), steps, encoding, size)


@dataclass
class Part:
    """One result in shared memory: an encoded file, or an array."""

    length: int
    kind: str = ""
    """An array's dtype, as numpy writes it; empty for a file."""
    shape: Sequence[int] = ()

    @classmethod
    def of(cls, result: Array | Encoded) -> tuple[Part, bytes]:
        """The description, and the bytes."""
        if isinstance(result, bytes):
            return cls(len(result)), result
        data = np.ascontiguousarray(result).tobytes()
        return cls(len(data), result.dtype.str, result.shape), data

    def result(self, data: memoryview) -> Array | Encoded:
        """The reverse. An array is a view of ``data``."""
        return np.frombuffer(data, self.kind).reshape(self.shape) if self.kind else bytes(data)


def pack_reply(parts: Sequence[Part]) -> bytes:
    """The reply to a request: one part a view, in the order of their bytes. No part: the device refuses it."""
    return pack([(part.length, part.kind, part.shape) for part in parts])


def unpack_reply(message: bytes) -> list[Part]:
    return [Part(*part) for part in cast("list[tuple[int, str, Sequence[int]]]", unpack(message))]
