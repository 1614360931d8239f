"""Reads images with what belongs to them: masks, boxes and keypoints, of the same draws."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from tvetl.answers import read_mask, read_sample
from tvetl.cluster import Cluster, Json
from tvetl.datasets.annotations import AnnotationTable
from tvetl.datasets.beside import Given, Size, as_image, as_mask, prepare
from tvetl.datasets.collate import collate_annotated
from tvetl.datasets.decoding import decode, pixels_in, undecodable
from tvetl.datasets.flight import Attempt, Body, OnError
from tvetl.datasets.lookup import look_up
from tvetl.datasets.reader import LabelOf, Reader, Sample, Stack, Wire, itself
from tvetl.errors import ArgumentsError, BrokenOff, NotFound, ObjectFailed, TvetlError, UsageError
from tvetl.fetch import Fetch
from tvetl.spec import parse_arguments, templates, with_arguments
from tvetl.spec.arguments import needs_boxes
from tvetl.spec.seed import drawn_as

#: How an image's mask is called: a template, as "masks/{stem}.png", or a function of the image's name.
MasksBy: TypeAlias = "str | Callable[[str], str] | None"
#: An image's Annotation, or an array of its boxes or keypoints: by its name, or by a function of it.
AnnotationsBy: TypeAlias = "Mapping[str, object] | Callable[[str], object] | None"

#: Where the server found a box or keypoint that is none.
_PLACE = re.compile(r"\$\.(boxes|keypoints)\[")


def reader_of(
    cluster: Cluster,
    bucket: str,
    etl: str,
    names: Sequence[str],
    *,
    masks: MasksBy,
    boxes: AnnotationsBy,
    keypoints: AnnotationsBy,
    seed: int | None,
    views: int | None,
    on_error: OnError,
    reads: int,
    wire: Wire = "auto",
    pil: bool = False,
) -> Reader:
    """A reader of images, alone or with what belongs to them."""
    if masks is None and boxes is None and keypoints is None:
        wire = "values" if pil else wire
        return Reader(cluster, bucket, etl, names, seed=seed, views=views, on_error=on_error, reads=reads, wire=wire)
    for name, given in (("views", views is not None), ("pil", pil)):
        if given:
            raise UsageError(f"{name} is for images alone, and masks, boxes or keypoints are asked for")
    return AnnotatedReader(
        cluster, bucket, etl, names,
        masks=masks, boxes=boxes, keypoints=keypoints, seed=seed, on_error=on_error, reads=reads, wire=wire,
    )  # fmt: skip


class AnnotatedReader(Reader):
    """Reads each image with its boxes and keypoints in one request, and its mask in another at the same time.

    Both are drawn as the image's name says. A sample is a dict: ``image``; ``mask`` (H, W); ``boxes`` (M, 4), and
    ``labels``, ``visible`` and ``ignore`` of these; ``keypoints``; ``name``; ``label``, where images have labels.
    """

    in_place = False

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str,
        names: Sequence[str],
        *,
        masks: MasksBy,
        boxes: AnnotationsBy,
        keypoints: AnnotationsBy,
        seed: int | None,
        on_error: OnError,
        reads: int,
        wire: Wire,
    ) -> None:
        super().__init__(
            cluster, bucket, etl, names, seed=seed, views=None, on_error=on_error, reads=reads, wire=wire
        )  # fmt: skip
        prepare()
        self._masks, self._drawn_bucket = masks, drawn_as(bucket, "").removesuffix("/")
        self._boxes = _looked_up("boxes", boxes, self.names)
        #: None also where the keypoints are those of the annotations that have the boxes.
        self._keypoints = None if keypoints is boxes else _looked_up("keypoints", keypoints, self.names)
        #: Whether the draws depend on boxes, which a mask's request therefore brings, too.
        self._drawn_by_boxes = bool(self.pipeline and needs_boxes(self.pipeline, is_mask=True))
        self._check()

    def _asked(self, seed: int | None, views: int | None) -> dict[str, Json]:
        """The ``etl_args`` that image and mask share."""
        asked = super()._asked(seed, views)
        #: Those of the image alone: whether its pixels are asked for, and by which table their values are looked up.
        self._pixels: dict[str, Json] = {name: asked[name] for name in ("pixels", "table") if name in asked}
        return {name: asked[name] for name in asked if name == "seed"}

    def _check(self) -> None:
        """Raises UsageError, before anything is read, where the ETL cannot give what is asked for."""
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

    # What is asked for

    def fetches(self, name: str, attempt: Attempt, home: int | None) -> list[Fetch]:
        """The image's read, and its mask's. Raises ObjectFailed where its annotations are none that can be sent."""
        attempt.beside = given = self._given(name)
        reads = [Fetch(name, attempt, home)]
        if self._masks is not None:
            reads.append(Fetch(self._mask_of(name), attempt))
        if self.etl:
            # Said in both requests, so that they cannot differ.
            like = self._like(name)
            # Without boxes or keypoints the answer would be the image alone, without the original's size.
            annotations = given.asked() or {"boxes": []}
            reads[0].arguments = {"like": like, **annotations, **self._pixels}
            for mask in reads[1:]:
                boxes = {"boxes": annotations["boxes"]} if self._drawn_by_boxes else {}
                mask.arguments = {"as": "mask", "like": like, "format": "safetensors", **boxes}
        return reads

    def _like(self, name: str) -> str:
        """What the image is drawn as."""
        if self.pipeline and self.pipeline.like is not None:
            return templates.expand(self.pipeline.like, self._drawn_bucket, name)
        return drawn_as(self.bucket, name)

    def _mask_of(self, name: str) -> str:
        named = self._masks
        if isinstance(named, str):
            mask = templates.expand(named, self._drawn_bucket, name)
        else:
            assert named is not None
            mask = named(name)
        if not isinstance(mask, str) or not mask:
            raise UsageError(f"masks says that the mask of {name!r} is {mask!r}: expected the name of an object")
        if mask == name:
            hint = "Choose images alone: by prefix, names or template."
            raise UsageError(f"masks says that {name!r} is its own mask", hint=hint)
        return mask

    def _given(self, name: str) -> Given:
        given = Given()
        if self._boxes is not None:
            given.add_boxes(self._boxes(name))
        if self._keypoints is not None:
            given.add_keypoints(self._keypoints(name))
        return given

    def called(self, fetch: Fetch) -> str:
        """A mask with its image."""
        attempt = fetch.tag
        assert isinstance(attempt, Attempt)
        image, own = attempt.fetches[0], super().called(fetch)
        return own if fetch is image else f"{own}, the mask of {image.name}"

    def named(self, fetch: Fetch, error: TvetlError) -> TvetlError:
        """A failure with the name of its object. Boxes that the server does not take are that image's failure."""
        if isinstance(error, ObjectFailed) and error.code == "bad_arguments" and _PLACE.search(error.message):
            error = ObjectFailed(error.message, code="bad_annotations", status=error.status, hint=error.hint)
        if isinstance(error, BrokenOff) and "reading header line" in error.message:
            # What http.client says of the proxy's redirect, which repeats the query, to the SDK.
            text = "its boxes and keypoints are longer than the 64 KiB that the SDK takes of a redirect"
            error = ObjectFailed(text, code="bad_annotations", hint="Reads straight from the targets take 1 MiB.")
        named = super().named(fetch, error)
        return NotFound(f"{self.called(fetch)}: {error.message}") if type(named) is NotFound else named

    # What comes

    def sample(self, name: str, data: Body, attempt: Attempt, label: LabelOf, *, pil: bool) -> Sample:
        image = as_image(self.decoded(name, data, attempt))
        return {"image": image, **self.rest(name, attempt, label)}

    def rest(self, name: str, attempt: Attempt, label: LabelOf) -> dict[str, object]:
        assert isinstance(attempt.beside, dict)
        return {**attempt.beside, "name": name} | ({} if label is itself else {"label": label(name)})

    def collated(self, several: Sequence[object], stack: Stack) -> dict[str, object]:
        """Masks as one tensor (B, H, W), labels of images as torch collates them, all else as lists."""
        samples = [each for each in several if isinstance(each, dict)]
        masks = [sample.pop("mask") for sample in samples if "mask" in sample]
        collated = collate_annotated(samples)
        return {"mask": stack(masks), **collated} if masks else collated

    def decoded(
        self, name: str, data: Body, attempt: Attempt, *, pil: bool = False, values: bool = True
    ) -> torch.Tensor:
        """The image (C, H, W), as of :meth:`Reader.decoded`; what belongs to it goes into ``attempt.beside``."""
        given = attempt.beside
        assert isinstance(given, Given)
        assert data is not None
        try:
            image, size, moved = self._moved(data, given, values=values)
        except (UsageError, LookupError, TypeError, ValueError) as error:
            raise undecodable(f"{self.bucket}/{name}", error) from error
        attempt.beside = moved
        if given.size is not None and given.size != size:
            raise self._unlike(name, size, "its annotations are of", given.size)
        for fetch in attempt.fetches[1:]:
            mask, of = self._mask(fetch)
            canvas = tuple(mask.shape[-2:])
            for here, there in ((size, of), (tuple(image.shape[-2:]), canvas)):
                if here != there:
                    raise self._unlike(name, here, f"its mask {fetch.name} has", there)
            moved["mask"] = mask
        return image

    def _moved(
        self, data: bytearray | bytes, given: Given, *, values: bool
    ) -> tuple[torch.Tensor, Size, dict[str, object]]:
        """An image, its original's height and width, and its boxes and keypoints."""
        if not self.etl:
            stored = decode(data, pil=False)
            assert isinstance(stored, torch.Tensor)
            size = (stored.shape[-2], stored.shape[-1])
            own = {"boxes": given.boxes, "keypoints": given.keypoints}
            return stored, size, given.moved({name: rows for name, rows in own.items() if rows is not None}, size)
        tensors, size = read_sample(data)
        answer = tensors["image"]
        if self.table is None:
            image = torch.from_numpy(answer)
        else:
            pixels = pixels_in(answer)
            image = look_up(pixels, self.table) if values else torch.from_numpy(pixels)
        return image, size, given.moved(tensors, (image.shape[-2], image.shape[-1]))

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
            raise undecodable(self.called(fetch), error) from error

    def _unlike(self, name: str, size: Sequence[int], other: str, others: Sequence[int]) -> ObjectFailed:
        here, there = (f"{width} x {height} pixels" for height, width in (size, others))
        return ObjectFailed(f"{self.bucket}/{name} has {here}, and {other} {there}", code="bad_annotations")


def _looked_up(what: str, by: AnnotationsBy, names: Sequence[str]) -> Callable[[str], object] | None:
    """What gives an image's annotations. Raises UsageError at once where a table of them lacks some of the names."""
    if by is None or (callable(by) and not isinstance(by, Mapping)):
        return by
    if not isinstance(by, Mapping):
        raise UsageError(f"{what} is {by!r}: expected a table by image name, like read_coco's, or a function of it")
    if isinstance(by, AnnotationTable):
        by.check(names)
    elif missing := next((name for name in names if name not in by), None):
        hint = "An image that has none needs an empty list; or leave it out, by names=[...]."
        raise UsageError(f"there are no {what} of {missing!r}", hint=hint)
    return by.__getitem__
