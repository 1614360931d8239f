"""Tar objects as WebDataset users have them: members of one key, one after the other, are one sample.

With an ETL their images are transformed on the way, and all else comes as it lies in the shard.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from PIL import Image
from torch.utils.data import get_worker_info

from tvetl.answers import members, read_mask
from tvetl.cluster import Cluster, Names
from tvetl.datasets.decoding import decode
from tvetl.datasets.reader import Attempt, Body, OnError, Reader, choose
from tvetl.datasets.samples import Size, as_coordinates, as_image, as_mask, floats, prepare
from tvetl.datasets.stream import Stream
from tvetl.errors import ObjectFailed, UsageError
from tvetl.spec.shards import IMAGES, split_name

_log = logging.getLogger("tvetl.datasets")
_TENSORS = ("npy", "safetensors")
_TEXTS = ("txt", "json")


class Shards(Stream):
    """The samples of ``.tar`` objects, each a dict with ``__key__`` and a value for each extension.

    ``a/0001.jpg`` and ``a/0001.cls`` following one another are ``{"__key__": "a/0001", "jpg": ..., "cls": ...}``, as
    WebDataset has them: extensions in lower case, and without what has no extension, is hidden or is no file. Images
    come as uint8 (C, H, W), or with ``pil`` as PIL images; npy and safetensors as tensors; ``cls`` as int; txt and json
    as str; all else as bytes. An ``etl`` transforms each image in the cluster, drawn by the shard's name and the
    sample's key, so that images of one sample are drawn alike; what comes then has the ending of the pipeline's output
    (``npy``, ``jpg``; ``jpg.npy`` where a sample has an ``npy`` or several images).

    ``masks`` and ``boxes`` are extensions, as they come: ``masks=["mask.png"], boxes=["boxes.json"]``. Then a mask is a
    ``tv_tensors.Mask`` (H, W), uint8 or int32, and an image or a tensor (C, H, W) a ``tv_tensors.Image``. Boxes are a
    JSON object, of which ``boxes`` and ``keypoints`` are ``tv_tensors`` in pixels of the sample's one image, ``labels``
    and ``kept`` int64 where they are lists of whole numbers, and all else is as in the file.

    Workers and ranks share out whole shards, ``reads`` of which are held in memory in each worker. ``even`` leaves out
    the last few of an epoch, so that all ranks have as many shards, though not as many samples where shards differ.
    Raises UsageError where a rank would have none. ``shuffle`` draws the order of the shards, not within them. A
    damaged shard, and one with a member that is not what its extension says, is an ObjectFailed.
    """

    _unit = "shard"

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str = "",
        *,
        prefix: str = "",
        names: Sequence[str] | None = None,
        template: str = "",
        masks: Sequence[str] = (),
        boxes: Sequence[str] = (),
        seed: int | None = None,
        pil: bool = False,
        on_error: OnError = "raise",
        reads: int = 2,
        shuffle: bool = True,
        rank: int | None = None,
        world: int | None = None,
        even: bool = False,
    ) -> None:
        chosen = choose(cluster, bucket, prefix, names, template)
        shards = Names(name for name in chosen if name.endswith(".tar"))
        if not shards:
            raise UsageError(f"none of the {len(chosen)} objects chosen in {bucket!r} is a .tar")
        reader = Reader(cluster, bucket, etl, shards, seed=seed, on_error=on_error, reads=reads)
        super().__init__(reader, shuffle=shuffle, batch=1, rank=rank, world=world, even=even)
        self._pil, self._masks, self._boxes = pil, _extensions("masks", masks), _extensions("boxes", boxes)
        if self._masks or self._boxes:
            prepare()
        rest = len(shards) % self._world
        if rest and not even:
            _log.warning(
                "%d shards over %d ranks: %d of these read one more, and others would wait for them at the end; "
                "even=True leaves out %d shards of each epoch", len(shards), self._world, rest, rest,
            )  # fmt: skip

    def __iter__(self) -> Iterator[object]:
        info = get_worker_info()
        if info and info.id == 0 and info.num_workers > self._units():
            _log.warning("%d shards for %d workers: some of these read nothing", self._units(), info.num_workers)
        return super().__iter__()

    def make(self, name: str, data: Body, attempt: Attempt) -> list[object]:
        assert data is not None
        try:
            return [*self._samples_of(bytes(data))]
        except UsageError as error:
            message = f"{self._reader.bucket}/{name}: {error.message}"
            raise ObjectFailed(message, code="bad_shard", hint=error.hint) from error

    def _samples_of(self, data: bytes) -> Iterator[dict[str, object]]:
        files = ((parts, path, content) for path, content in members(data) if (parts := split_name(path)))
        for key, group in groupby(files, key=lambda file: file[0][0]):
            sample: dict[str, object] = {"__key__": key}
            paths = {"__key__": "webdataset itself"}
            for (_, extension), path, content in group:
                if extension in sample:
                    first = paths[extension]
                    raise UsageError(
                        f"the sample {key!r} has the extension {extension!r} twice, by {first!r} and {path!r}",
                        hint="Give each member of a sample an extension of its own.",
                    )
                paths[extension] = path
                sample[extension] = self._decoded(path, extension, content)
            for extension in self._boxes & sample.keys():  # now the image is known that they lie in
                sample[extension] = _boxes_of(extension, sample)
            yield sample

    def _decoded(self, path: str, extension: str, content: bytes) -> object:
        kind = extension.rpartition(".")[2]
        try:
            if extension in self._masks:
                return as_mask(read_mask(content))
            if extension in self._boxes:
                return json.loads(content)
            if kind in IMAGES or kind in _TENSORS:
                decoded = decode(content, pil=self._pil)
                return as_image(decoded) if self._masks or self._boxes else decoded
            return int(content) if kind == "cls" else content.decode() if kind in _TEXTS else content
        except UsageError as error:
            raise UsageError(f"in {path!r}: {error.message}", hint=error.hint) from error
        except ValueError as error:
            raise UsageError(f"in {path!r}: this is no .{kind}: {content[:20]!r}") from error


def _extensions(option: str, extensions: Sequence[str]) -> frozenset[str]:
    if isinstance(extensions, str):
        hint = f"One is {option}=[{extensions!r}]."
        raise UsageError(f"{option} is {extensions!r}: expected a list of extensions", hint=hint)
    return frozenset(extension.lower().removeprefix(".") for extension in extensions)


def _boxes_of(extension: str, sample: dict[str, object]) -> dict[str, object]:
    """A member with boxes, of which these are tensors. Raises UsageError where they are none, or of no one image."""
    data, where = sample[extension], f"in {sample['__key__']}.{extension}"
    if not isinstance(data, dict) or "boxes" not in data:
        raise UsageError(f'{where}: this is no JSON object with "boxes"')
    sizes = [size for value in sample.values() if (size := _size(value))]
    if len(sizes) != 1:
        raise UsageError(f"{where}: boxes are of one image, and the sample has {len(sizes)}")
    try:
        tensors = {**data, "boxes": as_coordinates("boxes", floats("boxes", data["boxes"]), sizes[0])}
        if "keypoints" in data:
            tensors["keypoints"] = as_coordinates("keypoints", floats("keypoints", data["keypoints"]), sizes[0])
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    for name in ("labels", "kept"):
        values = data.get(name)
        if isinstance(values, list) and all(type(value) is int for value in values):
            tensors[name] = torch.tensor(values, dtype=torch.int64)
    return tensors


def _size(value: object) -> Size | None:
    """Height and width of an image; None of anything else."""
    from torchvision import tv_tensors

    if isinstance(value, Image.Image):
        return value.height, value.width
    return (value.shape[-2], value.shape[-1]) if isinstance(value, tv_tensors.Image) else None
