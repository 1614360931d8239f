"""The exchanges that were recorded between the SDK and a real AIStore, replayed against the stand-in.

The same requests in the same order; the answers must have the same status, the same ``Ais-*`` headers, JSON and
msgpack of the same shape, and where nothing in them is made up on the spot (errors, objects, checksums) the same words.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

msgspec = pytest.importorskip("msgspec", reason="the stand-in's requirements are not installed")

from tvetl.local import LocalCluster  # noqa: E402
from tvetl.local.object_names import from_file  # noqa: E402

WIRE = Path(__file__).resolve().parents[2].parent / "shared" / "wire"
pytestmark = pytest.mark.skipif(not WIRE.is_dir(), reason="the recordings (../shared/wire) are not here")

#: What is not compared, and why: (file or "", step, what) -> reason. ``what`` is status, message, shape or names.
LEFT_OUT = {
    ("", "etl-delete-aborted", "message"): "AIStore says only that the caller went away; the stand-in says the reason",
    ("", "etl-delete-aborted-crash", "message"): "likewise",
    ("", "etl-init-spec-not-yaml", "message"): "a YAML parser's own words",
    ("", "etl-copy", "status"): "204 or 200 by whether both objects' homes are one target, which is a hash of node ids",
    ("", "list-page", "names"): "AIStore stores dbl//slash.jpg and does not list it; the stand-in lists it",
    ("", "ds-put-tar", "checksum"): "the archive's bytes were not recorded, ours has other times of change",
    ("", "etl-logs", "shape"): "the body was not recorded",
}
#: Steps that are not replayed, as no client of ours takes them: the stand-in answers them with 501 (docs/local.md).
NOT_REPLAYED = {"ds-bucket-info", "ds-bucket-summary", "ds-list-archive", "ds-get-archpath", "ds-batch-get"}
#: Answers are recorded when they come. These came after requests that were sent later: (index, the place to replay).
MOVED = {"sdk-1.26-client": (63, 62), "sdk-2.0-client": (60, 59)}
#: Buckets that were left over when a recording began.
BEFORE = {"sdk-2.0-client": ["src", "dst", "dst2"], "sdk-1.26-data": ["src"], "sdk-2.0-data": ["src"]}
#: Nodes' ids, which are keys in JSON.
_NODES = re.compile(r"^(RTvt9090|kunt9090|kfct9090|e1qqzp1c4l33s|proxy0|target\d)$")


def shape(value: object) -> object:
    """A JSON value without its values: types, keys (of nodes: any), of lists the kinds of members."""
    if isinstance(value, dict):
        named = {("NODE" if _NODES.match(key) else key): shape(member) for key, member in value.items()}
        return {key: named[key] for key in sorted(named)}
    if isinstance(value, list):
        kinds = {json.dumps(shape(member), sort_keys=True) for member in value}
        return [json.loads(kind) for kind in sorted(kinds)]
    return type(value).__name__


def plain(text: str) -> str:
    """A text without addresses and ids of nodes."""
    text = re.sub(r"\b([pt])\[\w+\]", r"\1[]", text)
    return re.sub(r"http://(PROXY|127\.0\.0\.1):\d+|(NODE|POD|127\.0\.0\.1):\d+", "ADDRESS", text)


def a_shard() -> bytes:
    """An archive like the recorded one: three samples of an image of 2 bytes and a class of 1."""
    out = io.BytesIO()
    with tarfile.open(mode="w", fileobj=out) as tar:
        for i in range(3):
            for name, data in ((f"s{i}.jpg", b"J%d" % i), (f"s{i}.cls", b"%d" % i)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class Answer:
    """Status, headers by lower-case name, body; from a recording or from the stand-in."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        self.status, self.body = status, body
        self.headers = {key.lower(): value for key, value in headers.items()}

    @classmethod
    def recorded(cls, response: dict[str, Any]) -> Answer:
        body = response["body"]
        data = base64.b64decode(body["b64"]) if "b64" in body else body["text"].encode() if "text" in body else None
        return cls(response["status"], response["headers"], data)

    @property
    def value(self) -> object:
        """The body (or of a HEAD the error) as data; None where it is none."""
        kind = self.headers.get("content-type", "")
        if self.body and "msgpack" in kind:
            return msgspec.msgpack.decode(self.body)
        try:
            text = self.headers.get("hdr-error") or (self.body or b"").decode()
            return json.loads(text) if text[:1] in ("{", "[") else None
        except ValueError:
            return None


