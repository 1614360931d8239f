"""The engine itself: one pipeline, ready to transform any number of objects."""

from __future__ import annotations

import contextlib
import io
import secrets
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np
from PIL import Image, PngImagePlugin

from tvetl.spec import Arguments, Output, Pipeline, derive_seed, with_arguments
from tvetl.spec.arguments import needs_boxes
from tvetl.spec.model import IMAGE_FORMATS
from tvetl.spec.templates import expand
from tvetl_server.engine.annotations import Annotations
from tvetl_server.engine.decode import Source, open_source
from tvetl_server.engine.device_request import DEVICE, Device, DeviceRequest, NotByDevice
from tvetl_server.engine.encode import encode, encode_annotated, encode_masks, encode_views, media_type
from tvetl_server.engine.pixels import Encoded, Mask, Outcome
from tvetl_server.engine.plans import Plan, View, execute, make_plan, step_errors
from tvetl_server.engine.shards import Transformed, is_shard, transform_shard
from tvetl_server.errors import BadAnnotations, BadArguments, TransformFailed
from tvetl_server.limits import Limits
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, checked

__all__ = ["Engine", "Result"]

#: Bytes of text in a PNG, inflated; beyond it is refused as damaged. XMP and the longest prompts take a tenth.
_TEXT = 8 * 2**20

#: Plans kept for the ``size`` or ``pixels`` of requests.
_PLANS = 64


@dataclass(frozen=True)
class Result:
    """An answer: never empty."""

    body: bytes | IO[bytes]
    """Of a shard an open file, for the caller to close."""
    content_type: str
    ways: Mapping[str, int] = field(default_factory=dict)
    """Where there is a device: how many images it did (DEVICE), and how many the CPU for each reason of NotByDevice."""


@dataclass(frozen=True)
class _Request:
    """A request for one object: an image, or a shard of images."""

    arguments: Arguments
    pipeline: Pipeline
    plan: Plan
    deadline: float | None
    ways: Counter[str] = field(default_factory=Counter)

    @property
    def is_mask(self) -> bool:
        return self.pipeline.role == "mask"

    def views_of(self, name: str, limits: Limits) -> list[View]:
        """The views of the image ``name``."""
        base = self.arguments.seed if self.arguments.seed is not None else self.pipeline.seed
        numbers = range(self.arguments.views) if self.arguments.views is not None else (self.arguments.view,)
        seeds = [
            secrets.randbits(32) if base is None else derive_seed(base, self.arguments.epoch, number, name)
            for number in numbers
        ]
        return [View(seed, limits, self.deadline, keep=len(numbers) > 1) for seed in seeds]


