"""Build the wheels and source archives of the three packages: ``make dist``.

    python locks/dist.py [FOLDER]

Each wheel is built from its source archive, so that the archive is complete. All files bear one time, SOURCE_DATE_EPOCH
or 2026-01-01: the same sources give the same bytes. Packages are copied first, with the licence, so that nothing is
written into the checkout.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
#: Folder and builder of each package, with the file that has its version.
PACKAGES = {
    "client": ("flit_core.buildapi", "src/tvetl/__init__.py"),
    "container": ("flit_core.buildapi", "src/tvetl_server/__init__.py"),
    "container/native": ("setuptools.build_meta", "pyproject.toml"),
}
#: What is in these folders and belongs to no package, or was made.
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "native", "Dockerfile", "image.py")
BUILD_ARCHIVE = "import sys, {0} as builder; builder.build_sdist(sys.argv[1])"


def main() -> None:
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "dist").absolute()
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("tvetl*"):  # `pip install dist/*.whl` must find one version
        old.unlink()
    os.umask(0o022)  # archives keep the modes of files
    time = os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")
    version = one_version()
    for package, (builder, _) in PACKAGES.items():
        with tempfile.TemporaryDirectory() as place:
            source, made = Path(place) / "source", Path(place) / "made"
            shutil.copytree(REPOSITORY / package, source, ignore=LEFT_OUT)
            shutil.copyfile(REPOSITORY / "LICENSE", source / "LICENSE")
            run(source, "-c", BUILD_ARCHIVE.format(builder), str(made))
            (archive,) = made.iterdir()
            rewrite(archive, int(time))
            pip = (
                "-m",
                "pip",
                "--disable-pip-version-check",
                "wheel",
                "--no-deps",
                "--no-build-isolation",
                "--no-index",
            )
            run(made, *pip, "--wheel-dir", str(made), str(archive))
            for file in sorted(made.iterdir()):
                shutil.copyfile(file, output / file.name)
                print(output / file.name)
                if file.name.startswith("tvetl_pixels") and file.suffix == ".whl":
                    look_for_code(file)
    print(f"Version {version}. To install: pip install {output}/*.whl")


def one_version() -> str:
    """The version of all three packages, which must be one."""
    found = {}
    for package, (_, file) in PACKAGES.items():
        text = (REPOSITORY / package / file).read_text(encoding="utf-8")
        found[package] = re.findall(r'^(?:__version__|version) = "(.+)"$', text, re.MULTILINE)
    first, *others = found.values()
    if len(first) != 1 or any(other != first for other in others):
        raise SystemExit(f"the packages' versions differ: {found}")
    return str(first[0])


def run(folder: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}")


def rewrite(archive: Path, time: int) -> None:
    """The archive with all members of one time and owner, in order of name: setuptools writes those of today."""
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=time))


def look_for_code(wheel: Path) -> None:
    """Without a compiler setuptools goes on without the code."""
    if not any("_native." in name and not name.endswith(".pyi") for name in zipfile.ZipFile(wheel).namelist()):
        sys.stderr.write("There is no C compiler here: this wheel has no code, and Pillow will do its work, slower.\n")


if __name__ == "__main__":
    main()
