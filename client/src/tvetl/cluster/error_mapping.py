"""Failures of requests to a cluster as our errors: nobody there, too late, broken off, refused, or no AIStore.

Knows AIStore's messages and the exceptions of `requests`, and sends nothing. Of an answer that is not AIStore's an
error has one line, with its title or its beginning; a page of some other server is no reason.
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

#: The exceptions that an answer of another kind than AIStore's causes. Of a bug of ours, too; the cause shows it.
GARBLED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, MsgspecError)

#: Characters of an error that AIStore's message may take, which may quote a pod's.
_LONGEST = 5000
#: HTTP's ways to say "not now".
_NOT_NOW = (429, 502, 503, 504)
_ETL_ERROR = "ETL error: "
#: Go's error for a URL with a name in it that AIStore did not escape.
_UNSENDABLE = re.compile(r'parse ".*": (?:net/url: )?invalid ', re.DOTALL)
_RENAME = "Rename the object: AIStore puts names into URLs as they are."
#: ``t[target]: `` before a sentence; before that of a start ``[t[target],etl="...",pod="...",pod_status="..."] ``,
#: quoted as Go does, and without the target where it is a pod's end; a node that quotes another puts its own before.
_NODE = re.compile(r'^(?:[pt]\[\w+\]: |\[(?:t\[\w+\])?(?:,?\w+="(?:[^"\\]|\\.)*")*\] )+')
_POD_STATUS = re.compile(r',pod_status="((?:[^"\\]|\\.)*)"')
_TERMINATED = re.compile(r"state: Terminated, reason: (.*?), message: (.*), exitCode: (-?\d+)$", re.DOTALL)
#: AIStore of an ETL, where a name alone is one; of buckets and objects it gives the URL.
_NO_ETL = re.compile(r"^(etl job )?[a-z0-9-]+ (does not exist|not found)")
_KINDS: Mapping[int, tuple[type[ClusterError], str]] = {
    403: (NotAllowed, "AIS_AUTHN_TOKEN must hold a token that may do this."),
    507: (ClusterError, "Make space on the cluster's disks; the same again then goes on."),
}
_WHERE = "Is it up? `tvetl local` starts a cluster on this machine; AIS_ENDPOINT or --endpoint name another."
#: By AIStore's reason for refusing a token, the first pattern that is found there.
_TOKEN_HINTS = (
    (
        "token required",
        "AIS_AUTHN_TOKEN must have AIStore's token, or AIS_AUTHN_TOKEN_FILE its file: `ais auth login`.",
    ),
    ("expired", "`ais auth login` gets another for AIS_AUTHN_TOKEN; a file of AIS_AUTHN_TOKEN_FILE is read anew."),
    ("not valid yet|before issued", "This machine's clock, the cluster's and that of who made it are apart."),
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
#: The answer of Go's servers and nginx to plain HTTP where they speak TLS.
_SPEAKS_TLS = re.compile(r"HTTP request (was sent )?to (an )?HTTPS (server|port)", re.IGNORECASE)
#: AIStore's message about a token, which it quotes.
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
    """An answer with this status as an error, with AIStore's own message, or that of another server.

    ``proxy`` is the HTTP proxy that the answer came through; a message that is not AIStore's is taken for the proxy's.
    """
    message, its_own = sentence(status, text)
    if status == 400 and endpoint.startswith("http:") and _SPEAKS_TLS.search(text):
        hint = f"`https{endpoint[4:]}` in AIS_ENDPOINT or --endpoint; AIS_CLIENT_CA names its authority."
        return NotReachable(f"{endpoint} speaks https, and was asked in plain http", hint=hint)
    if proxy and not (its_own and text.strip()):
        hint = f"`{proxy.source}=http://USER:PASSWORD@HOST:PORT` signs in at it; {proxy.hint}" if status == 407 else ""
        answer = message if str(status) in message else f"HTTP {status}, {message}"
        return _not_through(proxy, endpoint, f"it answers {answer}", hint)
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
            lambda match: f"the cluster refuses the token: {match[1] or 'invalid token'}", message
        )
    full = message if str(status) in message else f"{message} (HTTP {status})"
    if status == 401:
        return TokenRefused(full, hint=next(hint for pattern, hint in _TOKEN_HINTS if re.search(pattern, message)))
    if _UNSENDABLE.match(message):
        return ObjectFailed(full, code="bad_name", status=status, hint=_RENAME)
    if message == "direct target access denied":
        return ClusterError(full, hint="AIS_ENDPOINT or --endpoint must name the gateway, and this is a target.")
    if "requires Kubernetes" in message:
        return ClusterError(full, hint="AIStore starts ETLs as pods. `tvetl local` needs no Kubernetes.")
    if "access denied (allowed" in message:  # not for want of a token
        return ClusterError(full, hint="The bucket's access attributes forbid it: `ais bucket props show` has them.")
    kind, hint = _KINDS.get(status, (ClusterFault, "`tvetl doctor` looks closer." if status >= 500 else ""))
    return kind(full, hint=hint)


def hidden(error: NotAllowed) -> NotAllowed:
    """The same error for a look at an ETL, which AIStore's AuthN allows administrators only."""
    hint = (
        "Say the pipeline it was registered with: --pipeline FILE, or Cluster(..., pipelines={NAME: PIPELINE}). "
        "Else AIS_AUTHN_TOKEN must hold an administrator's token."
    )
    return NotAllowed(f"only administrators may look at ETLs on this cluster: {error.message}", hint=hint)


