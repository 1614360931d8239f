"""Runs the cases against one server, each over a connection of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeGuard
from urllib.parse import quote, quote_plus, unquote, urlsplit

from tvetl.conformance.cases import CASES, Case, CaseRequest, PeerResponse
from tvetl.conformance.conditions import CONDITIONS, Exchange, Failed, Skipped
from tvetl.conformance.disk import Disk, laid_out, query_of
from tvetl.conformance.peer import Peer, listening
from tvetl.conformance.subject import Report, Subject, Verdict, sample
from tvetl.conformance.wire import NoAnswer, RawConnection, ServerResponse, write
from tvetl.errors import NotReachable, UsageError

#: 334 characters, 1,002 bytes in UTF-8; no part of it is too long for a file system (255 bytes).
_CJK = "/".join(["猫" * 83] * 4)
_TEXT = b"This is no image, and no archive either.\n"
#: Seconds in which what a server sends behind an answer would arrive.
_SETTLE = 0.2


def check(subject: Subject, cases: Sequence[Case] = CASES, advance: Callable[[int], None] | None = None) -> Report:
    """Run the cases; ``advance`` is called with the number of those done.

    Raises NotReachable where nothing listens, UsageError where the root cannot be written or the target's host is not
    ours.
    """
    with ExitStack() as stack:
        disk = stack.enter_context(laid_out(subject.root, subject.seen_as)) if subject.root is not None else None
        session = _Session(subject, disk)
        verdicts: dict[str, Verdict] = {}
        waiting = [case for case in cases if any(request.pause for request in case.send)]
        last = [case for case in cases if not case.send]  # these judge the answers to all others

        def do(some: Sequence[Case]) -> None:
            for case in some:
                verdicts[case.name] = session.case(case)
                if advance is not None:
                    advance(len(verdicts))

        aside = threading.Thread(target=do, args=(waiting,), daemon=True)
        aside.start()
        do([case for case in cases if case not in waiting and case not in last])
        aside.join()
        do(last)
    return Report(tuple(verdicts[case.name] for case in cases), session.comparable)


class _Session:
    """One server, and what is remembered of it from case to case."""

    def __init__(self, subject: Subject, disk: Disk | None) -> None:
        split = urlsplit(subject.url)
        self._subject = subject
        self._disk = disk
        self._bucket = disk.bucket if disk else "conformance"
        self._host, self._port = split.hostname or "", split.port or 80
        self._headers = {"Host": split.netloc, "User-Agent": "Go-http-client/1.1"}
        self._contents = {"sample": subject.sample or sample(), "empty": b"", "text": _TEXT}
        self._contents["half"] = self._contents["sample"][: len(self._contents["sample"]) // 2]
        self._lock = threading.Lock()
        self._references: dict[tuple[str, str | None], ServerResponse | str] = {}
        self._empty: list[str] = []
        try:
            self._connect().close()
        except OSError as error:
            hint = "Start the server, and name its host and port: http://127.0.0.1:8000"
            raise NotReachable(f"nobody answers at {subject.url}: {error}", hint=hint) from error
        self._own = _address(subject.target_url) if subject.target_url else ""
        first, again = (self._put_sample(f"/{self._bucket}/first.jpg", None) for _ in range(2))
        self._first = first
        self.comparable = not (_good(first) and _good(again) and first.body != again.body)

    def _connect(self) -> RawConnection:
        return RawConnection(self._host, self._port, self._subject.seconds)

    def case(self, case: Case) -> Verdict:
        """Send its requests, and check all its conditions."""
        began = time.monotonic()
        result: Literal["passed", "failed", "skipped"] = "passed"
        reason = ""
        try:
            self._run_case(case)
        except Skipped as error:
            result, reason = "skipped", str(error)
        except (Failed, NoAnswer) as error:
            result, reason = "failed", str(error)
        except OSError as error:  # not of the exchange itself: the server has stopped listening
            result, reason = "failed", f"no connection: {error}"
        return Verdict(case.name, case.severity, case.promise, result, reason, round(time.monotonic() - began, 3))

    def _run_case(self, case: Case) -> None:
        self._skip_impossible(case.send)
        if not case.send:
            whole = Exchange("", None, "", None, lambda: None, empty=tuple(self._empty))
            for name in case.expect:
                CONDITIONS[name](whole)
            return
        with ExitStack() as stack:
            peer = None
            if any(request.node for request in case.send):
                peer = stack.enter_context(listening(_answer_of(case.other), self._own))
            sent: list[_Sent] = []
            for request in case.send:
                sent += [self._prepare(request, peer)] * request.times
            answers = self._pipelined(sent) if case.pipelined else self._in_turn(sent, kept=case.kept)
            for at, (one, answer) in enumerate(answers, 1):
                has_content = (one.request.body or one.request.file or "empty") != "empty"
                if answer is not None and answer.status == 200 and not answer.body and has_content:
                    self._empty.append(case.name)
                try:
                    self._check_conditions(case, one, answer, peer)
                except Failed as error:
                    raise Failed(f"request {at} of {len(sent)}: {error}" if len(sent) > 1 else str(error)) from error

    def _skip_impossible(self, requests: Sequence[CaseRequest]) -> None:
        """Raises Skipped where the server or the options lack what the case needs."""
        if any(request.file for request in requests) and self._disk is None:
            raise Skipped("needs a folder that the server reads: --root")
        if any(request.node for request in requests) and not self._own:
            raise Skipped("needs a server that was started with AIS_TARGET_URL: --target-url")
        if any(request.args == "{args}" for request in requests) and _good(self._first):
            answer = self._by_body(f"/{self._bucket}/args.jpg", self._subject.args)
            if not _good(answer):
                raise Skipped(f"needs arguments that the server takes: --args ({answer})")

    def _check_conditions(self, case: Case, sent: _Sent, answer: ServerResponse | None, peer: Peer | None) -> None:
        exchange = Exchange(
            sent.path,
            sent.args,
            sent.node,
            answer,
            partial(self._reference, sent.path, sent.args),
            arrived=tuple(peer.arrived) if peer else (),
            peer=_answer_of(case.other),
            target_path=urlsplit(self._subject.target_url).path.rstrip("/"),
        )
        for name in sent.request.expect or case.expect:
            CONDITIONS[name](exchange)

    def _in_turn(self, sent: Sequence[_Sent], *, kept: bool) -> Iterator[tuple[_Sent, ServerResponse | None]]:
        connection = self._connect()
        try:
            for at, one in enumerate(sent, 1):
                time.sleep(one.request.pause)
                answer: ServerResponse | None = None
                if one.request.cut:
                    with suppress(NoAnswer):
                        connection.send(one.data)
                        connection.finish()
                        answer = connection.receive(one.request.method)
                    time.sleep(_SETTLE)
                else:
                    connection.send(one.data)
                    answer = connection.receive(one.request.method)
                yield one, answer
                if answer is not None and answer.closing and at < len(sent):
                    if kept:
                        raise Failed(f"the server ends the connection after {at} of {len(sent)} requests")
                    connection.close()
                    connection = self._connect()
        finally:
            connection.close()

    def _pipelined(self, sent: Sequence[_Sent]) -> Iterator[tuple[_Sent, ServerResponse | None]]:
        with closing(self._connect()) as connection:
            connection.send(b"".join(one.data for one in sent))
            for at, one in enumerate(sent, 1):
                answer = connection.receive(one.request.method)
                yield one, answer
                if answer.closing and at < len(sent):
                    raise Skipped("the server keeps no connection, and says so")

    def _prepare(self, request: CaseRequest, peer: Peer | None) -> _Sent:
        """The request's bytes. Writes the file that it names."""
        path, args, query = self._target(request)
        node = request.node.replace("{other}", peer.url) if peer else ""
        headers = {**self._headers, **({"Ais-Node-Url": node} if node else {})}
        body = self._contents[request.body] if request.body else b""
        target = f"{path}?{query}" if query else path
        data = write(request.method, target, headers, body, chunked=request.chunked, cut=request.cut)
        return _Sent(request, path, args, node, data)

    def _target(self, request: CaseRequest) -> tuple[str, str | None, str]:
        """Path, arguments and query of a request."""
        if request.whole_path:
            return request.whole_path.replace("{ready}", self._subject.ready), None, ""
        name = (request.name or unquote(request.path.removeprefix("/"))).replace("{cjk}", _CJK)
        path = f"/{self._bucket}{request.path or '/' + quote(name)}"
        args = self._subject.args if request.args == "{args}" else request.args
        query = []
        if args is not None:
            query.append(_args_query(args))
        if request.file:
            query.append(query_of(self._lay_out(request, name)))
        return path, args, "&".join(query)

    def _lay_out(self, request: CaseRequest, name: str) -> str:
        """Write the file that the request names; returns its name as the server sees it."""
        disk = self._disk
        assert disk is not None
        if request.decoy:
            disk.add(request.decoy, _TEXT)
        if request.file == "missing":
            return disk.name(name)
        if request.file == "folder":
            return disk.folder(name)
        if request.file == "outside":
            return disk.outside(self._contents["sample"])
        if request.file == "parents":
            return disk.parents(self._contents["sample"])
        assert request.file is not None
        return disk.add(name, self._contents[request.file])

    def _reference(self, path: str, args: str | None) -> bytes | None:
        """The answer to the sample in the body at that path, requested once; None where it differs each time."""
        if not _good(self._first):
            raise Skipped(f"the server does not transform the sample ({self._first}); name one that it does: --object")
        answer = self._by_body(path, args)
        if not _good(answer):
            raise Failed(f"with the sample in the body: {answer}")
        return answer.body if self.comparable else None

    def _by_body(self, path: str, args: str | None) -> ServerResponse | str:
        """The answer to the sample in the body at that path, requested once, or why there is none."""
        with self._lock:
            if (path, args) not in self._references:
                self._references[path, args] = self._put_sample(path, args)
            return self._references[path, args]

    def _put_sample(self, path: str, args: str | None) -> ServerResponse | str:
        target = path + ("" if args is None else f"?{_args_query(args)}")
        try:
            with closing(self._connect()) as connection:
                connection.send(write("PUT", target, self._headers, self._contents["sample"]))
                return connection.receive("PUT")
        except (NoAnswer, OSError) as error:
            return str(error)


@dataclass(frozen=True)
class _Sent:
    """A request as it goes out."""

    request: CaseRequest
    path: str
    args: str | None
    node: str
    data: bytes


def _answer_of(peer: PeerResponse) -> ServerResponse:
    return ServerResponse(peer.status, peer.headers, peer.body.encode(), closing=False)


def _good(answer: ServerResponse | str) -> TypeGuard[ServerResponse]:
    return isinstance(answer, ServerResponse) and answer.status == 200 and bool(answer.body)


def _args_query(args: str) -> str:
    """``etl_args`` as a target writes it, which is Go's QueryEscape."""
    return f"etl_args={quote_plus(args)}"


def _address(target_url: str) -> str:
    """The host of AIS_TARGET_URL, as it stands there: the kit must be able to listen at it."""
    host = urlsplit(target_url).hostname or ""
    try:
        with socket.create_server((host, 0)):
            return host
    except OSError as error:
        hint = "The kit plays another target at the host of --target-url: name an address that the server can reach."
        raise UsageError(f"{host} is no address of this machine: {error}", hint=hint) from error
