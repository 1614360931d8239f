"""What a job is asked for, and what became of it: plain data, with the file of what failed. No cluster is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tvetl.cluster import ObjectError
from tvetl.errors import UsageError
from tvetl.files import write_whole


@dataclass(frozen=True)
class Rename:
    """How a job names its results: ``prepend`` before the name, another extension where one is given."""

    prepend: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        stem, dot, extension = name.rpartition(".")
        return self.prepend + (stem + dot + self.extensions[extension] if extension in self.extensions else name)


#: Results with the names of their sources.
AS_IS = Rename()


@dataclass(frozen=True)
class Request:
    """What shall be transformed: a bucket, what of it begins with ``prefix``, the ``names``, or a ``template``'s range.

    A name that is not in the source fails; what a template names beyond it is absent, as a range has gaps.
    ``again`` transforms also what the same pipeline has made already.
    """

    source: str
    destination: str
    etl: str
    prefix: str = ""
    names: tuple[str, ...] | None = None
    template: str | None = None
    rename: Rename = field(default_factory=Rename)
    continue_on_error: bool = True
    again: bool = False

    def __post_init__(self) -> None:
        if (self.names is not None) + (self.template is not None) + bool(self.prefix) > 1:
            raise UsageError("a prefix, names and a template exclude one another")
        if self.source == self.destination and self.rename == AS_IS:
            raise UsageError("source and destination are the same bucket", hint="Choose another, or prepend a folder.")


@dataclass(frozen=True)
class JobProgress:
    """How far a job is: objects done, of how many; seconds since we began to wait; bytes of results.

    ``stage`` is what is being done: objects transformed, or errors read.
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
    """What became of a job. ``aborted`` is why it ended early, empty where it did not.

    ``wanted`` objects were asked for: ``kept`` were in the destination already, made by the same pipeline, ``failed``
    are named, and the others were transformed now.
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
    """What a dry run found: how many ``objects`` a job would transform, and what became of a ``sample`` of them.

    ``seconds`` and ``bytes`` are for all of them, at the speed of reading the sample inline from here, eight at once;
    None where nothing of the sample worked.
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
