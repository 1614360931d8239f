"""Delivery of a result: in the response, to another target (direct put), or through the next stage.

``Ais-Node-Url`` is not authenticated, and the URL made from it carries the cluster's write secret. So a result is sent
only to hosts that may be nodes, no redirect is followed, every wait ends, and no message shows the secret.
See docs/protocol.md, section 3.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from tvetl_server.errors import BadNodeUrl, DeliveryFailed, DeliveryRetry, HostNotAllowed
from tvetl_server.processes.result_body import Body
from tvetl_server.serving.http_client import Broken, ClientResponse, HttpClient, NoTrust, NotSent, TooLong
from tvetl_server.settings import Settings, short_address

__all__ = ["LENGTH_HEADER", "NODE_URL_HEADER", "RETRY_HEADER", "RETRY_REASON", "Delivered", "Delivery", "Route"]

NODE_URL_HEADER = "Ais-Node-Url"
LENGTH_HEADER = "Ais-Direct-Put-Length"
RETRY_HEADER = "Ais-Etl-Retry-Reason"
RETRY_REASON = "direct-put-transient"

#: Seconds before each retry, where the client cannot retry. A target that restarts its listener is back within a
#: second; one that is gone is not worth a thread.
_PAUSES = (0.1, 0.4, 1.0)
#: Idle connections. Each thread uses one at a time, and a large cluster has a few hundred targets.
_POOL_SIZE = 256
#: Entries of Ais-Node-Url. Each stage waits for all stages behind it, within one time limit.
_STAGES = 32
#: How often a path may be quoted. AIStore quotes it once, and a name may hold some percent signs of its own.
_QUOTINGS = 8
#: Bytes of another node's error that are read for a quotation.
_QUOTED = 4096

#: Where the settings for TLS are.
_TRUST = "The server's AIS_CLIENT_CA, AIS_CRT and AIS_CRT_KEY are the pod's own settings: docs/secured.md."

#: The characters of a request line; %XX stays as it is.
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_HEADER = re.compile(r"[\x20-\x7e]{1,200}")
_LENGTH = re.compile(r"[0-9]{1,18}")
#: The labels of a name or an IPv4 address. An IPv6 address stands in brackets.
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_NETLOC = re.compile(rf"(\[[0-9A-Fa-f:.]{{2,45}}\]|{_LABEL}(\.{_LABEL}){{0,63}}\.?)(:[0-9]+)?")


@dataclass(frozen=True)
class Delivered:
    """The outcome of a delivery, as a response to the client."""

    status: int
    body: bytes = b""
    content_type: str = "application/octet-stream"
    length: int | None = None
    """For Ais-Direct-Put-Length: bytes that were put to another target."""


@dataclass(frozen=True)
class Route:
    """The first entry of Ais-Node-Url, parsed and allowed, and the rest of it for the next stage."""

    url: SplitResult
    rest: str

    @property
    def direct(self) -> bool:
        """True: to another target, under the given path. False: to the next stage."""
        return bool(self.url.path.strip("/"))


class Delivery:
    """Delivers results; there is one in a process, and all threads share its connection pool."""

    def __init__(self, settings: Settings) -> None:
        self._target = settings.target_url
        self._direct_put = settings.direct_put
        self._seconds = settings.delivery_seconds
        self._limit = settings.limits.max_bytes
        self._hosts = _Hosts(settings)
        self._client = HttpClient(_POOL_SIZE, settings.tls.context)

    def route(self, header: str | None) -> Route | None:
        """The route of the result, by Ais-Node-Url; None: in the response. Called before the object is transformed.

        Raises BadNodeUrl or HostNotAllowed.
        """
        if header is None or not header.strip():
            return None
        entries = [entry.strip(" \t") for entry in header.split(",")]  # not Unicode's other blanks
        if len(entries) > _STAGES:
            raise BadNodeUrl(f"Ais-Node-Url has {len(entries)} entries, more than {_STAGES}.")
        # All entries are checked: the next stage may trust this server.
        first, *_ = [_node_url(entry) for entry in entries]
        route = Route(first, ",".join(entries[1:]))
        if route.direct and (self._target is None or not self._direct_put):
            return None  # AIStore asks even where direct put is not registered, and accepts the bytes
        if not self._hosts.allowed(route.url.hostname or ""):
            raise HostNotAllowed(
                f"Ais-Node-Url names {route.url.hostname}, which is no known node of this cluster; "
                "TVETL_NODE_IP (status.hostIP) and TVETL_ALLOW_HOSTS add nodes."
            )
        return route

    def send(
        self, route: Route, path: str, data: Body, content_type: str, etl_args: str | None, *, from_body: bool
    ) -> Delivered:
        """PUT ``data`` along ``route``; ``path`` is the object's, as it came.

        ``from_body``: the object came in the request, so its sender can repeat it, which makes a new result.
        DeliveryRetry asks for that, but only if nothing of this result can have arrived. Otherwise these very bytes are
        sent again here. Raises DeliveryFailed for a lasting failure.
        """
        node, target, headers = self._request(route, path, etl_args)
        headers["Content-Type"] = content_type
        deadline = time.monotonic() + self._seconds
        host = route.url.hostname
        may_have_arrived = False  # a node may store the result before its connection breaks
        for pause in (*_PAUSES, None):
            try:
                response = self._client.put(node, target, data, headers, deadline, self._limit)
            except TimeoutError:
                raise DeliveryFailed(f"{host} did not answer in time.") from None
            except NoTrust as error:  # the same again, until somebody changes a setting or a certificate
                raise DeliveryFailed(f"{host}{error}. {_TRUST}") from None
            except TooLong:
                raise DeliveryFailed(f"The next stage answered with more than {self._limit} bytes.") from None
            except NotSent:
                reason = f"{host} cannot be reached"
            except Broken:
                reason = f"{host} broke the connection"
                may_have_arrived = True
                if not route.direct and route.rest:
                    # That stage may have put its result elsewhere. A random one would now put another.
                    raise DeliveryFailed(f"{host} broke the connection, and may have put a result elsewhere.") from None
            else:
                if response.status != 503 or response.headers.get(RETRY_HEADER.lower()) != RETRY_REASON:
                    return self._delivered(route, response, len(data))
                reason = "The next stage could not deliver"
            if from_body and not may_have_arrived:
                raise DeliveryRetry(f"{reason} just now.")
            if pause is None or time.monotonic() + pause > deadline:
                raise DeliveryFailed(f"{reason}.")
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _request(self, route: Route, path: str, etl_args: str | None) -> tuple[SplitResult, str, dict[str, str]]:
        """The node, the request target and the headers."""
        if route.direct and self._target is not None:
            query = f"?{route.url.query}" if route.url.query else ""
            target = f"{self._target.path}/{route.url.path.lstrip('/')}{query}"
            # AIStore named the scheme for the secret: https never becomes http.
            return route.url._replace(scheme=self._target.scheme), target, {}
        query = f"?{urlencode({'etl_args': etl_args})}" if etl_args is not None else ""
        headers = {NODE_URL_HEADER: route.rest} if route.rest else {}
        # The path as it came, except bytes that no request line may have.
        return route.url, quote(path, safe=_PRINTABLE, encoding="latin-1") + query, headers

    def _delivered(self, route: Route, response: ClientResponse, sent: int) -> Delivered:
        status, body = response.status, response.body
        content_type = response.headers.get("content-type", "")
        if not _HEADER.fullmatch(content_type):
            content_type = "application/octet-stream"
        if status == 204 or (status == 200 and route.direct and not body):
            # A target's response is an empty 200, for all bytes sent. A stage states the length of its own result.
            stated = response.headers.get(LENGTH_HEADER.lower(), "")
            length = int(stated) if _LENGTH.fullmatch(stated) else sent if route.direct else None
            return Delivered(204, length=length)
        if status == 200 and route.direct:
            raise DeliveryFailed(f"{route.url.hostname} answered 200 with {len(body)} bytes, which no target does.")
        if status == 200 and body:
            return Delivered(200, body, content_type)
        if status == 200:
            raise DeliveryFailed("The next stage answered with nothing; that would be stored as an empty object.")
        # 404 would tell a job that the object is gone, and some client might follow a 3xx.
        if route.direct or not 400 <= status < 600 or status == 404:
            words = self._without_secret(body) or "(nothing)"
            raise DeliveryFailed(f"{route.url.hostname} answered {status}: {words}")
        return Delivered(status, body or b"{}", content_type)

    def _without_secret(self, body: bytes) -> str:
        """The start of another node's error, as one line. AIStore quotes the URL in some of its errors."""
        if self._target is not None:  # before the cut, which might leave a part of it
            body = body.replace(self._target.secret.encode(), b"...")
        words = body[:_QUOTED].decode("utf-8", "replace")
        # No control sequence for a terminal that shows the log.
        return " ".join("".join(char if char.isprintable() else " " for char in words).split())[:200]


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
            # The domain of ais-target-1.ais-target.ais.svc.cluster.local has all targets. An address has no domain,
            # and one of a single label (name.local) is too wide.
            domain = host.partition(".")[2]
            if "." in domain and not short_address(host):
                domains.append(f".{domain}")
        self._names = frozenset(_normal(name) for name in names)
        self._domains = tuple(domains)

    def allowed(self, host: str) -> bool:
        name = _normal(host)
        # The system reads a name that ends in a number as an IPv4 address, in any notation (0x7f.0.0.1).
        numeric = name.rpartition(".")[2][:1].isdigit()
        return name in self._names or (bool(self._domains) and name.endswith(self._domains) and not numeric)


