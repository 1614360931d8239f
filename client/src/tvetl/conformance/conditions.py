"""The conditions of answers by their names in cases.yaml; each raises with what is wrong, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tvetl.conformance.peer import Arrived
from tvetl.conformance.wire import ServerResponse

NODE_URL = "ais-node-url"
LENGTH = "ais-direct-put-length"
#: Statuses that the SDK retries five times over 93 seconds, and then loses the reason.
REPEATED = (429, 500, 502, 503, 504)
#: Bytes of an error that a reader sees in one line.
_LINE = 1000


class Skipped(Exception):
    """The case does not apply to this server; the message has the reason."""


class Failed(Exception):
    """The promise is broken; the message tells how."""


@dataclass(frozen=True)
class Exchange:
    """One request with its answer, and with all that arrived at the peer."""

    path: str
    """As it was sent, without its query."""
    args: str | None
    node: str
    """Ais-Node-Url, as it was sent."""
    answer: ServerResponse | None
    """None: the connection ended without one."""
    reference: Callable[[], bytes | None]
    """The server's answer to the sample in the body at that path; None where it differs each time. May raise Skipped
    or Failed."""
    arrived: Sequence[Arrived] = ()
    """The requests that arrived at the peer: another target, or the next stage."""
    peer: ServerResponse = field(default_factory=lambda: ServerResponse(200, {}, b"", closing=False))
    """The peer's answer."""
    target_path: str = ""
    """Of AIS_TARGET_URL."""
    empty: Sequence[str] = ()
    """The cases so far with an empty 200."""

    def answered(self) -> ServerResponse:
        if self.answer is None:
            raise Failed("no answer: the connection was closed")
        return self.answer

    def check_body(self, body: bytes, what: str) -> None:
        """Raises Failed unless these bytes are the transformed sample."""
        if not body:
            raise Failed(f"{what} is empty")
        wanted = self.reference()
        if wanted is not None and body != wanted:
            raise Failed(f"{what} ({len(body)} bytes) differs from that to the sample in the body ({len(wanted)})")


Condition = Callable[[Exchange], None]
"""Raises Failed, or Skipped."""


def _status(*wanted: int) -> Condition:
    def condition(exchange: Exchange) -> None:
        answer = exchange.answered()
        if answer.status not in wanted:
            raise Failed(f"{answer}, not {' or '.join(map(str, wanted))}")

    return condition


def _filled(exchange: Exchange) -> None:
    if not exchange.answered().body:
        raise Failed(f"an empty {exchange.answered().status}")


def _same(exchange: Exchange) -> None:
    _status(200)(exchange)
    exchange.check_body(exchange.answered().body, "the answer")


def _delimited(exchange: Exchange) -> None:
    headers = exchange.answered().headers
    if "content-length" not in headers and "chunked" not in headers.get("transfer-encoding", ""):
        raise Failed("neither Content-Length nor chunks: only the connection's end ends it")


def _content_length(exchange: Exchange) -> None:
    if "content-length" not in exchange.answered().headers:
        raise Failed("no Content-Length")


def _answered(exchange: Exchange) -> None:
    """200 with something, or an error that is final."""
    answer = exchange.answered()
    if answer.status == 200:
        _filled(exchange)
    elif answer.status in REPEATED:
        raise Failed(f"{answer}, which is repeated in vain")
    elif answer.status == 404:
        raise Failed(f"{answer}, which reads as: object not found")
    elif answer.status < 400:
        raise Failed(f"{answer}, neither 200 nor an error")


def _client_error(exchange: Exchange) -> None:
    answer = exchange.answered()
    if not 400 <= answer.status < 500 or answer.status in REPEATED:
        empty = "" if answer.body or answer.status != 200 else "an empty "
        raise Failed(f"{empty}{answer}, not a client's error")


def _failed(exchange: Exchange) -> None:
    if exchange.answered().status < 400:
        raise Failed(f"{exchange.answer}, not an error")


def _no_success(exchange: Exchange) -> None:
    """Anything but a 2xx, or no answer at all."""
    if exchange.answer is not None and exchange.answer.status < 300:
        raise Failed(f"{exchange.answer}, as if it were done")


