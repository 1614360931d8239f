"""What is set wrongly for a cluster with TLS and tokens is told by its name, by the doctor and by a command.

No trace, and no token or key in what is printed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import faults
from typer.testing import CliRunner

from tvetl.command.cli import app
from tvetl.command.doctor import examine
from tvetl.local import LocalCluster
from tvetl.local.certificates import authority, signed

#: What a machine of a company may have set, and this one has.
VARIABLES = (
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AIS_CLIENT_CA", "AIS_CRT", "AIS_CRT_KEY", "AIS_SKIP_VERIFY_CRT",
    "AIS_AUTHN_TOKEN", "AIS_AUTHN_TOKEN_FILE", "AIS_ENDPOINT",
)  # fmt: skip
PIPELINE = '{"steps": [{"op": "CenterCrop", "size": 8}], "output": {"format": "png"}}'


@dataclass
class World:
    """A secured cluster and an open one, and what the test needs beside them."""

    secured: LocalCluster
    plain: LocalCluster
    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def right(self) -> dict[str, str]:
        """What is right for the secured cluster."""
        return {
            "AIS_ENDPOINT": self.secured.endpoint,
            "AIS_CLIENT_CA": str(self.secured.ca),
            "AIS_AUTHN_TOKEN": self.secured.token(),
        }

    def file(self, text: str) -> str:
        path = self.folder / f"file-{len(list(self.folder.iterdir()))}"
        path.write_text(text)
        return str(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("clusters")
    with (
        LocalCluster(folder / "secured", tls=True, authn=True) as secured,
        LocalCluster(folder / "plain") as plain,
    ):
        made = folder / "made"
        made.mkdir()
        yield World(secured, plain, made)


@contextmanager
def before_plain(world: World, *hosts: str, days: int = 1, clients: bool = False) -> Iterator[dict[str, str]]:
    """A gateway before the open cluster whose certificate is not right; gives what is set for it."""
    folder = world.folder / f"gateway-{len(list(world.folder.iterdir()))}"
    ca = authority(folder)
    crt, key = signed(ca, "node", hosts or ("IP:127.0.0.1",), days)
    pem = folder / "all.pem"
    pem.write_bytes(crt.read_bytes() + key.read_bytes())
    for gateway in faults.serve_gateway(world.plain.endpoint, pem, ca if clients else None):
        yield {"AIS_ENDPOINT": gateway.endpoint, "AIS_CLIENT_CA": str(ca)}


@contextmanager
def refusing(world: World) -> Iterator[dict[str, str]]:
    """A cluster that calls a token expired which holds by our clock, as its own is ahead."""
    token = world.secured.token(seconds=3600)
    said = f'{{"message": "invalid token [err: token expired]: {token}", "status": 401}}'.encode()
    for gateway in faults.serve_gateway(world.plain.endpoint):
        gateway.choose = lambda method, path, before: (
            None if "health" in path else faults.saying(401, "application/json", said)
        )
        yield {"AIS_ENDPOINT": gateway.endpoint, "AIS_AUTHN_TOKEN": token}


@contextmanager
def just(**env: str) -> Iterator[dict[str, str]]:
    yield env


def other_ca(world: World) -> str:
    return str(authority(world.folder / f"ca-{len(list(world.folder.iterdir()))}"))


Wrong = Callable[[World], Any]
#: What is wrong -> how it is brought about, and what doctor and command say of it.
WRONG: dict[str, tuple[Wrong, str]] = {
    "no TLS where https is spoken": (
        lambda w: just(**w.right() | {"AIS_ENDPOINT": w.secured.endpoint.replace("https", "http")}),
        "speaks https, and was asked in plain http",
    ),
    "TLS where http is spoken": (
        lambda w: just(**w.right() | {"AIS_ENDPOINT": w.plain.endpoint.replace("http", "https")}),
        "it does not speak TLS",
    ),
    "no authority": (
        lambda w: just(**w.right() | {"AIS_CLIENT_CA": ""}),
        "it has a certificate of an authority that is not trusted here",
    ),
    "another authority": (
        lambda w: just(**w.right() | {"AIS_CLIENT_CA": other_ca(w)}),
        "it has a certificate of an authority that is not trusted here",
    ),
    "an authority's file that is not there": (
        lambda w: just(**w.right() | {"AIS_CLIENT_CA": "/no/such/ca.pem"}),
        "AIS_CLIENT_CA: got '/no/such/ca.pem' (No such file or directory)",
    ),
    "an authority's file without a certificate": (
        lambda w: just(**w.right() | {"AIS_CLIENT_CA": w.file("none")}),
        "which has no certificate, expected PEM",
    ),
    "another's bundle that is not there": (
        lambda w: just(**w.right() | {"AIS_CLIENT_CA": "", "REQUESTS_CA_BUNDLE": "/no/such/bundle"}),
        "REQUESTS_CA_BUNDLE: got '/no/such/bundle'",
    ),
    "an expired certificate": (lambda w: before_plain(w, days=-1), "it has a certificate that has expired"),
    "a certificate of another host": (
        lambda w: before_plain(w, "IP:127.0.0.2", "DNS:node.example"),
        "it has a certificate for another host",
    ),
    "no client certificate": (lambda w: before_plain(w, clients=True), "a client certificate"),
    "half of a client certificate": (
        lambda w: just(**w.right() | {"AIS_CRT": str(w.secured.ca)}),
        "AIS_CRT_KEY: got nothing",
    ),
    "another certificate's key": (
        lambda w: just(
            **w.right() | {"AIS_CRT": str(w.secured.ca), "AIS_CRT_KEY": str(Path(other_ca(w)).with_suffix(".key"))}
        ),
        "AIS_CRT_KEY: got another certificate's key",
    ),
    "no token": (lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": ""}), "token required (HTTP 401)"),
    "an expired token": (
        lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": w.secured.token(seconds=0.001, delay=-60)}),
        "the cluster refuses the token: token expired (HTTP 401)",
    ),
    "a token of another cluster": (
        lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": w.plain.token()}),
        "the cluster refuses the token: token signature is invalid (HTTP 401)",
    ),
    "a token without the right": (
        lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": w.secured.token("alice", admin=False)}),
        "user `alice` has insufficient permissions",
    ),
    "a token that is not valid yet": (
        lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": w.secured.token(delay=3600)}),
        "token is not valid yet (HTTP 401)",
    ),
    "clocks apart": (refusing, "the clocks are apart"),
    "a token that no header can have": (
        lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": f"Bearer {w.secured.token()}"}),
        "AIS_AUTHN_TOKEN is no token",
    ),
    "a token's file that is not there": (
        lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": "", "AIS_AUTHN_TOKEN_FILE": "/no/such/token"}),
        "AIS_AUTHN_TOKEN_FILE: /no/such/token cannot be read: No such file or directory",
    ),
    "a token's file without one": (
        lambda w: just(**w.right() | {"AIS_AUTHN_TOKEN": "", "AIS_AUTHN_TOKEN_FILE": w.file("no token")}),
        "cannot be read: it holds no token",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_it_is_told_by_its_name(world: World, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bring, said = WRONG[wrong]
    with bring(world) as given:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        findings = examine(given["AIS_ENDPOINT"])
        done = CliRunner().invoke(app, ["list"])  # a process would take most of the time
    (failed,) = [finding for finding in findings if finding.level == "fail"]
    assert said in failed.message + failed.hint and failed.hint
    told = done.stderr
    assert said in " ".join(told.split()) and done.exit_code in (1, 2, 5), told
    assert "Traceback" not in told and len(told.splitlines()) <= 4
    for secret in (given.get("AIS_AUTHN_TOKEN") or "PRIVATE KEY", "PRIVATE KEY"):
        assert secret.removeprefix("Bearer ") not in told + repr(findings)


def test_nothing_is_wrong_where_nothing_is(
    world: World, tvetl: Callable[..., subprocess.CompletedProcess[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in world.right().items():
        monkeypatch.setenv(name, value)
    assert {finding.level for finding in examine(world.secured.endpoint)} == {"ok"}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other_ca(world))
    warned = {finding.check: finding.message for finding in examine(world.secured.endpoint) if finding.level != "ok"}
    assert warned == {"tls": "AIS_CLIENT_CA verifies certificates here; the SDK alone would take REQUESTS_CA_BUNDLE"}
    assert tvetl("list").returncode == 0
    monkeypatch.setenv("AIS_AUTHN_TOKEN", world.secured.token(seconds=60))
    (token,) = [finding for finding in examine(world.secured.endpoint) if finding.check == "token"]
    assert token.level == "warn" and "AIS_AUTHN_TOKEN_FILE" in token.hint
