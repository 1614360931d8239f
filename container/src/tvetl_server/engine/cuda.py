"""Batches of images on a GPU: nvImageCodec decodes and encodes, torchvision's functions transform tensors there.

Draws, boxes and steps are the CPU's, from :class:`DeviceRequest`. The pixels are close to torchvision's on PIL images,
not equal; docs/gpu.md says how far they differ. With "host" for a device the same code runs on the CPU. Only one thread
may call it.
"""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from nvidia import nvimgcodec
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from tvetl.spec import Arguments, Pipeline, forms, with_arguments
from tvetl.spec.compose import to_transform
from tvetl.spec.pointwise import CLOSES, OPENS
from tvetl_server.engine.device_request import DeviceRequest, DeviceSteps
from tvetl_server.engine.driver import DeviceError, check_driver
from tvetl_server.engine.pixels import Array, Encoded
from tvetl_server.engine.plans import tables
from tvetl_server.settings import DeviceKind

__all__ = ["DeviceLost", "Gpu"]

_log = logging.getLogger(__name__)

#: Bytes of memory that one pixel of a source may take on its way: decoded (3), as float32 for the resize (12), halfway
#: through it (up to 12), and room for what allocators keep.
_BYTES_A_PIXEL = 40
#: Pixels of a batch on the CPU.
_HOST_PIXELS = 2**26

#: The functions that steps may name.
_FUNCTIONS: Mapping[str, Callable[..., torch.Tensor]] = {
    "adjust_brightness": F.adjust_brightness,
    "adjust_contrast": F.adjust_contrast,
    "adjust_hue": F.adjust_hue,
    "adjust_saturation": F.adjust_saturation,
    "adjust_sharpness": F.adjust_sharpness,
    "autocontrast": F.autocontrast,
    "equalize": F.equalize,
    "horizontal_flip": F.horizontal_flip,
    "invert": F.invert,
    "pad": F.pad,
    "posterize": F.posterize,
    "solarize": F.solarize,
    "vertical_flip": F.vertical_flip,
}
#: Of Pillow's filters, what torch has on tensors. Pillow has one nearest, which is torch's exact one.
_FILTERS: Mapping[str, Mapping[str, Any]] = {
    "nearest": {"mode": "nearest-exact"},
    "bilinear": {"mode": "bilinear", "antialias": True},
    "bicubic": {"mode": "bicubic", "antialias": True},
}
#: Transforms kept for the ``size`` of requests.
_KEPT = 64

_NVJPEG = "It needs nvJPEG (the nvidia-nvjpeg wheel), which the image's cuda variant has."

_SUBSAMPLING = {
    None: nvimgcodec.ChromaSubsampling.CSS_420,
    "4:2:0": nvimgcodec.ChromaSubsampling.CSS_420,
    "4:2:2": nvimgcodec.ChromaSubsampling.CSS_422,
    "4:4:4": nvimgcodec.ChromaSubsampling.CSS_444,
}


class DeviceLost(Exception):
    """The device no longer answers in this process; another process may still reach it."""


class _Unsupported(Exception):
    """A step that is not defined on tensors."""


@dataclass(frozen=True)
class _Pending:
    """The steps that a view still needs. One call does them for all views that need the same, as each call costs."""

    rounded: bool = False
    """From float32, as a resize leaves them, to whole numbers."""
    mirrored: bool = False
    table: int = -1
    """The table to be looked up, or none."""


_NONE_PENDING = _Pending()


@dataclass(eq=False)
class _View:
    """One view on its way."""

    request: DeviceRequest
    steps: DeviceSteps
    pixels: torch.Tensor | None = None
    """(C, H, W); None where the device cannot do it."""
    pending: _Pending = _NONE_PENDING
    result: Array | Encoded | None = None


