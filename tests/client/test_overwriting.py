"""No job overwrites what is another object's: it is refused before it starts, and names both."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tvetl import jobs
from tvetl.cluster import Cluster
from tvetl.cluster.listing import What
from tvetl.errors import ClusterError, UsageError
from tvetl.jobs import provenance
from tvetl.local import LocalCluster, api
from tvetl.pod import PodSpec
from tvetl.spec import Pipeline

#: Seconds that no job may take here; only a hang would.
LONG = 120
NPY = {"jpg": "npy", "png": "npy"}
_serial = count()

Buckets = Callable[..., str]


@pytest.fixture
def bucket(cluster: Cluster) -> Iterator[Buckets]:
    """Makes a bucket with small images of these names, and gives the bucket's name."""
    made = []

    def make(*names: str) -> str:
        made.append(f"over-{next(_serial)}")
        cluster.create_bucket(made[-1])
        for name in names:
            cluster.put(made[-1], name, _image())
        return made[-1]

    yield make
    for each in made:
        cluster.delete_bucket(each)


@pytest.fixture(scope="module")
def larger(cluster: Cluster, pipeline: Callable[..., Pipeline]) -> Iterator[str]:
    """Another pipeline than ``crops``."""
    cluster.register(PodSpec("test-above", pipeline(size=40, seed=1), start_timeout=60))
    yield "test-above"
    cluster.unregister("test-above")


def _image() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (16, 16), (next(_serial) % 256, 99, 99)).save(made, "PNG")
    return made.getvalue()


def rename(prepend: str = "", **extensions: str) -> jobs.Rename:
    return jobs.Rename(prepend, extensions)


def run(cluster: Cluster, source: str, destination: str, etl: str, **how: object) -> tuple[int, int]:
    """Transform all of it; gives how many objects were done and kept."""
    request = jobs.Request(source, destination, etl, **how)  # type: ignore[arg-type]
    report = jobs.wait(cluster, jobs.begin(cluster, request), timeout=LONG)
    assert report.ok
    return report.done, report.kept


def refused(cluster: Cluster, source: str, destination: str, etl: str, *named: str, **how: object) -> None:
    """It is refused, dry and wet, in a sentence with these words, and nothing in the destination changes."""
    request = jobs.Request(source, destination, etl, **how)  # type: ignore[arg-type]
    before = dict(cluster.tags(destination))
    for begin in (jobs.begin, jobs.estimate):
        with pytest.raises(UsageError) as error:
            begin(cluster, request)
        assert not [each for each in named if each not in error.value.message], error.value.message
        assert error.value.hint
    assert dict(cluster.tags(destination)) == before
    assert all(now.idle for now in cluster.transforming(source, destination).values())


@pytest.mark.parametrize(
    ("names", "extensions", "both"),
    [
        (("a.jpg", "a.png", "b.png"), NPY, ("'a.jpg'", "'a.png'", "'a.npy'")),
        (("a.jpg", "a.npy"), {"jpg": "npy"}, ("'a.jpg'", "'a.npy'")),
        (("d/a.b.jpg", "d/a.b.png"), {".jpg": ".png"}, ("'d/a.b.jpg'", "'d/a.b.png'")),
    ],
)
def test_two_objects_of_one_command_do_not_become_one(
    cluster: Cluster, crops: str, bucket: Buckets, names: tuple[str, ...], extensions: dict[str, str], both: tuple[str]
) -> None:
    source, out = bucket(*names), bucket()
    for chosen in ({}, {"names": names}, {"prefix": names[0][:1]}):
        refused(cluster, source, out, crops, *both, rename=jobs.Rename("", extensions), **chosen)


def test_two_objects_of_a_template_do_not_become_one(cluster: Cluster, crops: str, bucket: Buckets) -> None:
    source, out = bucket("a.1", "a.2", "a.4"), bucket()
    refused(cluster, source, out, crops, "'a.1'", "'a.2'", template="a.{1..3}", rename=jobs.Rename("", {"1": "2"}))
    assert run(cluster, source, out, crops, template="a.{2..9}", rename=jobs.Rename("", {"1": "2"})) == (2, 0)


