"""Names of buckets, ETLs and objects: their rules, and their files.

Each part of an object's name between slashes is a file name as it stands, with four exceptions: ``%`` is written
``%25``, NUL ``%00``, a part ``.`` ``%2E``, and an empty part (``dbl//slash``) a lone ``%``. So every stored name can be
listed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from tvetl.errors import UsageError
from tvetl.local.http import ApiError
from tvetl.notation import bucket, iterate

_BUCKET = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,64}")
_ETL = re.compile(r"[a-z0-9-]*")
#: AIStore's own bounds on the length of an ETL's name (cmn/k8s/util.go).
_ETL_SHORTEST, _ETL_LONGEST = 6, 32
#: File systems store at most this many bytes for one part of a path.
_LONGEST_PART = 255
#: A template that names more objects than this is refused; it would fill the memory.
MOST_NAMES = 10_000_000


def check_bucket(name: str) -> str:
    """The bucket's name, or 400: letters, digits, ``_``, ``-`` and ``.``, not beginning with a dot."""
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise ApiError(400, f'bucket name "{name}" is invalid: may only contain letters, numbers, dashes (-), _ and .')
    return name


def bucket_key(provider: str, namespace: str, name: str) -> str:
    """The key of a bucket, or 400: its name; of other providers and clusters its URL."""
    try:
        found = bucket(f"{provider}://{namespace}{'/' if namespace else ''}{check_bucket(name)}")
    except UsageError as error:
        raise ApiError(400, f'bucket namespace "{namespace}" is invalid') from error
    return found.name if found.path == f"ais/@#/{name}" else str(found)


def shown(key: str) -> str:
    """The bucket's URL."""
    return key if "://" in key else f"ais://{key}"


def folder_of(key: str) -> str:
    """The bucket's folder below the root: its name, ``aws@#/<name>`` or ``ais@cluster#namespace/<name>``."""
    if "://" not in key:
        return check_bucket(key)
    found = bucket(key)
    return f"{found.provider}@{found.cluster}#{found.namespace}/{check_bucket(found.name)}"


def check_etl(name: str) -> str | None:
    """AIStore's message for an ETL's name that it refuses, else None."""
    if not name:
        return f'ETL name "{name}" is empty'
    if len(name) < _ETL_SHORTEST:
        return f'ETL name "{name}" is too short'
    if len(name) > _ETL_LONGEST:
        return f'ETL name "{name}" is too long'
    return None if _ETL.fullmatch(name) else f'ETL name "{name}" is invalid: can only contain [a-z0-9-]'


def to_file(name: str) -> str:
    """The relative path for an object's name; 400 for ``..``, a part over 255 bytes, and what is not UTF-8."""
    parts = []
    for part in name.split("/"):
        if part == "..":
            raise ApiError(400, f'invalid object name "{name}": ".." may not be a part of it')
        part = {"": "%", ".": "%2E"}.get(part) or part.replace("%", "%25").replace("\0", "%00")
        try:
            too_long = len(part.encode()) > _LONGEST_PART
        except UnicodeEncodeError:
            raise ApiError(400, "invalid object name: not UTF-8") from None
        if too_long:
            raise ApiError(400, f'invalid object name "{name[:40]}...": a part of it is over {_LONGEST_PART} bytes')
        parts.append(part)
    return "/".join(parts)


def from_file(path: str) -> str | None:
    """The object's name for a relative path, or None for a path that `to_file` never returns."""
    parts = ["" if part == "%" else unquote(part, errors="strict") for part in path.split("/")]
    name = "/".join(parts)
    try:
        return name if to_file(name) == path else None
    except ApiError:
        return None


def expand(template: str) -> Iterator[str]:
    """The names of a template, one by one, or 400."""
    try:
        return iterate(template, MOST_NAMES)
    except UsageError as error:
        raise ApiError(400, f"invalid template: {error.message}") from error


def renamed(name: str, ext: dict[str, str] | None, prepend: str) -> str:
    """An object's name at the destination: ``prepend``, and the last extension replaced as in ``ext``."""
    stem, dot, last = name.rpartition(".")
    for old, new in (ext or {}).items():
        if dot and last == old.lstrip("."):
            name = f"{stem}.{new.lstrip('.')}"
            break
    return prepend + name


def from_uname(text: str) -> tuple[str, str]:
    """Bucket and object of a unique name; a bucket's ends in a slash and gives an empty object."""
    provider, _, rest = text.partition("/")
    namespace, _, rest = rest.partition("/")
    name_of, slash, name = rest.partition("/")
    if not slash or not namespace.startswith("@"):
        raise ApiError(400, f'invalid object name "{text}": expected ais/@#/<bucket>/<object>')
    return bucket_key(provider, namespace, name_of), name
