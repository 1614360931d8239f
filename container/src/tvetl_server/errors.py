"""Exceptions of one object; :mod:`tvetl_server.problems` gives each a status and a code.

Every message is written for the reader of the object, and names neither a path of the pod nor a secret.
"""

from __future__ import annotations


class ObjectError(Exception):
    """The base class: this request for this object has no result."""


class BadArguments(ObjectError):
    """etl_args does not parse, or this pipeline cannot do it."""


class BadNodeUrl(ObjectError):
    """Ais-Node-Url is not a list of addresses."""


class NoSource(ObjectError):
    """The request has neither a body nor a file name."""


class TruncatedBody(ObjectError):
    """The body has fewer bytes than its Content-Length."""


class OutsideRoots(ObjectError):
    """The file name lies outside the folders that may be read."""


class UnreadableFile(ObjectError):
    """The named file exists but may not be read, or its bucket's folder is not mounted here."""


class HostNotAllowed(ObjectError):
    """Ais-Node-Url names a host that is no known node of this cluster."""


class FileGone(ObjectError):
    """The named file does not exist any more (the only 404)."""


class TooManyBytes(ObjectError):
    """The source is larger than the limit."""


class NotAnImage(ObjectError):
    """The object is no image of an allowed format; the message names the format it looks like."""


class DamagedImage(ObjectError):
    """An image that cannot be decoded completely."""


class WrongDepth(ObjectError):
    """An image with values of more than 8 bits, which the pipeline's ``depth`` refuses or cannot scale."""


class TooManyPixels(ObjectError):
    """The image's header has more pixels than the limit; nothing was allocated."""


class TooManyFrames(ObjectError):
    """An animation with more frames than the limit."""


class TooManyMembers(ObjectError):
    """A shard with more members than the limit."""


class BadShard(ObjectError):
    """A shard in which a member would be called as another one is, or a sample has an extension twice."""


class BadAnnotations(ObjectError):
    """A mask of another size than its image, or with more than one value a pixel; boxes or keypoints outside."""


class TransformFailed(ObjectError):
    """A step of the pipeline cannot take this image."""


class OutOfTime(ObjectError):
    """The object took longer than the limit."""


class DeliveryFailed(ObjectError):
    """The next stage or the other target refused the result, or failed for good (502)."""


class DeliveryRetry(ObjectError):
    """The next node cannot be reached just now; the sender may retry (503 and its retry header)."""


def first_line(error: Exception) -> str:
    """A library's error message as part of a sentence of ours: one line, bounded, without a full stop."""
    return (str(error) or type(error).__name__).split("\n", 1)[0].rstrip(".")[:200]