def test_objects_of_one_name_but_for_case_or_folder_are_two(cluster: Cluster, crops: str, bucket: Buckets) -> None:
    source, out = bucket("a.jpg", "a.JPG", "b/a.jpg", "a", "jpg"), bucket()
    assert run(cluster, source, out, crops, rename=rename(jpg="npy")) == (5, 0)
    assert cluster.objects(out) == ["a", "a.JPG", "a.npy", "b/a.npy", "jpg"]
    assert run(cluster, source, out, crops, rename=rename(jpg="npy")) == (0, 5)


def test_of_two_commands_the_second_does_not_take_the_results_of_the_first(
    cluster: Cluster, crops: str, larger: str, bucket: Buckets
) -> None:
    source, out = bucket("a.jpg", "a.png"), bucket()
    assert run(cluster, source, out, crops, names=["a.jpg"], rename=jobs.Rename("", NPY)) == (1, 0)
    words = ("'a.png'", "'a.jpg'", "'a.npy'")
    refused(cluster, source, out, crops, *words, names=["a.png"], rename=jobs.Rename("", NPY), again=True)
    refused(cluster, source, out, larger, *words, prefix="a.p", rename=rename(png="npy"))
    assert run(cluster, source, out, crops, names=["a.jpg"], rename=jobs.Rename("", NPY)) == (0, 1)
    assert run(cluster, source, out, larger, names=["a.jpg"], rename=jobs.Rename("", NPY)) == (1, 0)
    assert run(cluster, source, out, crops, names=["a.png"], rename=rename("png/", **NPY)) == (1, 0)


def test_another_source_does_not_take_the_results_of_the_first(
    cluster: Cluster, crops: str, larger: str, bucket: Buckets
) -> None:
    first, second, out = bucket("a.png", "b.png"), bucket("a.png", "c.png"), bucket()
    assert run(cluster, first, out, crops) == (2, 0)
    refused(cluster, second, out, larger, f"'a.png' of '{second}'", f"'a.png' in 'ais://{first}'")
    assert run(cluster, second, out, crops, names=["c.png"]) == (1, 0)
    assert run(cluster, second, out, crops, rename=rename("second/")) == (2, 0)
    assert run(cluster, first, out, crops) == (0, 2)
    assert run(cluster, first, out, larger) == (2, 0)
    cluster.put(first, "c.png", _image())
    refused(cluster, first, out, crops, "'c.png'", f"'c.png' in 'ais://{second}'")
    assert run(cluster, f"ais://{second}", f"ais://{out}", crops, names=["c.png"]) == (0, 1)


def test_a_prefix_after_the_other_and_a_name_given_twice_are_no_collisions(
    cluster: Cluster, crops: str, bucket: Buckets
) -> None:
    source, out = bucket("cat/1.png", "cat/2.png", "dog/1.png"), bucket()
    assert run(cluster, source, out, crops, prefix="cat/") == (2, 0)
    assert run(cluster, source, out, crops, prefix="dog/") == (1, 0)
    assert run(cluster, source, out, crops, names=["dog/1.png", "dog/1.png"]) == (0, 1)
    assert run(cluster, source, out, crops) == (0, 3)


def test_other_renames_of_the_same_object_are_no_collision(cluster: Cluster, crops: str, bucket: Buckets) -> None:
    source, out = bucket("a.jpg", "b.gif"), bucket()
    assert run(cluster, source, out, crops, prefix="a", rename=rename(jpg="npy")) == (1, 0)
    assert run(cluster, source, out, crops, rename=rename(jpg="npy", gif="npy")) == (1, 1)


def test_prepending_does_not_make_one_name_of_two(cluster: Cluster, crops: str, bucket: Buckets) -> None:
    source, out = bucket("a.png", "t/a.png"), bucket()
    assert run(cluster, source, out, crops) == (2, 0)
    refused(cluster, source, out, crops, "'a.png'", "'t/a.png'", names=["a.png"], rename=rename("t/"))


def test_results_in_the_source_do_not_take_its_objects_names(cluster: Cluster, crops: str, bucket: Buckets) -> None:
    both = bucket("a.jpg", "a.npy", "b.jpg")
    refused(cluster, both, both, crops, "'a.jpg'", "'a.npy'", rename=rename(jpg="npy"))
    refused(cluster, both, both, crops, "'a.npy'", prefix="a.j", rename=rename(jpg="npy"))
    assert run(cluster, both, both, crops, prefix="b", rename=rename(jpg="npy")) == (1, 0)
    with pytest.raises(UsageError, match="same bucket"):
        jobs.Request(both, f"ais://{both}/", crops, rename=rename(jpg=".jpg"))


