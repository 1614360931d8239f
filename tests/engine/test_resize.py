"""Resizing in C gives Pillow's bytes, with AVX2 and without, and its absence is not noticed but by its slowness."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import resizing, sanitizers

import tvetl
from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine, resize
from tvetl_server.limits import Limits

SOURCE = "container/native/src/tvetl_pixels"
NORMALIZE = {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(params=[True, False], ids=["avx2", "plain"])
def native(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    if resize.native is None:
        pytest.skip("tvetl_pixels has no extension here: there was no compiler")
    resize.native.use_avx2(request.param)
    if request.param and not resize.native.has_avx2():
        pytest.skip("this processor has no AVX2")
    yield resize.native
    resize.native.use_avx2(True)


def test_it_is_there_where_a_compiler_is() -> None:
    if shutil.which("cc") and (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        assert resize.resizer().startswith("tvetl_pixels, ")


def test_it_has_the_version_of_the_rest() -> None:
    assert version("tvetl-pixels") == tvetl.__version__


def test_without_a_compiler_it_is_installed_without_its_code(repository: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "a" / "b" / "native", tmp_path / "site"
    shutil.copytree(repository / "container" / "native", folder, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(folder)], env={**os.environ, "CC": "/no/such/compiler"}, check=True)
    found = {path.suffix for path in (target / "tvetl_pixels").iterdir() if path.is_file()}
    assert ".py" in found and ".so" not in found


def test_it_is_as_pillow_does_it(native: ModuleType) -> None:
    @settings(max_examples=1500, deadline=None)
    @given(st.randoms(use_true_random=False))
    def check(chance: Random) -> None:
        resizing.compare(native, chance)

    check()


@pytest.mark.parametrize("resample", [kind for kind in Image.Resampling if 1 <= kind <= 5])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1, 1), (1, 7)),
        ((1, 500), (224, 224)),
        ((65535, 1), (3, 3)),
        ((2, 65535), (1, 2)),
        ((3, 301), (3, 300)),
        ((301, 300), (300, 299)),
        ((250, 290), (224, 224)),
        ((5, 4), (5, 65535)),
    ],
)
def test_edges_and_extremes(
    native: ModuleType, old: tuple[int, int], new: tuple[int, int], resample: Image.Resampling
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (old[1], old[0], 3), dtype=np.uint8)
    ours = resize.Resize.to(new, resample)(pixels)
    assert np.array_equal(np.asarray(ours), np.asarray(Image.fromarray(pixels).resize(new, resample)))


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}],
        [{"op": "Resize", "size": 256}, {"op": "CenterCrop", "size": 224}, {"op": "ToTensor"}, NORMALIZE],
        [
            {"op": "RandomHorizontalFlip"},
            {"op": "Grayscale"},
            {"op": "Resize", "size": [90, 200], "interpolation": "lanczos"},
            {"op": "RandomHorizontalFlip"},
            {"op": "RandomCrop", "size": 77},
            {"op": "RandomHorizontalFlip"},
            {"op": "ToTensor"},
            {"op": "ToDtype", "dtype": "float16"},
        ],
        [
            {"op": "Resize", "size": [250, 300], "interpolation": "nearest"},
            {"op": "Resize", "size": 128, "interpolation": "bicubic"},
            {"op": "RandomVerticalFlip"},
            {"op": "ToTensor"},
            NORMALIZE,
            {"op": "ToPILImage"},
            {"op": "Resize", "size": 50},
        ],
    ],
    ids=["training", "evaluation", "gray", "twice"],
)
def test_answers_without_it_are_the_same(
    steps: list[dict[str, object]], photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = steps[-1]["op"] not in ("RandomHorizontalFlip", "Resize")
    engine = Engine(parse({"steps": steps, "output": {"format": "npy" if tensor else "png"}}), Limits())

    def answers() -> list[bytes]:
        return [
            engine.transform(path.read_bytes(), path.name, Arguments(seed=seed, views=views)).body
            for path in photographs
            for seed in range(6)
            for views in (None, 2)
        ]

    with_it = answers()
    monkeypatch.setattr(resize, "native", None)
    assert resize.resizer().startswith("Pillow")
    assert answers() == with_it


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": np.zeros((4, 4, 4), np.uint8)},
        {"pixels": np.zeros((4, 4, 3), np.int8)},
        {"pixels": np.zeros((4, 4, 3), np.uint16)},
        {"pixels": np.zeros((4, 8, 3), np.uint8)[:, ::2]},
        {"pixels": np.zeros((4, 4, 3), np.uint8)[::-1]},
        {"pixels": np.broadcast_to(np.zeros((1, 4, 3), np.uint8), (4, 4, 3))},
        {"pixels": np.zeros((0, 4, 3), np.uint8)},
        {"pixels": np.zeros(48, np.uint8)},
        {"pixels": "no buffer"},
        {"size": (0, 2)},
        {"size": (65536, 2)},
        {"resample": 0},
        {"resample": 6},
        {"window": (0, 0, 3, 2)},
        {"window": (-1, 0, 2, 2)},
        {"window": (1, 1, 1, 2)},
        {"table": np.zeros((1, 256), np.uint8)},
        {"table": np.zeros((3, 256), np.uint16)},
        {"table": np.zeros((3, 512), np.uint8)[:, ::2]},
        {"planes": True},
        {"planes": True, "table": np.zeros((3, 256)), "out": np.zeros((3, 2, 2))},
        {"out": np.zeros((2, 2, 3), np.uint8)},
        {"out": bytes(16)},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_what_does_not_fit_is_refused(native: ModuleType, wrong: dict[str, object]) -> None:
    fitting: dict[str, object] = {
        "pixels": np.zeros((4, 4, 3), np.uint8),
        "size": (2, 2),
        "resample": 2,
        "first": False,
        "window": (0, 0, 2, 2),
        "mirror": False,
        "table": None,
        "planes": False,
        "out": np.zeros((2, 2, 4), np.uint8),
    }
    native.resize(*fitting.values())
    with pytest.raises((TypeError, ValueError)):
        native.resize(*{**fitting, **wrong}.values())


def test_a_pillow_it_does_not_know_resizes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_down_first", None)
    assert resize.resizer().startswith("Pillow")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR)
    assert resize.Resize.to((30, 20), Image.Resampling.BILINEAR)(pixels) == expected


def test_it_reads_and_writes_nothing_that_is_not_its_own(repository: Path, tmp_path: Path) -> None:
    script = repository / "tests" / "support" / "resizing.py"
    assert sanitizers.run(repository / SOURCE, script, 600, tmp_path) == "600 cases equal\n"
