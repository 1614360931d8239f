"""The kit itself: it asks what AIStore asks, sees what is wrong, and says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

import msgspec
import pytest
from support.serving import PATIENCE, SECRET

from tvetl.conformance import CASES, Case, Report, Subject, check, sample
from tvetl.conformance.conditions import CONDITIONS, Exchange, Failed, Skipped
from tvetl.conformance.disk import query_of
from tvetl.conformance.peer import Arrived
from tvetl.conformance.wire import ServerResponse
from tvetl.errors import NotReachable, UsageError

#: All cases but the one that waits for 6.5 seconds.
QUICK = tuple(case for case in CASES if not any(request.pause for request in case.send))
TARGET = f"http://127.0.0.1:9/v1/etl/_object/some-etl/{SECRET}"
NODE = "http://127.0.0.1:8/ais%2F@%23%2Fdst%2Fa.jpg?owt=3"

Serve = Callable[[type[BaseHTTPRequestHandler]], str]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


class Server(BaseHTTPRequestHandler):
    """What the servers here have in common: they speak HTTP/1.1 and keep connections."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or each answer waits 40 ms for an acknowledgement

    def object(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(200, b"ok")

    def log_message(self, *_: object) -> None:
        pass


class Empty(Server):
    """An empty 200, whatever is asked."""

    def do_PUT(self) -> None:
        self.object()
        self.answer(200, b"")


class Broken(Server):
    """500, whatever is asked."""

    def do_PUT(self) -> None:
        self.object()
        self.answer(500, b"no\nluck")


class Silent(Server):
    """Hangs up, whatever is asked."""

    def do_PUT(self) -> None:
        self.close_connection = True


class Random(Server):
    """Another answer each time."""

    def do_PUT(self) -> None:
        self.answer(200, self.object() + os.urandom(4))


class Files(Server):
    """Answers what it gets, or the file that is named; how a name is read, and where it lies, a subclass says."""

    root: Path
    reading: Callable[[str], str]

    def do_PUT(self) -> None:
        data = self.object()
        query = dict(parse_qsl(urlsplit(self.path).query))
        if "etl_fqn" in query:
            name = type(self).reading(query["etl_fqn"])
            file = Path(f"{self.root}{name.removeprefix('/seen')}")
            data = file.read_bytes() if file.is_file() else b""
        self.answer(200 if data else 404, data)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Listen with a handler; gives the URL."""
    servers = []

    def run(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def tvetl(tmp_path: Path) -> Command:
    """Run the command, in a folder of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TVETL_", "AIS_"))}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = [str(Path(sys.executable).parent / "tvetl"), *words]
        return subprocess.run(
            program, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    return run


def names(report: Report, result: str) -> set[str]:
    return {verdict.name for verdict in report.verdicts if verdict.result == result}


def test_cases_have_names_of_their_own_and_use_every_condition() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 40
    used = {name for case in CASES for name in (*case.expect, *(n for request in case.send for n in request.expect))}
    assert used == set(CONDITIONS)


@pytest.mark.parametrize(
    "change",
    [{"send": [{"pth": "/a"}]}, {"send": [{"body": "smaple"}]}, {"expects": ["same"]}, {"severity": "perhaps"}],
)
def test_a_case_that_is_not_well_formed_is_refused(change: dict[str, object]) -> None:
    good = {"name": "a", "severity": "must", "promise": "b", "from": "c", "send": [{"path": "/a"}], "expect": ["same"]}
    assert msgspec.convert(good, Case).origin == "c"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**good, **change}, Case)


def test_file_names_are_quoted_as_targets_quote_them(shared: Path) -> None:
    lines = (shared / "wire" / "target-to-pod.jsonl").read_text(encoding="utf-8").splitlines()
    queries = {urlsplit(record["target"]).query for record in map(json.loads, lines) if "target" in record}
    seen = {part for query in queries for part in query.split("&") if part.startswith("etl_fqn=")}
    assert len(seen) > 10
    for part in seen:
        ((_, once),) = parse_qsl(part)
        assert query_of(unquote(once)) == part


OK = ServerResponse(200, {"content-length": "3"}, b"abc", closing=False)
NO_CONTENT = ServerResponse(204, {"ais-direct-put-length": "3"}, b"", closing=False)
REFUSED = ServerResponse(415, {"content-length": "2"}, b"no", closing=False)
PUT = Arrived("/v1/etl/x/ais%2F@%23%2Fdst%2Fa.jpg?owt=3", {}, b"abc")
STAGED = Arrived("/b/a.jpg?etl_args=7", {"ais-node-url": "http://c:1"}, b"abc")
#: Of the sample, answered and put as it should be.
GOOD = Exchange("/b/a.jpg", "7", NODE, OK, lambda: b"abc", target_path="/v1/etl/x")
DELIVERED = replace(GOOD, answer=NO_CONTENT, arrived=(PUT,))
NEXT = replace(GOOD, node="http://c:1,http://c:1", arrived=(STAGED,), peer=OK)
AGAIN = ServerResponse(503, {}, b"later", closing=False)
LOST = ServerResponse(404, {}, b"gone", closing=False)
MOVED = ServerResponse(308, {}, b"", closing=False)
NOTHING = ServerResponse(200, {}, b"", closing=False)
OTHER = ServerResponse(200, {}, b"abd", closing=False)


