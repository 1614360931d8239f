"""An HTTP proxy that the environment puts before the cluster is named, wherever it is in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import faults
from support.faults import Fault, Gateway

from tvetl import jobs
from tvetl.cluster import Cluster, connection
from tvetl.errors import NotAIStore, NotReachable, TvetlError
from tvetl.fetch.connection import Fetch
from tvetl.fetch.fetcher import Fetcher
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import parse

PIPELINE = parse({"version": 1, "steps": [{"op": "CenterCrop", "size": 8}], "output": {"format": "png"}})
PASSWORD = "Pa55word"
PAGE = b"<html><head><title>%s</title></head><body>The proxy's own page.</body></html>"
SETTINGS = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), targets=2) as running:
        direct = Cluster(running.endpoint)
        direct.create_bucket("images")
        direct.put("images", "a.txt", b"a text")
        yield running


@pytest.fixture(autouse=True)
def _as_if_nothing_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(connection, "TIMEOUT", (1.0, 0.5))
    monkeypatch.setattr(connection, "BACKOFF", 0.05)
    monkeypatch.setattr(connection, "PAUSE", 0.01)


@pytest.fixture
def proxy(local: LocalCluster) -> Iterator[Gateway]:
    yield from faults.serve_gateway(local.endpoint)


def credentials(proxy: Gateway) -> str:
    """The proxy's URL with a password in it."""
    return proxy.endpoint.replace("http://", f"http://user:{PASSWORD}@")


def page(status: int, title: bytes) -> Fault:
    return faults.saying(status, "text/html", PAGE % title)


#: What a proxy answers by itself, and the words of it that must come through.
REFUSALS: dict[str, tuple[Fault, str]] = {
    "403": (page(403, b"Blocked by policy"), "HTTP 403, 'Blocked by policy'"),
    "407": (page(407, b"Sign in"), "HTTP 407, 'Sign in'"),
    "502": (page(502, b"Bad Gateway"), "HTTP 502, 'Bad Gateway'"),
    "503": (page(503, b"Overloaded"), "HTTP 503, 'Overloaded'"),
    "504 without a word": (faults.saying(504, "text/plain", b""), "HTTP 504"),
    "404": (page(404, b"No such host"), "HTTP 404, 'No such host'"),
    "a page": (page(200, b"Welcome to this network"), ""),
    "hangs": (faults.hang, "did not answer in time"),
    "closes": (faults.closed, "Remote end closed connection"),
}


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_variable_is_named_and_what_no_proxy_has_is_kept(
    local: LocalCluster, proxy: Gateway, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, credentials(proxy))
    monkeypatch.setenv("no_proxy", "localhost")
    proxy.choose = lambda method, path, before: REFUSALS["403"][0]
    with pytest.raises(NotReachable) as refused:
        Cluster(local.endpoint).etls()
    assert f"{local.endpoint} is not reached through the proxy {proxy.endpoint} ({variable})" in refused.value.message
    assert "no_proxy=localhost,127.0.0.1`" in refused.value.hint
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert Cluster(local.endpoint).etls() == [], "and that helps"