def _one_line(exchange: Exchange) -> None:
    if exchange.answered().status < 400:
        raise Skipped("nothing was refused")
    text = exchange.answered().body.decode("utf-8", "replace").strip()
    if not text:
        raise Failed("an error without a word")
    if len(text) > _LINE or len(text.splitlines()) > 1:
        raise Failed(f"an error of {len(text)} characters in {len(text.splitlines())} lines")


def _one_put(exchange: Exchange) -> Arrived:
    if len(exchange.arrived) != 1:
        raise Failed(f"{len(exchange.arrived)} requests came there, not 1; the answer is {exchange.answered()}")
    return exchange.arrived[0]


def _delivered(exchange: Exchange) -> None:
    answer = exchange.answered()
    if answer.status == 200 and not exchange.arrived:
        _same(exchange)
        raise Skipped("answered with the bytes instead of a direct put, which is allowed")
    put = _one_put(exchange)
    wanted = exchange.target_path + exchange.node.partition(urlsplit(exchange.node).netloc)[2]
    if put.target != wanted:
        raise Failed(f"put to {put.target}, not to {wanted}")
    exchange.check_body(put.body, "what was put")
    _status(204)(exchange)
    if answer.headers.get(LENGTH) != str(len(put.body)):
        raise Failed(f"Ais-Direct-Put-Length is {answer.headers.get(LENGTH)}, not {len(put.body)}")


def _nothing_put(exchange: Exchange) -> None:
    if exchange.arrived:
        raise Failed(f"{len(exchange.arrived[0].body)} bytes were put")


def _nothing_elsewhere(exchange: Exchange) -> None:
    if any(put.target.startswith("/elsewhere") for put in exchange.arrived):
        raise Failed("the redirect was followed")


def _staged(exchange: Exchange) -> None:
    put = _one_put(exchange)
    path = put.target.partition("?")[0]
    if unquote(path) != unquote(exchange.path):
        raise Failed(f"put to {path}, not to {exchange.path}")
    if "etl_fqn" in parse_qs(urlsplit(put.target).query):
        raise Failed("etl_fqn was handed on")
    exchange.check_body(put.body, "what was put")


def _relayed(exchange: Exchange) -> None:
    answer, peer = exchange.answered(), exchange.peer
    _status(peer.status)(exchange)
    if peer.status < 400 and answer.body != peer.body:
        raise Failed(f"answered {len(answer.body)} bytes, not the {len(peer.body)} of the next stage")
    if answer.headers.get(LENGTH) != peer.headers.get(LENGTH):
        raise Failed(f"Ais-Direct-Put-Length is {answer.headers.get(LENGTH)}, not {peer.headers.get(LENGTH)}")


def _rest(exchange: Exchange) -> None:
    wanted, got = exchange.node.partition(",")[2], _one_put(exchange).headers.get(NODE_URL)
    if got != wanted:
        raise Failed(f"the next stage got Ais-Node-Url {got}, not {wanted}")


def _args(exchange: Exchange) -> None:
    got = parse_qs(urlsplit(_one_put(exchange).target).query, keep_blank_values=True).get("etl_args")
    if got != [exchange.args]:
        raise Failed(f"the next stage got etl_args {got}, not {exchange.args}")


def _no_empty_success(exchange: Exchange) -> None:
    if exchange.empty:
        raise Failed(f"an empty 200 in {', '.join(exchange.empty)}")


#: Name in cases.yaml -> condition.
CONDITIONS: dict[str, Condition] = {
    "status 200": _status(200),
    "status 404": _status(404),
    "filled": _filled,
    "same": _same,
    "delimited": _delimited,
    "content-length": _content_length,
    "answered": _answered,
    "client error": _client_error,
    "failed": _failed,
    "no success": _no_success,
    "one line": _one_line,
    "delivered": _delivered,
    "nothing put": _nothing_put,
    "nothing elsewhere": _nothing_elsewhere,
    "staged": _staged,
    "relayed": _relayed,
    "rest passed on": _rest,
    "args passed on": _args,
    "no empty success": _no_empty_success,
}
