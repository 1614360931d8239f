"""What `make bench-gpu` is made of, with the CPU in the GPU's place; it times nothing that a test looks at."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import check, ipc, measure
from PIL import Image

pytest.importorskip("torch", reason="needs torch, as the device does")
pytest.importorskip("nvidia.nvimgcodec", reason="needs nvImageCodec, as the device does")

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/gpu.py, which is no package's."""
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    import gpu

    return gpu


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory, photographs: list[Path]) -> list[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("objects")
    found = []
    for path in photographs[:3]:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.jpg", quality=90)
        found.append((f"photos/{path.stem}.jpg", folder / f"{path.stem}.jpg"))
    return found


@pytest.mark.parametrize("side", ["device", "pixels", "torchvision"])
def test_a_side_makes_nearly_what_exact_makes(side: str, tmp_path: Path, objects: list[tuple[str, Path]]) -> None:
    """The same box, flip and size for each object; without loss, and as JPEG."""
    listed = [(name, str(path)) for name, path in objects]
    made: dict[str, dict[str, dict[str, bytes]]] = {}
    for kind in ("engine", side):
        loop = measure.Loop(kind, 1, tmp_path / "log", BENCH_DEVICE="host")
        try:
            for name in ("lossless", "crop"):
                loop.ask(do="check", pipeline=name, objects=listed, into=str(tmp_path))
                outputs = {key: (tmp_path / str(at)).read_bytes() for at, (key, _) in enumerate(objects)}
                made.setdefault(name, {})[kind] = outputs
            assert loop.run("train", objects, 0.1).images > 0
        finally:
            loop.stop()
    assert check.distance(made["lossless"][side], made["lossless"]["engine"])["lowest"] > 50
    assert check.distance(made["crop"][side], made["crop"]["engine"])["lowest"] > 35
    other = {name: made["lossless"]["engine"][objects[at - 1][0]] for at, (name, _) in enumerate(objects)}
    assert check.distance(made["lossless"][side], other)["lowest"] < 30, "another picture is seen as another"


def test_every_object_is_exchanged_and_counted() -> None:
    found = ipc.measured(decoders=3, batch=2, seconds=0.2)
    assert found["rate"] > 100
    assert found["microseconds"] > 1
    assert 1 <= found["batch"] <= 2


def test_without_a_gpu_it_says_so_and_fails() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is an NVIDIA driver here")
    command = [sys.executable, "-m", "benchmarks.gpu", "--without-http"]
    done = subprocess.run(command, env=measure.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("nothing was measured: there is no NVIDIA driver in this container\n")


def test_without_wrk_it_says_so_first() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--host"]
    env = {**measure.environment(), "PATH": "/nowhere"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no wrk" in done.stderr


# --- tables ---------------------------------------------------------------------------------------------------------


def results(share: float = 1.0, p99: float = 20.0) -> dict[str, Any]:
    def row(side: str, rates: list[float], **more: object) -> dict[str, Any]:
        distance = {"lowest": 40.0, "median": 50.0, "largest": 3}
        checked = {"lossless": distance, "crop": distance, "counts": share > 0.9}
        rounds = [{"rate": rate, "p50": 10.0, "p99": p99, "cpu": 1.0} for rate in rates]
        return {"input": "imagenet", "side": side, "checked": checked, "rounds": rounds, **more}

    seen = {"share": share, "batch": 20.0, "gather_ms": 1.0, "run_ms": 3.0}
    return {
        "gpu": {"name": "a GPU", "memory_gb": "80", "capability": "9.0", "driver": "580.1", "cuda": "13.2"},
        "machine": {"cpu": "x", "cores": 16, "memory_gb": 8, "load": 0.1, "python": "3.12"},
        "versions": {"torch": "2"},
        "settings": {"cores": 15, "rounds": 3, "seconds": 1, "connections": 64, "batch": 32, "minutes": 1.0},
        "inputs": {"imagenet": {"label": "ImageNet size"}},
        "skipped": [{"side": "torchvision", "where": "ImageNet size", "reason": "no memory"}],
        "overhead": {
            "ipc": [{"decoders": 64, "rate": 9000, "microseconds": 41.0, "batch": 20.0}],
            "batch": {"least": 40.0, "median": 45.0},
        },
        "rates": [row("gpu", [9000, 8000, 9900], device=seen), row("core", [900, 900, 900])],
    }


def with_results(monkeypatch: pytest.MonkeyPatch, gpu: Any, tmp_path: Path, found: dict[str, Any] | None) -> None:
    monkeypatch.setattr(gpu, "KEPT", tmp_path / "gpu.json")
    if found:
        gpu.keep("bench on cuda", found)
        assert json.loads((tmp_path / "gpu.json").read_text())["bench on cuda"] == found


def test_goals_are_told_as_met_or_not(monkeypatch: pytest.MonkeyPatch, gpu: Any, tmp_path: Path) -> None:
    with_results(monkeypatch, gpu, tmp_path, results())
    times, late = gpu.goals().splitlines()[2:]
    assert times == "| ImageNet size, times one core | 10 times | 10.0 (8.89 to 11.0) | yes |"
    assert late.endswith("| 20.0 ms | yes |")
    assert "Not run: torchvision's decoder" in gpu.on_cuda()
    with_results(monkeypatch, gpu, tmp_path, results(p99=60.0))
    assert gpu.goals().endswith("| 60.0 ms | **no** |")


def test_what_the_cpu_did_is_no_figure_of_the_device(monkeypatch: pytest.MonkeyPatch, gpu: Any, tmp_path: Path) -> None:
    with_results(monkeypatch, gpu, tmp_path, results(share=0.5))
    assert "does not count" in gpu.goals()
    assert "does not count" in gpu.on_cuda()


def test_what_was_never_measured_is_called_so(monkeypatch: pytest.MonkeyPatch, gpu: Any, tmp_path: Path) -> None:
    with_results(monkeypatch, gpu, tmp_path, None)
    assert gpu.goals().count("not measured: no GPU could be had") == 2
    assert "Not measured" in gpu.on_cuda()


def test_equal_ops_stand_together_at_the_end(monkeypatch: pytest.MonkeyPatch, gpu: Any, tmp_path: Path) -> None:
    with_results(monkeypatch, gpu, tmp_path, None)
    apart = {"images": 5, "by_cpu": 0, "largest": 2.0, "differ": 0.2, "median": 50.0, "lowest": 40.0}
    gpu.keep("distance on host", {"a": {**apart, "largest": 0.0, "differ": 0.0}, "b": apart, "c": {"images": 0}})
    rows = gpu.distances().splitlines()[2:]
    assert rows[0] == "| b | 2 | 20.0 % | 50.0 | 40.0 |"
    assert rows[1].startswith("| c | by the CPU |")
    assert rows[2].startswith("| a | 0 | none |")


def test_distances_see_a_difference() -> None:
    distances = pytest.importorskip("benchmarks.distances")
    found = distances.Distance()
    flat = np.full((4, 4, 3), 100, np.uint8)
    found.add(flat, flat)
    found.add(flat, flat + np.uint8(2))
    assert found.figures() == {
        "images": 2, "by_cpu": 0, "largest": 2.0, "differ": 0.5, "median": 70.6, "lowest": 42.1
    }  # fmt: skip
    halves = distances.Distance()
    halves.add(np.zeros((3, 2, 2), np.float32), np.full((3, 2, 2), 1 / 255, np.float32))
    assert halves.figures()["largest"] == 1.0
