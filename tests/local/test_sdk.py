"""The SDK of AIStore, unchanged, drives the stand-in: the same calls that it sends to a cluster, over real HTTP."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

aistore = pytest.importorskip("aistore", reason="the AIStore SDK is not installed")
pytest.importorskip("msgspec", reason="the stand-in's requirements are not installed")

import requests  # noqa: E402
from aistore.sdk import Client  # noqa: E402
from aistore.sdk.etl import ETLConfig  # noqa: E402

from tvetl.local import LocalCluster  # noqa: E402

NAMES = ["a.jpg", "dir/b c.jpg", "uni/ü-猫.jpg", "pct%41.jpg", "plus+amp&eq=.jpg", "hash#q?x.jpg", "dbl//slash.jpg"]


def connect(cluster: LocalCluster) -> Client:
    try:
        from aistore.sdk.retry_config import RetryConfig

        config = RetryConfig.default()
        config.http_retry.total = 0  # an error is what the test wants to see, at once
        return Client(cluster.endpoint, retry_config=config)
    except (ImportError, AttributeError, TypeError):
        return Client(cluster.endpoint)


@pytest.fixture
def two(make_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    return make_cluster(2)


@pytest.fixture
def client(two: LocalCluster) -> Client:
    return connect(two)


def register(client: Client, name: str, pod: Callable[..., str], direct: bool = True) -> None:
    etl = client.etl(name)
    if hasattr(etl, "init_spec"):
        etl.init_spec(pod(), communication_type="hpush", init_timeout="30s", obj_timeout="5s")
    else:
        etl.init("localhost/rec:1", "", init_timeout="30s", obj_timeout="5s", direct_put=direct, COLOUR="blue")


def fill(client: Client, bucket: str = "src", names: list[str] = NAMES) -> None:
    client.bucket(bucket).create(exist_ok=True)
    for name in names:
        client.bucket(bucket).object(name).get_writer().put_content(f"DATA-{name}".encode())


def read(client: Client, bucket: str, name: str, etl: str = "", args: object = None) -> bytes:
    config = ETLConfig(etl, args) if etl else None
    return bytes(client.bucket(bucket).object(name).get_reader(etl=config).read_all())


def wait(client: Client, job_id: str) -> dict[str, int]:
    """Wait until a job has nothing more to do, looking often; its counts, of all targets together."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        query = {"ID": job_id, "Kind": ""}
        answer = requests.get(f"{client.bucket(job_id).client.base_url}/cluster?what=qryxstats", json=query, timeout=10)
        snaps = [snap for target in answer.json().values() for snap in target]
        if all(snap["is_idle"] for snap in snaps):
            return {key: sum(int(snap["stats"][key]) for snap in snaps) for key in ("loc-objs", "out-objs", "in-objs")}
        time.sleep(0.02)
    raise AssertionError(f"job {job_id} did not end")


def test_a_client_finds_the_cluster_ready(client: Client) -> None:
    assert client.cluster().is_ready()
    assert len(client.cluster().get_info().tmap) == 2


def test_objects_come_back_as_stored_whatever_their_names(client: Client) -> None:
    fill(client)
    for name in NAMES:
        assert read(client, "src", name) == f"DATA-{name}".encode()
    assert sorted(entry.name for entry in client.bucket("src").list_all_objects()) == sorted(NAMES)


def test_a_bucket_is_a_folder_that_a_person_can_look_into(client: Client, two: LocalCluster) -> None:
    fill(client, names=["pets/cat.jpg"])
    assert (two.root / "src" / "pets" / "cat.jpg").read_bytes() == b"DATA-pets/cat.jpg"
    (two.root / "byhand").mkdir()
    (two.root / "byhand" / "dog.jpg").write_bytes(b"DOG")
    assert read(client, "byhand", "dog.jpg") == b"DOG"


def test_listing_in_pages_misses_nothing(client: Client) -> None:
    names = [f"n{i:03}.jpg" for i in range(25)]
    fill(client, names=names)
    listed = client.bucket("src").list_all_objects(page_size=4, props="name,size,checksum")
    assert [entry.name for entry in listed] == names
    assert all(entry.size == 13 for entry in listed)
    assert [entry.name for entry in client.bucket("src").list_all_objects(prefix="n00")] == names[:10]


