"""The HTTP proxy that the environment puts before a URL, as `requests` finds it. Nothing is sent.

`requests`, and with it AIStore's SDK, goes through the proxy that http_proxy, https_proxy or all_proxy name, unless
no_proxy has the host. What then goes wrong is the proxy's doing as often as the cluster's, so errors name it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies

from requests.utils import get_environ_proxies, select_proxy


@dataclass(frozen=True)
class Proxy:
    """A proxy before ``host``: its ``address`` without credentials, and the ``source`` that names it, "http_proxy"."""

    address: str
    source: str
    host: str

    def __str__(self) -> str:
        return f"the proxy {self.address} ({self.source})"

    @property
    def hint(self) -> str:
        """The command that bypasses the proxy, with the hosts that no_proxy has already."""
        hosts = getproxies().get("no", "")
        return f"`export no_proxy={hosts + ',' if hosts else ''}{self.host}` goes past the proxy."


def before(url: str) -> Proxy | None:
    """The proxy that requests to this URL go through, or None."""
    try:
        proxies = get_environ_proxies(url)
        proxy = select_proxy(url, proxies)
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:  # no URL
        return None
    if not proxy:
        return None
    scheme = parts.scheme if proxies.get(parts.scheme) == proxy else "all"
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    set_here = (name for name in names if os.environ.get(name))  # noqa: TID251 - only says what requests has read
    source = next(set_here, "the system's settings")
    # Without a scheme it is an http proxy, and what stands before the last @ are credentials.
    kind, _, rest = proxy.rpartition("://")
    return Proxy(f"{kind or 'http'}://{re.sub(r'.*@', '', rest).rstrip('/')}", source, host)
