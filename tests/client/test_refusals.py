"""What a real AIStore refuses, and the stand-in seldom: told with what to do, or another way is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tvetl.cluster import Cluster
from tvetl.cluster.folders import find_files, put_files
from tvetl.errors import ClusterError, ObjectFailed
from tvetl.local import LocalCluster
from tvetl.local.http import ApiError
from tvetl.local.store import Store


def test_rights_to_a_bucket_are_enough_to_write_to_it(
    local: LocalCluster, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AIStore refuses to make a bucket before it looks whether there is one."""
    cluster.create_bucket("allotted")
    (tmp_path / "a.jpg").write_bytes(b"a")

    def refuse(store: Store, bucket: str) -> None:
        raise ApiError(403, "user `ann` has insufficient permissions")

    monkeypatch.setattr(Store, "create", refuse)
    assert put_files(cluster, find_files([tmp_path]), "allotted").ok
    with pytest.raises(ClusterError, match="`ann` has insufficient permissions"):
        put_files(cluster, find_files([tmp_path]), "nobodys")


def test_arguments_may_be_longer_than_pythons_longest_header(cluster: Cluster, images: str, crops: str) -> None:
    """A redirect repeats them in its Location. The pod's answer shows that they arrived."""
    with pytest.raises(ObjectFailed) as refused:
        cluster.get(images, "photo_0.png", crops, {"nothing": "x" * 300_000})
    assert refused.value.code == "bad_arguments", refused.value


def test_a_request_that_no_go_server_takes_is_told(script: Any) -> None:
    script.answer = lambda method, path, body: (431, "431 Request Header Fields Too Large")
    with pytest.raises(ObjectFailed, match="longer than AIStore takes") as refused:
        Cluster(script.endpoint).get("images", "a.jpg", "crops-1", {"seed": 1})
    assert "fewer boxes" in refused.value.hint


def test_an_aistore_without_kubernetes_is_told(script: Any) -> None:
    script.answer = lambda method, path, body: (400, '{"message": "the operation requires Kubernetes", "status": 400}')
    with pytest.raises(ClusterError) as refused:
        Cluster(script.endpoint).etls()
    assert "tvetl local" in refused.value.hint


def test_a_target_in_place_of_the_gateway_is_told(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, direct=False) as running:
        Cluster(running.endpoint).create_bucket("images")
        (target,) = Cluster(running.endpoint).targets()
        with pytest.raises(ClusterError, match="direct target access denied") as refused:
            Cluster(target.url).get("images", "a.jpg")
    assert "gateway" in refused.value.hint
