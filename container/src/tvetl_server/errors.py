"""What can go wrong with one object, as exceptions; :mod:`tvetl_server.problems` gives each its status and code.

Every message is one sentence for the reader of the object, names no path of the pod and no secret.
"""

from __future__ import annotations


class ObjectError(Exception):
    """The root: this object, in this request, cannot be answered with a result."""


class BadArguments(ObjectError):
    """etl_args does not parse, or asks for what this pipeline cannot do."""


class BadNodeUrl(ObjectError):
    """Ais-Node-Url is not a list of addresses."""


class NoSource(ObjectError):
    """Neither a file name nor a body came with the request."""


class TruncatedBody(ObjectError):
    """Fewer bytes came than Content-Length said."""


class OutsideRoots(ObjectError):
    """The file name lies outside the folders that may be read."""


class UnreadableFile(ObjectError):
    """The named file is there but may not be read, or its bucket's folder is not mounted here."""


class HostNotAllowed(ObjectError):
    """Ais-Node-Url names a host that is no node of this cluster."""


class FileGone(ObjectError):
    """The named file is not there any more (the only 404)."""


class TooManyBytes(ObjectError):
    """The source is larger than the limit."""


class NotAnImage(ObjectError):
    """No image in a format that is allowed; the message says what it looks like."""


class DamagedImage(ObjectError):
    """An image that cannot be decoded whole."""


class TooManyPixels(ObjectError):
    """The header promises more pixels than the limit; nothing was allocated."""


class TooManyFrames(ObjectError):
    """An animation with more frames than the limit."""


class TooManyMembers(ObjectError):
    """A shard with more members than the limit."""


class TransformFailed(ObjectError):
    """A step of the pipeline cannot take this image."""


class OutOfTime(ObjectError):
    """The object took longer than the limit."""


class DeliveryFailed(ObjectError):
    """The next stage or the other target refused the result for good (502)."""


class DeliveryRetry(ObjectError):
    """The other target could not be reached just now; the sender may repeat (503 and its retry header)."""


def first_line(error: Exception) -> str:
    """What a library's exception says, as part of a sentence of ours: one line, bounded, without its full stop."""
    return (str(error) or type(error).__name__).split("\n", 1)[0].rstrip(".")[:200]