class Engine:
    """One pipeline, ready to run, for any number of threads."""

    def __init__(
        self,
        pipeline: Pipeline,
        limits: Limits,
        plugins: Mapping[str, PluginOp] = NO_PLUGINS,
        device: Device | None = None,
    ) -> None:
        """``plugins`` has the ops that this container has beside those of the table, by their qualified names.

        Raises tvetl.errors.PipelineError, naming each step, where this container cannot run the pipeline.
        """
        self._limits = limits
        self._plugins = plugins
        self._device = device
        self._pipeline = pipeline = checked(pipeline, plugins)
        Image.MAX_IMAGE_PIXELS = None  # the limit is ours, from the header, as an error and not a warning
        PngImagePlugin.MAX_TEXT_MEMORY = _TEXT  # Pillow keeps 64 MiB of what we never look at
        # Pillow warns of damage that it survives, torchvision that ToTensor is old (its successors give other last
        # bits). Set once: warnings.catch_warnings around each image is not for several threads.
        warnings.filterwarnings("ignore", module=r"(PIL|torchvision)\.")
        self._plan = make_plan(pipeline, plugins)
        #: By whether the object is a mask: the op that cannot do without boxes, "" for none.
        self._needs_boxes = {is_mask: needs_boxes(pipeline, is_mask=is_mask) for is_mask in (False, True)}
        self._plans: dict[object, Plan] = {}

    def transform(
        self, data: bytes | IO[bytes], name: str, arguments: Arguments, deadline: float | None = None
    ) -> Result:
        """Transform one object.

        ``data`` is the object: an image, or a shard (``.tar``) of images, which may also be an open file. ``name`` is
        ``<bucket>/<object>``, for the seed where the arguments have no ``like``; of an image in a shard its sample's
        key follows. ``deadline`` is on time.monotonic(). Raises the classes of :mod:`tvetl_server.errors`, and
        tvetl.errors.ArgumentsError where the arguments do not fit the pipeline.
        """
        request = _Request(arguments, *self._variant(arguments), deadline)
        output, name = request.pipeline.output, self._drawn_as(name, arguments)
        if isinstance(data, bytes) and not is_shard(data, name):
            several = arguments.views is not None
            return Result(self._image(request, data, name).body, media_type(output, several=several), request.ways)
        if arguments.views is not None:
            raise BadArguments("views are of one image; a shard has many. Ask for each view by itself, with view.")
        if arguments.is_annotated:
            raise BadArguments("boxes and keypoints are of one image; a shard has them in members of its own.")
        file = io.BytesIO(data) if isinstance(data, bytes) else data

        def transform(content: bytes, key: str, *, is_mask: bool, annotated: Arguments | None) -> Transformed:
            member = self._member(request, is_mask=is_mask, annotated=annotated)
            return self._image(member, content, f"{name}/{key}", is_member=True)

        spool = transform_shard(file, request.pipeline, self._limits, transform)
        return Result(spool.file(), "application/x-tar", request.ways)

    def _image(self, request: _Request, data: bytes, name: str, *, is_member: bool = False) -> Transformed:
        """One image or mask, in all views of the request. A shard's member has the format of the pipeline's output."""
        output, arguments = request.pipeline.output, request.arguments
        source = open_source(data, self._limits, request.pipeline, is_mask=request.is_mask)
        views = request.views_of(name, self._limits)
        if (needs := self._needs_boxes[request.is_mask]) and arguments.boxes is None:
            raise BadArguments(
                f"{needs} acts on boxes, and none came. Give those of the image: boxes in etl_args, [] for none, or in "
                "a shard a member of its sample."
            )
        moved = None
        if request.is_mask:
            with self._cpu(request, "step"):
                masks = _masks(request, source, views)
            body = encode_masks(masks, output, source.size, several=arguments.views is not None)
        elif arguments.is_annotated:
            annotations = Annotations.of(source.size, arguments)
            with self._cpu(request, "step"), step_errors():
                outcome, moved = request.plan.sample(source, annotations, views[0])
            assert outcome is not None
            body = encode(outcome, output) if is_member else encode_annotated(outcome, moved, output, source.size)
        else:
            outcomes = self._outcomes(request, source, views)
            body = encode(outcomes[0], output) if arguments.views is None else encode_views(outcomes, output)
        return Transformed(body, source.size, moved)

    def _member(self, request: _Request, *, is_mask: bool, annotated: Arguments | None) -> _Request:
        """The request for one image or mask of a shard, with the boxes and keypoints of its sample."""
        arguments = request.arguments
        if is_mask and not request.is_mask:
            arguments = replace(arguments, role="mask", format="png", pixels=False)
        if annotated:
            boxes, keypoints = annotated.boxes, annotated.keypoints
            arguments = replace(arguments, boxes=boxes, keypoints=keypoints, given=arguments.given | annotated.given)
        if arguments is request.arguments:
            return request
        pipeline, plan = self._variant(arguments)
        if not is_mask:
            pipeline = replace(pipeline, output=request.pipeline.output)
        return replace(request, arguments=arguments, pipeline=pipeline, plan=plan)

    @contextlib.contextmanager
    def _cpu(self, request: _Request, reason: str) -> Iterator[None]:
        """Held while the CPU does an image: where there is a device, for one of the reasons of NotByDevice."""
        if self._device is None:
            yield
            return
        request.ways[reason] += 1
        with self._device.cpu_slot():
            yield

    def _outcomes(self, request: _Request, source: Source, views: Sequence[View]) -> Sequence[Outcome | Encoded]:
        if self._device is None:
            return execute(request.plan, source, views)
        try:
            outcomes = _by_device(self._device, request, source, views)
            request.ways[DEVICE] += 1
            return outcomes
        except NotByDevice as error:
            with self._cpu(request, str(error)):
                return execute(request.plan, source, views)

    def self_test(self) -> None:
        """Decode and transform a real JPEG; raises whatever is broken in this process."""
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(buffer, "JPEG")
        # It is too small for, say, RandomCrop(512). That is no fault: it was decoded.
        boxes = () if self._needs_boxes[False] else None
        with contextlib.suppress(TransformFailed):
            self.transform(buffer.getvalue(), "self/test", Arguments(role="image", boxes=boxes))

    def _drawn_as(self, name: str, arguments: Arguments) -> str:
        """The name that the draws of this object depend on."""
        template = self._pipeline.like
        return arguments.like or (expand(template, *name.split("/", 1)) if template else name)

    def _variant(self, arguments: Arguments) -> tuple[Pipeline, Plan]:
        """The pipeline with the request's arguments, and its plan."""
        pipeline = with_arguments(self._pipeline, arguments)
        if pipeline.steps is self._pipeline.steps:
            return pipeline, self._plan
        key = arguments.size, arguments.pixels  # format and quality change only the output
        if key not in self._plans:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[key] = make_plan(pipeline, self._plugins)
        return pipeline, self._plans[key]


def _masks(request: _Request, source: Source, views: Sequence[View]) -> list[Mask]:
    """The mask in each view."""
    width, height = source.size
    if request.arguments.of not in (None, (height, width)):
        of = request.arguments.of
        raise BadAnnotations(
            f"The mask is {height} x {width} pixels (height x width), and its image {of[0]} x {of[1]}."
        )
    annotations = replace(Annotations.of(source.size, request.arguments), mask=source.mask())
    with step_errors():
        moved = [request.plan.sample(None, annotations, view)[1].mask for view in views]
    return [mask for mask in moved if mask is not None]


def _by_device(device: Device, request: _Request, source: Source, views: Sequence[View]) -> list[Outcome | Encoded]:
    """The outcomes by the device. Raises NotByDevice, and what the CPU would raise before it decodes."""
    data = source.baseline()
    if data is None:
        raise NotByDevice("format")
    with step_errors():
        steps = [each for view in views if (each := request.plan.device_steps(source.size, view)) is not None]
    # Torchvision would run the whole pipeline there, also what ``pixels`` leaves out.
    if len(steps) < len(views) or (
        request.arguments.pixels and any(each[0][0] == "torchvision" for each in steps if each)
    ):
        raise NotByDevice("step")
    output = request.pipeline.output
    results = device.transform(
        DeviceRequest(data, source.size, steps, _jpeg(output), request.arguments.size, request.deadline)
    )
    gives_images = output.format in IMAGE_FORMATS
    return [Image.fromarray(each) if gives_images and isinstance(each, np.ndarray) else each for each in results]


def _jpeg(output: Output) -> tuple[int, str | None] | None:
    """Quality and subsampling where any JPEG encoder can write the output; None otherwise."""
    options = output.options
    if output.format != "jpeg" or options["progressive"] or options["optimize"]:
        return None
    quality, subsampling = options["quality"], options["subsampling"]
    assert isinstance(quality, int) and (subsampling is None or isinstance(subsampling, str))
    return quality, subsampling