class Gpu:
    """The first GPU that is visible, or with ``where`` "host" the CPU, ready for batches."""

    def __init__(self, where: DeviceKind, pipeline: Pipeline, visible: str | None = None) -> None:
        """``visible`` is CUDA_VISIBLE_DEVICES. Raises DeviceError where there is none that can be used."""
        self._device = torch.device("cuda:0" if where == "cuda" else "cpu")
        #: The device's name and memory, for people.
        self.about = "the CPU in place of a GPU"
        #: Pixels of the sources that may go together.
        self.pixels = _HOST_PIXELS
        if where == "cuda":
            free, total = _open(self._device, visible)
            name = torch.cuda.get_device_properties(self._device).name  # of a MIG slice, with its size
            self.about = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            self.pixels = int(free / _BYTES_A_PIXEL)
        kinds = nvimgcodec.BackendKind
        backends = [kinds.CPU_ONLY] if where == "host" else [kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU]
        number = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if where == "host" else self._device.index
        allowed = [nvimgcodec.Backend(kind) for kind in backends]
        # The interpolation of colours that libjpeg has.
        self._decoder = nvimgcodec.Decoder(device_id=number, backends=allowed, options=":fancy_upsampling=1")
        self._encoder = nvimgcodec.Encoder(device_id=number, backends=allowed)
        self._decoding = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)
        self._pipeline = pipeline
        self._gives_images = [*forms(pipeline)][-1].kind == "pil"
        self._tables = [torch.from_numpy(table.values).to(self._device) for table in tables(pipeline)]
        self._steps = lru_cache(_KEPT)(self._make_steps)
        self._try_out()

    def _try_out(self) -> None:
        """Decode, resize and encode an image, which also loads what the first batch would wait for."""
        file = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
        view = _View(DeviceRequest(file.getvalue(), (256, 256), [], (75, None), None), [["crop", 16, 8, 240, 208]])
        try:
            self._decode([view])
            if view.pixels is None:
                raise DeviceError("nvImageCodec does not decode on the device", hint=_NVJPEG)
            view.pixels = _resized(view.pixels, (224, 224), "bilinear", (0, 0, 224, 224))
            view.pending = _Pending(rounded=True, mirrored=True)
            self._finish([view])
            self._encoded([view.pixels], 75, None)
        except RuntimeError as error:
            raise DeviceError(f"an image cannot be transformed on the device: {str(error).splitlines()[0]}") from error

    def run(self, requests: Sequence[DeviceRequest]) -> list[list[Array | Encoded] | None]:
        """One batch: a list of results for each request, one a view.

        A result is a JPEG, uint8 of (H, W, 3) or (H, W) where the pipeline ends in an image, or else (C, H, W). None
        stands for an image that the device cannot do: damaged, of another kind, or too large. Raises DeviceLost.
        """
        try:
            return self._run_batch(requests)
        except Exception as error:  # noqa: BLE001  one of them, or memory; whichever it is, the others shall not suffer
            self._probe(error)
        if len(requests) == 1:
            return [None]
        half = len(requests) // 2
        return self.run(requests[:half]) + self.run(requests[half:])

    def _probe(self, error: Exception) -> None:
        """Raises DeviceLost unless the device still computes."""
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        _log.warning("A batch failed on the device and is tried in halves: %s", reason)
        if self._device.type == "cpu":
            return
        try:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            if int(torch.ones(2, device=self._device).sum()) != 2:
                raise DeviceLost(reason)
        except Exception as worse:
            raise DeviceLost(reason) from worse

    def _run_batch(self, requests: Sequence[DeviceRequest]) -> list[list[Array | Encoded] | None]:
        by_request = [[_View(request, steps) for steps in request.steps] for request in requests]
        views = [view for each in by_request for view in each]
        with torch.inference_mode():
            self._decode(views)
            for view in views:
                try:
                    self._transform(view)
                except (_Unsupported, TypeError, ValueError):  # defined on PIL images alone; the CPU does it, or fails
                    view.pixels = None
            self._finish(views)
            self._encode(views)
            self._fetch(views)
        results = [[view.result for view in each if view.result is not None] for each in by_request]
        return [each if len(each) == len(views) else None for each, views in zip(results, by_request, strict=True)]

    def _decode(self, views: Sequence[_View]) -> None:
        """Decode the region of each."""
        files: dict[int, Any] = {}
        streams, wanted = [], []
        for view in views:
            box = _region(view.steps)
            try:
                if id(view.request) not in files:
                    files[id(view.request)] = nvimgcodec.CodeStream(view.request.data)
                stream = files[id(view.request)]
                if box:
                    left, top, right, bottom = box
                    stream = stream.get_sub_code_stream(region=nvimgcodec.Region(top, left, bottom, right))
            except RuntimeError:  # a header that it does not understand
                continue
            streams.append(stream)
            wanted.append((view, box or (0, 0, *view.request.size)))
        images = self._decoder.decode(streams, params=self._decoding, cuda_stream=self._stream()) if streams else []
        for (view, (left, top, right, bottom)), image in zip(wanted, images, strict=True):
            if image is not None:
                pixels = self._tensor(image)
                if pixels.shape == (bottom - top, right - left, 3) and pixels.dtype == torch.uint8:
                    view.pixels = pixels.permute(2, 0, 1)

    def _tensor(self, image: Any) -> torch.Tensor:  # noqa: ANN401  the wheel has no types
        if self._device.type == "cpu":
            return torch.from_numpy(np.asarray(image.cpu()))
        return torch.as_tensor(image, device=self._device)

    def _stream(self) -> int:
        return int(torch.cuda.current_stream(self._device).cuda_stream) if self._device.type == "cuda" else 0

    def _transform(self, view: _View) -> None:
        """Each step of a view; what follows the last resize or table waits for the other views."""
        for name, *arguments in view.steps[1 if _region(view.steps) else 0 :]:
            if view.pixels is None:
                return
            if view.pending is not _NONE_PENDING:
                self._finish([view])
            if name == "crop":
                left, top, right, bottom = arguments
                view.pixels = view.pixels[:, top:bottom, left:right]
            elif name == "resize":
                size, how, window, mirrored, table = arguments
                view.pixels = _resized(view.pixels, size, how, window)
                view.pending = _Pending(rounded=True, mirrored=mirrored, table=table)
            elif name == "look_up":
                view.pending = _Pending(table=arguments[0])
            elif name == "torchvision":
                view.pixels = self._by_torchvision(view.pixels, arguments[0], view.request.resized)
            elif name == "rgb_to_grayscale":
                view.pixels = F.rgb_to_grayscale(view.pixels, arguments[0] or len(view.pixels))
            elif name in _FUNCTIONS:
                view.pixels = _FUNCTIONS[name](view.pixels, *arguments)
            else:
                raise _Unsupported(name)

    def _by_torchvision(self, pixels: torch.Tensor, seed: int, resized: int | tuple[int, int] | None) -> torch.Tensor:
        """The whole pipeline, drawn as on the CPU: torchvision's draws are the CPU's wherever the pixels are."""
        torch.manual_seed(seed)
        for op, transform in self._steps(resized):
            if op == "ToTensor":
                pixels = pixels.to(torch.float32) / 255
            elif op == CLOSES:  # what lies outside 0..1 wraps, as it does there
                pixels = (pixels * 255).to(torch.int64).to(torch.uint8) if pixels.is_floating_point() else pixels
            elif op not in OPENS:
                pixels = transform(pixels)
        return pixels

    def _make_steps(self, resized: int | tuple[int, int] | None) -> list[tuple[str, Callable[..., Any]]]:
        arguments = Arguments() if resized is None else Arguments(given=frozenset(["size"]), size=resized)
        return [(step.op, to_transform(step)) for step in with_arguments(self._pipeline, arguments).steps]

    def _finish(self, views: Sequence[_View]) -> None:
        """Do the pending steps of each."""
        for same in _alike(
            views, lambda view, pixels: (view.pending, pixels.shape) if view.pending is not _NONE_PENDING else None
        ):
            pending, stack = same[0][0].pending, torch.stack([pixels for _, pixels in same])
            if pending.rounded:  # bicubic goes beyond 0..255
                stack = stack.round_().clamp_(0, 255).to(torch.uint8)
            if pending.mirrored:
                stack = stack.flip(-1)
            if pending.table >= 0:
                values = self._tables[pending.table]  # (C, 256)
                channel = torch.arange(len(values), device=self._device)[:, None, None]
                stack = values[channel, stack.long()]
            if self._gives_images:  # so each is as the encoder wants it
                stack = stack.contiguous(memory_format=torch.channels_last)
            for (view, _), pixels in zip(same, stack, strict=True):
                view.pixels, view.pending = pixels, _NONE_PENDING

    def _encode(self, views: Sequence[_View]) -> None:
        """JPEGs, where these are wanted and the encoder makes them; else pixels go out."""
        if not self._gives_images:
            return
        for same in _alike(views, lambda view, _: view.request.jpeg):
            assert same[0][0].request.jpeg
            quality, subsampling = same[0][0].request.jpeg
            files = self._encoded([pixels for _, pixels in same], quality, subsampling)
            for (view, _), file in zip(same, files, strict=True):
                view.result = file

    def _encoded(self, images: Sequence[torch.Tensor], quality: int, subsampling: str | None) -> list[bytes | None]:
        params = nvimgcodec.EncodeParams(
            quality_type=nvimgcodec.QualityType.QUALITY,
            quality_value=quality,
            chroma_subsampling=_SUBSAMPLING[subsampling],
        )
        # (H, W, C), as the encoder takes it.
        inputs: list[torch.Tensor | Array] = [pixels.permute(1, 2, 0).contiguous() for pixels in images]
        if self._device.type == "cpu":
            inputs = [np.asarray(image) for image in inputs]
        files = self._encoder.encode(inputs, "jpeg", params=params, cuda_stream=self._stream())
        return [None if file is None else bytes(file) for file in files]

    def _fetch(self, views: Sequence[_View]) -> None:
        """What is not encoded, in one copy for all of a shape."""
        for same in _alike(views, lambda view, pixels: (pixels.shape, pixels.dtype) if view.result is None else None):
            stack = torch.stack([pixels for _, pixels in same])
            if self._gives_images:
                stack = stack[:, 0] if stack.shape[1] == 1 else stack.permute(0, 2, 3, 1)
            for (view, _), array in zip(same, stack.contiguous().cpu().numpy(), strict=True):
                view.result = array


