"""The audit finds what is known of a pinned version, and never calls unchecked what it could not ask about."""

from __future__ import annotations

import datetime
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Audit = Callable[..., "subprocess.CompletedProcess[str]"]
FUTURE = (datetime.date.today() + datetime.timedelta(days=30)).isoformat()
PAST = (datetime.date.today() - datetime.timedelta(days=1)).isoformat()


@pytest.fixture
def osv() -> Iterator[str]:
    """A service of OSV's kind, which knows of one vulnerability: in frail 1.0, mended in 1.1."""
    known = {
        "id": "GHSA-test-0001",
        "aliases": ["CVE-2026-0001"],
        "summary": "frail breaks",
        "published": "2026-01-01T00:00:00Z",
        "affected": [{
            "package": {"name": "frail", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }],
    }  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hit = (asked["package"]["name"], asked["version"]) == ("frail", "1.0")
            body = json.dumps({"vulns": [known]} if hit else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


@pytest.fixture
def audit(repository: Path, tmp_path: Path) -> Audit:
    """The script over locks of its own, in the environment that `make audit` makes."""
    python = repository / "build" / "audit" / "bin" / "python"
    if not python.exists():
        pytest.skip("needs pip-audit, which `make audit` installs")

    def run(
        *arguments: str, pins: str = "frail==1.0\nsound==2.0 ; python_version < '4'\n", accepted: object = None
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "a.txt").write_text(pins)
        (tmp_path / "b.txt").write_text("sound==1.0 \\\n    --hash=sha256:00\n")
        (tmp_path / "accepted.json").write_text(json.dumps(accepted or {}))
        argv = [str(python), str(repository / "locks" / "audit.py"), "--locks", str(tmp_path), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)

    return run


def test_a_known_vulnerability_fails_with_its_id(audit: Audit, osv: str) -> None:
    done = audit("--osv-url", osv)
    assert done.returncode == 1, done.stderr
    assert "frail 1.0: CVE-2026-0001 = GHSA-test-0001, mended in 1.1" in done.stdout
    assert "3 of 3 asked about, 1 known" in done.stdout
    assert audit("--osv-url", osv, "--if-reachable").returncode == 1
    mended = audit("--osv-url", osv, pins="frail==1.1\n")
    assert (mended.returncode, mended.stdout) == (0, "2 of 2 asked about, 0 known vulnerabilities not accepted\n")


@pytest.mark.parametrize("name", ["GHSA-test-0001", "CVE-2026-0001"])
def test_what_is_accepted_is_so_until_its_day(audit: Audit, osv: str, name: str) -> None:
    entry = {"why": "we never call it", "until": FUTURE}
    assert audit("--osv-url", osv, accepted={name: entry}).returncode == 0
    late = audit("--osv-url", osv, accepted={name: entry | {"until": PAST}})
    assert (late.returncode, f"accepted until {PAST}" in late.stdout) == (1, True)
    idle = audit("--osv-url", osv, pins="frail==1.1\n", accepted={name: entry})
    assert (idle.returncode, f"{name} is accepted, and nothing here has it" in idle.stdout) == (0, True)


def test_what_cannot_be_asked_is_told_and_no_success(audit: Audit) -> None:
    nobody = ("--osv-url", "http://127.0.0.1:9/v1/query")  # discard, which nobody runs
    done = audit(*nobody)
    assert (done.returncode, "NOT CHECKED: of frail, sound" in done.stdout) == (3, True)
    done = audit(*nobody, "--if-reachable")
    assert (done.returncode, "NOT CHECKED: of frail, sound" in done.stdout) == (0, True)


def test_all_that_is_accepted_has_a_reason_and_a_day(repository: Path) -> None:
    accepted = json.loads((repository / "locks" / "accepted.json").read_text(encoding="utf-8"))
    for name, entry in accepted.items():
        assert set(entry) == {"why", "until"}, name
        assert len(entry["why"]) > 10, name
        assert datetime.date.fromisoformat(entry["until"]).year < 2100, name
