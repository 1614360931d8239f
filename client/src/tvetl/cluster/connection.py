"""Connecting to a cluster: the endpoint, the SDK's client with its retries, and what who connects beside it needs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from aistore.sdk import Client
from aistore.sdk.retry_config import RetryConfig
from aistore.version import __version__ as sdk_version
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed
from urllib3.util.retry import Retry

from tvetl.errors import UsageError

#: Seconds to connect, as the SDK; seconds to wait for bytes: longer than any object may take (45 s by default), so
#: that the cluster's reason arrives and not our own time-out.
TIMEOUT = (3.0, 120.0)
#: Seconds before a 429 or 503 is asked again, twice as many before the second time.
BACKOFF = 0.5
#: Seconds before what the network lost is asked again.
PAUSE = 0.2


@dataclass(frozen=True)
class Target:
    """A storage node that serves objects: its URL, and the digest of its id, from which an object's place follows."""

    digest: int
    url: str


@dataclass(frozen=True)
class Access:
    """How the SDK connects to a node, for whoever connects beside it.

    ``token`` is AuthN's, "" without one. ``verify`` and ``certificate`` are as requests has them, for nodes that speak
    https. An HTTP proxy before a node is :func:`tvetl.proxies.before`'s to tell.
    """

    token: str
    verify: bool | str
    certificate: str | tuple[str, str] | None
    user_agent: str = f"ais/python/{sdk_version}"

    def tls(self) -> ssl.SSLContext:
        """Raises OSError where a certificate cannot be read."""
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            where = Path(DEFAULT_CA_BUNDLE_PATH if self.verify is True else self.verify)
            context.load_verify_locations(**{"capath" if where.is_dir() else "cafile": str(where)})
        if self.certificate:
            context.load_cert_chain(*([self.certificate] if isinstance(self.certificate, str) else self.certificate))
        return context


def connect(endpoint: str, attempts: int, patience: float, connections: int = 10) -> Client:
    """An SDK client that gives up soon: the SDK's own repeats 5xx for 93 s and then loses the reason.

    429 and 503 are repeated for 1.5 s in all, and then returned with their body.
    """
    repeats = attempts - 1
    http = Retry(
        total=repeats,
        connect=0,
        read=False,
        other=0,
        backoff_factor=BACKOFF,
        status_forcelist=[429, 503],
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    network = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_fixed(PAUSE),
        retry=retry_if_exception_type(requests.ConnectionError),
        reraise=True,
    )
    retries = RetryConfig(http_retry=http, network_retry=network)
    return Client(endpoint, timeout=(TIMEOUT[0], patience), retry_config=retries, max_pool_size=connections)


def bucket_of(bucket: str) -> tuple[str, str]:
    """Provider and name of a bucket: "ais" and "photos" of ``photos`` and ``ais://photos/``.

    Raises UsageError for a folder in one, which AIStore would take for the whole bucket, and for no name.
    """
    provider, _, name = bucket.rpartition("://")
    name = name.removesuffix("/")
    if not name or "/" in name:
        hint = "--prefix chooses what is in a folder of a bucket; --prepend puts results into one."
        raise UsageError(f"{bucket!r} is not the name of a bucket", hint=hint)
    return provider or "ais", name


def checked_endpoint(endpoint: str) -> str:
    """The endpoint without a slash at its end. Raises UsageError where it is none."""
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if "@" in endpoint:  # not repeated, as it may be a password
        raise UsageError("an endpoint has no user and no password in it", hint="AIS_AUTHN_TOKEN has AIStore's token.")
    if not good:
        raise UsageError(f"{endpoint!r} is not an endpoint", hint="It looks like http://192.168.49.2:8080.")
    return endpoint.rstrip("/")
