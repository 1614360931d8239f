"""An object's target is the one that the SDK computes."""

from __future__ import annotations

import random
from urllib.parse import quote

import msgspec
from aistore.sdk.types import Smap

from tvetl.cluster import Cluster
from tvetl.fetch.places import places
from tvetl.fetch.query import Query


def test_the_targets_are_the_sdks_own() -> None:
    choose = random.Random(1)
    names = [
        "a.jpg",
        "dir/b c.jpg",
        "ü-猫.jpg",
        "100%.jpg",
        "a?b#c.jpg",
        *(f"{choose.random()}.jpg" for _ in range(500)),
    ]
    for count in (1, 2, 3, 50):
        digests = [choose.getrandbits(64) for _ in range(count)]
        nodes = {
            f"t{at}": {"daemon_id": f"t{at}", "daemon_type": "target", "id_digest": digest}
            for at, digest in enumerate(digests)
        }
        smap = Smap(tmap=nodes, pmap={}, proxy_si={"daemon_id": "p", "daemon_type": "proxy"})
        expected = [int(smap.get_target_for_object(f"ais/@#/photos/{name}").daemon_id[1:]) for name in names]
        assert places("photos", names, digests) == expected
        assert len(set(expected)) == count


def test_the_map_tells_targets_that_are_not_in_maintenance(cluster: Cluster) -> None:
    targets = cluster.targets()
    assert len(targets) == 2
    assert all(target.url.startswith("http://127.0.0.1:") for target in targets)


def test_a_query_is_quoted_as_urllib_does_it() -> None:
    query = Query("photos", "crops", {"seed": 1}, by_name=True)
    for more in ({"boxes": [[0.5, 2e-05, 1e20, 3]]}, {"like": "photos/ü 猫+&%41?.jpg"}, {"like": "a/b-c_d.e~f"}):
        asked = quote(msgspec.json.encode({"seed": 1, **more}).decode())
        assert query.text("a.jpg", more) == f"?provider=ais&etl_name=crops&etl_args={asked}"
