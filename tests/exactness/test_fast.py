"""How far ``precision: fast`` is from exact, and that nothing else differs.

The table in docs/exactness.md is what test_its_distance_is_what_the_docs_say measures here, on ../shared's photographs.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from benchmarks.inputs import enlarged
from PIL import Image
from support import reducing, sanitizers

from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine, decode
from tvetl_server.engine.resize import Resize
from tvetl_server.errors import ObjectError
from tvetl_server.limits import Limits

PIXELS = {"format": "raw"}
SOURCE = "container/native/src/tvetl_pixels"

pytestmark = pytest.mark.skipif(decode.native is None, reason="tvetl_pixels has no code here: there was no compiler")


def engines(*steps: dict[str, object], **rest: object) -> tuple[Engine, Engine]:
    """Exact and fast, of the steps' pixels."""
    data = {"steps": [*steps, {"op": "PILToTensor"}], "output": PIXELS, **rest}
    exact, fast = (Engine(parse({**data, "precision": precision}), Limits()) for precision in ("exact", "fast"))
    return exact, fast


def crop(size: int, **rest: object) -> list[dict[str, object]]:
    return [{"op": "RandomResizedCrop", "size": size, **rest}, {"op": "RandomHorizontalFlip"}]


def pixels(engine: Engine, data: bytes, name: str, **arguments: int) -> npt.NDArray[np.int16]:
    answer = engine.transform(data, name, Arguments(seed=0, **arguments)).body
    return np.frombuffer(answer, np.uint8).astype(np.int16)


class Distance:
    """What many pairs of images are apart."""

    def __init__(self) -> None:
        self.decibels: list[float] = []
        self.images = self.largest = 0
        self.differ = self.values = 0

    def add(self, exact: npt.NDArray[np.int16], fast: npt.NDArray[np.int16]) -> None:
        assert exact.shape == fast.shape
        apart = np.abs(exact - fast)
        self.images += 1
        if apart.any():
            self.decibels.append(10 * np.log10(255**2 / np.mean(apart.astype(float) ** 2)))
            self.differ += np.count_nonzero(apart)
            self.values += apart.size
            self.largest = max(self.largest, int(apart.max()))

    def row(self, what: str) -> str:
        median, low = np.median(self.decibels), np.percentile(self.decibels, 1)
        differ = 100 * self.differ / self.values
        return (
            f"| {what} | {len(self.decibels):,} of {self.images:,} | {median:.1f} | {low:.1f} | "
            f"{self.largest} | {differ:.0f} % |"
        )


def measured(files: list[bytes], size: int, seeds: int) -> Distance:
    exact, fast = engines(*crop(size))
    distance = Distance()
    for number, data in enumerate(files):
        for epoch in range(seeds):
            distance.add(*(pixels(engine, data, f"b/{number}.jpg", epoch=epoch) for engine in (exact, fast)))
    return distance


def large(files: list[bytes], count: int, megapixels: float) -> list[bytes]:
    """The largest photographs of the sample, enlarged, with grain, as the benchmark does it."""

    def area(data: bytes) -> int:
        width, height = Image.open(io.BytesIO(data)).size
        return width * height

    most = sorted(files, key=area, reverse=True)[:count]
    return [enlarged(data, megapixels, seed) for seed, data in enumerate(most)]


def test_its_distance_is_what_the_docs_say(shared: Path, sample: list[bytes], repository: Path) -> None:
    assert len(sample) == 125, shared
    rows = [
        measured(sample, 224, 4).row("125 of ImageNet, 0.2 MP, to 224 x 224"),
        measured(sample, 96, 4).row("the same, to 96 x 96"),
        measured(large(sample, 8, 2), 224, 12).row("8 of 2 MP, to 224 x 224"),
        measured(large(sample, 4, 12), 224, 8).row("4 of 12 MP, to 224 x 224"),
    ]
    text = (repository / "docs" / "exactness.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- fast -->\n(.*?)<!-- /fast -->", text, re.DOTALL)
    assert found is not None
    assert found[1].splitlines()[2:] == rows


def test_it_stays_near_on_any_photograph(sample: list[bytes]) -> None:
    distance = measured([*sample[:40], *large(sample, 2, 2)], 80, 3)
    assert len(distance.decibels) > distance.images / 2
    assert np.median(distance.decibels) > 42
    assert min(distance.decibels) > 30


def jpeg(data: bytes, **options: object) -> bytes:
    Image.open(io.BytesIO(data)).convert("RGB").save(file := io.BytesIO(), "JPEG", **{"quality": 90, **options})
    return file.getvalue()


