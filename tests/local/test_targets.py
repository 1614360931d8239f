"""Targets asked without the proxy: homes as the SDK computes them, answers as they arrive, targets that come and go."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

pytest.importorskip("msgspec", reason="the stand-in's requirements are not installed")

from tvetl.local import LocalCluster

NAMES = [f"{folder}{i}.jpg" for folder in ("", "n01/", "ü/猫 ", "pct%41+&#?") for i in range(100)]


@contextmanager
def asked(url: str, method: str = "GET", body: object = None) -> Iterator[http.client.HTTPResponse]:
    """An answer of which the head is there; no redirect is followed."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=20)) as connection:
        connection.request(method, url.partition(parts.netloc)[2], json.dumps(body) if body else None)
        yield connection.getresponse()


def ask(url: str, method: str = "GET", body: object = None) -> tuple[int, Any]:
    with asked(url, method, body) as answer:
        data = answer.read()
        return answer.status, json.loads(data) if data[:1] == b"{" else data


def the_map(cluster: LocalCluster) -> dict[str, Any]:
    smap: dict[str, Any] = ask(f"{cluster.endpoint}/v1/daemon?what=smap")[1]
    return smap


def target(cluster: LocalCluster, number: int = 0) -> str:
    return str(the_map(cluster)["tmap"][f"target{number}"]["public_net"]["direct_url"])


def home(cluster: LocalCluster, name: str) -> str:
    """Where the proxy sends who asks for an object."""
    with asked(f"{cluster.endpoint}/v1/objects/src/{quote(name)}") as answer:
        return "http://" + urlsplit(answer.headers["Location"]).netloc


def fill(cluster: LocalCluster, pod: Callable[..., str], *names: str, obj_timeout: str = "5s") -> None:
    """Objects in ``src``, and the recorder as ``rec-etl``."""
    assert ask(f"{cluster.endpoint}/v1/buckets/src", "POST", {"action": "create-bck"})[0] == 200
    for name in names:
        (cluster.root / "src" / name).write_bytes(b"DATA")
    spec = base64.b64encode(pod().encode()).decode()
    message = {"name": "rec-etl", "spec": spec, "communication": "hpush://", "init_timeout": "30s"}
    assert ask(f"{cluster.endpoint}/v1/etl", "PUT", message | {"obj_timeout": obj_timeout})[0] == 200


def inline(url: str, name: str) -> str:
    return f"{url}/v1/objects/src/{quote(name)}?provider=ais&etl_name=rec-etl"


def test_the_home_of_an_object_is_the_one_that_the_sdk_computes(make_cluster: Callable[..., LocalCluster]) -> None:
    types = pytest.importorskip("aistore.sdk.types")
    cluster = make_cluster(3)
    ask(f"{cluster.endpoint}/v1/buckets/src", "POST", {"action": "create-bck"})
    smap = types.Smap.model_validate(the_map(cluster))
    theirs = {name: smap.get_target_for_object(f"ais/@#/src/{name}").public_net.direct_url for name in NAMES}
    assert {name: home(cluster, name) for name in NAMES} == theirs
    assert len(set(theirs.values())) == 3


