"""The stand-in with TLS and tokens: what it answers, and what `tvetl local` prints for it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tvetl.cluster import Cluster
from tvetl.local import LocalCluster


def ask(
    url: str, method: str = "GET", token: str = "", ca: Path | None = None, data: bytes | None = None
) -> tuple[int, str, str]:
    """Status, message and Location."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = (
        http.client.HTTPSConnection(parts.hostname, parts.port, context=ssl.create_default_context(cafile=ca))
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port)
    )
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, f"{parts.path}?{parts.query}", data, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    message = str(json.loads(text)["message"]) if text.startswith("{") and "message" in text else text
    return answer.status, message, answer.headers.get("Location") or ""


def test_all_nodes_speak_https_with_one_authority(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, targets=2, tls=True) as cluster:
        assert cluster.endpoint.startswith("https://127.0.0.1:") and cluster.ca
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "a").write_bytes(b"1" * 300_000)
        status, _, where = ask(f"{cluster.endpoint}/v1/objects/images/a", ca=cluster.ca)
        assert status == 301 and where.startswith("https://127.0.0.1:")
        assert ask(where, ca=cluster.ca)[:2] == (200, "1" * 300_000)
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(cluster.endpoint)
        plain = cluster.endpoint.replace("https", "http")
        assert ask(plain)[:2] == (400, "Client sent an HTTP request to an HTTPS server.\n")
        assert cluster.ca.with_suffix(".key").stat().st_mode & 0o077 == 0


def test_a_token_is_asked_for_and_targets_serve_only_whom_the_proxy_sent(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, authn=True) as cluster, LocalCluster(tmp_path / "other", authn=True) as other:
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "a").write_bytes(b"1")
        url, good = f"{cluster.endpoint}/v1/objects/images/a", cluster.token()
        assert ask(f"{cluster.endpoint}/v1/health")[0] == 200
        assert ask(url)[:2] == (401, "token required")
        for token, why in (
            (cluster.token(seconds=1, delay=-9), "token expired"),
            (cluster.token(delay=9), "token has invalid claims: token is not valid yet"),
            (other.token(), "token signature is invalid"),
            ("nonsense", "token signature is invalid"),
        ):
            said = f'invalid token from header "Authorization": invalid token [err: {why}]: {token}'
            assert ask(url, token=token)[:2] == (401, said)
        status, _, where = ask(url, token=good)
        assert (status, ask(where)[:2]) == (301, (200, "1"))
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            assert ask(where.partition("?")[0], method, good)[0] == 403
        assert ask(where.partition("?")[0])[1] == "direct target access denied"
        user = cluster.token("alice", admin=False)
        assert ask(url, token=user)[0] == 301
        status, said, _ = ask(f"{cluster.endpoint}/v1/etl", token=user)
        assert status == 403 and said.startswith("user `alice` has insufficient permissions")
        assert ask(f"{cluster.endpoint}/v1/etl", token=good)[0] == 200


def test_the_command_prints_the_variables_and_renews_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    program = [sys.executable, "-u", "-c", "from tvetl.command.cli import main; main()", "local", "--port", "0"]
    program += ["--root", str(tmp_path / "root of it"), "--tls", "--token", "2s"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            printed = "".join(line for _, line in zip(range(5), running.stdout, strict=False))
            shell = printed + 'printf "%s\\n" "$AIS_ENDPOINT" "$AIS_CLIENT_CA" "$AIS_AUTHN_TOKEN_FILE"'
            shell = "\n".join(line for line in shell.splitlines() if re.match(r" *export|printf", line))
            said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
            endpoint, ca, file = said.splitlines()[:3]
            monkeypatch.setenv("AIS_CLIENT_CA", ca)
            monkeypatch.setenv("AIS_AUTHN_TOKEN_FILE", file)
            first = Path(file).read_text()
            assert Path(file).stat().st_mode & 0o077 == 0 and first not in printed
            cluster = Cluster(endpoint)
            cluster.create_bucket("made")
            while Path(file).read_text() == first or cluster.access().bearer.ends() is None:
                assert cluster.objects("made") == []
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=60) == 0


def test_an_end_that_is_none_is_refused(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from tvetl.command.cli import main; main()", "local", "--token", "soon"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "'soon' is no duration" in done.stderr
