"""URLs as Go's net/url writes them, and so as a target calls a transformer."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote

from tvetl.local.http import ApiError

#: A path that Go sends exactly as written, because every character may stand in one (net/url, validEncoded).
_GO_PATH_AS_IS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@\[\]%/]*")


def go_request_target(path: str, query: dict[str, str]) -> str:
    """The request target that Go sends for an *unescaped* path, which is how AIStore calls a transformer.

    A ``#`` ends it, query and all; a ``?`` begins the query early, which Go sends without looking at it: UTF-8 as its
    bytes (here as Latin-1), and blanks, which break the request. ``pct%41`` goes out as it is. Raises ApiError where
    Go's own parser refuses (``100%.jpg``).
    """
    encoded = "&".join(f"{key}={quote_plus(value)}" for key, value in sorted(query.items()))
    url = (path + ("?" + encoded if encoded else "")).partition("#")[0]
    if re.search(r"[\x00-\x1f\x7f]", url):
        raise ApiError(500, f'parse "{path}": net/url: invalid control character in URL')
    path, mark, rest = url.partition("?")
    broken = re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", path)
    if broken:
        raise ApiError(500, f'parse "{path}": invalid URL escape "{broken.group()}"')
    if not _GO_PATH_AS_IS.fullmatch(path):
        path = quote(unquote(path, errors="surrogateescape"), safe="$&+,/:;=@", errors="surrogateescape")
    return path + mark + rest.encode("utf-8", "surrogateescape").decode("latin-1")
