"""Tokens and keys go to the endpoint alone, and no error, traceback or log shows one."""

from __future__ import annotations

import base64
import copy
import os
import pickle
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from tvetl.access import Token, read_access
from tvetl.cluster import Cluster
from tvetl.cluster.connection import checked_endpoint
from tvetl.cluster.error_mapping import no_such_file
from tvetl.cluster.registration import trusting
from tvetl.command.cli import app
from tvetl.errors import TokenRefused, TvetlError, UsageError
from tvetl.fetch.fetcher import Fetcher
from tvetl.local import LocalCluster
from tvetl.local.certificates import authority, signed
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline
from tvetl.tls import Tls

VARIABLES = (
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AIS_CLIENT_CA", "AIS_CRT", "AIS_CRT_KEY", "AIS_SKIP_VERIFY_CRT",
    "AIS_AUTHN_TOKEN", "AIS_AUTHN_TOKEN_FILE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("certificates"))


def shown(error: BaseException) -> str:
    """All that a traceback, a log or the command would show."""
    return "".join(traceback.format_exception(error)) + getattr(error, "hint", "")


# The file of a token


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"{", b'{"token": null}', b'{"token": {"a": 1}}', b'{"other": "a.b.c"}', b'"a.b.c"', b"[" * 200_000,
     b'{"token":' + b"[" * 60_000, b"a" * 100_000, bytes(range(256)), b"Bearer a.b.c"],
)  # fmt: skip
def test_a_file_without_a_token_is_told_and_not_sent(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    token = Token({"AIS_AUTHN_TOKEN_FILE": str(tmp_path / "token")})
    with pytest.raises(UsageError, match="cannot be read: it holds no token"):
        token.current()
    (tmp_path / "token").write_text("a.b.c\n")
    assert token.current() == "a.b.c"
    (tmp_path / "token").write_bytes(content)
    assert token.current() == "a.b.c", "another is being written"


def test_a_pipe_or_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UsageError, match="it is no file"):
            Token({"AIS_AUTHN_TOKEN_FILE": str(path)}).current()


@pytest.mark.parametrize("claims", ['{"exp": 1' + "0" * 400 + "}", "[" * 40_000, "[]", '{"exp": null}'])
def test_a_token_that_says_no_end_has_none(claims: str) -> None:
    payload = base64.urlsafe_b64encode(claims.encode()).decode().rstrip("=")
    assert Token({"AIS_AUTHN_TOKEN": f"e.{payload}.s"}).ends() is None


# Whom the token goes to


class _Elsewhere(BaseHTTPRequestHandler):
    """Takes whatever comes, and notes its token."""

    seen: list[str]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Endpoint(_Elsewhere):
    """Redirects, as AIStore's proxy does, before there is a body."""

    where: str

    def do_PUT(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(307)
        self.send_header("Location", self.where + self.path)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()


Serve = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def serve(ca: Path) -> Iterator[Serve]:
    """Start a server, over TLS or not; gives its URL, and the tokens that it saw."""
    running = []

    def start(kind: type[_Elsewhere], scheme: str, where: str = "") -> tuple[str, list[str]]:
        seen: list[str] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (kind,), {"seen": seen, "where": where}))
        if scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*signed(ca, f"node-{server.server_port}"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return f"{scheme}://127.0.0.1:{server.server_port}", seen

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_where_a_put_is_redirected_gets_the_body_and_no_token(
    serve: Serve, ca: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, there = serve(_Elsewhere, scheme)
    endpoint, here = serve(_Endpoint, "https", elsewhere)
    monkeypatch.setenv("AIS_CLIENT_CA", str(ca))
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "a.b.c")
    Cluster(endpoint).put("images", "one", b"bytes")
    assert here == ["Bearer a.b.c"]
    assert there == [""]


@pytest.mark.parametrize(
    "host", ["Node", "node:0443", "n\u00f6de.example", "[::1]:8080", "[FE80::1%25eth0]:8080", "127.0.0.1:443"]
)
def test_the_endpoint_gets_the_token_however_it_is_written(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "a.b.c")
    session = Cluster(f"https://{host}")._reads.cluster().client.session_manager.session
    asked = session.prepare_request(requests.Request("GET", f"https://{host}/v1/etl"))
    assert asked.headers["Authorization"] == "Bearer a.b.c"


def test_a_target_in_plain_http_gets_no_token_of_a_cluster_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "a.b.c")
    sent = {
        (endpoint, target): b"a.b.c" in Fetcher(Cluster(endpoint), "b", "", patience=1, threads=1)._node(target).ours
        for endpoint in ("https://proxy", "http://proxy")
        for target in ("https://target", "http://target")
    }
    assert [pair for pair, with_token in sent.items() if not with_token] == [("https://proxy", "http://target")]


@pytest.mark.parametrize("scheme", ["HTTPS", "Https"])
def test_a_scheme_in_capitals_is_the_same(scheme: str) -> None:
    assert checked_endpoint(f"{scheme}://Node:1/") == "https://Node:1"
    for no_path in ("https://node:1/?a=b", "https://node:1#a"):
        with pytest.raises(UsageError, match="is not an endpoint"):
            checked_endpoint(no_path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("guarded"), authn=True) as running:
        yield running


