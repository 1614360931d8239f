"""The image: small, complete in itself, content with nothing to write to, the same in two builds."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from support import escapes
from support.serving import jailed

import tvetl
from tvetl.spec import Arguments, parse
from tvetl_server.engine import Engine
from tvetl_server.limits import Limits

SLIM_BYTES = 450_000_000
PIPELINE = '{"steps": [{"op": "RandomResizedCrop", "size": 224}, {"op": "RandomHorizontalFlip"}], "seed": 3}'
PYTHON = "--entrypoint=/opt/tvetl/bin/python3"


def here(pipeline: str, data: bytes, name: str) -> bytes:
    """What the engine answers in this process."""
    return Engine(parse(pipeline), Limits()).transform(data, name, Arguments()).body


def pixels(body: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(body)))


@pytest.fixture(scope="session")
def inspected(tool: Any, image: str) -> dict[str, Any]:
    (told,) = json.loads(tool("image", "inspect", image))
    found: dict[str, Any] = told
    return found


def test_slim_is_small(inspected: dict[str, Any]) -> None:
    print(f"slim: {inspected['Size'] / 1e6:.0f} MB")
    assert inspected["Size"] <= SLIM_BYTES


def test_it_is_complete_in_itself(inspected: dict[str, Any]) -> None:
    """AIStore's runtime form gives an image's name and an environment, and takes port 8000 for granted."""
    config = inspected["Config"]
    assert config["Entrypoint"] == ["/opt/tvetl/bin/tvetl-server"], "the program itself, and no shell around it"
    assert not config.get("Cmd")
    assert config["User"] == "10001:0"
    assert set(config["ExposedPorts"]) == {"8000/tcp"}


def test_its_labels_say_what_it_runs(tool: Any, image: str, inspected: dict[str, Any]) -> None:
    labels = inspected["Config"]["Labels"]
    assert labels["tvetl.ops"] == tool.run(image, "--ops").stdout.strip()
    assert labels["org.opencontainers.image.version"] == tvetl.__version__


def test_it_becomes_ready_and_ends_when_told(
    image: str, start: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start(image)
    with capsys.disabled():
        print(f"\nfrom the start of the process to the first 200: {server.seconds:.2f} s (goal: under 1 s)")
    assert server.ask("GET", "/health")[0] == 200
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log


def test_it_transforms_with_nothing_to_write_to_as_the_engine_does_here(
    image: str, start: Callable[..., Any], photographs: list[Path]
) -> None:
    server = start(image)
    for path in photographs:
        status, body = server.ask("PUT", f"/src/{path.name}", path.read_bytes())
        assert status == 200, body
        assert np.array_equal(pixels(body), pixels(here(PIPELINE, path.read_bytes(), f"src/{path.name}")))


@pytest.mark.skipif(any(jailed().values()), reason=f"this machine has no whole jail: {jailed()}")
def test_nothing_leads_out_of_its_decoders(image: str, start: Callable[..., Any], tmp_path: Path) -> None:
    """As nobody in particular, with nothing to write to; tests/hostile shows what these ways do without a jail."""
    folder, root = tmp_path / "plugin", tmp_path / "data"
    root.mkdir()
    names = [root / f"inside.bin{more}" for more in ("", ".1", ".2")]
    for path in names:
        path.write_bytes(b"inside")
        path.chmod(0o666)
    root.chmod(0o777)
    (root / "link.txt").symlink_to("/etc/passwd")
    (root / "processes.json").write_text(json.dumps(dict.fromkeys(escapes.KINDS, 1)), encoding="utf-8")
    # The first process stands for all of them: it has the same user.
    here = {"root": "/mnt/data", "outside": "/etc/passwd", "inside": "/mnt/data/inside.bin", "evidence": "/dev/shm"}
    here |= {"processes": "/mnt/data/processes.json", "unix": "/dev/shm/nobody"}
    settings = escapes.install(folder, {**here, "port": 9})
    volumes = [f"--volume={folder}:/plugin:ro", f"--volume={root}:/mnt/data"]
    secret = "http://127.0.0.1:9/v1/etl/_object/x/S3cr3tOfTheWrites"
    more = {"TVETL_JAIL": "require", "PYTHONPATH": "/plugin", "AIS_TARGET_URL": secret}
    server = start(image, *volumes, **{**settings, **more})
    assert b"\njail: landlock, seccomp, limits\n" in server.ask("GET", "/health")[1]
    found = escapes.tried(folder, {**here, "port": 9}, lambda sent: server.ask("PUT", "/src/a.png", sent))
    assert [name for name, outcome in found.items() if outcome == "out"] == []
    assert len(found) > 100 and {path.read_bytes() for path in names} == {b"inside"}
    assert server.log.count("Booting worker") == 1
    assert "S3cr3t" not in server.log
    server = start(image, *volumes, **{**settings, **more, "TVETL_JAIL": "off"})
    found = escapes.tried(folder, {**here, "port": 9}, lambda sent: server.ask("PUT", "/src/a.png", sent))
    out = [name for name, outcome in found.items() if outcome == "out"]
    assert len(out) > 50 and "read_cmdline_of_the_first" in out, "they lead out where nothing forbids it"
    # What has the secret in its memory, or a descriptor of it, is closed to its own user in any case.
    assert not {f"read_{what}_of_the_first" for what in ("mem", "environ", "maps", "fd_3")} & {*out}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lay out files as AIStore's targets do")
def test_it_reads_a_targets_files_by_its_group(
    image: str, start: Callable[..., Any], photographs: list[Path], tmp_path: Path
) -> None:
    """Files of root and its group, mode 0640, in folders of 0750: group 0 reads them, another group does not."""
    disk = tmp_path / "data"
    file = disk / "ais" / "mp1" / "@ais" / "src" / "%ob" / "a.png"
    file.parent.mkdir(parents=True)
    for folder in (disk, *file.relative_to(disk).parents):
        (disk / folder).chmod(0o750)
    file.write_bytes(photographs[0].read_bytes())
    file.chmod(0o640)
    pushed = f"/src/a.png?etl_fqn={quote(quote('/mnt/data/' + str(file.relative_to(disk)), safe=''), safe='')}"
    mount = f"--volume={disk}:/mnt/data:ro"
    status, body = start(image, mount).ask("PUT", pushed)
    assert status == 200, body
    assert np.array_equal(pixels(body), pixels(here(PIPELINE, file.read_bytes(), "src/a.png")))
    status, body = start(image, mount, "--user=10001:10001").ask("PUT", pushed)
    assert (status, json.loads(body)["error"]) == (403, "unreadable_file")


@pytest.mark.parametrize(
    ("pipeline", "last"),
    [
        (
            '{"steps": [{"op": "Resize", "size": 9}, {"op": "RandomRotation", "degrees": 5}]}',
            "$.steps[1].op: RandomRotation needs torch; the image's cpu variant has it",
        ),
        ('{"steps": [{"op": "acme.Vignette"}]}', "$.steps[0].op: acme.Vignette is not installed in this container"),
        ("", "TVETL_PIPELINE: got nothing, expected a pipeline as JSON or YAML"),
    ],
)
def test_what_it_cannot_run_ends_at_once_and_the_last_line_says_why(
    tool: Any, image: str, pipeline: str, last: str
) -> None:
    done = tool.run(image, **({"TVETL_PIPELINE": pipeline} if pipeline else {}))
    assert done.returncode == 2
    assert last in done.stderr.strip().splitlines()[-1]


def test_temporary_files_go_where_a_pod_can_write(tool: Any, image: str) -> None:
    """torch asks for a temporary folder when it is imported, and ends where there is none."""
    code = "import tempfile; print(tempfile.gettempdir())"
    assert tool.run(image, "-c", code, options=[PYTHON]).stdout.strip() == "/dev/shm"


def test_nothing_is_compiled_at_its_start(tool: Any, image: str) -> None:
    """Nothing can be written at run time, so what is not compiled in the image would be compiled at each start."""
    done = tool.run(image, "-v", "-c", "import tvetl_server.server, gunicorn.workers.gthread", options=[PYTHON])
    compiled = re.findall(r"# code object from '?(/[^']*)", done.stderr)
    assert len(compiled) > 300
    assert [path for path in compiled if not path.endswith(".pyc")] == []


def test_it_has_no_pip_and_no_torch_of_its_own(tool: Any, image: str) -> None:
    code = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'torch', 'aistore') if u.find_spec(n)])"
    assert tool.run(image, "-c", code, options=[PYTHON]).stdout.strip() == "[]"


def test_it_has_the_part_in_c_and_no_compiler(tool: Any, image: str) -> None:
    code = "import shutil; from tvetl_server.engine.resize import resizer; print(resizer(), shutil.which('gcc'))"
    told = tool.run(image, "-c", code, options=[PYTHON]).stdout
    assert told.startswith("tvetl_pixels, ") and told.endswith(" None\n")


def test_two_builds_give_the_same_image(
    tool: Any, image: str, inspected: dict[str, Any], make_build: Callable[..., str]
) -> None:
    """The same to the last bit: files, their times, layers and configuration; the id is a hash over all of it."""
    if tool.name != "podman":
        pytest.skip("docker writes the times of files into layers unless it is told otherwise; compared with podman")
    again = make_build("tvetl-server:again", "VARIANT=slim", "BUILDFLAGS=--no-cache")
    try:
        (other,) = json.loads(tool("image", "inspect", again))
        same = [a == b for a, b in zip(inspected["RootFS"]["Layers"], other["RootFS"]["Layers"], strict=True)]
        assert all(same), f"these layers differ: {[place for place, equal in enumerate(same) if not equal]}"
        assert inspected["Id"] == other["Id"]
    finally:
        tool("rmi", again, check=False)


def test_the_bill_of_materials_is_what_was_locked(tool: Any, image: str, repository: Path) -> None:
    bom = json.loads(tool.run(image, "-c", "print(open('/opt/tvetl/sbom.cdx.json').read())", options=[PYTHON]).stdout)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.5")
    assert bom["metadata"]["component"]["name"] == "tvetl-server"
    found = {each["purl"]: each for each in bom["components"]}
    assert len(found) == len(bom["components"]), "each once"
    assert all(each["name"] and each["version"] and each["type"] == "library" for each in found.values())
    python = tool.run(image, "-c", "import platform; print(platform.python_version())", options=[PYTHON]).stdout.strip()
    assert f"pkg:generic/cpython@{python}" in found
    here = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
    lock = (repository / "locks" / "server.txt").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in re.findall(r"^([a-z].*) \\$", lock, re.MULTILINE)]
    wanted = {f"{one.name}@{str(one.specifier)[2:]}" for one in locked if not one.marker or one.marker.evaluate(here)}
    wheels = {purl.removeprefix("pkg:pypi/") for purl in found if purl.startswith("pkg:pypi/")}
    assert wheels == {*wanted, f"tvetl@{tvetl.__version__}", f"tvetl-pixels@{tvetl.__version__}"}
    debian = {each["name"] for purl, each in found.items() if purl.startswith("pkg:deb/")}
    assert {"libc6", "zlib1g", "bash"} <= debian, "both kinds of base are Debian's"
    licensed = [each for purl, each in found.items() if purl.startswith("pkg:pypi/") and each.get("licenses")]
    assert len(licensed) == len(wheels)


def test_a_derived_image_brings_plugin_ops(
    tool: Any,
    image: str,
    repository: Path,
    photographs: list[Path],
    start: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The two commands of docs/image.md, and the same pixels as the same package gives here."""
    example = repository / "examples" / "plugin-ops"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(tmp_path / "own"), str(example)], check=True)
    # Were it first on the path, a package of theirs would take the place of ours.
    (tmp_path / "own" / "PIL").mkdir()
    derived = "tvetl-server-acme:test"
    file = ["--file", str(example / "Dockerfile"), "--build-arg", f"IMAGE={image}"]
    tool("build", *file, "--tag", derived, str(tmp_path / "own"))
    try:
        (told,) = json.loads(tool("image", "inspect", derived))
        ours, theirs = (json.loads(told["Config"]["Labels"][name]) for name in ("tvetl.ops", "tvetl.ops.own"))
        assert json.loads(tool.run(derived, "--ops").stdout) == [*ours, *theirs]
        pipeline = (example / "pipeline.yaml").read_text(encoding="utf-8")
        server = start(derived, TVETL_PIPELINE=pipeline)
        data = photographs[0].read_bytes()
        status, body = server.ask("PUT", "/src/a.png", data)
        assert status == 200, body
        assert body == server.ask("PUT", "/src/a.png", data)[1], "seeded"
        monkeypatch.syspath_prepend(tmp_path / "own")
        from acme_ops import OPS

        engine = Engine(parse(pipeline), Limits(), {f"acme.{op.name}": op for op in OPS})
        expected = engine.transform(data, "src/a.png", Arguments()).body
        assert np.array_equal(pixels(body), pixels(expected))
    finally:
        tool("rmi", "--force", derived, check=False)


