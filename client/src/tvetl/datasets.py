"""A map-style PyTorch dataset that reads through an ETL: what arrives is transformed already.

torch's ``DataLoader`` needs no base class, so that torch is imported only where a tensor is made. Where an epoch
is told, each sample depends on seed, epoch and name alone: any worker, in any order, gives the same.
Not here: iterable datasets, shards, retries.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tvetl.cluster import Cluster
from tvetl.errors import UsageError

if TYPE_CHECKING:
    import torch

_NPY = b"\x93NUMPY"


class TransformedImages:
    """The objects of a bucket, read inline through an ETL, as ``(tensor, name)``.

    ``names`` chooses objects; without it, all whose names begin with ``prefix``. ``seed`` fixes the random steps,
    together with the epoch (see :meth:`set_epoch`); without it the pipeline's own seed holds, if it has one.
    An ETL that answers ``npy`` gives the tensor as it was sent (float32 CHW, say); one that answers an image gives
    uint8 (3, H, W). Raises NotFound and ObjectFailed when read; UsageError where torch is not installed.
    """

    def __init__(
        self,
        cluster: Cluster,
        bucket: str,
        etl: str,
        *,
        prefix: str = "",
        names: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        self.names = tuple(cluster.objects(bucket, prefix) if names is None else names)
        self._endpoint = cluster.endpoint
        self._cluster: Cluster | None = cluster
        self._bucket = bucket
        self._etl = etl
        self._arguments = {} if seed is None else {"seed": seed, "epoch": 0}

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: call it before each epoch. Raises UsageError without a seed, where every read is random."""
        if "seed" not in self._arguments:
            raise UsageError("a dataset without a seed has no epochs", hint="Give it a seed.")
        self._arguments["epoch"] = epoch

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        name = self.names[index]
        if self._cluster is None:
            self._cluster = Cluster(self._endpoint)
        return to_tensor(self._cluster.get(self._bucket, name, self._etl, self._arguments)), name

    def __getstate__(self) -> dict[str, object]:
        # Workers that are spawned get a copy; connections do not travel.
        return {**self.__dict__, "_cluster": None}


def to_tensor(data: bytes) -> torch.Tensor:
    """Decode what an ETL answered: npy to its own shape and dtype, an image to uint8 (3, H, W).

    Raises UsageError for other formats, and where torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        hint = "pip install torch  (or: pip install 'tvetl[torch]')"
        raise UsageError("reading into tensors needs PyTorch, which is not installed", hint=hint) from error
    if data.startswith(_NPY):
        return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        hint = "Give the pipeline an output of npy, jpeg, png or webp."
        raise UsageError("the ETL answered neither npy nor an image", hint=hint) from error
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
