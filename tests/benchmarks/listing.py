"""What ten million names cost: peak memory, and the time to the first batch, of each dataset and of a job.

``PYTHONPATH=tests .venv/bin/python -m benchmarks.listing [--quick | --names N]``. A process of its own plays a cluster
of one target that lists made-up names page by page, on loopback; each subject is measured in a process of its own. The
table stands in docs/performance.md. Linux.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen

import msgspec
import numpy as np

TESTS = Path(__file__).resolve().parents[1]
#: AIStore's, for its own buckets.
PAGE = 10_000
#: Of names, where nothing else is said; ``--quick`` takes a fiftieth.
NAMES = 10_000_000
PATIENCE = 3600
ETL = "listed-tensors"
STEPS = {"version": 1, "steps": [{"op": "RandomCrop", "size": 8}, {"op": "ToTensor"}], "output": {"format": "npy"}}
COLUMNS = ("subject", "peak, MB", "of it before", "first batch, s", "of it to make it", "CPU, s", "listings")


def name_of(at: int) -> str:
    """36 characters, as ImageNet has them, in order."""
    return f"train/n{at // 1300:08}/n{at // 1300:08}_{at % 1300:05}.JPEG"


# --- the cluster that is played -------------------------------------------------------------------------------------


class Played(ThreadingHTTPServer):
    """``images`` lists all names, ``made`` too once a job was begun, and every other bucket what was put there."""

    daemon_threads = True

    def __init__(self, names: int, page: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.names, self.page = names, page
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.began = ""
        #: How many pages of each bucket were asked for.
        self.pages: Counter[str] = Counter()
        #: The objects that were put, by bucket and name.
        self.stored: dict[tuple[str, str], bytes] = {}
        np.save(made := io.BytesIO(), np.zeros((3, 8, 8), np.uint8))
        self.object = made.getvalue()

    def handle_error(self, request: object, client_address: object) -> None:
        """Who had enough hangs up."""

    def listed(self, bucket: str, token: str, props: str) -> bytes:
        put = sorted(name for where, name in self.stored if where == bucket)
        count = self.names if bucket == "images" or (bucket == "made" and self.began) else len(put)
        first = int(token or 0)
        places = range(first, min(first + self.page, count))
        more = {prop: value for prop, value in {"size": {"s": 7}, "version": {"v": "1"}}.items() if prop in props}
        rest = {key: value for each in more.values() for key, value in each.items()} | {"f": 64}
        entries = [{"n": put[at] if put else name_of(at)} | rest for at in places]
        token = str(places.stop) if places and places.stop < count else ""
        return msgspec.msgpack.encode({"UUID": "u", "ContinuationToken": token, "Flags": 0, "Entries": entries})

    def smap(self) -> object:
        net = {"node_ip_addr": "127.0.0.1", "daemon_port": str(self.server_port), "direct_url": self.url}
        node: dict[str, object] = dict.fromkeys(("public_net", "intra_data_net", "intra_control_net"), net)
        node |= {"daemon_type": "target", "daemon_id": "t1", "flags": 0, "id_digest": 1}
        proxy = {**node, "daemon_type": "proxy", "daemon_id": "p1"}
        maps = {"pmap": {"p1": proxy}, "proxy_si": proxy, "tmap": {"t1": node}}
        return {**maps, "uuid": "played", "creation_time": "", "version": "1"}

    def etl(self) -> object:
        environment = [{"name": "TVETL_PIPELINE", "value": json.dumps(STEPS)}]
        return {"init_msg": {"name": ETL, "runtime": {"image": "none", "env": environment}, "obj_timeout": "45s"}}

    def snaps(self) -> object:
        done = {"loc-objs": str(self.names), "loc-bytes": "0"}
        ends = {"src-bck": _bck("images"), "dst-bck": _bck("made"), "bck": _bck("images")}
        when = {"start-time": "2026-11-30T00:00:00Z", "end-time": "2026-11-30T00:00:01Z"}
        return {"t1": [{"id": self.began, "kind": "etl-bck", "stats": done, **ends, **when}] if self.began else []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Played

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        _, _, what, *rest = [*parts.path.split("/"), ""]
        if what == "objects":
            return self._object(rest[0], unquote("/".join(rest[1:-1])), body)
        action = json.loads(body) if body else {}
        return self._answer_to(f"{self.command} {what}", rest, parse_qs(parts.query), action)

    def _object(self, bucket: str, name: str, body: bytes) -> None:
        stored = self.server.stored
        if self.command == "PUT":
            stored[bucket, name] = body
            return self._send(b"")
        found = self.server.object if bucket == "images" else stored.get((bucket, name))
        if found is None:
            return self._send(b'{"message": "object does not exist", "status": 404}', status=404)
        return self._send(found, "application/octet-stream")

    def _answer_to(self, what: str, rest: list[str], query: Mapping[str, list[str]], action: Any) -> None:
        played = self.server
        if what == "GET buckets":
            value = action["value"]
            played.pages[rest[0]] += 1
            page = played.listed(rest[0], value.get("continuation_token", ""), value.get("props", ""))
            return self._send(page, "application/msgpack")
        if what == "POST buckets" and action.get("action", "").startswith("etl-"):
            played.began = "played"
            return self._send(b"played", "text/plain")
        answers: dict[str, Callable[[], object]] = {
            "GET daemon": played.smap, "GET etl": played.etl, "GET pages": lambda: played.pages,
            "GET cluster": lambda: [] if "running" in query["what"][0] else played.snaps(),
        }  # fmt: skip
        return self._send(json.dumps(answers[what]()).encode() if what in answers else b"")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def _send(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Ais-Bucket-Props", '{"bid": "1"}')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def _bck(name: str) -> object:
    return {"name": name, "provider": "ais", "namespace": {"uuid": "", "name": ""}}


# --- what is measured, in a process of its own ----------------------------------------------------------------------

#: Makes what gives batches, which lists; or does a job, and gives the time to begin it.
Subject = Callable[[Any], Any]


def images(cluster: Any) -> Any:
    """torch's own sampler shuffles, by a list of numbers."""
    return _loaded("TransformedImages", cluster, shuffle=True)


