"""The subject of a check, and its report: plain data."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from tvetl.errors import UsageError

#: Arguments of tvetl-server that change nothing of a pipeline without random steps.
ARGS = '{"seed":7,"epoch":1}'
#: The readiness path that AIStore's runtime form takes for granted.
READY = "/health"


@dataclass(frozen=True)
class Subject:
    """The server, and the means for its cases. Raises UsageError where these cannot work."""

    url: str
    """``http://<host>:<port>``."""
    root: Path | None = None
    """A folder that the server may read by file name, and the kit may write; None skips those cases."""
    seen_as: str = ""
    """That folder's name in the server's own file system, where it has another."""
    target_url: str = ""
    """What the server got as AIS_TARGET_URL, its host an address of ours; "" skips the cases with other targets."""
    sample: bytes | None = None
    """An object that the server transforms; None is :func:`sample`."""
    args: str = ARGS
    """``etl_args`` that it takes."""
    ready: str = READY
    seconds: float = 30.0
    """How long to wait for an answer's next byte."""

    def __post_init__(self) -> None:
        split = _url(self.url, "URL", "http://127.0.0.1:8000")
        if split.path.strip("/") or split.query:
            raise UsageError(f"{self.url!r} has a path", hint="It is host and port alone: http://127.0.0.1:8000")
        if self.target_url:
            target = _url(self.target_url, "--target-url", "http://127.0.0.1:8080/v1/etl/_object/name/secret")
            if not target.path.strip("/"):
                raise UsageError("--target-url has no path", hint="A real one: http://.../v1/etl/_object/name/secret")
        if not self.ready.startswith("/") or not self.ready.isascii() or " " in self.ready:
            raise UsageError(f"{self.ready!r} is no path", hint="It begins with a slash.")
        if self.sample == b"":
            raise UsageError("the sample object is empty")


@dataclass(frozen=True)
class Verdict:
    """The result of one case, with the reason where it did not pass."""

    name: str
    severity: Literal["must", "should"]
    promise: str
    result: Literal["passed", "failed", "skipped"]
    reason: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """All cases. ``comparable`` is false where the server answered the same request differently.

    Its bytes were not compared then, only that there are some.
    """

    verdicts: tuple[Verdict, ...]
    comparable: bool

    def count(self, result: Literal["passed", "failed", "skipped"]) -> int:
        return sum(verdict.result == result for verdict in self.verdicts)


def sample() -> bytes:
    """A JPEG of 64 x 48 with something in it, RGB, under a kilobyte."""
    from PIL import Image

    ramp = Image.linear_gradient("L").resize((64, 48))
    file = io.BytesIO()
    Image.merge("RGB", (ramp, ramp.rotate(180), ramp)).save(file, "JPEG", quality=50)
    return file.getvalue()


def _url(text: str, what: str, example: str) -> SplitResult:
    try:
        split = urlsplit(text)
        port = split.port
    except ValueError:
        port, split = None, urlsplit("")
    if split.scheme != "http" or not split.hostname or (port is None and split.netloc.endswith(":")):
        raise UsageError(f"{what} {text!r} is no http://host:port", hint=f"It looks like {example}")
    return split
