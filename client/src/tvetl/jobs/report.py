"""The results of a job as plain data, and the file of objects that failed. No cluster is asked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tvetl.cluster import ObjectError
from tvetl.errors import UsageError
from tvetl.files import write_whole


@dataclass(frozen=True)
class JobProgress:
    """How far a job is: objects done of ``total``, seconds since the wait began, bytes of results.

    ``stage`` is "objects" while they are transformed, then "reading errors".
    """

    done: int
    total: int
    seconds: float
    bytes: int = 0
    stage: str = "objects"

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the end, at the speed until now; None as long as nothing is done."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class Report:
    """The result of a job. ``aborted`` is why it ended early, empty where it did not.

    Of the ``wanted`` objects, ``kept`` were in the destination already, made by the same pipeline. The ``failed`` are
    named, and the others were transformed now. ``absent`` are names of the template that the source has not.
    """

    job: str
    wanted: int
    kept: int
    failed: tuple[ObjectError, ...]
    absent: tuple[str, ...]
    seconds: float
    aborted: str = ""

    @property
    def done(self) -> int:
        return self.wanted - self.kept - len(self.failed)

    @property
    def ok(self) -> bool:
        return not (self.failed or self.aborted)

    def to_data(self) -> dict[str, object]:
        """Plain data for JSON: the fields, and ``done``."""
        return {**asdict(self), "done": self.done}

    def write_errors(self, path: Path) -> None:
        """One line of JSON for each object that failed: object, code, message, status, size."""
        write_whole(path, "".join(json.dumps(asdict(error)) + "\n" for error in self.failed).encode())


@dataclass(frozen=True)
class Estimate:
    """The result of a dry run: how many ``objects`` a job would transform, and which of a ``sample`` failed.

    ``seconds`` and ``bytes`` are for all objects, at the speed of reading the sample inline from here, eight at once.
    They are None where nothing of the sample worked.
    """

    objects: int
    kept: int
    sample: int
    failed: tuple[ObjectError, ...]
    seconds: float | None
    bytes: int | None

    def to_data(self) -> dict[str, object]:
        return asdict(self)


def failed_names(path: Path) -> list[str]:
    """The objects that an errors file names, for :func:`transform_objects`. Raises UsageError for another file."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [str(line["object"]) for line in lines]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{str(path)!r} is not the errors file of a job: {error}") from error
    if not names:
        raise UsageError(f"{str(path)!r} names no object", hint="Nothing failed.")
    return names
