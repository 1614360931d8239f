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
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from tvetl_server.errors import BadNodeUrl, DeliveryFailed, DeliveryRetry, HostNotAllowed
from tvetl_server.processes.result_body import Body
from tvetl_server.serving.http_client import Broken, NotSent, Peers, Reply, TooLong
from tvetl_server.settings import Settings, TargetUrl

__all__ = ["LENGTH_HEADER", "NODE_URL_HEADER", "RETRY_HEADER", "RETRY_REASON", "Answer", "Delivery", "Route"]

NODE_URL_HEADER = "Ais-Node-Url"
LENGTH_HEADER = "Ais-Direct-Put-Length"
RETRY_HEADER = "Ais-Etl-Retry-Reason"
RETRY_REASON = "direct-put-transient"

#: Pauses before trying again, in seconds, where nobody else can: a target that restarts a listener is back
#: within a second; one that is gone is not worth holding a thread for.
_PAUSES = (0.1, 0.4, 1.0)
#: Connections that are kept. Each thread uses one at a time; a few hundred targets are a large cluster.
_KEPT = 256
#: Entries of Ais-Node-Url. Each stage waits for all those behind it, and all within one time limit.
_STAGES = 32
#: Times that a path may be quoted. AIStore quotes once, and names may hold some percent signs of their own.
_QUOTINGS = 8
#: Bytes of another node's words that are looked at to quote some.
_QUOTED = 4096

#: What a request line may have; %XX stays as it is.
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_HEADER = re.compile(r"[\x20-\x7e]{1,200}")
_LENGTH = re.compile(r"[0-9]{1,18}")
#: The labels of a name or an IPv4 address. An IPv6 address stands in brackets.
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_NETLOC = re.compile(rf"(\[[0-9A-Fa-f:.]{{2,45}}\]|{_LABEL}(\.{_LABEL}){{0,63}}\.?)(:[0-9]+)?")


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
        self._peers = Peers(_KEPT)

    def route(self, header: str | None) -> Route | None:
        """Where the result shall go; None: answer it. Told before the work is done, so that a bad one costs none.

        Raises BadNodeUrl or HostNotAllowed.
        """
        if header is None or not header.strip():
            return None
        entries = [entry.strip(" \t") for entry in header.split(",")]  # nothing else: no blank of Unicode's
        if len(entries) > _STAGES:
            raise BadNodeUrl(f"Ais-Node-Url has {len(entries)} entries, more than {_STAGES}.")
        # All are looked at: the next stage may be one that trusts us.
        first, *_ = [_node_url(entry) for entry in entries]
        route = Route(first, ",".join(entries[1:]))
        if route.direct and (self._target is None or not self._direct_put):
            return None  # AIStore asks even where direct put is not registered, and then takes the bytes
        if not self._hosts.allowed(route.url.hostname or ""):
            raise HostNotAllowed(
                f"Ais-Node-Url names {route.url.hostname}, which is no known node of this cluster; "
                "TVETL_NODE_IP (status.hostIP) and TVETL_ALLOW_HOSTS say which are."
            )
        return route

    def send(
        self, route: Route, path: str, data: Body, content_type: str, etl_args: str | None, *, from_body: bool
    ) -> Answer:
        """PUT ``data`` to where ``route`` leads; ``path`` is the object's, as it came.

        ``from_body``: the object came in the request, so that the target can send it again, which makes a new
        result; DeliveryRetry asks for that, and only where nothing of this one can have arrived. Else we try again
        ourselves, with these very bytes. Raises DeliveryFailed where it will not get better.
        """
        node, target, headers = self._request(route, path, etl_args)
        headers["Content-Type"] = content_type
        deadline = time.monotonic() + self._seconds
        host = route.url.hostname
        arrived = False  # it may have: a peer that hangs up has perhaps stored it first
        for pause in (*_PAUSES, None):
            try:
                reply = self._peers.put(node, target, data, headers, deadline, self._limit)
            except TimeoutError:
                raise DeliveryFailed(f"{host} did not answer in time.") from None
            except TooLong:
                raise DeliveryFailed(f"The next stage answered with more than {self._limit} bytes.") from None
            except NotSent:
                reason = f"{host} cannot be reached"
            except Broken:
                reason = f"{host} broke off"
                arrived = True
                if not route.direct and route.rest:
                    # What it may have put elsewhere is not ours to repeat: a random one would put another result.
                    raise DeliveryFailed(f"{host} broke off, and may have put a result elsewhere.") from None
            else:
                if not _is_transient(reply):
                    return self._answer(route, reply, len(data))
                reason = "The next stage could not deliver"
            if from_body and not arrived:
                raise DeliveryRetry(f"{reason} just now.")
            if pause is None or time.monotonic() + pause > deadline:
                raise DeliveryFailed(f"{reason}.")
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _request(self, route: Route, path: str, etl_args: str | None) -> tuple[SplitResult, str, dict[str, str]]:
        """The node, the request target and the headers."""
        if route.direct and self._target is not None:
            # The secret goes by the scheme that AIStore named for it: https is never made http.
            return route.url._replace(scheme=self._target.scheme), _put_target(self._target, route.url), {}
        query = f"?{urlencode({'etl_args': etl_args})}" if etl_args is not None else ""
        headers = {NODE_URL_HEADER: route.rest} if route.rest else {}
        # As it came, but for bytes that no request line may have.
        return route.url, quote(path, safe=_PRINTABLE, encoding="latin-1") + query, headers

    def _answer(self, route: Route, reply: Reply, sent: int) -> Answer:
        status, body = reply.status, reply.body
        kind = reply.headers.get("content-type", "")
        if not _HEADER.fullmatch(kind):
            kind = "application/octet-stream"
        if status == 204 or (status == 200 and route.direct and not body):
            # A target says 200 with nothing: what it got is what we sent. A further stage tells what it put.
            told = reply.headers.get(LENGTH_HEADER.lower(), "")
            length = int(told) if _LENGTH.fullmatch(told) else sent if route.direct else None
            return Answer(204, length=length)
        if status == 200 and route.direct:
            raise DeliveryFailed(f"{route.url.hostname} answered 200 with {len(body)} bytes, which no target does.")
        if status == 200 and body:
            return Answer(200, body, kind)
        if status == 200:
            raise DeliveryFailed("The next stage answered with nothing; that would be stored as an empty object.")
        # 404 would tell a job that the object is gone, and a 3xx would be followed by someone.
        if route.direct or not 400 <= status < 600 or status == 404:
            words = self._without_secret(body) or "(nothing)"
            raise DeliveryFailed(f"{route.url.hostname} answered {status}: {words}")
        return Answer(status, body or b"{}", kind)

    def _without_secret(self, body: bytes) -> str:
        """The start of what another node said, as one line; AIStore quotes the URL in some of its errors."""
        words = body[:_QUOTED].decode("utf-8", "replace")
        if self._target is not None:
            words = words.replace(self._target.secret, "...")
        # Nothing that a terminal showing the log would obey.
        return " ".join("".join(char if char.isprintable() else " " for char in words).split())[:200]