class Replay:
    """Sends recorded requests to a cluster: hosts, redirects and ids as the cluster itself gives them."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint, self.location = endpoint, ""
        self.ids: dict[str, str] = {}

    def send(self, exchange: dict[str, Any]) -> Answer:
        request = exchange["request"]
        url = urlsplit(self.location if "TARGET" in request["host"] else self.endpoint + self._ours(request["target"]))
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        headers = {k: v for k, v in request["headers"].items() if k.lower() not in ("host", "content-length")}
        connection.putrequest(
            request["method"], url.path + (f"?{url.query}" if url.query else ""), skip_accept_encoding=True
        )
        body = self._body(request["body"])
        for key, value in ({**headers, "Content-Length": str(len(body))} if body else headers).items():
            connection.putheader(key, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        self.location = answer.headers.get("location", self.location)
        return answer

    def learn(self, recorded: Answer, ours: Answer) -> None:
        """An id in the answer stands for the recorded one from here on."""
        pairs = [(recorded.headers.get("ais-xaction-id"), ours.headers.get("ais-xaction-id"))]
        if recorded.headers.get("content-type", "").startswith("text/plain") and ours.body:
            pairs.append(((recorded.body or b"").decode(), ours.body.decode(errors="replace")))
        for theirs, own in pairs:
            if theirs and own and re.fullmatch(r"(tco-|etl-)?[\w-]{8,12}", theirs):
                self.ids[theirs] = own

    def _ours(self, text: str) -> str:
        for theirs, own in self.ids.items():
            text = text.replace(theirs, own)
        return text

    def _body(self, body: dict[str, Any]) -> bytes:
        if "len" in body:
            return a_shard()
        text = self._ours(body.get("text", ""))
        if '"bad-crash"' in text:  # the pod's own command is never run, so an image stands for it
            message = json.loads(text)
            spec = base64.b64decode(message["spec"]).replace(b"localhost/rec:1", b"localhost/crash:1")
            text = json.dumps({**message, "spec": base64.b64encode(spec).decode()})
        return text.encode()


def differences(name: str, theirs: Answer, ours: Answer, exchange: dict[str, Any]) -> list[str]:
    """In what an answer differs from the recorded one, apart from `LEFT_OUT`."""

    def left(what: str) -> bool:
        return any((file, exchange["step"], what) in LEFT_OUT for file in ("", name))

    found = []
    if theirs.status != ours.status and not left("status"):
        found.append(f"status {theirs.status}, here {ours.status} {(ours.body or b'')[:300]!r}")
    if left("status") and theirs.status != ours.status:
        return found
    begins = ("ais-", "hdr-", "content-type", "location", "content-range")
    heads = [{key for key in answer.headers if key.startswith(begins)} for answer in (theirs, ours)]
    if heads[0] != heads[1]:
        found.append(f"headers {sorted(heads[0] ^ heads[1])}")
    same = {"content-type", "content-range", "ais-version", "ais-name", "ais-bucket-name", "ais-checksum-value"}
    if left("checksum") or "shard" in exchange["request"]["target"]:
        same.discard("ais-checksum-value")
    pairs = {key: (theirs.headers.get(key), ours.headers.get(key)) for key in sorted(same)}
    key = "ais-bucket-props"
    pairs[key] = tuple(shape(json.loads(answer.headers.get(key, "{}"))) for answer in (theirs, ours))
    found += [f"{key} {one!r}, here {two!r}" for key, (one, two) in pairs.items() if one != two]
    if theirs.body is None or left("shape"):
        return found
    return found + _of_bodies(left, theirs, ours, exchange)


def _of_bodies(left: Callable[[str], bool], theirs: Answer, ours: Answer, exchange: dict[str, Any]) -> list[str]:
    one, two = theirs.value, ours.value
    if one is None:
        an_id = theirs.headers.get("content-type", "").startswith("text/plain") and re.fullmatch(
            rb"[\w-]{8,14}", theirs.body or b""
        )
        if theirs.status in (301, 307) or an_id:
            return (
                [] if bool(theirs.body) == bool(ours.body) else ["a body where there is none, or none where there is"]
            )
        return [] if theirs.body == ours.body else [f"body {theirs.body!r}, here {ours.body!r}"]
    if shape(one) != shape(two):
        return [f"shape\n    {shape(one)}\n    {shape(two)}"]
    if isinstance(one, dict) and isinstance(two, dict):
        if "message" in one and "url_path" in one:
            skip = ("remote_addr", "caller", "node", *(["message"] if left("message") else []))
            told = [{k: plain(str(v)) for k, v in each.items() if k not in skip} for each in (one, two)]
            return [] if told[0] == told[1] else [f"error {told[0]}\n    here {told[1]}"]
        if "Entries" in one and not left("names"):
            lists = [
                sorted((e["n"], e.get("s", 0)) for e in each["Entries"] if "//" not in e["n"]) for each in (one, two)
            ]
            return [] if lists[0] == lists[1] else [f"names {lists[0]}\n    here {lists[1]}"]
        if "obj_errors" in one:
            told = [
                {(e["obj_name"], e["msg"]) for e in each["obj_errors"] if "dbl" not in e["obj_name"]}
                for each in (one, two)
            ]
            aborted = exchange["job_aborted"]  # which objects an aborted job came to is chance
            return [] if aborted or told[0] == told[1] else [f"errors {told}"]
    return []


def settle(replay: Replay, exchange: dict[str, Any]) -> Answer:
    """Our answer; to a question about a job when it is over, as in the recordings."""
    deadline = time.monotonic() + 30
    while True:
        ours = replay.send(exchange)
        target = exchange["request"]["target"]
        value: Any = ours.value
        over = True
        if "what=qryxstats" in target and ours.status == 200:
            over = all(snap["is_idle"] for snaps in value.values() for snap in snaps)
        if "what=status" in target and ours.status == 200:
            over = value["end_time"] != 0
        if over or time.monotonic() > deadline:
            return ours
        time.sleep(0.02)


def replay(name: str, cluster: LocalCluster) -> list[str]:
    """All that differs when a file of recordings is replayed."""
    exchanges = [json.loads(line) for line in (WIRE / f"{name}.jsonl").read_text().splitlines()]
    if name in MOVED:
        exchanges.insert(MOVED[name][1], exchanges.pop(MOVED[name][0]))
    for bucket in BEFORE.get(name, []):
        (cluster.root / bucket).mkdir()
    sender, found, job_aborted = Replay(cluster.endpoint), [], False
    for number, exchange in enumerate(exchanges):
        if exchange["step"] in NOT_REPLAYED:
            continue
        theirs = Answer.recorded(exchange["response"])
        ours = settle(sender, exchange)
        sender.learn(theirs, ours)
        if "what=status" in exchange["request"]["target"]:
            job_aborted = bool(re.search(rb'"aborted":true', theirs.body or b""))
        place = f"{number} {exchange['step']} {exchange['request']['method']} {exchange['request']['target'][:80]}"
        found += [
            f"{place}: {line}" for line in differences(name, theirs, ours, exchange | {"job_aborted": job_aborted})
        ]
    assert len(exchanges) > 50
    return found


@pytest.mark.parametrize("name", ["sdk-1.26-client", "sdk-2.0-client", "sdk-1.26-data", "sdk-2.0-data"])
def test_the_stand_in_answers_as_aistore_did(name: str, make_cluster: Callable[..., LocalCluster]) -> None:
    found = replay(name, make_cluster(2 if "client" in name else 1))
    assert not found, "\n".join(found)


def sent(target: str, node: str, length: int) -> tuple[object, ...]:
    """A request to a transformer without what one cluster differs from another in: roots, homes and ids."""
    url = urlsplit(target)
    query = dict(pair.split("=", 1) for pair in url.query.split("&") if pair)
    file = unquote(unquote(query.pop("etl_fqn", ""))).rpartition("/%ob/")[2]
    where = re.sub(r"uuid=.*|^http://[^/,]+", "", node)
    return url.path, tuple(query.items()), file, where if "%2F" in where else "", length


def test_a_target_asks_a_transformer_as_aistore_did(make_cluster: Callable[..., LocalCluster]) -> None:
    """Paths, arguments, file names, bodies and addresses of direct puts, character by character."""
    lines = [json.loads(line) for line in (WIRE / "target-to-pod.jsonl").read_text().splitlines()]
    puts = [line for line in lines if "target" in line]
    theirs = {sent(put["target"], put["headers"].get("Ais-Node-Url", ""), put["body_len"]) for put in puts}
    cluster = make_cluster(2)
    replay("sdk-1.26-client", cluster)
    ours = set()
    for log in (cluster.root / ".tvetl" / "logs").glob("rec-*.log"):
        for line in log.read_text().splitlines():
            if line.startswith("{"):
                put = json.loads(line)
                file = unquote(unquote(urlsplit(put["target"]).query.partition("etl_fqn=")[2]))
                name = from_file(file.partition("/src/")[2]) if file else ""
                path, args, _, where, length = sent(put["target"], put["node"], put["len"])
                ours.add((path, args, name, where, length))
    asked = [{each[:3] + each[4:] for each in side if each[0] != "/src/dbl//slash.jpg"} for side in (theirs, ours)]
    assert asked[0] == asked[1], "apart from the addresses, which hang on homes"
    put_to = [{unquote(str(each[3])): each[3] for each in side} for side in (theirs, ours)]
    both = put_to[0].keys() & put_to[1].keys()
    assert len(both) > 3  # which, hangs on the ids of nodes, and of an aborted job on chance
    assert {key: put_to[0][key] for key in both} == {key: put_to[1][key] for key in both}
