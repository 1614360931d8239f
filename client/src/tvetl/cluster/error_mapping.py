"""What went wrong between us and a cluster, as our errors: nobody there, too late, broken off, refused, or no AIStore.

Knows AIStore's words and what `requests` raises, and asks nobody. An answer that is not AIStore's is told in a line,
with what it looks like; a page of some other server is no reason.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

import requests
from msgspec import MsgspecError
from urllib3.exceptions import NewConnectionError, ProtocolError, ReadTimeoutError

from tvetl import proxies
from tvetl.access import JWT
from tvetl.errors import (
    BrokenOff,
    ClusterError,
    ClusterFault,
    NotAIStore,
    NotAllowed,
    NotFound,
    NotReachable,
    ObjectFailed,
    TimedOut,
    TokenRefused,
    TvetlError,
    Unavailable,
    UsageError,
)
from tvetl.notation import object_of
from tvetl.proxies import Proxy
from tvetl.tls import TlsFault, handshake_fault, is_text

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

#: What answers of another kind than AIStore's do to the SDK and to us. Should it be a bug of ours, the cause tells.
GARBLED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, MsgspecError)

#: AIStore's own sentences, which quote a pod's, are told up to this many characters.
_LONGEST = 5000
#: HTTP's ways to say "not now".
_NOT_NOW = (429, 502, 503, 504)
_ETL_ERROR = "ETL error: "
#: What Go says of a URL with a name in it that AIStore did not escape.
_UNSENDABLE = re.compile(r'parse ".*": (?:net/url: )?invalid ', re.DOTALL)
_RENAME = "Rename the object: AIStore puts names into URLs as they are."
#: ``t[target]: `` before a sentence; before that of a start ``[t[target],etl="...",pod="...",pod_status="..."] ``,
#: quoted as Go does, and without the target where it is a pod's end; a node that quotes another puts its own before.
_NODE = re.compile(r'^(?:[pt]\[\w+\]: |\[(?:t\[\w+\])?(?:,?\w+="(?:[^"\\]|\\.)*")*\] )+')
_POD_STATUS = re.compile(r',pod_status="((?:[^"\\]|\\.)*)"')
_TERMINATED = re.compile(r"state: Terminated, reason: (.*?), message: (.*), exitCode: (-?\d+)$", re.DOTALL)
#: AIStore of an ETL, where a name alone is one; of buckets and objects it gives the URL.
_NO_ETL = re.compile(r"^(etl job )?[a-z0-9-]+ (does not exist|not found)")
_KINDS = {403: NotAllowed, 507: ClusterError}
_HINTS = {
    403: "AIS_AUTHN_TOKEN must hold a token that may do this.",
    507: "Make space on the cluster's disks; the same again then goes on.",
}
_WHERE = "Is it up? `tvetl local` starts a cluster on this machine; AIS_ENDPOINT or --endpoint name another."
#: By what AIStore says of a token that it does not take, the first that is found.
_TOKEN_HINTS = (
    (
        "token required",
        "AIS_AUTHN_TOKEN must have AIStore's token, or AIS_AUTHN_TOKEN_FILE its file: `ais auth login`.",
    ),
    ("expired", "`ais auth login` gets another for AIS_AUTHN_TOKEN; a file of AIS_AUTHN_TOKEN_FILE is read anew."),
    ("not valid yet", "This machine's clock, the cluster's and that of who made it are apart."),
    ("before issued", "This machine's clock, the cluster's and that of who made it are apart."),
    ("", "AIS_AUTHN_TOKEN must hold a token that AIStore takes, of the server that this cluster trusts."),
)
_CA = (
    "AIS_CLIENT_CA names the file of the authority that signed the cluster's certificates; without it "
    "REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE do."
)
_TLS_HINTS = {
    "expired": "It must be renewed; or this machine's clock is wrong: it says {now}.",
    "early": "This machine's clock says {now}.",
    "host": "Name the host as the certificate does (`openssl s_client -connect HOST:PORT` shows it).",
    "plain": "`http://` in AIS_ENDPOINT or --endpoint is for a cluster without TLS.",
    "wanted": "AIS_CRT and AIS_CRT_KEY name the files of a client certificate and its key.",
    "ours": "AIS_CRT and AIS_CRT_KEY must name a client certificate that the cluster trusts.",
}
#: What Go's servers and nginx say to plain HTTP where they speak TLS.
_SPEAKS_TLS = re.compile(r"HTTP request (was sent )?to (an )?HTTPS (server|port)", re.IGNORECASE)
#: AIStore's of a token, which it quotes.
_INVALID_TOKEN = re.compile(r'(?:invalid token from header "[^"]*": )?invalid token(?: \[err: (.*?)\])?(?:: \S+)?$')


@dataclass(frozen=True)
class ObjectError:
    """Why one object failed: ``object`` without its bucket, the server's ``code`` and sentence, the HTTP status.

    ``size`` is that of the object in the source, in bytes, where it is known.
    """

    object: str
    code: str
    message: str
    status: int = 0
    size: int = 0


def refused(endpoint: str, status: int, text: str, proxy: Proxy | None = None) -> TvetlError:
    """What an answer with this status says: AIStore's own words, or those of who else answered.

    ``proxy`` is the HTTP proxy that the answer came through; what is not AIStore's is taken for the proxy's.
    """
    message, its_own = sentence(status, text)
    if status == 400 and endpoint.startswith("http:") and _SPEAKS_TLS.search(text):
        hint = f"`https{endpoint[4:]}` in AIS_ENDPOINT or --endpoint; AIS_CLIENT_CA names its authority."
        return NotReachable(f"{endpoint} speaks https, and was asked in plain http", hint=hint)
    if proxy and not (its_own and text.strip()):
        hint = f"`{proxy.source}=http://USER:PASSWORD@HOST:PORT` signs in at it; {proxy.hint}" if status == 407 else ""
        what = message if str(status) in message else f"HTTP {status}, {message}"
        return _not_through(proxy, endpoint, f"it answers {what}", hint)
    if message.startswith(_ETL_ERROR):
        failed = object_error("", message, status)
        return ObjectFailed(failed.message, code=failed.code, status=status)
    if status in _NOT_NOW:
        hint = "It may be starting, or have too much to do: try again. `tvetl doctor` looks closer."
        return Unavailable(message if str(status) in message else f"{message} (HTTP {status})", hint=hint)
    if status == 431:  # Go's server, before AIStore sees it
        hint = "An object's arguments may have a million characters: send fewer boxes or key points."
        message = "the request is longer than AIStore takes"
        return ObjectFailed(message, code="bad_arguments", status=status, hint=hint)
    if not its_own:
        return not_aistore(endpoint, f"HTTP {status}, {message}")
    if status == 404:
        hint = "`tvetl list` shows the ETLs, and whether they run." if _NO_ETL.search(message) else ""
        return NotFound(message, hint=hint)
    if status == 401:
        message = _INVALID_TOKEN.sub(
            lambda said: f"the cluster refuses the token: {said[1] or 'invalid token'}", message
        )
        hint = next(hint for words, hint in _TOKEN_HINTS if words in message)
        return TokenRefused(message if str(status) in message else f"{message} (HTTP {status})", hint=hint)
    told = message if str(status) in message else f"{message} (HTTP {status})"
    if _UNSENDABLE.match(message):
        return ObjectFailed(told, code="bad_name", status=status, hint=_RENAME)
    if message == "direct target access denied":
        return ClusterError(told, hint="AIS_ENDPOINT or --endpoint must name the gateway, and this is a target.")
    if "requires Kubernetes" in message:
        return ClusterError(told, hint="AIStore starts ETLs as pods. `tvetl local` needs no Kubernetes.")
    if "access denied (allowed" in message:  # not for want of a token
        return ClusterError(told, hint="The bucket's access attributes forbid it: `ais bucket props show` has them.")
    kind = _KINDS.get(status, ClusterFault)
    return kind(told, hint=_HINTS.get(status, "`tvetl doctor` looks closer." if status >= 500 else ""))


def hidden(told: NotAllowed) -> NotAllowed:
    """The same of looking at an ETL, which AIStore's AuthN grants to nobody but administrators."""
    hint = (
        "Say the pipeline it was registered with: --pipeline FILE, or Cluster(..., pipelines={NAME: PIPELINE}). "
        "Else AIS_AUTHN_TOKEN must hold an administrator's token."
    )
    return NotAllowed(f"only administrators may look at ETLs on this cluster: {told.message}", hint=hint)