def not_reached(endpoint: str, error: Exception) -> TvetlError:
    """The error for nobody there, no answer in time, an answer that broke off, or one that cannot be understood.

    Names the node that a gateway's redirect led to, where that node fails, and a proxy in the way.
    """
    url = str(getattr(getattr(error, "request", None), "url", None) or endpoint)
    at = node(endpoint, url)
    proxy = proxies.before(url)
    causes = [*_causes(error)]
    reason = f"({_cause(causes[-1])})"
    if proxy and isinstance(error, (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)):
        socks = "SOCKS" in str(error)  # not repeated, as it may hold a password
        why = "SOCKS needs the package PySocks" if socks else "this is no URL of an HTTP proxy"
        return _not_through(proxy, at, f"it cannot be used: {why}")
    if isinstance(error, requests.exceptions.SSLError):
        return _no_tls(at, causes, reason, proxy)
    if any(isinstance(cause, (NewConnectionError, requests.ConnectTimeout)) for cause in causes):
        if proxy:
            return _not_through(proxy, at, f"nobody answers at the proxy {reason}")
        return NotReachable(f"nobody answers at {at} {reason}", hint=_WHERE)
    if any(isinstance(cause, (requests.ReadTimeout, ReadTimeoutError, TimeoutError)) for cause in causes):
        return too_late(at, proxy)
    if isinstance(error, requests.TooManyRedirects):
        return not_aistore(endpoint, "it redirects without end", proxy)
    if isinstance(error, requests.JSONDecodeError) or not any(
        isinstance(c, (ProtocolError, OSError)) for c in causes[1:]
    ):
        return not_aistore(endpoint, f"{type(error).__name__}, {_excerpt(str(error))}", proxy)
    if proxy:
        return _not_through(proxy, at, _cause(causes[-1]))
    hint = "What was asked for may be done all the same; to ask again is safe. `tvetl doctor` looks closer."
    return BrokenOff(f"{at} broke off its answer {reason}", hint=hint)


def _no_tls(at: str, causes: Sequence[BaseException], reason: str, proxy: Proxy | None) -> NotReachable:
    """The error for a TLS fault, with the variable that would help."""
    fault = next(filter(None, map(handshake_fault, causes)), None)
    if not fault and any(isinstance(cause, ssl.SSLEOFError) for cause in causes):  # its alert may be lost so
        fault = TlsFault("wanted", " ended the connection in the handshake: it may want a client certificate")
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    hint = _TLS_HINTS.get(fault.kind if fault else "", _CA).format(now=now)
    peer = f"{at}: it{fault.phrase}" if fault else f"{at} {reason}"
    return NotReachable(f"no TLS connection to {peer}", hint=f"{hint} {proxy.hint}" if proxy else hint)


def no_such_file(error: OSError) -> UsageError | None:
    """The error for a certificate's file that is missing, where `requests` reports it; None for another error."""
    hint = "AIS_CLIENT_CA (else REQUESTS_CA_BUNDLE), AIS_CRT and AIS_CRT_KEY name such files."
    phrase, _, path = str(error).partition(": ")
    message = f"{phrase}: it is text" if is_text(path) else str(error)  # which may be a key
    return UsageError(message, hint=hint) if " TLS " in phrase else None


