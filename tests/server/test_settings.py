"""Settings are read once, all errors are reported together, and the defaults are those of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvetl_server.limits import Limits
from tvetl_server.settings import SETTINGS, SettingsError, cpus, read_settings

OK = {"TVETL_PIPELINE": "{}"}
TARGET = "http://t-1.t.ais.svc.cluster.local:10080/v1/etl/_object/some-etl/Xy9Secret"


def problems(**env: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_settings({**OK, **env})
    return list(caught.value.problems)


def test_the_promised_defaults() -> None:
    settings = read_settings(OK, count_cpus=lambda: 3)
    assert (settings.workers, settings.decoders, settings.threads) == (3, 1, 64)
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert settings.roots is None
    assert settings.target_url is None
    assert not settings.direct_put
    assert not settings.access_log
    assert settings.limits == Limits(256 * 2**20, 8 * 2**30, 178_956_970, 1000, 100_000, 8192**2, 30.0)


def test_an_object_and_its_delivery_end_before_aistore_gives_up() -> None:
    settings = read_settings(OK)
    assert settings.limits.seconds + settings.delivery_seconds < 45  # the SDK's obj_timeout


def test_all_errors_are_reported_together() -> None:
    found = problems(TVETL_PIPELINE="", PORT="99999", TVETL_WORKERS="many", TVETL_SECONDS="-1", direct_put="maybe")
    assert [line.partition(":")[0] for line in found] == [
        "TVETL_SECONDS", "TVETL_PIPELINE", "TVETL_WORKERS", "PORT", "direct_put",
    ]  # fmt: skip
    assert "got '99999', expected a whole number from 1 to 65535" in found[3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TVETL_PIPELINE", "@/no/such/file"),
        ("TVETL_ROOTS", "relative"),
        ("TVETL_ROOTS", "/no/such/folder"),
        ("TVETL_MAX_BYTES", "0"),
        ("TVETL_MAX_PIXELS", "1e6"),
        ("TVETL_ALLOW_HOSTS", "http://host"),
        ("TVETL_ALLOW_HOSTS", "host:80"),
        ("TVETL_NODE_IP", "node-1"),
        ("TVETL_ACCESS_LOG", "yes"),
        ("AIS_TARGET_URL", "ftp://host/v1/secret"),
        ("AIS_TARGET_URL", "http://user:word@host/v1/secret"),
        ("AIS_TARGET_URL", "http://host:port/v1/secret"),
        ("AIS_TARGET_URL", "http://host"),
    ],
)
def test_a_bad_value_is_refused(name: str, value: str) -> None:
    (line,) = problems(**{name: value})
    assert line.startswith(f"{name}: got ")
    assert "secret" not in line.partition("got")[2].replace("holds a secret", "")


def test_an_unknown_setting_is_an_error_that_names_the_nearest() -> None:
    assert problems(TVETL_WORKRES="2") == ["TVETL_WORKRES: no such setting; did you mean TVETL_WORKERS?"]
    assert problems(TVETL_XYZZY_42="2") == ["TVETL_XYZZY_42: no such setting; see --help"]


def test_the_variables_of_a_kubernetes_service_called_tvetl_are_ignored() -> None:
    theirs = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_DEFAULT", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"]
    env = {f"TVETL_{middle}{name}": "tcp://10.0.0.1:8000" for name in theirs for middle in ("", "CROP_T1_")}
    assert read_settings({**OK, **env}).port == 8000


def test_the_secret_is_in_no_repr() -> None:
    settings = read_settings({**OK, "AIS_TARGET_URL": TARGET, "direct_put": "true"})
    assert settings.target_url is not None
    assert settings.target_url.path.endswith("Xy9Secret")
    assert "Xy9Secret" not in f"{settings!r} {settings.target_url} {settings.target_url!r}"


def test_a_pipeline_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("steps: []\n", encoding="utf-8")
    assert read_settings({"TVETL_PIPELINE": f"@{file}"}).pipeline == "steps: []\n"


def test_roots_and_hosts_are_lists(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    env = {"TVETL_ROOTS": f"{tmp_path}:{tmp_path / 'b'}", "TVETL_ALLOW_HOSTS": "Node-1, .ais.local,10.0.0.1,fd00::1"}
    settings = read_settings({**OK, **env})
    assert settings.roots == (tmp_path, tmp_path / "b")
    assert settings.allow_hosts == ("node-1", ".ais.local", "10.0.0.1", "fd00::1")


@pytest.mark.parametrize(
    ("files", "most"),
    [({"cpu.max": "50000 100000"}, 1), ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1)],
)
def test_workers_follow_the_containers_quota(tmp_path: Path, files: dict[str, str], most: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert cpus(tmp_path) == most


def test_without_a_quota_workers_follow_the_cpus(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n", encoding="ascii")
    assert cpus(tmp_path) == cpus(tmp_path / "nothing") >= 1


def test_every_variable_of_the_table_is_read() -> None:
    """Each variable refuses a value that none accepts, so each is read."""
    for variable in SETTINGS:
        assert any(line.startswith(f"{variable.name}: got") for line in problems(**{variable.name: "@\x00 bad"}))