@pytest.mark.parametrize(
    "saving",
    [
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0"},
        {"progressive": True},
        {"restart_marker_blocks": 9},
        {"optimize": True},
    ],
    ids=lambda saving: "-".join(map(str, saving.values())),
)
def test_other_kinds_of_jpeg_are_as_near(saving: dict[str, object], sample: list[bytes]) -> None:
    distance = measured([jpeg(data, **saving) for data in sample[:8]], 48, 4)
    assert len(distance.decibels) > distance.images / 2
    assert np.median(distance.decibels) > 40
    assert min(distance.decibels) > 30


def test_shrinking_a_whole_picture_and_flips_and_windows(sample: list[bytes]) -> None:
    steps = [{"op": "Resize", "size": 64}, {"op": "CenterCrop", "size": 56}, {"op": "RandomHorizontalFlip"}]
    exact, fast = engines(*steps)
    distance = Distance()
    for data in sample[:20]:
        for epoch in range(2):
            distance.add(*(pixels(engine, data, "b/o", epoch=epoch) for engine in (exact, fast)))
    assert len(distance.decibels) == distance.images
    assert min(distance.decibels) > 30


def test_what_it_cannot_speed_up_is_exact(sample: list[bytes], photographs: list[Path]) -> None:
    png, photograph = photographs[1].read_bytes(), jpeg(sample[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    for steps, data, rest in (
        (crop(48), png, {}),
        (crop(300), photograph, {}),
        (crop(48, interpolation="nearest"), photograph, {}),
        ([{"op": "ColorJitter", "brightness": 0.5}, *crop(48)], photograph, {}),
        ([{"op": "Resize", "size": 64}, {"op": "RandomRotation", "degrees": 9}], photograph, {}),
        (crop(48), jpeg(photograph, exif=turned), {"orientation": "apply"}),
    ):
        exact, fast = engines(*steps, **rest)
        for epoch in range(5):
            a, b = (pixels(engine, data, "b/o", epoch=epoch) for engine in (exact, fast))
            assert np.array_equal(a, b), (steps, epoch)


def test_several_views_in_one_request_are_those_of_single_ones(sample: list[bytes]) -> None:
    for data in (jpeg(sample[0]), jpeg(sample[1], progressive=True)):
        _, fast = engines(*crop(80))
        together = fast.transform(data, "b/o", Arguments(seed=3, views=6)).body
        assert together == b"".join(fast.transform(data, "b/o", Arguments(seed=3, view=view)).body for view in range(6))


def outcome(engine: Engine, data: bytes, epoch: int) -> str:
    try:
        engine.transform(data, "b/o", Arguments(seed=1, epoch=epoch))
    except ObjectError as error:
        return type(error).__name__
    return "fine"


def test_a_damaged_file_is_refused_or_not_as_in_exact(sample: list[bytes]) -> None:
    """Whatever the seed: the same files pass, and those that do not have the same error."""
    chance, (exact, fast) = Random(3), engines(*crop(40))
    made = [jpeg(data) for data in sample[:6]] + [jpeg(data, progressive=True) for data in sample[:2]]
    verdicts = set()
    for number in range(500):
        data = reducing.broken(made[number % len(made)], chance)
        expected = outcome(exact, data, 0)
        assert [outcome(fast, data, epoch) for epoch in range(3)] == [expected] * 3, number
        verdicts.add(expected)
    assert {"fine", "DamagedImage"} <= verdicts


# --- the decoder in C -------------------------------------------------------------------------------------------------


def test_what_it_makes_of_a_block_is_its_low_frequencies() -> None:
    """Beside the definition (T.81, A.3.3) in numpy, on coefficients taken of Pillow's own pixels."""
    assert decode.native is not None
    smooth = np.random.default_rng(0).normal(128, 25, (5, 6)).clip(0, 255).astype(np.uint8)
    Image.fromarray(smooth).resize((64, 56), Image.Resampling.BICUBIC).save(file := io.BytesIO(), "JPEG", quality=100)
    full = np.asarray(Image.open(file)).astype(float)

    def basis(size: int) -> npt.NDArray[np.float64]:
        u, x = np.arange(size)[:, None], np.arange(size)[None, :]
        return np.cos((2 * x + 1) * u * np.pi / (2 * size)) * np.where(u == 0, np.sqrt(1 / size), np.sqrt(2 / size))

    for factor in (2, 4, 8):
        size = 8 // factor
        blocks = full.reshape(7, 8, 8, 8).transpose(0, 2, 1, 3)
        low = (basis(8) @ blocks @ basis(8).T)[..., :size, :size] / factor
        expected = (basis(size).T @ low @ basis(size)).transpose(0, 2, 1, 3).reshape(7 * size, 8 * size)
        out = np.empty((7 * size, 8 * size, 3), np.uint8)
        assert decode.native.decode(file.getvalue(), (64, 56), factor, (0, 0, 8 * size, 7 * size), out)
        assert np.abs(out - expected[..., None].clip(0, 255)).max() < 1.5


def test_a_region_is_the_whole_cropped_with_avx2_and_without() -> None:
    assert decode.native is not None
    chance, size = Random(4), (71, 53)
    for data in reducing.small_jpegs()[:-2]:
        places = reducing.boxes(chance, size)
        for _ in range(40):
            factor, (left, top, right, bottom) = next(places)
            whole = np.empty((-(-53 // factor), -(-71 // factor), 3), np.uint8)
            part = np.empty((bottom - top, right - left, 3), np.uint8)
            try:
                assert decode.native.decode(data, size, factor, (0, 0, whole.shape[1], whole.shape[0]), whole)
                decode.native.use_avx2(False)
                assert decode.native.decode(data, size, factor, (left, top, right, bottom), part)
            finally:
                decode.native.use_avx2(True)
            assert np.array_equal(part, whole[top:bottom, left:right])


@pytest.mark.parametrize("fast", [True, False], ids=["avx2", "plain"])
def test_a_region_that_is_resized_on_the_way_is_that_region_resized(fast: bool) -> None:
    native, chance, size = decode.native, Random(9), (71, 53)
    assert native is not None
    native.use_avx2(fast)
    try:
        for data in reducing.small_jpegs():
            places = reducing.boxes(chance, size)
            for _ in range(60):
                factor, box = next(places)
                out = np.empty((box[3] - box[1], box[2] - box[0], 3), np.uint8)
                done = native.decode(data, size, factor, box, out)
                reducing.resize(native, (data, size, factor, box), out if done else None, chance)
    finally:
        native.use_avx2(True)


def test_what_is_resized_on_the_way_is_part_of_a_file_and_goes_across_first() -> None:
    assert decode.native is not None
    Image.new("RGB", (4, 4)).save(file := io.BytesIO(), "JPEG")
    out, rest = np.empty((2, 2, 4), np.uint8), ((0, 0, 2, 2), False, None, False)
    assert decode.native.resize((file.getvalue(), (4, 4), 1, (0, 0, 4, 4)), (2, 2), 2, False, *rest, out)
    for wrong in (((4, 4), 3, (0, 0, 2, 2)), ((4, 4), 1, (0, 0, 5, 4)), ((0, 4), 1, (0, 0, 1, 1)), ((4, 4), 1)):
        with pytest.raises((TypeError, ValueError)):
            decode.native.resize((file.getvalue(), *wrong), (2, 2), 2, False, *rest, out)
    with pytest.raises(ValueError):
        decode.native.resize((file.getvalue(), (4, 4), 1, (0, 0, 4, 4)), (2, 2), 2, True, *rest, out)


def test_a_part_between_pixels_is_resized_as_pillow_does_it() -> None:
    chance = Random(8)
    for number in range(400):
        width, height = chance.randint(2, 90), chance.randint(2, 90)
        values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        part = (chance.randint(0, 7) / 8, chance.randint(0, 7) / 8, width - chance.random(), height - chance.random())
        step = replace(
            Resize.to(
                (chance.randint(1, 99), chance.randint(1, 99)),
                chance.choice([kind for kind in Image.Resampling if 1 <= kind <= 5]),
            )
        )
        ours = replace(step, part=part)(values)
        assert np.array_equal(ours, Image.fromarray(values).resize(step.size, step.resample, part)), (part, step)


@pytest.mark.parametrize(
    "wrong",
    [
        (3, (0, 0, 2, 2)),
        (1, (0, 0, 2, 3)),
        (1, (3, 3, 5, 5)),
        (2, (0, 0, 3, 2)),
        (2, (0, 0, 0, 2)),
        (2, (-1, 0, 2, 2)),
        (4, (0, 0, 2, 2)),
    ],
)
def test_what_does_not_fit_is_refused(wrong: tuple[int, tuple[int, int, int, int]]) -> None:
    assert decode.native is not None
    Image.new("RGB", (4, 4)).save(file := io.BytesIO(), "JPEG")
    with pytest.raises(ValueError):
        decode.native.decode(file.getvalue(), (4, 4), *wrong, np.empty((2, 2, 3), np.uint8))
    assert not decode.native.decode(file.getvalue(), (5, 4), 2, (0, 0, 2, 2), np.empty((2, 2, 3), np.uint8))


def test_damaged_files_let_it_read_and_write_nothing_that_is_not_its_own(repository: Path, tmp_path: Path) -> None:
    script = repository / "tests" / "support" / "reducing.py"
    assert sanitizers.run(repository / SOURCE, script, 4000, tmp_path) == "fine\n"