def test_a_target_answers_who_asks_it_directly(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    fill(cluster, pod, "a.jpg")
    assert ask(f"{target(cluster)}/v1/objects/src/a.jpg?provider=ais") == (200, b"DATA")
    assert ask(inline(target(cluster), "a.jpg")) == (200, b"T:fqn")


def test_without_direct_access_only_what_the_proxy_sent_is_answered(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "ais", direct=False) as cluster:
        (tmp_path / "ais" / "src").mkdir()
        (tmp_path / "ais" / "src" / "a").write_bytes(b"DATA")
        status, error = ask(f"{target(cluster)}/v1/objects/src/a?provider=ais")
        assert (status, error["message"]) == (403, "direct target access denied")
        assert "tcode" not in error
        with asked(f"{cluster.endpoint}/v1/objects/src/a?provider=ais") as answer:
            location = answer.headers["Location"]
        assert ask(location) == (200, b"DATA")


@pytest.mark.parametrize("size", [1, 2048, 2049, 151_000, 1_000_000])
def test_an_answer_has_a_length_only_where_gos_server_would_know_it(
    size: int, make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    fill(cluster, pod, f"{size}bytes")
    with asked(inline(target(cluster), f"{size}bytes")) as answer:
        assert answer.read() == b"x" * size
        framing = answer.headers["Content-Length"], answer.headers["Transfer-Encoding"]
    assert framing == ((str(size), None) if size <= 2048 else (None, "chunked"))


def test_an_answer_is_relayed_as_it_arrives(make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]) -> None:
    cluster = make_cluster()
    fill(cluster, pod, "halting-9000bytes")
    began = time.monotonic()
    with asked(inline(target(cluster), "halting-9000bytes")) as answer:
        assert answer.read(4500) == b"x" * 4500
        assert time.monotonic() - began < 1, "the transformer waits a second before the other half"
        assert answer.read() == b"x" * 4500


@pytest.mark.parametrize(("name", "begun"), [("torn-9000bytes", 4500), ("torn-200000bytes", 100_000)])
def test_an_answer_that_breaks_off_breaks_off_for_the_reader(
    name: str, begun: int, make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    fill(cluster, pod, name, "a.jpg")
    with asked(inline(target(cluster), name)) as answer:
        assert answer.status == 200
        with pytest.raises(http.client.IncompleteRead) as broken:
            answer.read()
        assert len(broken.value.partial) <= begun
    assert ask(inline(target(cluster), "a.jpg")) == (200, b"T:fqn")


def test_a_short_answer_that_breaks_off_is_an_error(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    fill(cluster, pod, "torn-2000bytes", "halting-2000bytes", obj_timeout="500ms")
    for name, reason in (("torn-2000bytes", "broke off"), ("halting-2000bytes", "timed out")):
        status, error = ask(inline(target(cluster), name))
        assert (status, reason in error["message"]) == (500, True)


def test_an_answer_that_breaks_off_in_a_job_stores_nothing_and_is_told(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    fill(cluster, pod, "torn-9000bytes", "9000bytes")
    value = {"id": "rec-etl", "coer": True}
    url = f"{cluster.endpoint}/v1/buckets/src?bck_to=ais%2F%40%23%2Fdst%2F"
    job = ask(url, "POST", {"action": "etl-bck", "value": value})[1].decode()
    deadline = time.monotonic() + 20
    query = f"{cluster.endpoint}/v1/cluster?what=status", "GET", {"ID": job}
    while not ask(*query)[1]["end_time"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "broke off" in ask(*query)[1]["err"]
    assert [path.name for path in (cluster.root / "dst").iterdir()] == ["9000bytes"]


def test_a_target_goes_and_comes_back_at_its_port(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster(2)
    fill(cluster, pod, *(f"{i}.jpg" for i in range(8)))
    url, version = target(cluster, 1), int(the_map(cluster)["version"])
    cluster.stop_target(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    assert set(the_map(cluster)["tmap"]) == {"target0"}
    assert {home(cluster, f"{i}.jpg") for i in range(8)} == {target(cluster, 0)}
    cluster.start_target(1)
    assert target(cluster, 1) == url
    assert int(the_map(cluster)["version"]) > version + 1
    assert {home(cluster, f"{i}.jpg") for i in range(8)} == {target(cluster, 0), url}
    assert ask(inline(url, "0.jpg")) == (200, b"T:fqn")


def test_a_target_that_is_added_has_a_transformer_of_every_running_etl(
    make_cluster: Callable[..., LocalCluster], pod: Callable[..., str]
) -> None:
    cluster = make_cluster()
    fill(cluster, pod, *(f"{i}.jpg" for i in range(16)))
    version = int(the_map(cluster)["version"])
    assert cluster.add_target() == 1
    assert int(the_map(cluster)["version"]) == version + 1
    assert {home(cluster, f"{i}.jpg") for i in range(16)} == {target(cluster, 0), target(cluster, 1)}
    assert ask(inline(target(cluster, 1), "0.jpg")) == (200, b"T:fqn")