def not_reached(endpoint: str, error: requests.RequestException) -> TvetlError:
    """Nobody there, nobody answering in time, an answer that broke off, or one that HTTP does not know.

    Names the node that a gateway's redirect led to, where it is that node that fails, and a proxy in the way.
    """
    url = str(getattr(error.request, "url", None) or endpoint)
    at = node(endpoint, url)
    proxy = proxies.before(url)
    causes = [*_causes(error)]
    said = f"({_cause(causes[-1])})"
    if proxy and isinstance(error, (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)):
        socks = "SOCKS" in str(error)  # not repeated, as it may hold a password
        why = "SOCKS needs the package PySocks" if socks else "this is no URL of an HTTP proxy"
        return _not_through(proxy, at, f"it cannot be used: {why}")
    if isinstance(error, requests.exceptions.SSLError):
        return _no_tls(at, causes, said, proxy)
    if any(isinstance(cause, (NewConnectionError, requests.ConnectTimeout)) for cause in causes):
        if proxy:
            return _not_through(proxy, at, f"nobody answers at the proxy {said}")
        return NotReachable(f"nobody answers at {at} {said}", hint=_WHERE)
    if any(isinstance(cause, (requests.ReadTimeout, ReadTimeoutError, TimeoutError)) for cause in causes):
        return too_late(at, proxy)
    if isinstance(error, requests.TooManyRedirects):
        return not_aistore(endpoint, "it redirects without end", proxy)
    if isinstance(error, requests.JSONDecodeError) or not any(
        isinstance(c, (ProtocolError, OSError)) for c in causes[1:]
    ):
        return garbled(endpoint, error, proxy)
    if proxy:
        return _not_through(proxy, at, _cause(causes[-1]))
    hint = "What was asked for may be done all the same; to ask again is safe. `tvetl doctor` looks closer."
    return BrokenOff(f"{at} broke off its answer {said}", hint=hint)


