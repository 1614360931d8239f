"""The dataset of finished batches, which a thread fills ahead of the consumer (``filler``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch.utils.data import get_worker_info

from tvetl.cluster import Cluster
from tvetl.datasets.annotated import AnnotatedReader, MasksBy, reader_of
from tvetl.datasets.decoding import look_up_on_device
from tvetl.datasets.filler import Filler
from tvetl.datasets.reader import ByName, OnError, Wire
from tvetl.datasets.rows import Rows
from tvetl.datasets.stream import Places, Stream
from tvetl.errors import UsageError

#: One batch as it is given: the images, and their labels as torch collates them; or by name all that there is of them.
Batch: TypeAlias = "tuple[torch.Tensor, object] | dict[str, object]"


class TransformedBatches(Stream):
    """The objects of a bucket, read inline through an ETL, as batches ``(images, labels)`` of ``batch`` samples.

    What a DataLoader makes of :class:`TransformedStream`, sample for sample, without a DataLoader: images (B, C, H, W),
    or with ``views`` (B, N, C, H, W); labels as torch's ``default_collate`` gives them. Objects are received into the
    rows of batches by one thread, ``reads`` of them in flight, at most ``ahead`` finished batches before the consumer.
    A batch is yours for as long as you hold it; its memory is used again once nothing refers to it. All images must be
    of one size. ``drop_last`` leaves out the last batch where it is smaller.

    ``dtype`` (torch.bfloat16, say) is what the values are converted to; ``channels_last`` their memory format;
    ``device`` where they go. ``pin_memory`` makes ``images.to(device, non_blocking=True)`` a copy in the background.
    Where the pipeline ends in steps that look at each value alone (ToTensor, Normalize), pixels are read and these
    steps are done here, by the table that the server has: the same values for a quarter of the bytes. ``wire`` says
    which way it is ("pixels" or "values"); ``wire="values"`` reads them as the pipeline gives them.

    With ``masks``, ``boxes`` or ``keypoints`` a batch is a dict: ``image``; ``mask`` (B, H, W), uint8, or int32 where
    one of the batch is; ``label`` as torch collates it; and lists of B ``boxes``, ``labels``, ``keypoints``, ``name``.

    In a DataLoader: ``DataLoader(feed, batch_size=None, num_workers=4)``. All else is as in
    :class:`TransformedStream`; with ``on_error="skip"`` the next samples fill the batch.
    """

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str = "",
        *,
        batch: int,
        prefix: str = "",
        names: Sequence[str] | None = None,
        template: str = "",
        labels: ByName = None,
        masks: MasksBy = None,
        boxes: ByName = None,
        keypoints: ByName = None,
        seed: int | None = None,
        views: int | None = None,
        on_error: OnError = "raise",
        reads: int = 16,
        ahead: int = 2,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        even: bool = False,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        wire: Wire = "auto",
    ) -> None:
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise UsageError(f"dtype is {dtype!r}: expected one of torch's, like torch.bfloat16")
        if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"device is {device!r}, and torch sees no GPU here")
        if ahead < 1:
            raise UsageError(f"ahead is {ahead}: at least one batch is read ahead")
        if pin_memory and not torch.cuda.is_available():
            raise UsageError("pin_memory is for copies to a GPU, and torch sees none here")
        reader = reader_of(
            cluster, bucket, etl, prefix=prefix, names=names, template=template,
            labels=labels, masks=masks, boxes=boxes, keypoints=keypoints,
            seed=seed, views=views, on_error=on_error, reads=reads, wire=wire,
        )  # fmt: skip
        super().__init__(reader, shuffle=shuffle, batch=batch, rank=rank, world=world, even=even)
        self._ahead, self._drop_last, self._pin = ahead, drop_last, pin_memory
        self._device = torch.device(device) if device is not None else None
        #: (C, 256), in the dtype that is wanted; None where values are read.
        self._table = None if reader.table is None else torch.from_numpy(reader.table)
        if self._table is not None and dtype is not None:
            self._table = self._table.to(dtype)
        #: The table where the last batch went.
        self._table_there: torch.Tensor | None = None
        self._dtype, self._channels_last = dtype, channels_last
        self._rows = Rows(self._table, dtype, channels_last=channels_last, later=device is not None, pin=pin_memory)

    @property
    def wire(self) -> str:
        """What is read: "pixels", whose values are looked up here, or "values" as the pipeline gives them."""
        return "values" if self._table is None else "pixels"

    def __len__(self) -> int:
        """Batches of this rank in an epoch, if no sample is skipped."""
        return self._units() // self._batch if self._drop_last else -(-self._units() // self._batch)

    def _samples(self, epoch: int, share: Places, units: int, within: int) -> Iterator[Batch]:
        """The batches of what is left of a share: see :meth:`Stream.__iter__`."""
        if get_worker_info() and self._device is not None and self._device.type != "cpu":
            hint = "Leave it out with workers: values are looked up there, on the CPU."
            raise UsageError("device is for a feed in the training process itself", hint=hint)
        filler = Filler(
            self._reader, self._rows, epoch, share[units:],
            batch=self._batch, ahead=self._ahead, drop_last=self._drop_last,
        )  # fmt: skip
        filler.start()
        try:
            while filled := filler.take():
                self._reader.tally(filled.attempts)
                self._done = (epoch, units + filled.units, 0)
                images, rest = filled.images, filled.rest
                del filled
                if images is not None:
                    given = self._given(self._delivered(images), rest)
                    del images, rest
                    yield given
                    del given
            self._done = (epoch, len(share), 0)
        finally:
            filler.stop()

    def _given(self, images: torch.Tensor, rest: object) -> Batch:
        """A batch, of which masks, boxes and keypoints go where the images are."""
        if not isinstance(self._reader, AnnotatedReader):
            return images, rest
        assert isinstance(rest, dict)
        if self._device is not None:
            rest = {name: value if name == "label" else self._moved(value) for name, value in rest.items()}
        return {"image": images, **rest}

    def _moved(self, value: object) -> object:
        if isinstance(value, list):
            return [self._moved(each) for each in value]
        return value.to(self._device, non_blocking=self._pin) if isinstance(value, torch.Tensor) else value

    def _delivered(self, images: torch.Tensor) -> torch.Tensor:
        """On the device where one was named, where also the values are looked up."""
        if self._device is None:
            return images
        images = images.to(self._device, non_blocking=self._pin)
        if self._table is not None:
            if self._table_there is None or self._table_there.device != images.device:
                self._table_there = self._table.to(images.device)
            images = look_up_on_device(images, self._table_there)
        if self._dtype is not None:
            images = images.to(self._dtype)
        return images.movedim(-3, -1).contiguous().movedim(-1, -3) if self._channels_last else images
