"""Results go over https to nodes whose certificates hold, and the write secret to nobody else."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.measure import tree
from support.serving import SECRET, Recorder, Reply, Server, environment, recording

from tvetl.local.certificates import authority, signed

Run = Callable[..., Server]
ETL_PATH = "/ais%2F@%23%2Fdst%2Fa.out"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that has signed nothing."""
    return authority(tmp_path_factory.mktemp("other"))


def serving(certificate: tuple[Path, Path], clients: Path | None = None) -> ssl.SSLContext:
    """A target's context; with ``clients`` it asks for a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def target(ca: Path) -> Iterator[Recorder]:
    """Another target that speaks https, with a certificate for 127.0.0.1."""
    with recording(serving(signed(ca, "target"))) as notes:
        yield notes


def put_to(target: Recorder, run: Run, image: bytes, **settings: str) -> tuple[Reply, Server]:
    given = {"AIS_TARGET_URL": target.url, "direct_put": "true", "TVETL_DELIVERY_SECONDS": "5"}
    server = run(**given, **settings)
    return server.put("/src/a.jpg", image, {"Ais-Node-Url": f"https://{target.host}{ETL_PATH}"}), server


@pytest.mark.parametrize("form", ["file", "text", "folder"])
def test_the_authority_is_a_file_a_folder_or_text(
    run_server: Run, ca: Path, target: Recorder, image: bytes, form: str, tmp_path: Path
) -> None:
    """Text, as Kubernetes gives a ConfigMap to a pod whose volumes AIStore takes away."""
    given = {"file": str(ca), "text": ca.read_text(), "folder": str(tmp_path / "hashed")}[form]
    if form == "folder":
        (tmp_path / "hashed").mkdir()
        asked = ["openssl", "x509", "-in", str(ca), "-noout", "-hash"]
        name = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / "hashed" / f"{name}.0").write_bytes(ca.read_bytes())
    reply, server = put_to(target, run_server, image, AIS_CLIENT_CA=given)
    assert (reply.status, len(target.puts)) == (204, 1)
    assert b"\nTLS: certificates are verified by AIS_CLIENT_CA\n" in server.get("/health").body
    assert target.puts[0].target == f"/v1/etl/_object/rec-etl/{SECRET}{ETL_PATH}"


def test_a_kept_connection_serves_many_deliveries(run_server: Run, ca: Path, target: Recorder, image: bytes) -> None:
    reply, server = put_to(target, run_server, image, AIS_CLIENT_CA=str(ca))
    connection = server.connect()
    for _ in range(20):
        connection.request("PUT", "/src/a.jpg", image, {"Ais-Node-Url": f"https://{target.host}{ETL_PATH}"})
        response = connection.getresponse()
        assert (response.status, response.read()) == (204, b"")
    connection.close()
    assert (reply.status, len(target.puts), target.connections) == (204, 21, 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("authority", "of an authority that is not trusted here"),
        ("expired", "has a certificate that has expired"),
        ("host", "has a certificate for another host"),
        ("name", "has a certificate for another host"),
        ("plain", "does not speak TLS"),
        ("wanted", "wants a client certificate"),
        ("client", "refuses our client certificate"),
    ],
)
def test_a_handshake_that_fails_is_named_and_the_secret_stays_here(
    run_server: Run, ca: Path, other: Path, image: bytes, wrong: str, said: str
) -> None:
    hosts = {"host": ["IP:127.0.0.2"], "name": ["DNS:node.example"]}.get(wrong, ["IP:127.0.0.1"])
    certificate = signed(ca, wrong, hosts, -1 if wrong == "expired" else 1)
    tls = None if wrong == "plain" else serving(certificate, ca if wrong in ("wanted", "client") else None)
    settings = {"AIS_CLIENT_CA": str(other if wrong == "authority" else ca)}
    if wrong == "client":
        crt, key = signed(other, "client")
        settings |= {"AIS_CRT": str(crt), "AIS_CRT_KEY": str(key)}
    with recording(tls) as target:
        target.scheme = "https"
        reply, server = put_to(target, run_server, image, **settings)
        assert (reply.status, json.loads(reply.body)["error"]) == (502, "delivery_failed"), server.log
        assert said in json.loads(reply.body)["message"]
        assert target.puts == []
    server.stop()
    assert SECRET not in reply.body.decode() + server.log


def test_a_target_that_asks_for_a_certificate_gets_it_also_from_text(run_server: Run, ca: Path, image: bytes) -> None:
    crt, key = signed(ca, "client")
    with recording(serving(signed(ca, "asking"), clients=ca)) as target:
        for certificate in ((str(crt), str(key)), (crt.read_text(), key.read_text())):
            settings = dict(zip(("AIS_CRT", "AIS_CRT_KEY"), certificate, strict=True))
            reply, server = put_to(target, run_server, image, AIS_CLIENT_CA=str(ca), **settings)
            assert reply.status == 204, reply.body
            assert b"with a client certificate" in server.get("/health").body


def test_unverified_only_where_that_is_asked_for(run_server: Run, target: Recorder, image: bytes) -> None:
    reply, server = put_to(target, run_server, image, AIS_SKIP_VERIFY_CRT="yes")
    assert (reply.status, len(target.puts)) == (204, 1)
    assert b"certificates are NOT verified" in server.get("/health").body


def test_a_stage_of_a_pipeline_is_verified_too(run_server: Run, ca: Path, other: Path, image: bytes) -> None:
    with recording(serving(signed(ca, "stage"))) as stage:
        stage.replies += [(200, {}, b"made")]
        header = {"Ais-Node-Url": f"https://{stage.host}"}
        trusting, doubting = (
            run_server(AIS_CLIENT_CA=str(each), TVETL_ALLOW_HOSTS="127.0.0.1") for each in (ca, other)
        )
        assert trusting.put("/src/a.jpg", image, header).body == b"made"
        assert doubting.put("/src/a.jpg", image, header).status == 502
        assert len(stage.puts) == 1


def check(**settings: str) -> subprocess.CompletedProcess[str]:
    env = environment(TVETL_PIPELINE='{"steps": [], "output": {"format": "png"}}', **settings)
    command = [sys.executable, "-m", "tvetl_server.wsgi", "--check"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_what_cannot_work_is_told_at_the_start(ca: Path, other: Path, tmp_path: Path) -> None:
    crt, key = map(str, signed(ca, "one"))
    _, another = map(str, signed(other, "two"))
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "empty").write_text("")
    locked = tmp_path / "locked.key"
    make = ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(make, check=True, capture_output=True)
    wrong: list[tuple[dict[str, str], str]] = [
        ({"AIS_CLIENT_CA": "/no/such"}, "AIS_CLIENT_CA: got '/no/such' (No such file or directory)"),
        ({"AIS_CLIENT_CA": str(tmp_path / "text")}, "which has no certificate, expected PEM"),
        ({"AIS_CLIENT_CA": str(tmp_path / "empty")}, "which has no certificate, expected PEM"),
        ({"AIS_CLIENT_CA": "-----BEGIN CERTIFICATE-----\nAAAA"}, "AIS_CLIENT_CA: got text, which has no certificate"),
        ({"AIS_CLIENT_CA": Path(key).read_text()}, "AIS_CLIENT_CA: got text, which has no certificate"),
        ({"AIS_CRT": crt}, "AIS_CRT_KEY: got nothing"),
        ({"AIS_CRT_KEY": key}, "AIS_CRT: got nothing"),
        ({"AIS_CRT": crt, "AIS_CRT_KEY": "/no/such"}, "AIS_CRT_KEY: got '/no/such' (No such file or directory)"),
        ({"AIS_CRT": crt, "AIS_CRT_KEY": another}, "AIS_CRT_KEY: got another certificate's key"),
        ({"AIS_CRT": crt, "AIS_CRT_KEY": str(locked)}, "AIS_CRT_KEY: got a key with a passphrase"),
        ({"AIS_CRT": key, "AIS_CRT_KEY": key}, "AIS_CRT_KEY: got no certificate and its key"),
        ({"AIS_SKIP_VERIFY_CRT": "perhaps"}, "AIS_SKIP_VERIFY_CRT: got 'perhaps', expected true or"),
    ]
    assert check(AIS_CLIENT_CA=str(ca), AIS_CRT=crt, AIS_CRT_KEY=key).returncode == 0
    for settings, said in wrong:
        done = check(**settings)
        assert done.returncode == 2 and said in done.stderr, (settings, done.stderr)
        assert "Traceback" not in done.stderr and "PRIVATE KEY" not in done.stderr


def test_without_tls_nothing_is_said_of_it(run_server: Run, recorder: Recorder) -> None:
    server = run_server(AIS_TARGET_URL=recorder.url, direct_put="true")
    assert b"TLS" not in server.get("/health").body


def test_no_decoder_has_the_key(run_server: Run, ca: Path) -> None:
    """As of the write secret: an image that takes a decoder over finds it nowhere in its process."""
    crt, key = signed(ca, "kept")
    server = run_server(AIS_CLIENT_CA=str(ca), AIS_CRT=crt.read_text(), AIS_CRT_KEY=key.read_text())
    needle = key.read_text().splitlines()[1].encode()
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in tree(server.process.pid)}
    assert len(environments) >= 4 and not [pid for pid, found in environments.items() if needle in found]