def unanswered(endpoint: str, error: Exception) -> TvetlError:
    """What the network, or an answer that cannot be understood, raised in place of an answer."""
    if isinstance(error, requests.RequestException):
        return not_reached(endpoint, error)
    if isinstance(error, TimeoutError):
        return too_late(endpoint, proxies.before(endpoint))
    return garbled(endpoint, error, proxies.before(endpoint))


def _no_tls(at: str, causes: Sequence[BaseException], said: str, proxy: Proxy | None) -> NotReachable:
    """What is wrong with TLS, and the variable that would help."""
    fault = next(filter(None, map(handshake_fault, causes)), None)
    if not fault and any(isinstance(cause, ssl.SSLEOFError) for cause in causes):  # its alert may be lost so
        fault = TlsFault("wanted", " ended the connection in the handshake: it may want a client certificate")
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    hint = _TLS_HINTS.get(fault.kind if fault else "", _CA).format(now=now)
    what = f"{at}: it{fault.phrase}" if fault else f"{at} {said}"
    return NotReachable(f"no TLS connection to {what}", hint=f"{hint} {proxy.hint}" if proxy else hint)


def no_such_file(error: OSError) -> UsageError | None:
    """For a certificate's file that is not there, which `requests` looks for; None for another error."""
    hint = "AIS_CLIENT_CA (else REQUESTS_CA_BUNDLE), AIS_CRT and AIS_CRT_KEY name such files."
    what, _, path = str(error).partition(": ")
    told = f"{what}: it is text" if is_text(path) else str(error)  # which may be a key
    return UsageError(told, hint=hint) if " TLS " in what else None


def too_late(endpoint: str, proxy: Proxy | None = None) -> TimedOut:
    """No answer in time."""
    if proxy:
        return TimedOut(f"{endpoint} did not answer in time through {proxy}", hint=proxy.hint)
    hint = "It may still be at work, or have too much to do: `tvetl doctor` looks closer."
    return TimedOut(f"{endpoint} did not answer in time", hint=hint)


def garbled(endpoint: str, error: Exception, proxy: Proxy | None = None) -> NotAIStore:
    """An answer that cannot be understood, for what it raised when we tried."""
    return not_aistore(endpoint, f"{type(error).__name__}, {_excerpt(str(error))}", proxy)


def not_aistore(endpoint: str, what: str, proxy: Proxy | None = None) -> NotAIStore:
    """Somebody else answers."""
    if proxy:
        message = f"what answers for {endpoint} through {proxy} does not answer as AIStore does: {what}"
        return NotAIStore(message, hint=proxy.hint)
    hint = "Does the endpoint name AIStore's gateway itself? `tvetl doctor` tells what is there."
    return NotAIStore(f"what answers at {endpoint} does not answer as AIStore does: {what}", hint=hint)


def node(endpoint: str, url: str) -> str:
    """Whom a request went to: the endpoint, or the node that its gateway's redirect led to."""
    return endpoint if url.startswith(endpoint) else "://".join(urlsplit(url)[:2])


