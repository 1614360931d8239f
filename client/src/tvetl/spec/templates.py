"""Names of objects that belong to another object, as ``{bucket}/{stem}.jpg``: an image's mask, a mask's image."""

from __future__ import annotations

import posixpath
from string import Formatter

from tvetl.spec import limits

#: What may stand in braces: the bucket, the whole name, its folders with their last slash, the rest without extension.
PLACEHOLDERS = ("bucket", "name", "folder", "stem")
_MAY = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def check(template: str) -> None:
    """Raises ValueError, whose text says why this is no template."""
    if not any(field for _, field in _parts(template)):
        raise ValueError(f"a template has at least one of {_MAY}: without, it is the same for all objects")


def expand(template: str, bucket: str, name: str) -> str:
    """The template, filled in for the object ``name``; raises ValueError as :func:`check` does."""
    check(template)
    folder, slash, last = name.rpartition("/")
    values = {"bucket": bucket, "name": name, "folder": folder + slash, "stem": posixpath.splitext(last)[0], "": ""}
    return "".join(text + values[field] for text, field in _parts(template))


def _parts(template: str) -> list[tuple[str, str]]:
    """Text and the placeholder behind it, "" for none."""
    if len(template.encode("utf-8", "replace")) > limits.OBJECT_BYTES:
        raise ValueError(f"a template has at most {limits.OBJECT_BYTES} bytes")
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{_MAY} may stand in braces; a brace itself is written twice") from error
    for _, field, spec, how in parts:
        if field is not None and (field not in PLACEHOLDERS or spec or how):
            shown = field + (f"!{how}" if how else "") + (f":{spec}" if spec else "")
            raise ValueError(f"{{{shown}}} is none of {_MAY}; a brace itself is written twice")
    return [(text, field or "") for text, field, _, _ in parts]