@pytest.mark.parametrize("kind", REFUSALS)
def test_whatever_a_proxy_answers_is_told_as_the_proxys(
    local: LocalCluster, proxy: Gateway, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("http_proxy", credentials(proxy))
    fault, words = REFUSALS[kind]
    proxy.choose = lambda method, path, before: fault
    cluster = Cluster(local.endpoint, patience=0.5)
    asked: list[Callable[[], object]] = [
        cluster.etls,
        lambda: cluster.show("test-small"),
        lambda: cluster.logs("test-small"),
        lambda: cluster.objects("images"),
        lambda: jobs.transform_bucket(cluster, "images", "out", "test-small"),
    ]
    if kind != "a page":  # which a plain read cannot tell from an object
        asked.append(lambda: cluster.get("images", "a.txt"))
        asked.append(lambda: cluster.get("images", "a.txt", "test-small"))
    if kind != "hangs":  # a start is waited for for minutes
        asked.append(lambda: cluster.start("test-small"))
        asked.append(lambda: cluster.register(PodSpec("test-small", PIPELINE, start_timeout=1)))
    for at, ask in enumerate(asked):
        with pytest.raises(TvetlError) as refused:
            ask()
        told = f"{refused.value.message} {refused.value.hint}"
        assert proxy.endpoint in told and "(http_proxy)" in told, (at, told)
        assert words in told and "no_proxy=127.0.0.1" in told, (at, told)
        assert PASSWORD not in told
        assert isinstance(refused.value, NotReachable) or kind == "hangs", (at, told)
    if kind not in ("404", "hangs"):  # AIStore's 404 to HEAD has no words either
        with pytest.raises(NotReachable, match="the proxy"):
            cluster.bucket_id("images")
    if kind == "407":
        assert "USER:PASSWORD" in told


def test_what_aistore_says_through_a_proxy_is_aistores(
    local: LocalCluster, proxy: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = Cluster(local.endpoint)
    with pytest.raises(TvetlError) as before:
        direct.show("no-such-etl")
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    through = Cluster(local.endpoint)
    assert through.get("images", "a.txt") == b"a text"
    assert not through.has("images", "b.txt")
    with pytest.raises(type(before.value)) as after:
        through.show("no-such-etl")
    assert after.value.message == before.value.message
    assert proxy.asked and all(path.startswith("http://127.0.0.1:") for _, path, _ in proxy.asked)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:9", "nobody answers at the proxy"),
        ("127.0.0.1:9", "nobody answers at the proxy"),
        ("http://no-such-host.invalid:3128", "nobody answers at the proxy"),
        ("socks5://127.0.0.1:9", "proxy"),
        ("ftp://127.0.0.1:9", "this is no URL of an HTTP proxy"),
        ("http://", "this is no URL of an HTTP proxy"),
        (f"http://user:{PASSWORD}@[::1", "this is no URL of an HTTP proxy"),
    ],
)
def test_a_proxy_that_is_not_there_or_is_none_is_named(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.setenv("http_proxy", address)
    with pytest.raises(NotReachable) as refused:
        Cluster(local.endpoint).etls()
    assert words in refused.value.message and "(http_proxy)" in refused.value.message
    assert "no_proxy=127.0.0.1" in refused.value.hint
    assert PASSWORD not in refused.value.message


@pytest.mark.parametrize(
    ("status", "words"), [(403, "403"), (407, "407"), (502, "502"), (0, "Remote end closed connection")]
)
def test_a_tunnel_that_a_proxy_refuses_is_told(
    proxy: Gateway, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    proxy.choose = lambda method, path, before: page(status, b"No") if status else faults.closed
    monkeypatch.setenv("HTTPS_PROXY", credentials(proxy))
    with pytest.raises(NotReachable) as refused:
        Cluster("https://10.0.0.1:8080").etls()
    assert f"{proxy.endpoint} (HTTPS_PROXY)" in refused.value.message
    assert words in refused.value.message and "no_proxy=10.0.0.1" in refused.value.hint
    assert {method for method, _, _ in proxy.asked} == {"CONNECT"}


def test_a_proxy_before_a_node_that_a_redirect_leads_to_is_told(
    local: LocalCluster, proxy: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "http://10.255.255.1:51080"
    for gateway in faults.serve_gateway(local.endpoint):
        gateway.choose = lambda method, path, before: faults.saying(307, "text/html", b"", Location=f"{away}{path}")
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        proxy.choose = lambda method, path, before: REFUSALS["403"][0]
        with pytest.raises(NotReachable) as refused:
            Cluster(gateway.endpoint).get("images", "a.txt")
        assert f"{away} is not reached through the proxy {proxy.endpoint}" in refused.value.message
        assert "no_proxy=127.0.0.1,10.255.255.1" in refused.value.hint


@pytest.mark.parametrize("command", ["doctor", "transform images out --etl test-small"])
def test_a_command_names_the_proxy_and_ends_with_status_5(local: LocalCluster, proxy: Gateway, command: str) -> None:
    proxy.choose = lambda method, path, before: REFUSALS["403"][0]
    env = {key: value for key, value in os.environ.items() if key.lower() not in SETTINGS}
    env |= {"AIS_ENDPOINT": local.endpoint, "HTTP_PROXY": credentials(proxy)}
    program = [sys.executable, "-c", "from tvetl.command.cli import main; main()", *command.split()]
    done = subprocess.run(program, capture_output=True, timeout=120, check=False, env=env)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 5, said
    assert f"the proxy {proxy.endpoint} (HTTP_PROXY)" in said and "no_proxy=127.0.0.1" in said
    assert "Traceback" not in said and PASSWORD not in said


def test_the_doctor_names_a_proxy_that_works_too(
    local: LocalCluster, proxy: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvetl.command.doctor import examine

    monkeypatch.setenv("http_proxy", proxy.endpoint)
    found = {finding.check: finding for finding in examine(local.endpoint)}
    assert found["reachable"].level == "ok"
    assert found["proxy"].level == "warn" and proxy.endpoint in found["proxy"].message
    assert "no_proxy=127.0.0.1" in found["proxy"].hint
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "proxy" not in {finding.check for finding in examine(local.endpoint)}


def test_many_reads_go_where_the_sdks_do(
    local: LocalCluster, proxy: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> Fetch:
        with closing(Fetcher(Cluster(local.endpoint, patience=5), "images", "", patience=5, threads=2)) as fetcher:
            fetcher.start(Fetch("a.txt"))
            (done,) = fetcher.wait()
            return done

    monkeypatch.setenv("http_proxy", proxy.endpoint)
    assert read().data == b"a text"
    through = [path for _, path, _ in proxy.asked if "/v1/objects/" in path]
    assert len(through) == 2, "the gateway's redirect and the target's answer"
    assert f"the SDK reads through the proxy {proxy.endpoint}" in caplog.text and "no_proxy=127.0.0.1" in caplog.text
    proxy.choose = lambda method, path, before: REFUSALS["502"][0] if "/v1/objects/" in path else None
    error = read().error
    assert isinstance(error, NotAIStore | NotReachable) and proxy.endpoint in error.message
    proxy.asked.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert (read().data, proxy.asked) == (b"a text", [])


@pytest.mark.parametrize("variable", ["AIS_CLIENT_CA", "REQUESTS_CA_BUNDLE"])
def test_the_file_of_an_authority_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/no/such/file.pem")
    with pytest.raises(TvetlError, match="/no/such/file") as missing:
        Cluster("https://127.0.0.1:9").etls()
    assert "AIS_CLIENT_CA" in missing.value.hint and "REQUESTS_CA_BUNDLE" in missing.value.hint


def test_a_certificate_that_nobody_trusts_is_told_as_such(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = faults.certificate(tmp_path)
    for gateway in faults.serve_gateway(local.endpoint, pem):
        other = tmp_path / "other"
        other.mkdir()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(faults.certificate(other)))
        monkeypatch.setenv("AIS_CLIENT_CA", str(pem))
        assert Cluster(gateway.endpoint).etls() == [], "it is more particular"
        monkeypatch.delenv("AIS_CLIENT_CA")
        with pytest.raises(NotReachable, match="no TLS connection to https://127") as refused:
            Cluster(gateway.endpoint).etls()
        assert "REQUESTS_CA_BUNDLE" in refused.value.hint