def too_late(endpoint: str, proxy: Proxy | None = None) -> TimedOut:
    """No answer in time."""
    if proxy:
        return TimedOut(f"{endpoint} did not answer in time through {proxy}", hint=proxy.hint)
    hint = "It may still be at work, or have too much to do: `tvetl doctor` looks closer."
    return TimedOut(f"{endpoint} did not answer in time", hint=hint)


def not_aistore(endpoint: str, answer: str, proxy: Proxy | None = None) -> NotAIStore:
    """The error for an ``answer`` of another server."""
    if proxy:
        message = f"what answers for {endpoint} through {proxy} does not answer as AIStore does: {answer}"
        return NotAIStore(message, hint=proxy.hint)
    hint = "Does the endpoint name AIStore's gateway itself? `tvetl doctor` tells what is there."
    return NotAIStore(f"what answers at {endpoint} does not answer as AIStore does: {answer}", hint=hint)


def node(endpoint: str, url: str) -> str:
    """Whom a request went to: the endpoint, or the node that its gateway's redirect led to."""
    return endpoint if url.startswith(endpoint) else "://".join(urlsplit(url)[:2])


def _not_through(proxy: Proxy, endpoint: str, what: str, hint: str = "") -> NotReachable:
    """The error for an HTTP proxy that does not forward requests, or does not answer."""
    return NotReachable(f"{endpoint} is not reached through {proxy}: {what}", hint=hint or proxy.hint)


def sentence(status: int, text: str) -> tuple[str, bool]:
    """The message of an answer, and whether it is AIStore's: in JSON, or an empty answer, as to HEAD.

    Without the node's name, and without the advice to use AIStore's own API.
    """
    text = text.strip()
    message = message_of(text) if text else f"HTTP {status}"
    if message is None:
        return _excerpt(text), False
    return without_node(message).partition(" - try starting new ETL")[0].strip()[:_LONGEST], True


def message_of(text: str) -> str | None:
    """AIStore's, of ``{"message": "p[...]: etl job x does not exist", "status": 404, ...}``; None of another answer."""
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        return str(row(json.loads(text))["message"])
    return None


def without_node(message: str) -> str:
    """AIStore's sentence without the node, pod and service that it begins with."""
    return _NODE.sub("", message)


def container_end(message: str) -> str:
    """The last log line of a container that ended, or Kubernetes' reason; "" where AIStore's message quotes none."""
    quoted = _POD_STATUS.search(message)
    status = (
        re.sub(r"\\(.)", lambda escaped: {"n": "\n", "t": "\t"}.get(escaped[1], escaped[1]), quoted[1])
        if quoted
        else ""
    )
    if not (terminated := _TERMINATED.search(status)):
        return ""
    why, log, code = terminated.groups()
    return last_line(log)[:_LONGEST] or f"its container ended with status {code} ({why})"


def last_line(log: str) -> str:
    """The last line with something in it."""
    return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")


def object_error(name: str, text: str, status: int) -> ObjectError:
    """Read ``ETL error: {"error": code, "message": sentence, ...}``; whatever else it is stays as it is."""
    name = object_of(name)[1] if "://" in name else name
    body = text[len(_ETL_ERROR) :] if text.startswith(_ETL_ERROR) else text
    with suppress(ValueError, TypeError, RecursionError):
        error = row(json.loads(body))
        if "error" in error:
            return ObjectError(name, str(error["error"]), str(error.get("message", error["error"])), status)
    code = "not_found" if text == "object not found" else "bad_name" if _UNSENDABLE.match(text) else "etl_error"
    return ObjectError(name, code, body.strip(), status)


def job_id(text: object) -> str:
    """The job's id, as AIStore answers to its start. Raises ValueError for anything else."""
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
    """Another server's answer in a line: its page's title, or its beginning."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text[:_LONGEST], re.DOTALL | re.IGNORECASE)
    line = " ".join(JWT.sub("***", title[1] if title else text[:_LONGEST]).split())
    return repr(line[:100] + ("..." if len(line) > 100 else ""))


def _causes(error: object) -> Iterator[BaseException]:
    """The error and its causes, which requests and urllib3 also put into their arguments or into ``reason``."""
    if isinstance(error, BaseException):
        yield error
        for inner in [*error.args, getattr(error, "reason", None), error.__cause__]:
            yield from _causes(inner)


def _cause(innermost: BaseException) -> str:
    """As the operating system words it: "Connection refused"."""
    message = innermost.strerror if isinstance(innermost, OSError) else ""
    return message or " ".join(str(innermost).split())[:100] or type(innermost).__name__
