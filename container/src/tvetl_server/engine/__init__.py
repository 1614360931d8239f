"""The engine: image bytes to transformed bytes. It knows no HTTP, no cluster and no environment.

One object goes through ``open_source`` (what is it, how large), the plan (draw, decode, do) and ``encode``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

import numpy as np
from PIL import Image, PngImagePlugin

from tvetl.errors import PipelineError, Problem
from tvetl.spec import OPS, Arguments, Output, Pipeline, derive_seed, with_arguments
from tvetl.spec.model import IMAGE_FORMATS
from tvetl_server.engine.decode import Source, open_source
from tvetl_server.engine.encode import Array, Encoded, Outcome, encode, encode_views, media_type
from tvetl_server.engine.fast import FastPlan
from tvetl_server.engine.plan import ExactPlan, Plan, Program, Run, needs_torch, only_torch, program_of, run_plan
from tvetl_server.engine.shards import is_shard, transform_shard
from tvetl_server.errors import BadArguments, TransformFailed
from tvetl_server.limits import Limits
from tvetl_server.plugin_ops import NO_PLUGINS, PluginOp, checked

__all__ = ["Device", "Engine", "NotByDevice", "Order", "Result", "runnable"]

#: Bytes of text in a PNG, inflated; beyond it is refused as damaged. XMP and the longest prompts take a tenth.
_TEXT = 8 * 2**20

#: Plans for a ``size`` or ``pixels`` that requests asked for, kept ready.
_PLANS = 64


@dataclass(frozen=True)
class Result:
    """An answer: never empty."""

    body: bytes | IO[bytes]
    """Of a shard an open file, for the caller to close."""
    content_type: str
    ways: Mapping[str, int] = field(default_factory=dict)
    """Where there is a device: how many images went which way, DEVICE or why by the CPU (:class:`NotByDevice`)."""


#: The way of an image that a device did.
DEVICE = "device"


class NotByDevice(Exception):
    """The CPU does it; the message is the reason, one word."""

    REASONS = ("format", "step", "refused", "late", "lost")


@dataclass(frozen=True)
class Order:
    """One image, for a device."""

    data: bytes | memoryview
    """A baseline JPEG, of one or three components."""
    size: tuple[int, int]
    """Width and height, in pixels."""
    programs: Sequence[Program]
    """One a view."""
    jpeg: tuple[int, str | None] | None
    """Quality and subsampling, where an image that comes out can be encoded there; None: pixels are wanted."""
    resized: int | tuple[int, int] | None
    """The ``size`` that was asked for in place of the pipeline's."""
    deadline: float | None = None
    """On time.monotonic()."""


class Device(Protocol):
    """What else can decode and transform; :class:`tvetl_server.processes.device.Link` is the way to one."""

    def transform(self, order: Order) -> Sequence[Array | Encoded]:
        """One result a program: a file, uint8 of (H, W, 3) or (H, W) for an image, or a (C, H, W) tensor.

        Raises NotByDevice, whatever it was.
        """
        ...

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """For what the CPU does instead: not more at a time than there are processors."""
        ...