@pytest.mark.parametrize("method", ["", "fork", "spawn"])
def test_training_keeps_to_the_access_of_its_cluster(
    guarded: LocalCluster, photographs: list[Path], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment may be another cluster's by then, whose token is nothing for this one."""
    torch_data = pytest.importorskip("torch.utils.data")
    monkeypatch.setenv("AIS_AUTHN_TOKEN", guarded.token())
    cluster = Cluster(guarded.endpoint)
    cluster.create_bucket("images")
    cluster.put("images", "one.jpg", photographs[-1].read_bytes())
    images = pytest.importorskip("tvetl.datasets").TransformedImages(cluster, "images", pil=True)
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "the.others")
    workers = {"num_workers": 1, "multiprocessing_context": method} if method else {}
    for feed in (images, copy.deepcopy(images)):
        assert len(list(torch_data.DataLoader(feed, batch_size=None, **workers))) == 1
        if method == "spawn":
            break


def test_a_pickle_has_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("g.h.i")
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "a.b.c")
    of_variable = read_access()
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "d.e.f")
    of_file = read_access({"AIS_AUTHN_TOKEN_FILE": str(file)})
    assert of_file.token == "g.h.i"
    for access, then in ((of_variable, "d.e.f"), (of_file, "g.h.i")):
        pickled = pickle.dumps(access)
        assert access.token.encode() not in pickled
        assert pickle.loads(pickled).token == then  # noqa: S301


# What errors show


def test_a_traceback_does_not_show_the_token_that_aistore_quotes(
    guarded: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = guarded.token()[:-4] + "AAAA"  # of another cluster, where it may be good
    monkeypatch.setenv("AIS_AUTHN_TOKEN", token)
    cluster = Cluster(guarded.endpoint)
    asked: list[Callable[[], object]] = [
        cluster.etls, lambda: cluster.get("b", "o"), lambda: cluster.put("b", "o", b"x"), lambda: cluster.objects("b")
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(TokenRefused, match="token signature is invalid") as refused:
            ask()
        assert "eyJ" not in shown(refused.value)
        assert "TokenRefused" in shown(refused.value)


def test_a_server_that_quotes_the_request_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that is there to look at requests."""
    token = "eyJhbGciOi.eyJzdWIi.c2ln"
    monkeypatch.setenv("AIS_AUTHN_TOKEN", token)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                body = f'{{"Authorization": "Bearer {token}"}}'
                head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(TvetlError, match="does not answer as AIStore does") as garbled:
            Cluster(f"http://127.0.0.1:{listening.getsockname()[1]}").etls()
        thread.join()
    assert "eyJ" not in shown(garbled.value)


def keys(pem: str) -> dict[str, str]:
    """A key as somebody may have put it into a variable."""
    lines = pem.splitlines()
    return {
        "text": pem,
        "text after a line's end": f"\n{pem}",
        "text after attributes": f"Bag Attributes: friendlyName\n{pem}",
        "text with escaped line's ends": pem.replace("\n", "\\n"),
        "lines alone": "\n".join(lines[1:-1]),
        "one line alone": "".join(lines[1:-1]),
    }


@pytest.mark.parametrize("form", [*keys("")])
def test_a_key_given_as_text_is_not_shown(
    ca: Path, form: str, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[..., Pipeline]
) -> None:
    crt, file = signed(ca, "client")
    key, secret = keys(file.read_text())[form], file.read_text().splitlines()[1][:20]
    with_header = form.startswith("text after") or form == "text"
    if with_header:
        Tls(str(ca), str(crt), key).context()
    else:
        with pytest.raises(ValueError, match="AIS_CRT_KEY: got ") as unusable:
            Tls(str(ca), str(crt), key).context()
        assert secret not in shown(unusable.value)
    monkeypatch.setenv("AIS_CRT", str(crt))
    monkeypatch.setenv("AIS_CRT_KEY", key)
    with pytest.raises(UsageError, match="AIS_CRT_KEY: got text, expected a file") as refused:
        Cluster("https://127.0.0.1:1")
    assert secret not in shown(refused.value)
    assert secret not in shown(
        no_such_file(OSError(f"Could not find the TLS key file, invalid path: {key}")) or OSError()
    )
    with pytest.raises(UsageError, match="AIS_CRT_KEY has a secret") as in_clear:
        PodSpec("test-etl", pipeline(), env={"AIS_CRT_KEY": key})
    assert secret not in shown(in_clear.value)
    asked = ["register", "test-etl", "pipeline.yaml", "--env", f"AIS_CRT_KEY={key}", "--env", "TVETL_A=b=c"]
    asked += ["--env", "AIS_AUTHN_TOKEN=opaque", "--show-config"]
    told = CliRunner().invoke(app, asked).output
    assert secret not in told and "['AIS_CRT_KEY=***', 'TVETL_A=b=c', 'AIS_AUTHN_TOKEN=***']" in told
    assert secret not in repr(Tls(key=key)) + str(read_access().bearer)


def test_pods_get_an_authority_whose_file_has_a_comment_in_latin_1(
    ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[..., Pipeline]
) -> None:
    (tmp_path / "ca.pem").write_bytes("Autorit\u00e9\n".encode("latin-1") + ca.read_bytes())
    monkeypatch.setenv("AIS_CLIENT_CA", str(tmp_path / "ca.pem"))
    pod = trusting(PodSpec("test-etl", pipeline()), "https://node")
    assert pod.env["AIS_CLIENT_CA"] == ca.read_text().strip()