@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        ("status 200", GOOD, [replace(GOOD, answer=LOST), replace(GOOD, answer=None)]),
        ("status 404", replace(GOOD, answer=LOST), [GOOD]),
        ("filled", GOOD, [replace(GOOD, answer=NOTHING)]),
        ("same", GOOD, [replace(GOOD, answer=answer) for answer in (NOTHING, OTHER, REFUSED, MOVED, None)]),
        ("delimited", GOOD, [replace(GOOD, answer=OTHER)]),
        ("content-length", GOOD, [replace(GOOD, answer=OTHER)]),
        ("answered", GOOD, [replace(GOOD, answer=answer) for answer in (NOTHING, AGAIN, LOST, MOVED, None)]),
        ("answered", replace(GOOD, answer=REFUSED), []),
        ("client error", replace(GOOD, answer=REFUSED), [replace(GOOD, answer=a) for a in (OK, AGAIN, MOVED, None)]),
        ("failed", replace(GOOD, answer=AGAIN), [GOOD, replace(GOOD, answer=MOVED), replace(GOOD, answer=None)]),
        ("no success", replace(GOOD, answer=None), [GOOD, DELIVERED]),
        ("one line", replace(GOOD, answer=REFUSED), [replace(GOOD, answer=replace(AGAIN, body=b"a\nb\nc"))]),
        ("one line", replace(GOOD, answer=REFUSED), [replace(GOOD, answer=replace(AGAIN, body=b""))]),
        (
            "delivered",
            DELIVERED,
            [
                replace(DELIVERED, answer=replace(NO_CONTENT, headers={})),
                replace(DELIVERED, answer=OK),
                replace(DELIVERED, arrived=()),
                replace(DELIVERED, arrived=(PUT, PUT)),
                replace(DELIVERED, arrived=(replace(PUT, body=b"ab"),)),
                replace(DELIVERED, arrived=(replace(PUT, target=unquote(PUT.target)),)),
            ],
        ),
        ("nothing put", GOOD, [DELIVERED]),
        ("nothing elsewhere", DELIVERED, [replace(DELIVERED, arrived=(PUT, replace(PUT, target="/elsewhere")))]),
        (
            "staged",
            NEXT,
            [
                replace(NEXT, arrived=()),
                replace(NEXT, arrived=(replace(STAGED, target="/b//a.jpg"),)),
                replace(NEXT, arrived=(replace(STAGED, target="/b/a.jpg?etl_fqn=x"),)),
                replace(NEXT, arrived=(replace(STAGED, body=b""),)),
            ],
        ),
        ("relayed", NEXT, [replace(NEXT, answer=OTHER), replace(NEXT, answer=REFUSED), replace(NEXT, peer=NO_CONTENT)]),
        ("rest passed on", NEXT, [replace(NEXT, arrived=(replace(STAGED, headers={}),))]),
        ("args passed on", NEXT, [replace(NEXT, arrived=(replace(STAGED, target="/b/a.jpg"),))]),
        ("no empty success", GOOD, [replace(GOOD, empty=("body",))]),
    ],
)
def test_a_condition_tells_good_from_bad(condition: str, good: Exchange, bad: list[Exchange]) -> None:
    CONDITIONS[condition](good)
    for exchange in bad:
        with pytest.raises(Failed):
            CONDITIONS[condition](exchange)


def test_bytes_instead_of_a_direct_put_are_allowed_if_they_are_right() -> None:
    with pytest.raises(Skipped, match="allowed"):
        CONDITIONS["delivered"](replace(GOOD, arrived=()))
    with pytest.raises(Failed):
        CONDITIONS["delivered"](replace(GOOD, answer=OTHER, arrived=()))


@pytest.mark.parametrize(
    ("handler", "passed"),
    [
        # Nothing is put either, and a length is told; what needs a right answer to compare with says so.
        (Empty, {"ready", "length-told", "content-length"}),
        (
            Broken,
            {"ready", "put-direct-refused", "put-direct-cut", "put-direct-redirect", "cut-body", "cut-chunked-body"},
        ),
        (Silent, {"ready", "put-direct-cut", "cut-body", "cut-chunked-body"}),
    ],
)
def test_a_server_that_does_nothing_right_passes_nothing_that_matters(
    serve: Serve, tmp_path: Path, handler: type[BaseHTTPRequestHandler], passed: set[str]
) -> None:
    report = check(Subject(serve(handler), root=tmp_path, target_url=TARGET, seconds=5), QUICK)
    assert names(report, "passed") - {"never-empty"} == passed
    assert {"body", "name-cut", "text-body", "damaged-file", "args-string", "ready-head"} <= names(report, "failed")
    assert ("never-empty" in names(report, "failed")) == (handler is Empty)
    reasons = {verdict.reason for verdict in report.verdicts if verdict.result == "skipped"}
    assert all("--object" in reason or reason == "nothing was refused" for reason in reasons)