class Engine:
    """One pipeline, ready to run, for any number of threads."""

    def __init__(
        self, pipeline: Pipeline, limits: Limits, own: Mapping[str, PluginOp] = NO_PLUGINS, device: Device | None = None
    ) -> None:
        """``own`` has the ops that this container has beside those of the table, by their qualified names.

        Raises tvetl.errors.PipelineError, naming each step, where this container cannot run the pipeline.
        """
        self._limits = limits
        self._own = own
        self._device = device
        self._pipeline = pipeline = checked(pipeline, own)
        Image.MAX_IMAGE_PIXELS = None  # the limit is ours, from the header, as an error and not a warning
        PngImagePlugin.MAX_TEXT_MEMORY = _TEXT  # Pillow keeps 64 MiB of what we never look at
        # Pillow warns of damage that it survives, torchvision that ToTensor is old (its successors give other last
        # bits). Set once: warnings.catch_warnings around each image is not for several threads.
        warnings.filterwarnings("ignore", module=r"(PIL|torchvision)\.")
        self._plan = _plan(pipeline, own)
        self._plans: dict[object, Plan] = {}

    def transform(
        self, data: bytes | IO[bytes], name: str, arguments: Arguments, deadline: float | None = None
    ) -> Result:
        """Transform one object.

        ``data`` is the object: an image, or a shard (``.tar``) of images, which may also be an open file. ``name`` is
        ``<bucket>/<object>``, for the seed; of an image in a shard the member's name follows. ``deadline`` is on
        time.monotonic(). Raises the classes of :mod:`tvetl_server.errors`, and tvetl.errors.ArgumentsError where the
        arguments do not fit the pipeline.
        """
        pipeline, plan = self._variant(arguments)
        ways: Counter[str] = Counter()

        def one(content: bytes, name: str) -> bytes:
            return self._one(content, name, arguments, pipeline, plan, deadline, ways)

        if isinstance(data, bytes) and not is_shard(data):
            several = arguments.views is not None
            return Result(one(data, name), media_type(pipeline.output, several=several), ways)
        if arguments.views is not None:
            raise BadArguments("views are of one image; a shard has many. Ask for each view by itself, with view.")
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        spool = transform_shard(
            file, pipeline.output, self._limits, lambda content, member: one(content, f"{name}/{member}")
        )
        return Result(spool.file(), "application/x-tar", ways)

    def _one(
        self,
        data: bytes,
        name: str,
        arguments: Arguments,
        pipeline: Pipeline,
        plan: Plan,
        deadline: float | None,
        ways: Counter[str],
    ) -> bytes:
        """One image, in as many views as were asked for."""
        source = open_source(data, self._limits, upright=pipeline.orientation == "apply")
        base = arguments.seed if arguments.seed is not None else pipeline.seed
        views = range(arguments.views) if arguments.views is not None else (arguments.view,)
        runs = [
            Run(
                _random_seed() if base is None else derive_seed(base, arguments.epoch, view, name),
                self._limits,
                deadline,
                again=len(views) > 1,
            )
            for view in views
        ]
        outcomes: Sequence[Outcome | Encoded]
        if self._device is None:
            outcomes = [run_plan(plan, source, run) for run in runs]
        else:
            try:
                outcomes = self._by_device(self._device, source, plan, runs, arguments, pipeline.output)
                ways[DEVICE] += 1
            except NotByDevice as reason:
                ways[str(reason)] += 1
                with self._device.turn():
                    outcomes = [run_plan(plan, source, run) for run in runs]
        if arguments.views is None:
            return encode(outcomes[0], pipeline.output)
        try:
            return encode_views(outcomes, pipeline.output)
        except ValueError as error:
            raise TransformFailed("The views differ in size, so they are no one tensor; resize them.") from error

    def _by_device(
        self,
        device: Device,
        source: Source,
        plan: Plan,
        runs: Sequence[Run],
        arguments: Arguments,
        output: Output,
    ) -> list[Outcome | Encoded]:
        """The same by the device. Raises NotByDevice, and what the CPU would raise before it decodes."""
        data = source.baseline()
        if data is None:
            raise NotByDevice("format")
        programs = [program_of(plan, source, run) for run in runs]
        known = [program for program in programs if program is not None]
        if len(known) < len(programs):
            raise NotByDevice("step")
        if arguments.pixels and any(program[0][0] == "torchvision" for program in known if program):
            raise NotByDevice("step")  # there it would be the whole pipeline
        order = Order(data, source.size, known, _jpeg(output), arguments.size, runs[0].deadline)
        results = device.transform(order)
        gives_images = output.format in IMAGE_FORMATS
        return [Image.fromarray(each) if gives_images and isinstance(each, np.ndarray) else each for each in results]

    def self_test(self) -> None:
        """Decode and transform a real JPEG; raises whatever is broken in this process."""
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(buffer, "JPEG")
        # It is too small for, say, RandomCrop(512); it was decoded, though, which is what was asked.
        with contextlib.suppress(TransformFailed):
            self.transform(buffer.getvalue(), "self/test", Arguments())

    def _variant(self, arguments: Arguments) -> tuple[Pipeline, Plan]:
        """The pipeline as this request asks for it, and its plan."""
        pipeline = with_arguments(self._pipeline, arguments)
        if pipeline is self._pipeline:
            return pipeline, self._plan
        key = arguments.size, arguments.pixels  # format and quality change only the output
        if key not in self._plans:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[key] = _plan(pipeline, self._own)
        return pipeline, self._plans[key]


def _plan(pipeline: Pipeline, own: Mapping[str, PluginOp]) -> Plan:
    places = needs_torch(pipeline)
    if not places:
        return (FastPlan if pipeline.precision == "fast" else ExactPlan)(pipeline, own)
    if not has_torch():
        raise PipelineError(
            [
                Problem(f"$.steps[{i}].op", f"{pipeline.steps[i].op} needs torch; the image's cpu variant has it")
                for i in places
            ],
            hint="Take the image's cpu variant, or install tvetl-server[torch].",
        )
    from tvetl_server.engine.torch_ops import TorchPlan  # seconds and 500 MB, so only where a step asks for it

    return TorchPlan(pipeline, own)


def _jpeg(output: Output) -> tuple[int, str | None] | None:
    """Quality and subsampling of what every JPEG encoder can write; None for all else."""
    options = output.options
    if output.format != "jpeg" or options["progressive"] or options["optimize"]:
        return None
    quality, subsampling = options["quality"], options["subsampling"]
    assert isinstance(quality, int) and (subsampling is None or isinstance(subsampling, str))
    return quality, subsampling


def has_torch() -> bool:
    """Whether torchvision is installed; looked up, not imported."""
    return importlib.util.find_spec("torchvision") is not None


def runnable() -> list[str]:
    """The names of the table's ops that this container can run on an image, in the table's order."""
    return [op.name for op in OPS.values() if has_torch() or not only_torch(op)]


def _random_seed() -> int:
    return int.from_bytes(os.urandom(4), "big")