def test_a_bucket_that_is_its_own_destination_is_transformed_once(
    cluster: Cluster, crops: str, larger: str, bucket: Buckets
) -> None:
    both, small = bucket("a.png", "b/a.png"), rename("small/")
    assert run(cluster, both, both, crops, rename=small) == (2, 0)
    assert run(cluster, both, both, crops, rename=small) == (0, 2)
    cluster.put(both, "c.png", _image())
    cluster.delete(both, "small/a.png")
    assert jobs.estimate(cluster, jobs.Request(both, both, crops, rename=small)).objects == 2
    assert run(cluster, both, f"ais://{both}/", crops, rename=small) == (2, 1)
    assert run(cluster, both, both, larger, rename=small) == (3, 0)
    originals = ["a.png", "b/a.png", "c.png"]
    assert cluster.objects(both) == [*originals, *(f"small/{name}" for name in originals)]
    assert run(cluster, both, both, crops, prefix="small/b", rename=rename("again/")) == (1, 0)  # of results, if asked
    only = bucket("a.jpg")
    assert run(cluster, only, only, crops, rename=rename(jpg="npy")) == (1, 0)
    assert run(cluster, only, only, crops, rename=rename(jpg="npy")) == (0, 1)


def test_what_no_job_made_is_not_overwritten(cluster: Cluster, crops: str, larger: str, bucket: Buckets) -> None:
    source, out = bucket("a.png", "b.png"), bucket("a.png", "c.png")
    refused(cluster, source, out, crops, "'a.png'", "no record")
    cluster.delete(out, "a.png")
    assert run(cluster, source, out, crops) == (2, 0)
    cluster.put(source, "c.png", _image())
    refused(cluster, source, out, larger, "'c.png'", "no record")


def test_who_deletes_the_results_may_give_their_names_to_another_source(
    cluster: Cluster, crops: str, bucket: Buckets
) -> None:
    first, second, out = bucket("a.png"), bucket("a.png"), bucket()
    for source, other in ((first, second), (second, first), (first, second)):
        assert run(cluster, source, out, crops) == (1, 0)
        assert run(cluster, source, out, crops) == (0, 1)
        refused(cluster, other, out, crops, "'a.png'", f"'ais://{source}'")
        cluster.delete(out, "a.png")


def test_what_came_while_a_bucket_job_ran_is_made_anew(cluster: Cluster, crops: str, bucket: Buckets) -> None:
    source, out = bucket("a.png"), bucket()
    begun = jobs.begin(cluster, jobs.Request(source, out, crops))  # and its client is gone
    while not cluster.has(out, "a.png"):
        pass
    for into in (source, out):  # as if the job had met it
        cluster.put(into, "b.png", _image())
    assert begun.record
    assert run(cluster, source, out, crops) == (1, 1)
    assert run(cluster, source, out, crops) == (0, 2)
    assert begun.record not in dict(provenance.Records(cluster, out).load())
    for into in (source, out):  # now there is no such job any more
        cluster.put(into, "c.png", _image())
    refused(cluster, source, out, crops, "'c.png'")


class Shuffled(Cluster):
    """A cluster whose listings come in no order, and have objects twice, as while it rebalances."""

    def pages(self, bucket: str, prefix: str = "", what: What = "") -> Iterator[list[tuple[str, str]]]:
        pages = [*super().pages(bucket, prefix, what)]
        random.Random(1).shuffle(pages)
        yield from (page[::-1] for page in [*pages, *pages[:2]])


