"""Connecting to a cluster: the endpoint, and the SDK's client with its retries, token and TLS."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from aistore.sdk import Client
from aistore.sdk.bucket import Bucket
from aistore.sdk.errors import AISError
from aistore.sdk.retry_config import RetryConfig
from requests.auth import AuthBase
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed
from urllib3.util.retry import Retry

from tvetl.access import TOKEN_FILE, Access, Token
from tvetl.errors import UsageError

#: Seconds to connect, as the SDK; seconds to wait for bytes: longer than any object may take (45 s by default), so
#: that the cluster's reason arrives and not our own time-out.
TIMEOUT = (3.0, 120.0)
#: Seconds before a retry after 429 or 503, twice as many before the second one.
BACKOFF = 0.5
#: Seconds that a renewed token is waited for, where the last one has just ended.
RENEWAL = 30.0
#: Seconds before a retry after a failure of the network.
PAUSE = 0.2
_log = logging.getLogger("tvetl.cluster")
#: A redirect repeats the query, with thousands of key points in it; Python takes 64 kB, and a Go server 1 MB.
http.client._MAXLINE = max(http.client._MAXLINE, 1 << 21)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Target:
    """A storage node that serves objects: its URL, and the digest of its id, from which an object's place follows."""

    digest: int
    url: str


def connect(endpoint: str, access: Access, attempts: int, patience: float, connections: int = 10) -> Client:
    """An SDK client with few retries: the SDK's own repeats 5xx for 93 s and then loses the reason.

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
    client = Client(
        endpoint,
        timeout=(TIMEOUT[0], patience),
        retry_config=retries,
        max_pool_size=connections,
        token=access.token or None,
    )
    session = client.cluster().client.session_manager.session
    if access.bearer.source:
        session.auth = _Bearer(access.bearer, endpoint)
    if access.verify is not True:  # else requests would let REQUESTS_CA_BUNDLE win
        _verify_by(session, access.verify)
    if endpoint.startswith("https:") and (access.verify is not True or access.certificate):
        access.tls()  # else an unusable file fails later with a worse error, and half a pair of AIS_CRT not at all
    return client


class _Bearer(AuthBase):
    """Sends the token as it is now; before a 401 is an error, a token that was renewed meanwhile is tried.

    A token file is waited for where it is late: where it worked, or its token has just ended. A node that the endpoint
    redirects to gets no token, as with `requests`; the SDK sends bodies there itself, with the token.
    """

    def __init__(self, token: Token, endpoint: str) -> None:
        self._token, self._origin = token, _origin(endpoint)
        with suppress(requests.RequestException):  # no request to it is possible then, either
            self._origin = _origin(requests.Request("GET", endpoint).prepare().url or "")

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if _origin(request.url or "") != self._origin:
            request.headers.pop("Authorization", None)
            return request
        request.headers["Authorization"] = f"Bearer {self._token.current()}"
        tell = getattr(request.body, "tell", None)
        start = tell() if tell else None
        request.hooks["response"].append(lambda answer, **options: self._answered(answer, start, options))
        return request

    def _answered(self, answer: requests.Response, start: int | None, options: dict[str, Any]) -> requests.Response:
        sent = answer.request.headers.get("Authorization", "")
        if answer.status_code != 401:
            self._token.worked |= bool(sent)
            return answer
        if self._token.source != TOKEN_FILE or not sent:
            return answer
        late = self._token.worked or 0 <= time.time() - (self._token.ends() or 0) < RENEWAL
        deadline = time.monotonic() + (RENEWAL if late else 0)
        warned = False
        while (now := f"Bearer {self._token.current()}") == sent:
            if time.monotonic() >= deadline:
                return answer
            if not warned:
                _log.warning("the cluster refuses the token: waiting for another in the file of %s", TOKEN_FILE)
                warned = True
            time.sleep(PAUSE)
        _ = answer.content  # so that the connection can be used again
        answer.close()
        again = answer.request.copy()
        again.headers["Authorization"] = now
        if start is not None:
            again.body.seek(start)  # type: ignore[union-attr]
        answered: requests.Response = answer.connection.send(again, **options)
        answered.history.append(answer)
        answered.request = again
        return answered


def _verify_by(session: requests.Session, verify: bool | str) -> None:
    merge = session.merge_environment_settings

    def merged(*given: Any) -> MutableMapping[str, Any]:  # noqa: ANN401 - handed on
        return {**merge(*given), "verify": verify}

    session.merge_environment_settings = merged  # type: ignore[method-assign, assignment]


def make(bucket: Bucket) -> None:
    """Make a bucket where there is none. Raises AISError."""
    try:
        bucket.create(exist_ok=True)
    except AISError as error:
        if error.status_code == 403:  # one may have all rights to a bucket, and none to make any
            with suppress(AISError):
                bucket.head()
                return
        if error.status_code != 409:  # the SDK's exist_ok knows no namespaces
            raise


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def checked_endpoint(endpoint: str) -> str:
    """The endpoint, its scheme in lower case, without a slash at its end. Raises UsageError where it is none."""
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if "@" in endpoint:  # not repeated, as it may be a password
        raise UsageError("an endpoint has no user and no password in it", hint="AIS_AUTHN_TOKEN has AIStore's token.")
    if not good:
        raise UsageError(f"{endpoint!r} is not an endpoint", hint="It looks like http://192.168.49.2:8080.")
    return f"{parts.scheme}{endpoint[len(parts.scheme) :]}".rstrip("/")
