"""What a pipeline is, once parsed: frozen data, every value checked and in one normal form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

#: A parameter as plain data. Sequences are tuples, so that a step can be compared and hashed by its JSON. Steps are
#: there only in the parameter ``transforms`` of ops that hold steps.
Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | Step | None"

Role = Literal["image", "mask"]
IMAGE_FORMATS: tuple[str, ...] = ("jpeg", "png", "webp")
TENSOR_FORMATS: tuple[str, ...] = ("npy", "safetensors", "raw")
#: Those without loss.
MASK_FORMATS: tuple[str, ...] = ("png", *TENSOR_FORMATS)


@dataclass(frozen=True)
class Step:
    """One transform: torchvision's class name and *all* its parameters, defaults filled in."""

    op: str
    params: Mapping[str, Value]

    @property
    def inner(self) -> tuple[Step, ...]:
        """The steps that it holds (RandomApply, RandomChoice, RandomOrder); none of any other op."""
        steps = self.params.get("transforms")
        return tuple(each for each in steps if isinstance(each, Step)) if isinstance(steps, tuple) else ()

    def walk(self) -> Iterator[Step]:
        """Itself, and each step in it at any depth."""
        yield self
        for each in self.inner:
            yield from each.walk()


@dataclass(frozen=True)
class Output:
    """How the result is written.

    ``format`` is one of IMAGE_FORMATS or TENSOR_FORMATS; ``options`` holds every option of that
    format, defaults filled in (jpeg: quality, subsampling, progressive, optimize; ...).
    """

    format: str
    options: Mapping[str, Value]


@dataclass(frozen=True)
class Pipeline:
    """A whole pipeline: :func:`tvetl.spec.parse` makes it, and the server runs it."""

    steps: tuple[Step, ...]
    output: Output
    seed: int | None = None
    precision: Literal["exact", "fast"] = "exact"
    orientation: Literal["keep", "apply"] = "keep"
    #: How values of more than 8 bits are converted, which RGB would clip.
    depth: Literal["refuse", "convert", "scale"] = "refuse"
    #: How a truncated file is decoded.
    truncated: Literal["refuse", "pad"] = "refuse"
    #: Red, green, blue of 0..255 that an image with transparency is laid over; None drops its alpha.
    background: tuple[int, int, int] | None = None
    #: Whether the objects are images or masks; a request may override it (``as``).
    role: Role = "image"
    #: A template (:mod:`tvetl.spec.templates`) of ``<bucket>/<object>``: draw each object as the one that it names.
    like: str | None = None
    #: Extensions of a shard's members that are masks of their sample's image.
    mask_members: tuple[str, ...] = ("mask.png", "seg.png")
    #: Extensions of a shard's members that hold their sample's boxes, as JSON.
    box_members: tuple[str, ...] = ("boxes.json",)
    version: int = 1


@dataclass(frozen=True)
class Arguments:
    """The arguments of one request (``etl_args``), which override the pipeline; None keeps the pipeline's value."""

    seed: int | None = None
    epoch: int = 0
    view: int = 0
    views: int | None = None
    format: str | None = None
    quality: int | None = None
    size: int | tuple[int, int] | None = None
    #: Whether the answer is the uint8 pixels before the pointwise steps at the end.
    pixels: bool = False
    #: The digest of the table by which the pixels' values will be looked up: refused where the pipeline has another.
    table: str | None = None
    #: ``<bucket>/<object>``: draw as for this object. It changes draws alone, never what is read.
    like: str | None = None
    #: ``as``: whether the object is an image or a mask; None keeps the pipeline's.
    role: Role | None = None
    #: Height and width of a mask's image.
    of: tuple[int, int] | None = None
    #: (x1, y1, x2, y2) of each box, in pixels of the original; None for an answer without boxes.
    boxes: tuple[tuple[float, ...], ...] | None = None
    #: (x, y) of each keypoint, in pixels of the original.
    keypoints: tuple[tuple[float, ...], ...] | None = None
    #: The names that were given: an explicit epoch 0 needs a seed, the default does not.
    given: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_annotated(self) -> bool:
        """Whether boxes or keypoints came, so that the answer is an image with them."""
        return self.boxes is not None or self.keypoints is not None