def _open(device: torch.device, visible: str | None) -> tuple[int, int]:
    """Bytes of the GPU's memory that are free, and all of them. Raises DeviceError."""
    if torch.version.cuda is None:
        raise DeviceError("this torch is built without CUDA", hint="Take the image's cuda variant.")
    major, minor = (int(part) for part in torch.version.cuda.split(".")[:2])
    count = check_driver(visible, (major, minor))
    if count > 1:
        _log.warning("%d GPUs are visible, the first is used: ask for one a pod, or set CUDA_VISIBLE_DEVICES", count)
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise DeviceError(f"torch cannot use the GPU: {str(error).splitlines()[0]}") from error
    return free, total


def _region(steps: DeviceSteps) -> tuple[int, int, int, int] | None:
    """The crop of the source, if the steps begin with one."""
    if steps and steps[0][0] == "crop":
        left, top, right, bottom = steps[0][1:]
        return left, top, right, bottom
    return None


def _resized(pixels: torch.Tensor, size: Sequence[int], how: str, window: Sequence[int]) -> torch.Tensor:
    """In float32, not rounded: CUDA has no other, and the CPU shall do the same here."""
    if how not in _FILTERS:
        raise _Unsupported(how)
    left, top, right, bottom = window
    pixels = interpolate(pixels[None].to(torch.float32), (size[1], size[0]), **_FILTERS[how])[0]
    return pixels[:, top:bottom, left:right]


def _alike(
    views: Sequence[_View], key: Callable[[_View, torch.Tensor], Hashable]
) -> list[list[tuple[_View, torch.Tensor]]]:
    """Views with pixels, grouped by their key; views whose key is None are left out."""
    groups: defaultdict[Hashable, list[tuple[_View, torch.Tensor]]] = defaultdict(list)
    for view in views:
        if view.pixels is not None and (common := key(view, view.pixels)) is not None:
            groups[common].append((view, view.pixels))
    return [*groups.values()]
