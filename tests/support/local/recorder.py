"""The recorder of ../shared/README.md, a transformer to test with: ``python recorder.py``, port by ``PORT``.

It answers ``T:`` and the first 20 bytes of the body, ``T:fqn`` where the body is empty; a name with ``st422`` in it
gets that status, ``empty200`` an empty 200; ``Ais-Node-Url`` it obeys as AIStore's transformers do. Beyond the
recordings, for tests of failures: ``slow`` waits a second, ``die`` ends the process without an answer, ``eof`` only
the connection, ``plain`` ignores Ais-Node-Url, ``echo`` answers what it was asked, ``busy`` asks twice for a repeat,
``9bytes`` answers so many; between two halves of them ``halting`` waits a second, and ``torn`` breaks off.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    calls: dict[str, int] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        self._answer(200, b"ok")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url, node = urlsplit(self.path), self.headers.get("Ais-Node-Url", "")
        sys.stderr.write(json.dumps({"target": self.path, "node": node, "len": len(body)}) + "\n")
        sys.stderr.flush()
        self.calls[url.path] = self.calls.get(url.path, 0) + 1
        status = re.search(r"st(\d{3})", url.path)
        if "slow" in url.path:
            time.sleep(1)
        if "die" in url.path:
            os._exit(3)
        if "eof" in url.path:
            self.close_connection = True
        elif "busy" in url.path and self.calls[url.path] < 3:
            self._answer(503, b"later", {"Ais-Etl-Retry-Reason": "direct-put-transient"})
        elif status:
            self._answer(int(status[1]), json.dumps({"error": f"recorded {status[1]}"}).replace(" ", "", 1).encode())
        elif size := re.search(r"(\d+)bytes", url.path):
            self._bytes(int(size[1]), url.path)
        elif "echo" in url.path:
            query = parse_qs(url.query)
            named = unquote(query.get("etl_fqn", [""])[0])
            told = {"target": self.path, "fqn": named, "args": query.get("etl_args", [""])[0], "len": len(body)}
            told |= {"agent": self.headers["User-Agent"], "env": dict(os.environ), "port": self.client_address[1]}
            self._answer(200, json.dumps(told).encode())
        else:
            result = b"" if "empty200" in url.path else b"T:" + (body[:20] or b"fqn")
            self._deliver(url.path, url.query, result, "" if "plain" in url.path else node)

    def _bytes(self, size: int, path: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(b"x" * (size // 2))
        if "torn" in path:
            self.close_connection = True
            return
        if "halting" in path:
            time.sleep(1)
        self.wfile.write(b"x" * (size - size // 2))

    def _deliver(self, path: str, query: str, result: bytes, node: str) -> None:
        if not node or not result:
            return self._answer(200, result)
        first, _, rest = node.partition(",")
        to = urlsplit(first)
        headers = {"Ais-Node-Url": rest} if rest else {}
        place = urlsplit(os.environ["AIS_TARGET_URL"]).path + to.path + (f"?{to.query}" if to.query else "")
        if not to.path:
            args = "&".join(part for part in query.split("&") if part.startswith("etl_args="))
            place = path + (f"?{args}" if args else "")
        connection = http.client.HTTPConnection(to.netloc, timeout=10)
        connection.request("PUT", place, result, headers)
        answer = connection.getresponse()
        body = answer.read()
        if to.path:
            return self._answer(204, b"", {"Ais-Direct-Put-Length": str(len(result))})
        length = answer.getheader("Ais-Direct-Put-Length")
        return self._answer(answer.status, body, {"Ais-Direct-Put-Length": length} if length else {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    print("recorder on", os.environ["PORT"], flush=True)
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Recorder)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()
