"""The map-style dataset: any sample by its index, a batch with all its reads in flight at once."""

from __future__ import annotations

from collections.abc import Sequence

from tvetl.cluster import Cluster
from tvetl.datasets.annotated import MasksBy, reader_of
from tvetl.datasets.flight import in_order
from tvetl.datasets.reader import ByName, Counts, OnError, Reader, Sample
from tvetl.errors import ObjectFailed, UsageError


class SeededDataset:
    """The base of all datasets: names, a seed, an epoch, and counts of what became of reading."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self.names = reader, reader.names

    @property
    def seed(self) -> int:
        """With it and the epoch, everything that was drawn can be drawn again."""
        return self._reader.seed

    @property
    def counts(self) -> Counts:
        """What became of reading, in all workers of this dataset together."""
        return self._reader.counts

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: call it before each epoch, counted from 0. Workers that live on hear of it."""
        self._reader.epoch = epoch

    def _fingerprint(self) -> str:
        """What two datasets share that read the same in the same order."""
        return self._reader.fingerprint()

    def _check_state(self, state: dict[str, object]) -> None:
        """Raises UsageError where a saved state is of another dataset, or none."""
        if not isinstance(state, dict) or state.get("of") != self._fingerprint():
            hint = "Objects, ETL, seed, order and numbers of workers and ranks must be as they were."
            raise UsageError("this state was saved of another dataset", hint=hint)


class TransformedImages(SeededDataset):
    """The objects of a bucket, read inline through an ETL, as ``(data, label)``.

    ``names``, ``template`` (``Bengal_{0..100}.jpg``) or ``prefix`` choose objects. ``data`` is what the pipeline gives:
    its tensor (float32 CHW, say); of an image uint8 (C, H, W), or with ``pil`` the PIL image; with ``views`` several
    drawn views of each object from one request, (N, C, H, W) or a list of images. ``labels`` is a function of the
    name, or a table as :func:`read_labels` gives; without it the label is the name. ``seed`` fixes the random steps
    together with the epoch; without it the pipeline's own holds, else one is drawn (see ``seed``). Without ``etl`` the
    objects are read as they are: what a job wrote, say.

    With ``masks``, ``boxes`` or ``keypoints`` a sample is a dict of torchvision's ``tv_tensors`` that were drawn alike:
    ``image`` (C, H, W), ``mask`` (H, W) uint8 or int32, ``boxes`` (M, 4) in pixels of the result, ``labels`` of the M
    boxes that are left, ``keypoints``, the image's ``name``, and ``label`` where ``labels`` of images are given.
    ``masks`` is how the mask of an image is called in the same bucket (``masks/{folder}{stem}.png``), or a function of
    the image's name; ``boxes`` and ``keypoints`` are tables by name, as :func:`read_coco` gives them, or functions.
    A mask that is missing or of another size is its image's failure. Not together with ``views`` or ``pil``.

    ``on_error`` is for objects that the ETL refuses or that are gone: "raise" ObjectFailed or NotFound; "skip", which
    makes a batch smaller; "substitute" the next object of the list that can be read. ``counts`` tells how often.
    ``reads`` are in flight at once in each worker; each waits as long as the ETL may take.
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
        labels: ByName = None,
        masks: MasksBy = None,
        boxes: ByName = None,
        keypoints: ByName = None,
        seed: int | None = None,
        views: int | None = None,
        pil: bool = False,
        on_error: OnError = "raise",
        reads: int = 8,
    ) -> None:
        reader = reader_of(
            cluster, bucket, etl, prefix=prefix, names=names, template=template,
            labels=labels, masks=masks, boxes=boxes, keypoints=keypoints,
            seed=seed, views=views, pil=pil, on_error=on_error, reads=reads,
        )  # fmt: skip
        super().__init__(reader)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self.names) <= index < len(self.names):
            raise IndexError(index)  # which also ends a plain `for` over the dataset
        return self.__getitems__([index % len(self.names)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """A batch, as DataLoader asks for it. Where all its objects were skipped there is nothing to give: raises."""
        attempts = [*in_order(self._reader, indices, self._reader.epoch, self._reader.samples)]
        samples = [sample for attempt in attempts for sample in self._reader.tally([attempt])]
        if not samples and indices:
            why = attempts[0].failed[0]
            hint = 'Take larger batches, or on_error="substitute".'
            raise ObjectFailed(f"nothing is left of this batch: {why}", hint=hint)
        return samples  # type: ignore[return-value]

    def state_dict(self) -> dict[str, object]:
        """Seed and epoch; where in the epoch is the sampler's business (torchdata's StatefulDataLoader keeps it)."""
        return {"seed": self.seed, "epoch": self._reader.epoch, "of": self._fingerprint()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on as another dataset stood, or in a later epoch that was set. Raises UsageError for another dataset's."""
        self._check_state(state)
        self._reader.epoch = max(self._reader.epoch, int(str(state["epoch"])))