def test_nothing_is_left_below_the_root(serve: Serve, tmp_path: Path) -> None:
    check(Subject(serve(Empty), root=tmp_path), QUICK)
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_differ_each_time_are_not_compared(serve: Serve) -> None:
    report = check(Subject(serve(Random)), [case for case in QUICK if case.name in ("body", "hundred")])
    assert not report.comparable
    assert names(report, "passed") == {"body", "hundred"}


def test_what_was_not_given_is_skipped_and_said(serve: Serve) -> None:
    report = check(Subject(serve(Random)), QUICK)
    by_name = {verdict.name: verdict.reason for verdict in report.verdicts if verdict.result == "skipped"}
    assert "--root" in by_name["by-name"]
    assert "--target-url" in by_name["put-direct-body"]
    assert by_name.keys() >= {case.name for case in QUICK if any(request.file or request.node for request in case.send)}


@pytest.mark.parametrize(
    ("way", "wrong"),
    [
        (unquote, set()),
        (lambda name: unquote(unquote(name)), {"name-percent"}),
        (unquote_plus, {"name-plus"}),
        (lambda name: unquote(name).replace("//", "/"), set()),  # the same file
        (lambda name: unquote(name, "latin-1"), {"name-unicode"}),
        (str, {"by-name", "name-percent", "name-plus", "name-space", "name-unicode", "name-double-slash"}),
    ],
)
def test_a_name_that_is_read_in_a_wrong_way_is_seen(
    serve: Serve, tmp_path: Path, way: Callable[[str], str], wrong: set[str]
) -> None:
    handler = type("Handler", (Files,), {"root": tmp_path, "reading": staticmethod(way)})
    some = [case for case in QUICK if case.name.startswith(("by-name", "name-")) and case.name != "name-long"]
    report = check(Subject(serve(handler), root=tmp_path, seen_as="/seen"), some)
    assert names(report, "failed") - {"name-cut"} == wrong


def test_the_sample_is_small() -> None:
    assert sample()[:2] == b"\xff\xd8"
    assert len(sample()) < 1000


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "https://127.0.0.1:1"},
        {"url": "http://127.0.0.1:1/path"},
        {"url": "http://127.0.0.1:x"},
        {"url": "127.0.0.1:8000"},
        {"target_url": "http://127.0.0.1:9"},
        {"target_url": "nothing"},
        {"target_url": "http://192.0.2.1:9/v1/etl/x/y"},  # TEST-NET-1: nobody's address
        {"root": Path("/nowhere")},
        {"root": Path("/tmp")},  # would hold the file that is meant to lie outside
        {"sample": b""},
        {"ready": "health"},
    ],
)
def test_what_cannot_work_is_refused_before_any_case(serve: Serve, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        check(Subject(**{"url": serve(Random), **settings}))  # type: ignore[arg-type]


def test_where_nobody_listens_is_told() -> None:
    with pytest.raises(NotReachable, match="nobody answers"):
        check(Subject("http://127.0.0.1:9"))


def test_the_command_tells_each_case_and_its_status(serve: Serve, tvetl: Command) -> None:
    url = serve(Random)
    good = tvetl("conformance", url, "--case", "body", "--case", "hundred")
    told = ["case\tseverity\tresult\twhy", "body\tmust\tpassed\t", "hundred\tshould\tpassed\t"]
    assert (good.returncode, good.stdout.splitlines()) == (0, told)
    assert "2 cases: 2 passed, 0 failed, 0 skipped" in good.stderr
    assert "not compared" in good.stderr
    bad = tvetl("conformance", serve(Broken), "--case", "body", "--json")
    (verdict,) = json.loads(bad.stdout)["verdicts"]
    assert (bad.returncode, verdict["result"], verdict["reason"]) == (1, "failed", "status 500 (no luck), not 200")


def test_the_command_helps(tvetl: Command) -> None:
    listed = tvetl("conformance", "--list", "--must", "--json")
    must = [case.name for case in CASES if case.severity == "must"]
    assert [case["name"] for case in json.loads(listed.stdout)] == must
    for words, status, said in (
        (("conformance",), 2, "--list"),
        (("conformance", "http://127.0.0.1:9"), 5, "nobody answers"),
        (("conformance", "http://127.0.0.1:9", "--case", "bdy"), 2, "no such case: bdy"),
        (("conformance", "http://127.0.0.1:9", "--object", "/nowhere"), 2, "cannot be read"),
    ):
        done = tvetl(*words)
        assert (done.returncode, done.stdout) == (status, ""), words
        assert said in done.stderr
        assert "Traceback" not in done.stderr