def stream(cluster: Any) -> Any:
    return _loaded("TransformedStream", cluster)


def ranked(cluster: Any) -> Any:
    return _loaded("TransformedStream", cluster, rank=1, world=4, labels=lambda name: int(name[7:15]))


def in_workers(cluster: Any) -> Any:
    return _loaded("TransformedStream", cluster, num_workers=2)


def batches(cluster: Any) -> Any:
    from tvetl.datasets import TransformedBatches

    return TransformedBatches(cluster, "images", ETL, batch=32, seed=1)


def job(cluster: Any) -> Any:
    from tvetl import jobs

    report = jobs.wait(cluster, jobs.transform_bucket(cluster, "images", "made", ETL))
    assert (report.ok, report.done) == (True, report.wanted)
    return None


def _loaded(kind: str, cluster: Any, **options: Any) -> Any:
    from torch.utils.data import DataLoader

    import tvetl.datasets

    loading = {name: options.pop(name) for name in ("shuffle", "num_workers") if name in options}
    dataset = getattr(tvetl.datasets, kind)(cluster, "images", ETL, seed=1, **options)
    return DataLoader(dataset, batch_size=32, **loading)


SUBJECTS: Mapping[str, Subject] = {
    "`TransformedImages`, torch's shuffling sampler": images,
    "`TransformedStream`": stream,
    "`TransformedStream`, rank 1 of 4, labels by a function": ranked,
    "`TransformedStream`, 2 workers": in_workers,
    "`TransformedBatches`": batches,
    "a job, from its start to its report": job,
}


def measure(subject: str, endpoint: str) -> dict[str, object]:
    """What one subject takes, here: megabytes, seconds, and listings of the source, of the destination."""
    from tvetl.cluster import Cluster

    if subject != "a job, from its start to its report":
        import tvetl.datasets  # noqa: F401  with torch, which takes more than the rest

    cluster, before, began, working = Cluster(endpoint), peak(), time.monotonic(), time.process_time()
    listed = private = 0.0
    if (feed := SUBJECTS[subject](cluster)) is not None:
        listed = time.monotonic() - began
        going = iter(feed)
        assert len(next(going)[0]) == 32
        private = sum(own_memory(worker.pid) for worker in getattr(going, "_workers", ()))
    seconds, cpu = time.monotonic() - began, time.process_time() - working
    with urlopen(f"{endpoint}/v1/pages") as told:
        pages = json.load(told)
    memory = {"peak": peak() + private, "before": before}
    return {**memory, "seconds": seconds, "listed": listed, "cpu": cpu, "pages": pages}


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def own_memory(process: int) -> float:
    """What a process shares with no other, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


# --- all of it ------------------------------------------------------------------------------------------------------


@contextmanager
def _python(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This module as a process, that prints what it has to tell."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "benchmarks.listing", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process


@contextmanager
def played(names: int, page: int = PAGE) -> Iterator[str]:
    """A process that plays the cluster; gives its endpoint."""
    with _python("serve", str(names), str(page)) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def measured(subject: str, names: int, page: int = PAGE) -> dict[str, Any]:
    """One subject against a cluster of its own. Raises CalledProcessError where it fails."""
    with played(names, page) as endpoint, _python("measure", subject, endpoint) as process:
        told, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    found: dict[str, Any] = json.loads(told)
    return found


def row(subject: str, found: Mapping[str, Any], names: int, page: int = PAGE) -> tuple[str, ...]:
    """A line of the table."""
    listings = ", ".join(
        f"{count / max(1, -(-names // page)):.2g} of {bucket}" for bucket, count in sorted(found["pages"].items())
    )
    listed = f"{found['listed']:.1f}" if found["listed"] else ""
    times = f"{found['seconds']:.1f}", listed, f"{found['cpu']:.1f}"
    return subject, f"{found['peak']:,.0f}", f"{found['before']:,.0f}", *times, listings


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.listing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--names", type=int, default=NAMES, help=f"names in the bucket ({NAMES:,})")
    parser.add_argument("--quick", action="store_true", help=f"{NAMES // 50:,} names")
    parser.add_argument("--only", default="", help="the subjects with this in their names")
    asked = parser.parse_args()
    names = NAMES // 50 if asked.quick else asked.names
    print(f"{names:,} names\n\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for subject in SUBJECTS:
        if asked.only in subject:
            print(f"| {' | '.join(row(subject, measured(subject, names), names))} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        with Played(int(sys.argv[2]), int(sys.argv[3])) as server:
            print(server.url, flush=True)
            server.serve_forever()
    elif sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
    else:
        main()