def _is_transient(reply: Reply) -> bool:
    return reply.status == 503 and reply.headers.get(RETRY_HEADER.lower()) == RETRY_REASON


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
        # A name that ends in a number is an IPv4 address to the system, however it is written (0x7f.0.0.1).
        numeric = name.rpartition(".")[2][:1].isdigit()
        return name in self._names or (bool(self._domains) and name.endswith(self._domains) and not numeric)


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
    if "@" in url.netloc or url.fragment or (url.query and not url.path.strip("/")):
        raise BadNodeUrl("Ais-Node-Url has a user, a fragment, or a query without a path.")
    if not _NETLOC.fullmatch(url.netloc):
        raise BadNodeUrl("Ais-Node-Url has no plain host.")
    # The path is put behind the secret: it must not climb out of there, however often it is quoted.
    path = url.path
    for _ in range(_QUOTINGS):
        if any(part in (".", "..") for part in re.split(r"[/\\]", path)):
            raise BadNodeUrl("Ais-Node-Url has . or .. in its path.")
        plain = unquote(path)
        if plain == path:
            return url
        path = plain
    raise BadNodeUrl(f"Ais-Node-Url has a path that is quoted more than {_QUOTINGS} times.")


def _put_target(target: TargetUrl, url: SplitResult) -> str:
    query = f"?{url.query}" if url.query else ""
    return f"{target.path}/{url.path.lstrip('/')}{query}"
