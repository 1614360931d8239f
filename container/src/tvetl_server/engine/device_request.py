"""The request of an engine to a device, and the interface of a device. Both sides import this module."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvetl_server.engine.pixels import Array, Encoded, Size

__all__ = ["DEVICE", "Device", "DeviceRequest", "DeviceSteps", "NotByDevice"]

DeviceSteps = list[list[Any]]
"""The steps of one view, as JSON has them: each is a name and its arguments. The names are:

- ``crop``, left, top, right, bottom: of the source. It comes first or not at all.
- ``resize``, [width, height], filter, [left, top, right, bottom], mirrored, table: the box is kept of the result.
- ``look_up``, table.
- A function of torchvision.transforms.v2.functional, with its arguments behind the image.
- ``torchvision``, seed: alone. The whole pipeline by torchvision itself, after torch.manual_seed.

A table is its number among the pipeline's tables, or -1 for none.
"""

#: The way of an image that a device did, beside the reasons of NotByDevice.
DEVICE = "device"


class NotByDevice(Exception):
    """The CPU does this image; the message is the reason: format, step, refused, late or lost."""


@dataclass(frozen=True)
class DeviceRequest:
    """One image, for a device."""

    data: bytes | memoryview
    """A baseline JPEG, of one or three components."""
    size: Size
    steps: Sequence[DeviceSteps]
    """Of each view."""
    jpeg: tuple[int, str | None] | None
    """Quality and subsampling, where the device may encode its images. None: pixels are wanted."""
    resized: int | tuple[int, int] | None
    """The request's ``size``, in place of the pipeline's."""
    deadline: float | None = None
    """On time.monotonic()."""


class Device(Protocol):
    """A device beside the CPU that decodes and transforms; :class:`tvetl_server.processes.device.Link` leads to one."""

    def transform(self, request: DeviceRequest) -> Sequence[Array | Encoded]:
        """One result a view: a file, uint8 of (H, W, 3) or (H, W) for an image, or a (C, H, W) tensor.

        Raises NotByDevice where there is no result, whatever the cause.
        """
        ...

    def cpu_slot(self) -> contextlib.AbstractContextManager[None]:
        """Held while the CPU does an image instead, so that no more run at once than there are processors."""
        ...