def test_a_large_object_streams_through(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "large.bin"
    source.write_bytes(bytes(range(256)) * 40_000)  # 10 MB: many blocks
    client.bucket("src").create()
    client.bucket("src").object("large.bin").get_writer().put_file(source)
    assert b"".join(client.bucket("src").object("large.bin").get_reader()) == source.read_bytes()


def test_buckets_and_objects_that_are_not_there(client: Client) -> None:
    with pytest.raises(Exception, match=r"does not exist|404"):
        client.bucket("nope").head()
    client.bucket("src").create()
    with pytest.raises(Exception, match="already exists"):
        client.bucket("src").create(exist_ok=False)
    with pytest.raises(Exception, match=r"does not exist|doesn't exist"):
        read(client, "src", "nope.jpg")
    client.bucket("src").delete()
    client.bucket("src").delete(missing_ok=True)


def test_a_registered_etl_transforms_reads(client: Client, pod: Callable[..., str]) -> None:
    fill(client, names=[*NAMES, "echo.json", "echo#cut.json"])
    register(client, "rec-etl", pod)
    assert read(client, "src", "a.jpg", etl="rec-etl") == b"T:fqn"
    told = json.loads(read(client, "src", "echo.json", etl="rec-etl", args={"seed": 7, "s": "ü &=#"}))
    assert json.loads(told["args"]) == {"seed": 7, "s": "ü &=#"}
    assert told["fqn"].endswith("/src/echo.json") and Path(told["fqn"]).read_bytes() == b"DATA-echo.json"
    assert told["agent"] == "Go-http-client/1.1" and told["len"] == 0
    assert told["env"]["COLOUR"] == "blue"
    assert told["env"]["AIS_TARGET_URL"].startswith("http://127.0.0.1:")
    cut = json.loads(read(client, "src", "echo#cut.json", etl="rec-etl"))
    assert cut["target"] == "/src/echo", "a # in a name ends what AIStore sends"


def test_a_pod_sees_of_our_environment_only_path_and_home(
    client: Client, pod: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_OURS", "1")
    fill(client, names=["echo.json"])
    register(client, "rec-etl", pod)
    env = json.loads(read(client, "src", "echo.json", etl="rec-etl"))["env"]
    assert "A_SECRET_OF_OURS" not in env and env["PATH"] and env["HOME"] and env["TVETL_ROOTS"]


def test_a_pipeline_of_two_etls_hands_bytes_on(client: Client, pod: Callable[..., str]) -> None:
    fill(client)
    register(client, "rec-etl", pod)
    register(client, "rec-etl2", pod)
    pair = client.etl("rec-etl") >> client.etl("rec-etl2")
    reader = client.bucket("src").object("a.jpg").get_reader(etl=ETLConfig(pair))
    assert reader.read_all() == b"T:T:fqn"


def test_errors_of_a_transformer_reach_the_reader_with_status_and_text(
    client: Client, pod: Callable[..., str], two: LocalCluster
) -> None:
    fill(client, names=["st422.jpg", "eof.jpg", "100%.jpg"])
    register(client, "rec-etl", pod)
    with pytest.raises(Exception, match=r"ETL error.*recorded 422") as raised:
        read(client, "src", "st422.jpg", etl="rec-etl")
    assert getattr(raised.value, "status_code", 422) == 422
    # The SDK repeats a 500 and then loses its text, so these are asked for without it.
    for name, reason in (("eof.jpg", "EOF"), ("100%25.jpg", 'invalid URL escape "%.j"')):
        answer = requests.get(f"{two.endpoint}/v1/objects/src/{name}?etl_name=rec-etl", timeout=10)
        assert answer.status_code == 500 and reason in answer.json()["message"]


def test_a_bucket_job_transforms_everything_with_direct_put(
    client: Client, pod: Callable[..., str], two: LocalCluster
) -> None:
    names = [f"p/{i:02}.jpg" for i in range(30)]
    fill(client, names=[*names, "st422.jpg", "st404.jpg"])
    client.bucket("dst").create()
    register(client, "rec-etl", pod)
    job = client.bucket("src").transform(
        "rec-etl", client.bucket("dst"), prepend="t/", ext={"jpg": "out"}, cont_on_err=True
    )
    counts = wait(client, job)
    assert counts["loc-objs"] + counts["out-objs"] == 30
    assert counts["in-objs"] == counts["out-objs"] > 0, "with two targets about half of the results change homes"
    assert [entry.name for entry in client.bucket("dst").list_all_objects()] == [f"t/p/{i:02}.out" for i in range(30)]
    assert read(client, "dst", "t/p/00.out") == b"T:fqn"
    log = (two.root / ".tvetl" / "logs" / "rec-etl-target0.log").read_text()
    assert "/ais%2F@%23%2Fdst%2Ft%2Fp%2F" in log, "results for the other target were put there directly"
    errors = {line.obj_name: line.ecode for line in client.etl("rec-etl").view(job).obj_errors}
    assert errors == {"ais://src/st422.jpg": 422, "ais://src/st404.jpg": 404}


def test_without_continue_on_error_the_first_bad_object_ends_the_job(client: Client, pod: Callable[..., str]) -> None:
    fill(client, names=["a-st500.jpg", *(f"slow{i:02}.jpg" for i in range(40))])
    client.bucket("dst").create()
    register(client, "rec-etl", pod)
    job = client.job(client.bucket("src").transform("rec-etl", client.bucket("dst")))
    wait(client, job.job_id)
    assert "recorded 500" in job.status().err
    assert len(client.bucket("dst").list_all_objects()) < 40


def test_a_job_is_aborted_when_asked(client: Client, pod: Callable[..., str]) -> None:
    fill(client, names=[f"slow{i:02}.jpg" for i in range(40)])
    client.bucket("dst").create()
    register(client, "rec-etl", pod)
    job = client.job(client.bucket("src").transform("rec-etl", client.bucket("dst")))
    job.abort()
    wait(client, job.job_id)
    assert job.status().err == "user abort"
    assert len(client.bucket("dst").list_all_objects()) < 40


def test_a_range_job_becomes_idle(client: Client, pod: Callable[..., str]) -> None:
    fill(client, names=[f"pets/Bengal_{i}.jpg" for i in range(3)])
    client.bucket("dst").create()
    register(client, "rec-etl", pod)
    group = client.bucket("src").objects(obj_template="pets/Bengal_{0..4..1}.jpg")
    job_ids = group.transform(client.bucket("dst"), "rec-etl", continue_on_error=True)
    job_id = job_ids[0] if isinstance(job_ids, list) else job_ids
    client.job(job_id).wait_for_idle(timeout=30)
    assert len(client.bucket("dst").list_all_objects()) == 3
    missing = client.etl("rec-etl").view(job_id).obj_errors
    assert sorted(line.obj_name for line in missing) == ["ais://src/pets/Bengal_3.jpg", "ais://src/pets/Bengal_4.jpg"]


def test_a_dry_run_transforms_and_stores_nothing(client: Client, pod: Callable[..., str]) -> None:
    fill(client)
    client.bucket("dst").create()
    register(client, "rec-etl", pod)
    counts = wait(client, client.bucket("src").transform("rec-etl", client.bucket("dst"), dry_run=True))
    assert counts == {"loc-objs": len(NAMES), "out-objs": 0, "in-objs": 0}
    assert client.bucket("dst").list_all_objects() == []


def test_a_bucket_is_copied(client: Client) -> None:
    fill(client)
    client.bucket("dst").create()
    client.job(client.bucket("src").copy(client.bucket("dst"), prepend="c/")).wait(timeout=30)
    assert sorted(entry.name for entry in client.bucket("dst").list_all_objects()) == sorted(f"c/{n}" for n in NAMES)


def test_one_object_is_copied_through_an_etl(client: Client, pod: Callable[..., str]) -> None:
    fill(client, names=[f"{i}.jpg" for i in range(8)])
    client.bucket("dst").create()
    register(client, "rec-etl", pod)
    for i in range(8):  # some stay on their target, some are put to the other one
        source, end = client.bucket("src").object(f"{i}.jpg"), client.bucket("dst").object(f"copied{i}.jpg")
        source.copy(end, etl=ETLConfig("rec-etl"))
        assert read(client, "dst", f"copied{i}.jpg") == b"T:fqn"


def test_an_etl_stops_starts_and_goes(client: Client, pod: Callable[..., str]) -> None:
    fill(client)
    register(client, "rec-etl", pod)
    with pytest.raises(Exception, match="already exists"):
        register(client, "rec-etl", pod)
    assert [etl.id for etl in client.cluster().list_etls()] == ["rec-etl"]
    client.etl("rec-etl").stop()
    with pytest.raises(Exception, match="does not exist"):
        client.etl("rec-etl").view()
    with pytest.raises(Exception, match="does not exist"):
        read(client, "src", "a.jpg", etl="rec-etl")
    client.etl("rec-etl").start()
    assert read(client, "src", "a.jpg", etl="rec-etl") == b"T:fqn"
    client.etl("rec-etl").stop()
    client.etl("rec-etl").delete()
    register(client, "rec-etl", pod)


def test_a_pod_that_cannot_start_says_why_at_once(client: Client, two: LocalCluster, pod: Callable[..., str]) -> None:
    for name, image, reason in (
        ("bad-crash", "localhost/crash:1", "boom: bad config"),
        ("bad-image", "localhost/none:9", "cannot be run here"),
    ):
        spec = base64.b64encode(pod(image).encode()).decode()
        message = {"name": name, "spec": spec, "communication": "hpush://", "init_timeout": "1m", "obj_timeout": "1s"}
        answer = requests.put(f"{two.endpoint}/v1/etl", json=message, timeout=20)
        assert answer.status_code == 400 and reason in answer.json()["message"]
        again = requests.put(f"{two.endpoint}/v1/etl", json=message, timeout=20)
        assert again.status_code == 409, "the name is taken until delete"
        client.etl(name).delete()


def test_a_pod_that_exits_ends_its_etl_with_its_jobs(client: Client, pod: Callable[..., str]) -> None:
    fill(client, names=["die.jpg", *(f"slow{i:02}.jpg" for i in range(60))])
    client.bucket("dst").create()
    register(client, "rec-etl", pod)
    job = client.bucket("src").transform("rec-etl", client.bucket("dst"), cont_on_err=True)
    wait(client, job)
    assert client.job(job).status().err == "IC(notifications) abort", "of the pod only the ETL's own job tells"
    listed = client.cluster().client.request("GET", "etl").json()
    assert [(etl["stage"], etl["xaction_id"]) for etl in listed if etl["id"] == "rec-etl"] == [("Aborted", "")]
    asked = {"ID": "", "Kind": "etl-inline"}
    answer = client.cluster().client.request("GET", "cluster", params={"what": "qryxstats"}, json=asked).json()
    reasons = sorted(snap["abort-err"] for snaps in answer.values() for snap in snaps if "rec-etl" in snap["ctlmsg"])
    assert reasons[0] == "IC(notifications) abort"
    assert "exitCode: 3" in reasons[-1]
    with pytest.raises(Exception, match="does not exist"):
        read(client, "src", "slow00.jpg", etl="rec-etl")


def test_archives_batches_and_summaries_are_refused_and_not_answered_wrongly(client: Client, two: LocalCluster) -> None:
    fill(client, names=["shard-000.tar"])
    url = f"{two.endpoint}/v1"
    flagged = {"action": "list", "value": {"flags": "8"}}
    answers = [
        requests.get(f"{url}/buckets/src", json=flagged, timeout=10),
        requests.get(f"{url}/objects/src/shard-000.tar?archpath=s1.jpg", timeout=10),
        requests.get(f"{url}/ml/moss/src", json={"in": [{"objname": "shard-000.tar"}]}, timeout=10),
        requests.get(f"{url}/buckets/src", json={"action": "summary-bck"}, timeout=10),
        requests.head(f"{url}/buckets/src?bsumm_remote=True", timeout=10),
    ]
    assert [answer.status_code for answer in answers] == [501] * 5
