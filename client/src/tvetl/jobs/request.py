"""What a job is asked for, as plain data. No cluster is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvetl.errors import UsageError


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
    """Which objects to transform: a bucket, those of it with a ``prefix``, the ``names``, or a ``template``'s range.

    A name that is not in the source fails. A name of a template that is not there is absent, as a range has gaps.
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
