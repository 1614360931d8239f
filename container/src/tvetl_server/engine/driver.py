"""Checks that this process can use an NVIDIA GPU, and explains to whoever set up the pod why not.

It asks the driver (libcuda.so.1, the CUDA driver API), so it needs no torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from tvetl.errors import TvetlError

__all__ = ["DeviceError", "check_driver"]

_DRIVER = "libcuda.so.1"

#: What cuInit gives (CUresult in cuda.h), and what that means in a container.
_MEANING: Mapping[int, str] = {
    46: "the GPU is taken by another process, or is in a mode for one process alone",
    100: "the driver sees no GPU",
    101: "CUDA_VISIBLE_DEVICES names a GPU that is not here",
    802: "the node's GPUs are not ready yet: its fabric manager may not run",
    803: "the node's driver and its libraries are of different versions: it may need to be restarted",
    804: "this container's CUDA compatibility libraries do not fit the GPU",
    999: "the driver gives no reason: the node's log (dmesg, NVRM lines) may",
}


class DeviceError(TvetlError):
    """There is no usable device."""

    exit_code = 2


def check_driver(visible: str | None, needed: tuple[int, int]) -> int:
    """The number of GPUs for this process, at least one.

    ``visible`` is CUDA_VISIBLE_DEVICES, ``needed`` the CUDA version that our libraries are built for. Raises
    DeviceError.
    """
    if visible is not None and visible.strip() in ("", "-1"):
        raise DeviceError(
            f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU",
            hint="Leave it out: a container sees only the GPUs that it asked for.",
        )
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise DeviceError(
            "there is no NVIDIA driver in this container",
            hint="Ask for a GPU (resources.limits: nvidia.com/gpu: 1) on a node that has one; where containers get it "
            "only so, with a runtimeClassName, too (often: nvidia). TVETL_WITHOUT_DEVICE=cpu serves without one.",
        ) from error
    result = driver.cuInit(0)
    count = ctypes.c_int(0)
    if result == 0:
        result = driver.cuDeviceGetCount(ctypes.byref(count)) or (0 if count.value else 100)
    if result:
        seen = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
        raise DeviceError(
            f"no GPU can be used: {_MEANING.get(result, 'CUDA says no')} (CUDA error {result}){seen}",
            hint="`kubectl describe node` shows what the node offers, `nvidia-smi` on it what its driver sees.",
        )
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = divmod(version.value // 10, 100)
    # Within a major version newer libraries run on an older driver (CUDA's minor version compatibility).
    if major < needed[0]:
        raise DeviceError(
            f"the node's driver is for CUDA {major}.{minor}, this image is built for {needed[0]}.{needed[1]}",
            hint="Take a newer driver on the node, or an image for its CUDA version.",
        )
    return count.value
