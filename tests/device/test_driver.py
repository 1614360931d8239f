"""Where there is no GPU to be had: what is said of it, with a driver of our own in the place of NVIDIA's."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.serving import environment, free_port

from tvetl_server.engine.driver import _MEANING

#: libcuda.so.1 with what the server asks of it, which answers as the environment says.
_DRIVER = """
#include <stdlib.h>
static int told(const char *name) { const char *value = getenv(name); return value ? atoi(value) : 0; }
int cuInit(unsigned flags) { return flags ? 1 : told("CU_INIT"); }
int cuDeviceGetCount(int *count) { *count = told("CU_COUNT"); return told("CU_COUNT_ERROR"); }
int cuDriverGetVersion(int *version) { *version = told("CU_VERSION"); return 0; }
"""

_CHECK = """
import json, sys
from tvetl_server.engine.driver import DeviceError, check_driver
try:
    print(json.dumps([check_driver(json.loads(sys.argv[1]), (13, 2)), ""]))
except DeviceError as error:
    print(json.dumps([str(error), error.hint]))
"""

_PIPELINE = '{"steps": [{"op": "CenterCrop", "size": 32}], "output": {"format": "png"}}'

Check = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it lies in."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc, to compile a driver of our own")
    folder = tmp_path_factory.mktemp("driver")
    source = folder / "driver.c"
    source.write_text(_DRIVER, encoding="ascii")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(folder / "libcuda.so.1")], check=True)
    return folder


@pytest.fixture(scope="module")
def check(driver: Path) -> Check:
    """check_driver in a process of its own: how many GPUs, or what is wrong, and the hint."""

    def run(visible: str | None = None, **answers: int) -> list[Any]:
        told = {"CU_COUNT": 1, "CU_VERSION": 13020, **answers}
        env = environment(LD_LIBRARY_PATH=str(driver), **{name: str(value) for name, value in told.items()})
        words = [sys.executable, "-c", _CHECK, json.dumps(visible)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        found: list[Any] = json.loads(done.stdout)
        return found

    return run


@pytest.mark.parametrize("count", [1, 8])
def test_gpus_are_counted(check: Check, count: int) -> None:
    assert check(CU_COUNT=count) == [count, ""]


@pytest.mark.parametrize("error", [*_MEANING, 1, 35])
@pytest.mark.parametrize("call", ["CU_INIT", "CU_COUNT_ERROR"])
def test_each_cuda_error_is_explained(check: Check, call: str, error: int) -> None:
    problem, hint = check(**{call: error})
    assert f"(CUDA error {error})" in problem
    assert _MEANING.get(error, "CUDA says no") in problem
    assert "nvidia-smi" in hint


def test_a_driver_without_a_gpu_sees_none(check: Check) -> None:
    problem, _ = check(CU_COUNT=0)
    assert problem == "no GPU can be used: the driver sees no GPU (CUDA error 100)"


@pytest.mark.parametrize(("version", "said"), [(12080, "12.8"), (11040, "11.4"), (0, "0.0")])
def test_an_older_major_version_is_refused(check: Check, version: int, said: str) -> None:
    problem, hint = check(CU_VERSION=version)
    assert problem == f"the node's driver is for CUDA {said}, this image is built for 13.2"
    assert "newer driver" in hint


@pytest.mark.parametrize("version", [13000, 13020, 13050, 14010])
def test_the_same_major_version_and_newer_ones_are_accepted(check: Check, version: int) -> None:
    assert check(CU_VERSION=version) == [1, ""]


@pytest.mark.parametrize("visible", ["", " ", "-1"])
def test_a_setting_that_hides_every_gpu_is_reported(check: Check, visible: str) -> None:
    problem, hint = check(visible)
    assert problem == f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU"
    assert hint


@pytest.mark.parametrize("visible", ["0", "1,0", "GPU-8932f937-d72c", "MIG-7d2d1f4e-0a4b-5b43-9a3c-1f1b5d5f1f3a"])
def test_the_driver_decides_about_the_gpus_that_the_setting_names(check: Check, visible: str) -> None:
    assert check(visible) == [1, ""]
    for answers in ({"CU_INIT": 101}, {"CU_COUNT": 0}, {"CU_INIT": 100}):
        problem, _ = check(visible, **answers)
        assert problem.endswith(f"(CUDA_VISIBLE_DEVICES={visible})")


def test_a_missing_driver_is_reported() -> None:
    if _has_driver():
        pytest.skip("this machine has a driver")
    words = [sys.executable, "-c", _CHECK, "null"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    problem, hint = json.loads(done.stdout)
    assert problem == "there is no NVIDIA driver in this container"
    assert "nvidia.com/gpu: 1" in hint
    assert "TVETL_WITHOUT_DEVICE=cpu" in hint


def _has_driver() -> bool:
    words = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libcuda.so.1')"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


# --- the server -------------------------------------------------------------------------------------------------------


def server(**settings: str) -> subprocess.CompletedProcess[str]:
    """It ends by itself."""
    env = environment(TVETL_PIPELINE=_PIPELINE, TVETL_DEVICE="cuda", PORT=str(free_port()), **settings)
    words = [sys.executable, "-m", "tvetl_server.wsgi"]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)


def torch_without(cuda: str | None, folder: Path) -> str:
    """A PYTHONPATH on which torch is for this CUDA version; all else of it is as it is."""
    torch = folder / "sitecustomize.py"
    torch.write_text(
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class Finder(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch.version':\n"
        "            import importlib.util, types\n"
        f"            code = \"__version__ = '2.15.0'; debug = False; git_version = ''; hip = xpu = rocm = None; "
        f'cuda = {cuda!r}"\n'
        "            from importlib.machinery import ModuleSpec\n"
        "            class Loader:\n"
        "                def create_module(self, spec): return None\n"
        "                def exec_module(self, module): exec(code, module.__dict__)\n"
        "            return ModuleSpec(name, Loader())\n"
        "sys.meta_path.insert(0, Finder())\n",
        encoding="utf-8",
    )
    return os.pathsep.join([str(folder), *filter(None, sys.path)])


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({"CU_COUNT": "1", "CU_VERSION": "12040"}, "the node's driver is for CUDA 12.4"),
        ({"CU_COUNT": "1", "CU_VERSION": "13020"}, "torch cannot use the GPU: "),
    ],
    ids=["old", "no real one"],
)
def test_a_server_without_a_gpu_ends_and_its_last_line_says_why(
    settings: dict[str, str], last: str, driver: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="without torch nothing else is said")
    cuda = torch.version.cuda
    if cuda is None:
        settings = {**settings, "PYTHONPATH": torch_without("13.2", tmp_path)}
    elif not cuda.startswith("13."):
        pytest.skip("the versions here are those of torch for CUDA 13")
    done = server(LD_LIBRARY_PATH=str(driver), **settings)
    *_, line = done.stderr.splitlines()
    assert line.startswith("tvetl-server: DeviceError: ")
    assert last in line
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_torch_without_cuda_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="without torch nothing else is said")
    done = server(PYTHONPATH=torch_without(None, tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "tvetl-server: DeviceError: this torch is built without CUDA"


@pytest.mark.parametrize("missing", ["torch", "nvidia.nvimgcodec"])
def test_missing_libraries_name_the_image_that_has_them(missing: str, tmp_path: Path) -> None:
    """As slim is, and cpu."""
    code = f"import sys; sys.modules[{missing!r}] = None"  # Python's own way to say that there is none
    (tmp_path / "sitecustomize.py").write_text(code, encoding="utf-8")
    done = server(PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    assert done.returncode == 2
    *_, hint, line = done.stderr.splitlines()
    assert line.startswith("tvetl-server: DeviceError: TVETL_DEVICE needs torch and nvImageCodec")
    assert "cuda variant" in hint
    assert "Traceback" not in done.stderr


def test_without_a_gpu_the_cpu_serves_where_that_is_set_and_reports_it(
    run_server: Callable[..., Any], image: bytes
) -> None:
    if _has_driver():
        pytest.skip("this machine has a driver")
    plain = run_server(TVETL_PIPELINE=_PIPELINE)
    served = run_server(TVETL_PIPELINE=_PIPELINE, TVETL_DEVICE="cuda", TVETL_WITHOUT_DEVICE="cpu", TVETL_DECODERS="2")
    assert served.put("/src/a.jpg", image).body == plain.put("/src/a.jpg", image).body
    metrics = served.get("/metrics").body.decode()
    assert 'tvetl_device_images_total{way="lost"} 1\n' in metrics
    assert "tvetl_device_up 0\n" in metrics
    missing = [name for name in ("torch", "nvidia") if importlib.util.find_spec(name) is None]
    why = "needs torch and nvImageCodec" if missing else "there is no NVIDIA driver"
    assert why in served.get("/health").body.decode()
    assert why in served.log
    assert served.stop() == 0
    assert "Traceback" not in served.log