def _not_through(proxy: Proxy, endpoint: str, what: str, hint: str = "") -> NotReachable:
    """An HTTP proxy in the way that does not hand requests on, or is not there."""
    return NotReachable(f"{endpoint} is not reached through {proxy}: {what}", hint=hint or proxy.hint)


def sentence(status: int, text: str) -> tuple[str, bool]:
    """What an answer says, {"message": "p[...]: etl job x does not exist", "status": 404, ...}, and whether it is
    AIStore that says it: in JSON, or with nothing at all, as to HEAD.

    Without the node's name, and without the advice to use AIStore's own API.
    """
    text = text.strip()
    try:
        told = str(row(json.loads(text))["message"]) if text else f"HTTP {status}"
    except (ValueError, LookupError, TypeError, RecursionError):
        return _excerpt(text), False
    return without_node(told).partition(" - try starting new ETL")[0].strip()[:_LONGEST], True


def without_node(message: str) -> str:
    """AIStore's sentence without the node, pod and service that it begins with."""
    return _NODE.sub("", message)


def ended(text: str) -> str:
    """How the pod's container ended, where AIStore's answer to a start tells: its last line, or Kubernetes' word.

    AIStore takes the pod away in the moment in which it ends, mostly before anybody could ask for its log.
    """
    try:
        return container_end(str(row(json.loads(text))["message"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def container_end(message: str) -> str:
    """The same of AIStore's sentence alone; "" where it quotes no container that ended."""
    quoted = _POD_STATUS.search(message)
    status = (
        re.sub(r"\\(.)", lambda escaped: {"n": "\n", "t": "\t"}.get(escaped[1], escaped[1]), quoted[1])
        if quoted
        else ""
    )
    if not (found := _TERMINATED.search(status)):
        return ""
    why, log, code = found.groups()
    return last_line(log)[:_LONGEST] or f"its container ended with status {code} ({why})"


def last_line(log: str) -> str:
    """The last line with something in it."""
    return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")


def object_error(name: str, text: str, status: int) -> ObjectError:
    """Read ``ETL error: {"error": code, "message": sentence, ...}``; whatever else it is stays as it is."""
    name = object_of(name)[1] if "://" in name else name
    body = text[len(_ETL_ERROR) :] if text.startswith(_ETL_ERROR) else text
    with suppress(ValueError, TypeError, RecursionError):
        said = row(json.loads(body))
        if "error" in said:
            return ObjectError(name, str(said["error"]), str(said.get("message", said["error"])), status)
    code = "not_found" if text == "object not found" else "bad_name" if _UNSENDABLE.match(text) else "etl_error"
    return ObjectError(name, code, body.strip(), status)


def job_id(text: object) -> str:
    """The id that AIStore answers to what it begins. Raises ValueError for anything else."""
    if not re.fullmatch(r"[\w.,-]{1,200}", str(text).strip()):
        raise ValueError(f"this is no id: {str(text)[:_LONGEST]}")
    return str(text).strip()


def row(value: Json) -> Mapping[str, Json]:
    """A JSON object, empty for null. Raises TypeError for anything else."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {str(value)[:_LONGEST]}")
    return value or {}


def rows(value: Json) -> list[Mapping[str, Json]]:
    """A JSON array of objects, empty for null. Raises TypeError for anything else."""
    if value is not None and not isinstance(value, list):
        raise TypeError(f"expected an array, got {str(value)[:_LONGEST]}")
    return [row(each) for each in value or ()]


def _excerpt(text: str) -> str:
    """What some other server says, in a line: its page's title, or how it begins."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text[:_LONGEST], re.DOTALL | re.IGNORECASE)
    line = " ".join(JWT.sub("***", title[1] if title else text[:_LONGEST]).split())
    return repr(line[:100] + ("..." if len(line) > 100 else ""))


def _causes(error: object) -> Iterator[BaseException]:
    """The error, and what led to it, which requests and urllib3 put into their arguments or into ``reason`` too."""
    if isinstance(error, BaseException):
        yield error
        for inner in [*error.args, getattr(error, "reason", None), error.__cause__]:
            yield from _causes(inner)


def _cause(innermost: BaseException) -> str:
    """As the operating system words it: "Connection refused"."""
    told = innermost.strerror if isinstance(innermost, OSError) else ""
    return told or " ".join(str(innermost).split())[:100] or type(innermost).__name__
