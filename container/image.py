"""The Dockerfile's steps beside installing: delete files that no image needs, compile the others, and write the SBOM.

It needs only the standard library, as it runs before anything is installed. The same input gives the same files.
"""

from __future__ import annotations

import argparse
import json
import platform
import py_compile
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType

#: Where everything of ours lies in the image.
HOME = Path("/opt/tvetl")
#: Where a derived image puts packages with ops of its own.
OWN = HOME / "own"
SBOM = HOME / "sbom.cdx.json"

_UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH


def tidy(prefix: Path, final: Path) -> None:
    """Delete files that no image needs, and compile the rest: under ``prefix`` now, and under ``final`` later."""
    # nvImageCodec's wheel brings its 5 MB for each of eight Pythons.
    ours = sysconfig.get_config_var("SOABI")
    for library in sorted(prefix.rglob("*.cpython-3*.so")):
        if f".{ours}." not in library.name:
            library.unlink()
    # Packages' own tests: 17 MB of numpy's 60.
    for folder in sorted(prefix.rglob("site-packages/*/**/tests")):
        shutil.rmtree(folder, ignore_errors=True)  # one may lie in another, and one may be a file
    for source in sorted(prefix.rglob("*.py")):
        _compile(source, final / source.relative_to(prefix))


def _compile(source: Path, final: Path) -> None:
    """Byte code that is never checked against its source: there is no time of the build in it."""
    try:
        py_compile.compile(str(source), dfile=str(final), doraise=True, invalidation_mode=_UNCHECKED)
    except py_compile.PyCompileError:  # templates, and tests of syntax errors
        return


def split(lock: Path, checked: Path, torch: Path) -> None:
    """Part the lock for an index of CPU wheels: torch without hashes; the rest with, less the GPU's libraries."""
    # One requirement: its line, and the lines with its hashes.
    requirements = re.findall(r"^[a-z0-9].*(?:\n    --hash.*)*\n", lock.read_text(encoding="utf-8"), re.MULTILINE)
    hashed, plain = [], []
    for requirement in requirements:
        name = requirement.partition("==")[0]
        if name in ("torch", "torchvision"):
            plain.append(requirement.partition(" \\")[0])
        elif not re.match(r"cuda-|triton$|nvidia-", name):
            hashed.append(requirement)
    checked.write_text("".join(hashed), encoding="utf-8")
    torch.write_text("\n".join(plain) + "\n", encoding="utf-8")


def finish() -> None:
    """In the image itself: a place for plugin ops, byte code of the modules that the server loads, and the SBOM."""
    site = Path(sysconfig.get_path("purelib"))
    # By a .pth, and not PYTHONPATH: so they come after ours, and no dependency of theirs takes the place of our Pillow.
    OWN.mkdir(exist_ok=True)
    (site / "tvetl-own.pth").write_text(f"{OWN}\n", encoding="utf-8")
    # The official Python images come without byte code of the standard library, and nothing can be written at run time.
    for module in _loaded_by_the_server():
        spec = getattr(module, "__spec__", None)  # typing.io has none
        if spec and spec.origin and spec.cached and not Path(spec.cached).exists():
            _compile(Path(spec.origin), Path(spec.origin))
    components = sorted([*_python(), *_wheels(site), *_debian()], key=lambda each: str(each["bom-ref"]))
    SBOM.write_text(json.dumps(_bom(components), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _loaded_by_the_server() -> list[ModuleType]:
    import tvetl_server.server  # noqa: F401  # wsgi imports it late
    from tvetl.spec import parse
    from tvetl_server.engine import Engine
    from tvetl_server.limits import Limits

    Engine(parse({"steps": [{"op": "RandomResizedCrop", "size": 8}]}), Limits()).self_test()
    return list(sys.modules.values())


# The bill of materials, as CycloneDX 1.5


def _bom(components: list[dict[str, object]]) -> dict[str, object]:
    # No time and no serial number: both would differ between two builds of the same.
    (server,) = (each for each in components if each["name"] == "tvetl-server")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**server, "type": "container"}},
        "components": [each for each in components if each is not server],
    }


def _component(name: str, version: str, purl: str, licence: str = "") -> dict[str, object]:
    component: dict[str, object] = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
    return {**component, "licenses": [{"license": {"name": licence}}]} if licence else component


def _python() -> Iterator[dict[str, object]]:
    version = platform.python_version()
    yield _component("cpython", version, f"pkg:generic/cpython@{version}", "PSF-2.0")


def _wheels(site: Path) -> Iterator[dict[str, object]]:
    for package in distributions(path=[str(site)]):
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
        yield _component(name, package.version, f"pkg:pypi/{name}@{package.version}", _licence(package))


def _licence(package: Distribution) -> str:
    """The licence's name; some packages have the whole text in its place, and the name only among their classifiers."""
    for field in ("License-Expression", "License"):
        for licence in package.metadata.get_all(field) or ():
            if licence and "\n" not in licence:
                return str(licence)
    classifiers: Iterable[str] = package.metadata.get_all("Classifier") or ()
    return next((name.rpartition(" :: ")[2] for name in classifiers if name.startswith("License :: OSI")), "")


def _debian() -> Iterator[dict[str, object]]:
    status = Path("/var/lib/dpkg/status")
    for entry in status.read_text(encoding="utf-8").split("\n\n") if status.exists() else ():
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", entry, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            version = fields["Version"].replace("+", "%2B").replace(":", "%3A")
            purl = f"pkg:deb/debian/{fields['Package']}@{version}?arch={fields['Architecture']}"
            yield _component(fields["Package"], fields["Version"], purl)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, arguments in {"tidy": ["prefix"], "split": ["lock", "checked", "torch"], "finish": []}.items():
        command = commands.add_parser(name)
        for each in arguments:
            command.add_argument(each, type=Path)
        if name == "tidy":
            command.add_argument("--as", dest="final", type=Path)
    options = parser.parse_args()
    if options.command == "tidy":
        tidy(options.prefix, options.final or options.prefix)
    elif options.command == "split":
        split(options.lock, options.checked, options.torch)
    else:
        finish()


if __name__ == "__main__":
    main()
