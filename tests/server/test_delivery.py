"""A result is sent to the node that AIStore names, to nodes of the cluster only, and the write secret stays inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tvetl_server.errors import BadNodeUrl, HostNotAllowed
from tvetl_server.serving.delivery import Delivery
from tvetl_server.settings import Settings, TargetUrl

TARGET = TargetUrl("http", "ais-target-1.ais-target.ais.svc.cluster.local:10080", "/v1/etl/_object/rec-etl/S3cr3t")


@pytest.fixture
def server(run_server: Callable[..., Any], disk: Any, recorder: Any) -> Any:
    return run_server(
        TVETL_ROOTS=str(disk.root), AIS_TARGET_URL=recorder.url, direct_put="true", TVETL_DELIVERY_SECONDS="2"
    )


def node(url: str) -> dict[str, str]:
    return {"Ais-Node-Url": url}


def test_direct_put_sends_the_bytes_there_and_the_length_back(
    server: Any, disk: Any, recorder: Any, image: bytes
) -> None:
    target = disk.add("pct%41.jpg", image)
    answered = server.put(target)
    path = "/ais%2F@%23%2Fdst%2Ft%2Fpct%2541.out?owt=3&uuid=IW-GoVvy1"
    reply = server.put(target, headers=node(f"http://{recorder.host}{path}"))
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["Ais-Direct-Put-Length"] == str(len(answered.body))
    (put,) = recorder.puts
    assert put.target == f"/v1/etl/_object/rec-etl/S3cr3tOfTheWrites{path}"
    assert put.body == answered.body


def test_without_direct_put_the_response_has_the_bytes(
    run_server: Callable[..., Any], disk: Any, recorder: Any, image: bytes
) -> None:
    """AIStore asks for it even where it was not registered."""
    server = run_server(TVETL_ROOTS=str(disk.root), AIS_TARGET_URL=recorder.url, direct_put="false")
    reply = server.put(disk.add("a.jpg", image), headers=node(f"http://{recorder.host}/ais%2F@%23%2Fdst%2Fa"))
    assert (reply.status, reply.body[1:4], recorder.puts) == (200, b"PNG", [])


def test_the_next_stage_gets_path_rest_and_arguments_but_no_file_name(
    server: Any, disk: Any, recorder: Any, image: bytes
) -> None:
    rest = "http://other:1,http://last:2/ais%2F@%23%2Fdst%2Fa"
    recorder.replies.append((200, {"Content-Type": "text/plain"}, b"what it made"))
    target = disk.add("dbl//b c.jpg", image) + "&etl_args=" + quote('{"seed":7,"epoch":1}')
    reply = server.put(target, headers=node(f"http://{recorder.host},{rest}"))
    assert (reply.status, reply.body) == (200, b"what it made")
    (put,) = recorder.puts
    assert put.target == "/src/dbl//b%20c.jpg?etl_args=%7B%22seed%22%3A7%2C%22epoch%22%3A1%7D"
    assert put.headers["Ais-Node-Url"] == rest
    assert put.body[1:4] == b"PNG"


def test_the_last_stage_gets_no_node_url(server: Any, recorder: Any, image: bytes) -> None:
    recorder.replies.append((204, {"Ais-Direct-Put-Length": "77"}, b""))
    reply = server.put("/src/a.jpg", image, node(f"http://{recorder.host}"))
    assert (reply.status, reply.headers["Ais-Direct-Put-Length"]) == (204, "77")
    assert "Ais-Node-Url" not in recorder.puts[0].headers
    assert "?" not in recorder.puts[0].target


def test_two_servers_make_a_pipeline(server: Any, run_server: Callable[..., Any], disk: Any, image: bytes) -> None:
    pipeline = '{"steps": [{"op": "CenterCrop", "size": 16}], "output": {"format": "png"}}'
    second = run_server(TVETL_PIPELINE=pipeline)
    first_alone = server.put(disk.add("a.jpg", image)).body
    reply = server.put(disk.push("a.jpg"), headers=node(f"http://127.0.0.1:{second.port}"))
    assert reply.status == 200
    assert reply.body == second.put("/src/a.jpg", first_alone).body


def test_the_next_stages_error_is_passed_on(server: Any, recorder: Any, image: bytes) -> None:
    recorder.replies.append((422, {"Content-Type": "application/json"}, b'{"error": "its own"}'))
    reply = server.put("/src/a.jpg", image, node(f"http://{recorder.host}"))
    assert (reply.status, reply.body) == (422, b'{"error": "its own"}')


@pytest.mark.parametrize(
    ("status", "body"), [(200, b""), (404, b"no such thing"), (307, b""), (301, b"moved")], ids=str
)
def test_a_next_stage_that_answers_nothing_gone_or_elsewhere_is_a_failed_delivery(
    server: Any, recorder: Any, image: bytes, status: int, body: bytes
) -> None:
    recorder.replies.append((status, {"Location": f"http://{recorder.host}/elsewhere"}, body))
    reply = server.put("/src/a.jpg", image, node(f"http://{recorder.host}"))
    assert (reply.status, json.loads(reply.body)["error"]) == (502, "delivery_failed")
    assert len(recorder.puts) == 1, "no redirect is followed"


def test_a_target_that_refuses_is_quoted_without_the_secret(server: Any, recorder: Any, image: bytes) -> None:
    recorder.replies.append((507, {}, f"PUT {recorder.url}/dst: no\nspace".encode()))
    reply = server.put("/src/a.jpg", image, node(f"http://{recorder.host}/ais%2F@%23%2Fdst%2Fa"))
    message = json.loads(reply.body)["message"]
    assert reply.status == 502
    assert "507" in message and "no space" in message
    server.stop()
    assert "S3cr3t" not in message + server.log


def test_the_server_retries_the_delivery_of_an_object_read_by_name(
    server: Any, disk: Any, recorder: Any, image: bytes
) -> None:
    """AIStore retries only the objects that it sent itself."""
    recorder.replies += [(0, {}, b""), (503, {"Ais-Etl-Retry-Reason": "direct-put-transient"}, b"")]
    reply = server.put(disk.add("a.jpg", image), headers=node(f"http://{recorder.host}/ais%2F@%23%2Fdst%2Fa"))
    assert reply.status == 204
    assert len(recorder.puts) == 3


def test_a_transient_failure_of_a_stage_is_passed_on_for_an_object_in_the_request(
    server: Any, recorder: Any, image: bytes
) -> None:
    recorder.replies.append((503, {"Ais-Etl-Retry-Reason": "direct-put-transient"}, b"{}"))
    reply = server.put("/src/a.jpg", image, node(f"http://{recorder.host}"))
    assert (reply.status, reply.headers["Ais-Etl-Retry-Reason"]) == (503, "direct-put-transient")


def delivery(**settings: Any) -> Delivery:
    return Delivery(Settings(**{"pipeline": "{}", "target_url": TARGET, "direct_put": True, **settings}))


@pytest.mark.parametrize(
    "host",
    [
        "ais-target-1.ais-target.ais.svc.cluster.local",
        "ais-target-0.ais-target.ais.svc.cluster.local:10080",
        "AIS-Target-0.ais-target.ais.svc.cluster.local.:10080",
        "10.1.2.3:31917",
        "[fd00:0::1]:8000",
        "stage.example",
        "any.stages.example",
    ],
)
def test_nodes_of_the_cluster_are_allowed(host: str) -> None:
    settings = {"node_ip": "10.1.2.3", "allow_hosts": ("fd00::1", "stage.example", ".stages.example")}
    assert delivery(**settings).route(f"http://{host}/ais%2Fa") is not None


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "10.1.2.4",
        "2130706433",
        "ais-target.ais.svc.cluster.local.evil.example",
        "evil-ais-target.ais.svc.cluster.local",
        "stage.example",
        "stages.example",
        "[::1]",
        "localhost",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    with pytest.raises(HostNotAllowed):
        delivery(node_ip="10.1.2.3", allow_hosts=(".stages.example",)).route(f"http://{host}/ais%2Fa")


def test_a_target_with_an_address_or_a_short_name_allows_no_domain() -> None:
    for own, other in (("10.0.0.5:80", "9.0.0.5"), ("target.local:80", "x.local"), ("target", "x")):
        target = TargetUrl("http", own, "/v1/s")
        assert delivery(target_url=target).route(f"http://{own}/a") is not None
        with pytest.raises(HostNotAllowed):
            delivery(target_url=target).route(f"http://{other}/a")


HOST = "ais-target-0.ais-target.ais.svc.cluster.local"


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/a/../../b",
        f"http://{HOST}/a%2F..%2F..%2Fb",
        f"http://{HOST}/a%2f%2e%2e%2fb",
        f"http://{HOST}/a%252F..%252Fb",
        f"http://{HOST}/./a",
        f"http://{HOST}/a\\..\\b",
        f"http://user:word@{HOST}/a",
        f"http://{HOST}@evil.example/a",
        f"http://{HOST}/a#b",
        f"ftp://{HOST}/a",
        f"//{HOST}/a",
        f"{HOST}/a",
        f"http://{HOST}:notaport/a",
        f"http://{HOST}:0/a",
        f"http://{HOST}/a b",
        f"http://{HOST}/a\tb",
        f"http://{HOST}/ü",
        f"http://{HOST}:80 , ,http://{HOST}",
        f",http://{HOST}/a",
        "http:///a",
        f"http://[{HOST}/a",
        f"http://{HOST}%00/a",
    ],
)
def test_an_address_that_may_mislead_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(BadNodeUrl) as caught:
        delivery().route(url)
    assert HOST not in str(caught.value)


def test_direct_put_over_https_is_never_made_http(run_server: Callable[..., Any], recorder: Any, image: bytes) -> None:
    """The scheme is AIStore's own; against a plain listener https fails for good, and nothing is sent."""
    server = run_server(
        AIS_TARGET_URL=recorder.url.replace("http:", "https:"), direct_put="true", TVETL_DELIVERY_SECONDS="2"
    )
    reply = server.put("/src/a.jpg", image, node(f"http://{recorder.host}/ais%2Fa"))
    assert (reply.status, recorder.puts) == (502, [])
