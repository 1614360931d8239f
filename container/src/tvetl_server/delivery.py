"""Where a result goes: back to the target, to another target (direct put), or to the next stage.

``Ais-Node-Url`` is not authenticated, and the URL made from it carries the cluster's write secret: it goes
only to hosts that may be nodes, no redirect is followed, every wait ends, and no message shows it.
See PROTOCOL.md, section 3.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

import urllib3

from .errors import BadNodeUrl, DeliveryFailed, DeliveryRetry, HostNotAllowed
from .settings import Settings, TargetUrl

__all__ = ["LENGTH_HEADER", "NODE_URL_HEADER", "RETRY_HEADER", "RETRY_REASON", "Answer", "Delivery", "Route"]

NODE_URL_HEADER = "Ais-Node-Url"
LENGTH_HEADER = "Ais-Direct-Put-Length"
RETRY_HEADER = "Ais-Etl-Retry-Reason"
RETRY_REASON = "direct-put-transient"

#: Pauses before trying again, in seconds, where nobody else can: a target that restarts a listener is back
#: within a second; one that is gone is not worth holding a thread for.
_PAUSES = (0.1, 0.4, 1.0)
#: Seconds for a connection within a cluster.
_CONNECT = 3.0


@dataclass(frozen=True)
class Answer:
    """What the target that asked gets to hear."""

    status: int
    body: bytes = b""
    content_type: str = "application/octet-stream"
    length: int | None = None
    """For Ais-Direct-Put-Length: bytes that were put elsewhere."""


@dataclass(frozen=True)
class Route:
    """The first entry of Ais-Node-Url, taken apart and allowed, and the rest for the next stage."""

    url: SplitResult
    rest: str

    @property
    def direct(self) -> bool:
        """True: to another target, under the path given. False: to the next stage."""
        return bool(self.url.path.strip("/"))


class Delivery:
    """Hands results on; one for a process, its connections are kept and shared by the threads."""

    def __init__(self, settings: Settings) -> None:
        self._target = settings.target_url
        self._direct_put = settings.direct_put
        self._seconds = settings.delivery_seconds
        self._limit = settings.limits.max_bytes
        self._hosts = _Hosts(settings)
        # urllib3: a pool safe for threads that sees connections the other side has closed, time-outs for
        # each step, and nothing else (retries and redirects are ours to decide).
        self._pool = urllib3.PoolManager(num_pools=32, maxsize=settings.threads, retries=False)

    def route(self, header: str | None) -> Route | None:
        """Where the result shall go; None: answer it. Told before the work is done, so that a bad one costs none.

        Raises BadNodeUrl or HostNotAllowed.
        """
        if header is None or not header.strip():
            return None
        first, _, rest = header.strip().partition(",")
        if any(not entry.strip() for entry in header.split(",")):
            raise BadNodeUrl("Ais-Node-Url has an empty entry.")
        route = Route(_node_url(first.strip()), rest.strip())
        if route.direct and (self._target is None or not self._direct_put):
            return None  # AIStore asks even where direct put is not registered, and then takes the bytes
        if not self._hosts.allowed(route.url.hostname or ""):
            raise HostNotAllowed(
                f"Ais-Node-Url names {route.url.hostname}, which is no known node of this cluster; "
                "TVETL_NODE_IP (status.hostIP) and TVETL_ALLOW_HOSTS say which are."
            )
        return route

    def send(
        self, route: Route, path: str, data: bytes, content_type: str, etl_args: str | None, *, from_body: bool
    ) -> Answer:
        """PUT ``data`` to where ``route`` leads; ``path`` is the object's, as it came.

        ``from_body``: the object came in the request, so that the target can send it again; then one failure
        raises DeliveryRetry. Else we try again ourselves. Raises DeliveryFailed where it will not get better.
        """
        url, headers = self._request(route, path, etl_args)
        headers["Content-Type"] = content_type
        deadline = time.monotonic() + self._seconds
        for pause in (*_PAUSES, None):
            try:
                response = self._put(url, data, headers, deadline)
            except (TimeoutError, urllib3.exceptions.TimeoutError) as error:
                # A ConnectTimeoutError or a reply that does not come: the time is gone.
                raise DeliveryFailed(f"{route.url.hostname} did not answer in time.") from _plain(error)
            except urllib3.exceptions.HTTPError as error:
                if from_body:
                    raise DeliveryRetry(f"{route.url.hostname} cannot be reached just now.") from _plain(error)
                if pause is None or time.monotonic() + pause > deadline:
                    raise DeliveryFailed(f"{route.url.hostname} cannot be reached.") from _plain(error)
            else:
                if not response.transient:
                    return self._answer(route, response, len(data))
                if from_body:
                    raise DeliveryRetry("The next stage could not deliver just now.")
                if pause is None or time.monotonic() + pause > deadline:
                    raise DeliveryFailed("The next stage could not deliver.")
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _request(self, route: Route, path: str, etl_args: str | None) -> tuple[str, dict[str, str]]:
        if route.direct and self._target is not None:
            # The secret goes by the scheme that AIStore named for it: https is never made http.
            return _put_url(self._target, route.url), {}
        query = f"?{urlencode({'etl_args': etl_args})}" if etl_args is not None else ""
        headers = {NODE_URL_HEADER: route.rest} if route.rest else {}
        return f"{route.url.scheme}://{route.url.netloc}{path}{query}", headers

    def _put(self, url: str, data: bytes, headers: dict[str, str], deadline: float) -> _Response:
        left = max(0.1, deadline - time.monotonic())
        response = self._pool.request(
            "PUT",
            url,
            body=data,
            headers=headers,
            redirect=False,
            preload_content=False,
            timeout=urllib3.Timeout(connect=min(_CONNECT, left), read=left),
        )
        try:
            body = _read(response, self._limit, deadline)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        transient = response.status == 503 and response.headers.get(RETRY_HEADER) == RETRY_REASON
        kind = response.headers.get("Content-Type", "application/octet-stream")
        return _Response(response.status, body, kind, response.headers.get(LENGTH_HEADER), transient)

    def _answer(self, route: Route, response: _Response, sent: int) -> Answer:
        status = response.status
        if status == 204 or (status == 200 and route.direct):
            # A target says 200 with nothing: what it got is what we sent. A further stage tells what it put.
            told = response.length if re.fullmatch(r"[0-9]{1,18}", response.length or "") else None
            return Answer(204, length=int(told) if told else sent if route.direct else None)
        if status == 200 and response.body:
            return Answer(200, response.body, response.content_type)
        if status == 200:
            raise DeliveryFailed("The next stage answered with nothing; that would be stored as an empty object.")
        # 404 would tell a job that the object is gone, and a 3xx would be followed by someone.
        if route.direct or status < 400 or status == 404:
            words = self._without_secret(response.body) or "(nothing)"
            raise DeliveryFailed(f"{route.url.hostname} answered {status}: {words}")
        return Answer(status, response.body or b"{}", response.content_type)

    def _without_secret(self, body: bytes) -> str:
        """The start of what another node said, as one line; AIStore quotes the URL in some of its errors."""
        words = body.decode("utf-8", "replace")
        if self._target is not None:
            words = words.replace(self._target.secret, "...")
        return " ".join(words.split())[:200]


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes
    content_type: str
    length: str | None
    transient: bool


class _Hosts:
    """The hosts that may be nodes of this cluster."""

    def __init__(self, settings: Settings) -> None:
        names = {host for host in settings.allow_hosts if not host.startswith(".")}
        domains = [host for host in settings.allow_hosts if host.startswith(".")]
        if settings.node_ip:
            names.add(settings.node_ip)
        if settings.target_url is not None:
            host = urlsplit(f"//{settings.target_url.host}").hostname or ""
            names.add(host)
            # ais-target-1.ais-target.ais.svc.cluster.local -> its sisters. Not of an address, nor of
            # name.local: a domain of one label says nothing.
            domain = host.partition(".")[2]
            if "." in domain and not _address(host):
                domains.append(f".{domain}")
        self._names = frozenset(_normal(name) for name in names)
        self._domains = tuple(domains)

    def allowed(self, host: str) -> bool:
        name = _normal(host)
        return name in self._names or (bool(self._domains) and name.endswith(self._domains) and not _address(name))


def _normal(host: str) -> str:
    """One form for one host: lower case, no final dot, addresses in their short form."""
    name = host.lower().rstrip(".").strip("[]")
    return _address(name) or name


def _address(host: str) -> str | None:
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def _node_url(text: str) -> SplitResult:
    """An entry of Ais-Node-Url. Raises BadNodeUrl, which never quotes it: it may hold what it should not."""
    # Printable ASCII only: no line end (a header of its own), no blank, nothing a parser may drop.
    if not re.fullmatch(r"[\x21-\x7e]+", text) or "\\" in text:
        raise BadNodeUrl("Ais-Node-Url has characters that no URL has.")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise BadNodeUrl("Ais-Node-Url is not a URL.") from error
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise BadNodeUrl("Ais-Node-Url is not http://<host>:<port>...")
    if "@" in url.netloc or url.fragment:
        raise BadNodeUrl("Ais-Node-Url has a user or a fragment.")
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\](:[0-9]+)?|[A-Za-z0-9._-]+(:[0-9]+)?", url.netloc):
        raise BadNodeUrl("Ais-Node-Url has no plain host.")
    # The path is put behind the secret: it must not climb out of there, neither plainly nor once or twice quoted.
    path = url.path
    for _ in range(3):
        if any(part in (".", "..") for part in re.split(r"[/\\]", path)):
            raise BadNodeUrl("Ais-Node-Url has . or .. in its path.")
        path = unquote(path)
    return url


def _put_url(target: TargetUrl, url: SplitResult) -> str:
    query = f"?{url.query}" if url.query else ""
    return f"{target.scheme}://{url.netloc}{target.path}/{url.path.lstrip('/')}{query}"


def _read(response: urllib3.BaseHTTPResponse, limit: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    got = 0
    for part in response.stream(1 << 20, decode_content=False):
        parts.append(part)
        got += len(part)
        if got > limit:
            raise DeliveryFailed(f"The next stage answered with more than {limit} bytes.")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _plain(error: BaseException) -> BaseException:
    """The cause for the log, by its kind only: urllib3's messages quote the URL, and with it the secret."""
    return RuntimeError(type(error).__name__)