def _normal(host: str) -> str:
    """One form for one host: lower case, no final dot, addresses in their short form."""
    name = host.lower().rstrip(".").strip("[]")
    return short_address(name) or name


def _node_url(text: str) -> SplitResult:
    """Parse an entry of Ais-Node-Url. Raises BadNodeUrl, which never quotes the entry: it may hold a secret."""
    # Printable ASCII only: a line end would begin another header, and parsers drop some blanks.
    if not re.fullmatch(r"[\x21-\x7e]+", text) or "\\" in text:
        raise BadNodeUrl("Ais-Node-Url has characters that no URL has.")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise BadNodeUrl("Ais-Node-Url is not a URL.") from error
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise BadNodeUrl("Ais-Node-Url is not http://<host>:<port>...")
    if "@" in url.netloc or url.fragment or (url.query and not url.path.strip("/")):
        raise BadNodeUrl("Ais-Node-Url has a user, a fragment, or a query without a path.")
    if not _NETLOC.fullmatch(url.netloc):
        raise BadNodeUrl("Ais-Node-Url has no plain host.")
    # The path is appended to the secret's: it must not climb out of there, however often it is quoted.
    path = url.path
    for _ in range(_QUOTINGS):
        if any(part in (".", "..") for part in re.split(r"[/\\]", path)):
            raise BadNodeUrl("Ais-Node-Url has . or .. in its path.")
        plain = unquote(path)
        if plain == path:
            return url
        path = plain
    raise BadNodeUrl(f"Ais-Node-Url has a path that is quoted more than {_QUOTINGS} times.")
