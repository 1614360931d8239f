"""PyTorch datasets that read through an ETL: what arrives is transformed already. Needs torch.

Three of them, by how they are read: :class:`TransformedImages` by index, :class:`TransformedStream` one after the
other with reads in flight ahead of the consumer, :class:`Shards` the members of tar objects. A sample depends on
seed, epoch and name alone, so any worker, in any order, on any machine, gives the same. Not here: transforming
(the cluster does), batching and moving to a device (torch's DataLoader does).
"""

from __future__ import annotations

from tvetl.datasets.images import TransformedImages
from tvetl.datasets.labels import Labels, read_labels
from tvetl.datasets.reader import Counts, OnError, to_tensor
from tvetl.datasets.shards import Shards
from tvetl.datasets.stream import TransformedStream

__all__ = [
    "Counts",
    "Labels",
    "OnError",
    "Shards",
    "TransformedImages",
    "TransformedStream",
    "read_labels",
    "to_tensor",
]
