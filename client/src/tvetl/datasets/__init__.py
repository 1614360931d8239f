"""PyTorch datasets that read through an ETL: what arrives is transformed already. Needs torch.

Four of them, by how they are read: :class:`TransformedBatches` as finished batches, read ahead of the consumer;
:class:`TransformedImages` by index; :class:`TransformedStream` one sample after the other; :class:`Shards` the members
of tar objects. A sample depends on seed, epoch and name alone, so any worker, in any order, on any machine, gives the
same.

``reader`` chooses objects and reads them, ``annotated`` with their masks, boxes and keypoints (``samples``). ``flight``
keeps many reads in flight, their results in order; ``filler`` fills batches ahead, in the memory of ``rows``; and
``decoding`` makes tensors. ``labels``, ``coco``, ``voc`` and ``yolo`` read files of labels and boxes, the last three
into the table of ``annotations``; ``annotation_files`` is for formats of one file an image.

Not here: transforming (the cluster does), requests and connections (:mod:`tvetl.fetch`).
"""

from __future__ import annotations

from tvetl.datasets.annotations import Annotation, AnnotationTable
from tvetl.datasets.batches import TransformedBatches
from tvetl.datasets.coco import read_coco
from tvetl.datasets.decoding import to_tensor
from tvetl.datasets.images import TransformedImages
from tvetl.datasets.labels import Labels, read_labels
from tvetl.datasets.reader import Counts, OnError
from tvetl.datasets.samples import collate_annotated
from tvetl.datasets.shards import Shards
from tvetl.datasets.stream import TransformedStream
from tvetl.datasets.voc import read_voc
from tvetl.datasets.yolo import read_yolo

__all__ = [
    "Annotation",
    "AnnotationTable",
    "Counts",
    "Labels",
    "OnError",
    "Shards",
    "TransformedBatches",
    "TransformedImages",
    "TransformedStream",
    "collate_annotated",
    "read_coco",
    "read_labels",
    "read_voc",
    "read_yolo",
    "to_tensor",
]