def test_listings_of_many_pages_in_any_order_are_compared(
    local: LocalCluster, crops: str, larger: str, bucket: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_PAGE", 3)
    monkeypatch.setattr(sys.modules["tvetl.jobs.destination"], "_ROWS", 4)
    cluster = Shuffled(local.endpoint)
    names = [f"d/{at}.jpg" for at in range(11)]
    source, out = bucket(*names, "x/other.jpg"), bucket("d/foreign.npy")
    how: dict[str, Any] = {"rename": rename(jpg="npy"), "prefix": "d/"}
    assert run(cluster, source, out, crops, **how) == (11, 0)
    cluster.delete(out, "d/3.npy")
    assert run(cluster, source, out, crops, **how) == (1, 10)
    assert run(cluster, source, out, larger, names=names[:5], rename=rename(jpg="npy")) == (5, 0)
    assert run(cluster, source, out, crops, **how) == (5, 6)
    assert run(cluster, source, out, crops, template="d/{0..20}.jpg", rename=rename(jpg="npy")) == (0, 11)
    cluster.put(source, "d/foreign.jpg", _image())
    refused(cluster, source, out, crops, "'d/foreign.jpg'", **how)
    cluster.put(source, "d/7.png", _image())
    refused(cluster, source, out, crops, "'d/7.jpg'", "'d/7.png'", prefix="d/7", rename=jobs.Rename("", NPY))


#: A transformer of an object every half second.
SLOW = """
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.send_header("Content-Length", "0"), self.end_headers()
    def do_PUT(self):
        time.sleep(0.5)
        self.send_response(200), self.send_header("Content-Length", "1"), self.end_headers(), self.wfile.write(b"x")
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_what_a_job_at_work_is_about_to_make_is_not_taken(tmp_path: Path, pipeline: Callable[..., Pipeline]) -> None:
    with LocalCluster(tmp_path / "root", allow={"slow:1": [sys.executable, "-c", SLOW]}) as running:
        cluster = Cluster(running.endpoint)
        for bucket in ("first", "second"):
            cluster.create_bucket(bucket)
            for at in range(40):
                cluster.put(bucket, f"{at:02}", b"x")
        cluster.register(PodSpec("test-slow", pipeline(), "slow:1", start_timeout=60))
        job = jobs.begin(cluster, jobs.Request("first", "out", "test-slow"))
        with pytest.raises(UsageError, match=r"'39' of 'second'.*being made.*'39' in 'ais://first'"):
            jobs.begin(cluster, jobs.Request("second", "out", "test-slow", names=["39"]))
        assert jobs.wait(cluster, job, timeout=LONG).done == 40


def test_the_command_refuses_an_extension_that_becomes_two(
    local: LocalCluster, tvetl: Callable[..., subprocess.CompletedProcess[bytes]], crops: str, bucket: Buckets
) -> None:
    source, out = bucket("a.jpg", "a.png"), bucket()
    transform = ("transform", source, out, "--etl", crops, "-e", local.endpoint, "--json", "--errors", "")
    done = tvetl(*transform, "--ext", "jpg=npy", "--ext", ".jpg=png")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"cannot become both" in done.stderr
    assert tvetl(*transform, "--ext", "jpg=npy", "--ext", ".jpg=.npy", "--workers", "-1").returncode == 0


def test_of_two_commands_that_begin_in_the_same_moment_one_is_refused(
    cluster: Cluster, crops: str, larger: str, bucket: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = bucket("a.png", "b.png"), bucket("b.png")
    save = provenance.Records.save
    for source, etl, name in ((second, crops, "b.png"), (first, larger, "a.png")):
        out = bucket()
        late = jobs.Request(source, out, etl, names=[name])

        def after_another(
            records: provenance.Records, begun: Iterable[provenance.Begun], late: jobs.Request = late
        ) -> str:
            monkeypatch.undo()  # the other command looks at what is there when we have done so, and writes before us
            assert jobs.wait(cluster, jobs.begin(cluster, late)).ok
            return save(records, begun)

        monkeypatch.setattr(provenance.Records, "save", after_another)
        with pytest.raises(ClusterError, match=f"in the same moment, makes '{name}'"):
            jobs.begin(cluster, jobs.Request(first, out, crops))
        assert cluster.objects(out) == [name]
        assert run(cluster, source, out, etl, names=[name]) == (0, 1)  # and no record says that we made it


def test_the_bucket_of_the_records_takes_no_results(cluster: Cluster, crops: str, bucket: Buckets) -> None:
    refused(cluster, bucket("a.png"), "tvetl-jobs", crops, "'tvetl-jobs'")


@pytest.mark.parametrize("name", ["", "ais://", "{}/x", "ais://{}/x/"])
def test_a_folder_of_a_bucket_is_not_taken_for_the_bucket(
    cluster: Cluster, crops: str, bucket: Buckets, name: str
) -> None:
    there, other = bucket("x/a.png"), bucket()
    for ends in ((name.format(there), other), (there, name.format(other))):
        with pytest.raises(UsageError, match="is not the name of a bucket"):
            jobs.begin(cluster, jobs.Request(*ends, crops, rename=rename("y/")))
    assert cluster.objects(there) == ["x/a.png"]
    assert not cluster.objects(other)
