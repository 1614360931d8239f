"""Tar objects as WebDataset users have them: members of one key, one after the other, are one sample.

With an ETL their images are transformed on the way, and all else comes as it lies in the shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tvetl.answers import members
from tvetl.cluster import Cluster
from tvetl.datasets.flight import Attempt, Body, OnError
from tvetl.datasets.reader import Reader, choose, decode
from tvetl.datasets.stream import Stream
from tvetl.errors import ObjectFailed, UsageError

_IMAGES = ("jpg", "jpeg", "png", "webp")
_TENSORS = ("npy", "safetensors")
_TEXTS = ("txt", "json")


class Shards(Stream):
    """The samples of ``.tar`` objects, each a dict with ``__key__`` and a value for each extension.

    ``a/0001.jpg`` and ``a/0001.cls`` following one another are ``{"__key__": "a/0001", "jpg": ..., "cls": ...}``.
    Images come as uint8 (C, H, W), or with ``pil`` as PIL images; npy and safetensors as tensors; ``cls`` as int; txt
    and json as str; all else as bytes. An ``etl`` transforms each image in the cluster, drawn by the shard's name and
    its own; what comes then has the ending of the pipeline's output (``npy``, ``jpg``). Workers and ranks share out
    whole shards, ``reads`` of which are held in memory in each worker. ``shuffle`` draws the order of the shards, not
    within them. A damaged shard is an ObjectFailed.
    """

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str = "",
        *,
        prefix: str = "",
        names: Sequence[str] | None = None,
        template: str = "",
        seed: int | None = None,
        pil: bool = False,
        on_error: OnError = "raise",
        reads: int = 2,
        shuffle: bool = True,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        chosen = choose(cluster, bucket, prefix, names, template)
        shards = [name for name in chosen if name.endswith(".tar")]
        if not shards:
            raise UsageError(f"none of the {len(chosen)} objects chosen in {bucket!r} is a .tar")
        reader = Reader(cluster, bucket, etl, shards, seed=seed, views=None, on_error=on_error, reads=reads)
        super().__init__(reader, shuffle=shuffle, batch=1, rank=rank, world=world, even=False)
        self._pil = pil

    def make(self, name: str, data: Body, attempt: Attempt) -> list[object]:
        assert data is not None
        try:
            return [*self._samples_of(bytes(data))]
        except UsageError as error:
            raise ObjectFailed(f"{self._reader.bucket}/{name}: {error.message}", code="bad_shard") from error

    def _samples_of(self, data: bytes) -> Iterator[dict[str, object]]:
        sample: dict[str, object] = {}
        for path, content in members(data):
            # As WebDataset: the key ends at the first dot of the last part.
            folder, slash, file = path.rpartition("/")
            stem, _, extension = file.partition(".")
            key = folder + slash + stem
            if sample and sample["__key__"] != key:
                yield sample
                sample = {}
            sample |= {"__key__": key, extension: self._decoded(extension.lower(), content)}
        if sample:
            yield sample

    def _decoded(self, extension: str, content: bytes) -> object:
        kind = extension.rpartition(".")[2]
        if kind in _IMAGES or kind in _TENSORS:
            return decode(content, pil=self._pil)
        try:
            return int(content) if kind == "cls" else content.decode() if kind in _TEXTS else content
        except ValueError as error:
            raise UsageError(f"a .{extension} that is not one: {content[:20]!r}") from error