def large(variant: str) -> str:
    """The name of an image that is there."""
    variable = f"TEST_{variant.upper()}_IMAGE"
    image = os.environ.get(variable)
    if not image:
        pytest.skip(f"the {variant} variant is 6 GB and is not built for each run: {variable} names one that is there")
    return image


@pytest.mark.parametrize(("variant", "settings"), [("cpu", {}), ("cuda", {"TVETL_DEVICE": "none"})])
def test_what_needs_torch_runs_without_a_gpu(
    variant: str, settings: dict[str, str], tool: Any, start: Callable[..., Any], photographs: list[Path]
) -> None:
    image = large(variant)
    pipeline = '{"steps": [{"op": "RandomRotation", "degrees": 9}], "output": {"format": "png"}, "seed": 5}'
    server = start(image, TVETL_PIPELINE=pipeline, **settings)
    print(f"from the start of the process to the first 200: {server.seconds:.2f} s")
    status, body = server.ask("PUT", "/src/a.png", photographs[0].read_bytes())
    assert status == 200, body
    assert np.array_equal(pixels(body), pixels(here(pipeline, photographs[0].read_bytes(), "src/a.png")))
    (told,) = json.loads(tool("image", "inspect", image))
    assert told["Config"]["Labels"]["tvetl.ops"] == tool.run(image, "--ops").stdout.strip()


