"""The request for a job, as plain data. No cluster is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tvetl import notation
from tvetl.errors import UsageError


@dataclass(frozen=True)
class Rename:
    """How a job names its results: ``prepend`` before the name, another extension where one is given.

    AIStore takes extensions with a dot and without, so ``.jpg`` is ``jpg`` here, too.
    """

    prepend: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = ((old.lstrip("."), new.lstrip(".")) for old, new in self.extensions.items())
        object.__setattr__(self, "extensions", {old: new for old, new in pairs if old != new})

    @classmethod
    def of(cls, prepend: str, pairs: Iterable[tuple[str, str]]) -> Rename:
        """Of pairs like ``("jpg", "npy")``. Raises UsageError for an extension that gets two others."""
        extensions: dict[str, str] = {}
        for old, new in ((old.lstrip("."), new.lstrip(".")) for old, new in pairs):
            if extensions.setdefault(old, new) != new:
                raise UsageError(f"the extension {old!r} cannot become both {extensions[old]!r} and {new!r}")
        return cls(prepend, extensions)

    def __call__(self, name: str) -> str:
        stem, dot, extension = name.rpartition(".")
        return self.prepend + (stem + dot + self.extensions.get(extension, extension) if dot else name)

    def sources(self, result: str) -> list[str]:
        """The names of which this would be the result, whether there are such objects or not."""
        name = result.removeprefix(self.prepend)
        stem, dot, extension = name.rpartition(".")
        renamed = [stem + dot + old for old, new in self.extensions.items() if new == extension]
        return [each for each in (*renamed, name) if self(each) == result]


#: Results with the names of their sources.
AS_IS = Rename()


@dataclass(frozen=True)
class Request:
    """Which objects to transform: a bucket, those of it with a ``prefix``, the ``names``, or a ``template``'s range.

    A name that is not in the source fails. A name of a template that is not there is absent, as a range has gaps.
    ``again`` transforms also what the same pipeline has made already. ``workers`` is how many objects each target reads
    at once: 0 is AIStore's own choice, -1 one after the other.
    """

    source: str
    destination: str
    etl: str
    prefix: str = ""
    names: Sequence[str] | None = None
    template: str | None = None
    rename: Rename = field(default_factory=Rename)
    continue_on_error: bool = True
    again: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        if (self.names is not None) + (self.template is not None) + bool(self.prefix) > 1:
            raise UsageError("a prefix, names and a template exclude one another")
        if url(self.source) == url(self.destination) and self.rename == AS_IS:
            raise UsageError("source and destination are the same bucket", hint="Choose another, or prepend a folder.")
        if self.workers < -1:
            raise UsageError(
                f"{self.workers} workers", hint="0 is AIStore's own choice, -1 one object after the other."
            )

    @property
    def whole(self) -> bool:
        """Whether it is for a bucket, or all of it with a prefix."""
        return self.names is None and self.template is None


def url(bucket: str) -> str:
    """A bucket by its one URL, also where it was named alone, or by another name of its provider."""
    return str(notation.bucket(bucket))
