"""Reads images with what belongs to them: masks, boxes and keypoints, of the same draws."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from tvetl.answers import read_mask, read_sample
from tvetl.cluster import Cluster, Json
from tvetl.datasets.decoding import decode, look_up, pixels_of, undecodable
from tvetl.datasets.reader import Attempt, Body, ByName, OnError, Reader, Stack, Wire, by_name, choose, itself
from tvetl.datasets.samples import Annotations, Size, as_image, as_mask, collate_annotated, prepare
from tvetl.errors import ArgumentsError, BrokenOff, NotFound, ObjectFailed, TvetlError, UsageError
from tvetl.fetch import Fetch
from tvetl.spec import parse_arguments, templates, with_arguments
from tvetl.spec.arguments import needs_boxes
from tvetl.spec.seed import drawn_as

#: How an image's mask is called: a template, as "masks/{stem}.png", or a function of the image's name.
MasksBy: TypeAlias = "str | Callable[[str], str] | None"

#: Where the server found a box or keypoint that is none.
_PLACE = re.compile(r"\$\.(boxes|keypoints)\[")


def reader_of(
    cluster: Cluster,
    bucket: str,
    etl: str,
    *,
    prefix: str,
    names: Sequence[str] | None,
    template: str,
    labels: ByName,
    masks: MasksBy,
    boxes: ByName,
    keypoints: ByName,
    seed: int | None,
    views: int | None,
    pil: bool = False,
    on_error: OnError,
    reads: int,
    wire: Wire = "auto",
) -> Reader:
    """A reader of the images that are chosen, alone or with what belongs to them."""
    alone = masks is None and boxes is None and keypoints is None
    for name, is_given in (("views", views is not None), ("pil", pil)):
        if is_given and not alone:
            raise UsageError(f"{name} is for images alone, and masks, boxes or keypoints are asked for")
    reader = (Reader if alone else AnnotatedReader)(
        cluster, bucket, etl, choose(cluster, bucket, prefix, names, template),
        labels=labels, seed=seed, views=views, pil=pil, on_error=on_error, reads=reads, wire=wire,
    )  # fmt: skip
    if isinstance(reader, AnnotatedReader):
        reader.annotate(masks, boxes, keypoints)
    return reader


class AnnotatedReader(Reader):
    """Reads each image with its boxes and keypoints in one request, and its mask in another at the same time.

    Both are drawn as the image's name says. A sample is a dict: ``image``; ``mask`` (H, W); ``boxes`` (M, 4), and
    ``labels``, ``visible`` and ``ignore`` of these; ``keypoints``; ``name``; ``label``, where images have labels.
    """

    in_place = False

    def annotate(self, masks: MasksBy, boxes: ByName, keypoints: ByName) -> None:
        """Say, before anything is read, what belongs to the images. Raises UsageError where the ETL cannot give it."""
        prepare()
        self._masks = masks
        self._boxes = None if boxes is None else by_name("boxes", boxes, self.names)
        #: None also where the keypoints are those of the annotations that have the boxes.
        own_keypoints = keypoints is not None and keypoints is not boxes
        self._keypoints = by_name("keypoints", keypoints, self.names) if own_keypoints else None
        #: Whether the draws depend on boxes, which a mask's request therefore brings, too.
        self._drawn_by_boxes = bool(self.pipeline and needs_boxes(self.pipeline, is_mask=True))
        self._check()

    def _etl_args(self, seed: int | None, views: int | None) -> dict[str, Json]:
        """The ``etl_args`` that image and mask share."""
        arguments = super()._etl_args(seed, views)
        #: Those of the image alone: whether its pixels are asked for, and by which table their values are looked up.
        self._pixels: dict[str, Json] = {name: arguments[name] for name in ("pixels", "table") if name in arguments}
        return {name: arguments[name] for name in arguments if name == "seed"}

    def _check(self) -> None:
        if isinstance(self._masks, str):
            try:
                templates.check(self._masks)
            except ValueError as error:
                raise UsageError(f"masks is {self._masks!r}: {error}") from error
        elif self._masks is not None and not callable(self._masks):
            raise UsageError(f"masks is {self._masks!r}: expected a template, like 'masks/{{stem}}.png', or a function")
        if not self.etl:
            return
        if self.pipeline is None:
            raise UsageError(f"the ETL {self.etl!r} is not one of ours: it knows no masks, boxes and keypoints")
        if self.pipeline.role == "mask":
            hint = "Name the ETL of the images; it transforms their masks, too."
            raise UsageError(f"the ETL {self.etl!r} takes every object for a mask", hint=hint)
        if self._boxes is None and (op := needs_boxes(self.pipeline, is_mask=False)):
            raise UsageError(f"the ETL's {op} acts on boxes, and there are none", hint="Name them: boxes=...")
        try:
            with_arguments(self.pipeline, parse_arguments({"boxes": [], **self._pixels}))
        except ArgumentsError as error:
            raise UsageError(f"not through the ETL {self.etl!r}: {error.message}", hint=error.hint) from error

    # Requests

    def fetches(self, name: str, attempt: Attempt, home: int | None) -> list[Fetch]:
        """The image's read, and its mask's. Raises ObjectFailed where its annotations are none that can be sent."""
        attempt.annotations = annotations = self._annotations_of(name)
        reads = [Fetch(name, attempt, home)]
        if self._masks is not None:
            reads.append(Fetch(self._mask_of(name), attempt))
        if self.etl:
            # Said in both requests, so that they cannot differ.
            like = self._like(name)
            # Without boxes or keypoints the answer would be the image alone, without the original's size.
            arguments = annotations.arguments() or {"boxes": []}
            reads[0].arguments = {"like": like, **arguments, **self._pixels}
            for mask in reads[1:]:
                boxes = {"boxes": arguments["boxes"]} if self._drawn_by_boxes else {}
                mask.arguments = {"as": "mask", "like": like, "format": "safetensors", **boxes}
        return reads

    def _like(self, name: str) -> str:
        """What the image is drawn as."""
        drawn = drawn_as(self.bucket, name)
        like = self.pipeline.like if self.pipeline else None
        return drawn if like is None else templates.expand(like, *drawn.split("/", 1))

    def _mask_of(self, name: str) -> str:
        named = self._masks
        if isinstance(named, str):
            mask = templates.expand(named, *drawn_as(self.bucket, name).split("/", 1))
        else:
            assert named is not None
            mask = named(name)
        if not isinstance(mask, str) or not mask:
            raise UsageError(f"masks says that the mask of {name!r} is {mask!r}: expected the name of an object")
        if mask == name:
            hint = "Choose images alone: by prefix, names or template."
            raise UsageError(f"masks says that {name!r} is its own mask", hint=hint)
        return mask

    def _annotations_of(self, name: str) -> Annotations:
        annotations = Annotations()
        if self._boxes is not None:
            annotations.add_boxes(self._boxes(name))
        if self._keypoints is not None:
            annotations.add_keypoints(self._keypoints(name))
        return annotations

    def described(self, fetch: Fetch) -> str:
        """A mask with its image."""
        attempt = fetch.tag
        assert isinstance(attempt, Attempt)
        image, description = attempt.fetches[0], super().described(fetch)
        return description if fetch is image else f"{description}, the mask of {image.name}"

    def named(self, fetch: Fetch, error: TvetlError) -> TvetlError:
        """A failure with the name of its object. Boxes that the server does not take are that image's failure."""
        if isinstance(error, ObjectFailed) and error.code == "bad_arguments" and _PLACE.search(error.message):
            error = ObjectFailed(error.message, code="bad_annotations", status=error.status, hint=error.hint)
        if isinstance(error, BrokenOff) and "reading header line" in error.message:
            # What http.client says of the proxy's redirect, which repeats the query, to the SDK.
            text = "its boxes and keypoints are longer than the 64 KiB that the SDK takes of a redirect"
            error = ObjectFailed(text, code="bad_annotations", hint="Reads straight from the targets take 1 MiB.")
        named = super().named(fetch, error)
        return NotFound(f"{self.described(fetch)}: {error.message}") if type(named) is NotFound else named

    # Answers

    def samples(self, name: str, data: Body, attempt: Attempt) -> list[object]:
        image = as_image(self.decoded(name, data, attempt))
        return [{"image": image, **self.rest(name, attempt)}]

    def rest(self, name: str, attempt: Attempt) -> dict[str, object]:
        assert isinstance(attempt.annotations, dict)
        return {**attempt.annotations, "name": name} | ({} if self._label is itself else {"label": self._label(name)})

    def collated(self, several: Sequence[object], stack: Stack) -> dict[str, object]:
        """Masks as one tensor (B, H, W), labels of images as torch collates them, all else as lists."""
        samples = [each for each in several if isinstance(each, dict)]
        masks = [sample.pop("mask") for sample in samples if "mask" in sample]
        collated = collate_annotated(samples)
        return {"mask": stack(masks), **collated} if masks else collated

    def decoded(self, name: str, data: Body, attempt: Attempt, *, values: bool = True) -> torch.Tensor:
        """The image (C, H, W), as of :meth:`Reader.decoded`; what belongs to it goes into ``attempt.annotations``."""
        annotations = attempt.annotations
        assert isinstance(annotations, Annotations)
        assert data is not None
        try:
            image, size, moved = self._moved(data, annotations, values=values)
        except (UsageError, LookupError, TypeError, ValueError) as error:
            raise undecodable(f"{self.bucket}/{name}", error) from error
        attempt.annotations = moved
        if annotations.size is not None and annotations.size != size:
            raise self._unlike(name, size, "its annotations are of", annotations.size)
        for fetch in attempt.fetches[1:]:
            mask, of = self._mask(fetch)
            canvas = tuple(mask.shape[-2:])
            for image_size, mask_size in ((size, of), (tuple(image.shape[-2:]), canvas)):
                if image_size != mask_size:
                    raise self._unlike(name, image_size, f"its mask {fetch.name} has", mask_size)
            moved["mask"] = mask
        return image

    def _moved(
        self, data: bytearray | bytes, annotations: Annotations, *, values: bool
    ) -> tuple[torch.Tensor, Size, dict[str, object]]:
        """An image, its original's height and width, and its boxes and keypoints."""
        if not self.etl:
            stored = decode(data, pil=False)
            assert isinstance(stored, torch.Tensor)
            size = (stored.shape[-2], stored.shape[-1])
            return stored, size, annotations.moved(annotations.arrays(), size)
        tensors, size = read_sample(data)
        answer = tensors["image"]
        if self.table is None:
            image = torch.from_numpy(answer)
        else:
            pixels = pixels_of(answer)
            image = look_up(pixels, self.table) if values else torch.from_numpy(pixels)
        return image, size, annotations.moved(tensors, (image.shape[-2], image.shape[-1]))

    def _mask(self, fetch: Fetch) -> tuple[torch.Tensor, Size]:
        """The mask (H, W), and its original's height and width."""
        assert fetch.data is not None
        try:
            if self.etl:
                tensors, size = read_sample(fetch.data)
                numbers = tensors["mask"]
            else:
                numbers = read_mask(fetch.data)
                size = (numbers.shape[-2], numbers.shape[-1])
            return as_mask(numbers), size
        except (UsageError, LookupError, TypeError, ValueError) as error:
            raise undecodable(self.described(fetch), error) from error

    def _unlike(self, name: str, size: Sequence[int], other: str, others: Sequence[int]) -> ObjectFailed:
        this, that = (f"{width} x {height} pixels" for height, width in (size, others))
        return ObjectFailed(f"{self.bucket}/{name} has {this}, and {other} {that}", code="bad_annotations")