def test_the_cuda_variant_has_all_but_the_driver(tool: Any) -> None:
    """nvImageCodec opens nvJPEG by itself, and every library of both is complete."""
    code = """if True:
        import ctypes, glob, sysconfig
        from nvidia import nvimgcodec
        try:
            nvimgcodec.Decoder()
        except RuntimeError as error:  # no driver: said once the libraries are there
            assert "CUDA" in str(error), error
        code = [line.split()[-1] for line in open("/proc/self/maps") if "r-xp" in line]
        print(*(path for path in code if "libnvjpeg.so" in path))
        site = sysconfig.get_path("purelib")
        found = glob.glob(f"{site}/nvidia/nvimgcodec/**/*.so*", recursive=True)
        for path in found + glob.glob(f"{site}/nvidia/cu13/lib/libnvjpeg.so*"):
            ctypes.CDLL(path, mode=2)  # RTLD_NOW: each symbol is looked for
        import torch
        print(len(found), torch.version.cuda)
    """
    done = tool.run(large("cuda"), "-c", code, options=[PYTHON])
    assert done.returncode == 0, done.stderr
    opened, (libraries, cuda) = (line.split() for line in done.stdout.strip().splitlines())
    assert len(opened) == 1 and opened[0].endswith("/nvidia/cu13/lib/libnvjpeg.so.13")
    assert int(libraries) > 8 and cuda.startswith("13.")
    assert "[nvjpeg-ext]" not in done.stderr, "nvImageCodec has its decoder for JPEG"


def test_the_cuda_variant_says_what_it_lacks_and_serves_without_only_if_told(
    tool: Any, start: Callable[..., Any], photographs: list[Path]
) -> None:
    image = large("cuda")
    done = tool.run(image, TVETL_PIPELINE=PIPELINE)
    assert done.returncode == 2
    assert "no NVIDIA driver in this container" in done.stderr.strip().splitlines()[-1]
    status, body = start(image, TVETL_WITHOUT_DEVICE="cpu").ask("PUT", "/src/a.png", photographs[0].read_bytes())
    assert status == 200, body
    assert np.array_equal(pixels(body), pixels(here(PIPELINE, photographs[0].read_bytes(), "src/a.png")))
