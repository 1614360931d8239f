"""Write docs/licences.md, the licence of each package in the locks: ``make licences``. A test compares.

The licences come from the metadata of the packages in `.venv`. Packages for another system or another Python are not
installed there, and are named without a licence.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "licences.md"

#: Licences that ask for no more than their own text to be kept with what is passed on.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib",
}  # fmt: skip
#: Others, each for these packages alone, and why.
EXCEPTIONS = {
    "LicenseRef-None-Stated": ({"cuda-toolkit"}, "a list of NVIDIA's packages without a file of its own"),
    "MPL-2.0": (
        {"certifi", "hypothesis", "pathspec"},
        "used unchanged; certifi comes with requests, the others are tools of the tests",
    ),
    "LicenseRef-NVIDIA-Proprietary": (
        {
            "nvidia-cublas", "nvidia-cuda-cccl", "nvidia-cuda-cupti", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime",
            "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-cufile", "nvidia-cusolver", "nvidia-cusparse",
            "nvidia-cusparselt-cu13", "nvidia-nccl-cu13", "nvidia-nvjitlink", "nvidia-nvjpeg", "nvidia-nvshmem-cu13",
            "nvidia-nvtx",
        },
        "CUDA's libraries, which the default index's torch brings: in the tests, in the image's `cpu` variant, where "
        "nothing calls them, and in `cuda`, which has `nvidia-nvjpeg` too; not where TORCH_INDEX names an index of CPU "
        "wheels, nor in `slim`. Who passes such an image on must keep to NVIDIA's terms",
    ),
}  # fmt: skip
#: Where the metadata say nothing, or a whole text, or where only an image has it: read in the project itself.
READ = {
    "cuda-toolkit": "LicenseRef-None-Stated", "graphemeu": "MIT", "nvidia-nvjpeg": "LicenseRef-NVIDIA-Proprietary",
}  # fmt: skip
#: Names of licences in metadata -> SPDX's.
_NAMES = {
    "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0", "bsd": "BSD", "bsd license": "BSD", "bsd 2-clause license": "BSD-2-Clause",
    "bsd 3-clause license": "BSD-3-Clause", "isc license": "ISC", "isc license (iscl)": "ISC", "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0", "nvidia proprietary software": "LicenseRef-NVIDIA-Proprietary",
}  # fmt: skip


def locked() -> dict[str, set[str]]:
    """Project -> the locks that name it."""
    found: dict[str, set[str]] = {}
    for lock in sorted((REPOSITORY / "locks").glob("*.txt")):
        for name in re.findall(r"^([a-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(name, set()).add(lock.stem)
    return found


def licence(name: str) -> str | None:
    """As SPDX writes it; None where the project is neither installed nor in READ, "" where its metadata have none."""
    try:
        return READ.get(name) or _in_metadata(distribution(name))
    except PackageNotFoundError:
        return None


def _in_metadata(package: Distribution) -> str:
    if expression := package.metadata.get("License-Expression"):
        return str(expression)
    line = str(package.metadata.get("License") or "").split("\n")[0].strip()
    classifiers = [c for c in package.metadata.get_all("Classifier") or () if c.startswith("License ::")]
    names = [line] if line and len(line) < 40 and line != "UNKNOWN" else []
    names += [each.rpartition(" :: ")[2] for each in classifiers]
    known = [_NAMES.get(each.lower(), each) for each in names]
    return next((each for each in known if each in ALLOWED or each in EXCEPTIONS), known[0] if known else "")


def refused(name: str, expression: str) -> list[str]:
    """The parts of a licence that are not allowed for this project. Of "A OR B" one is enough."""
    parts = [re.split(r" OR ", part.strip(" ()")) for part in re.split(r" AND ", expression)]
    allowed = ALLOWED | {kind for kind, (names, _) in EXCEPTIONS.items() if name in names}
    return [" OR ".join(choice) for choice in parts if not {each.strip(" ()") for each in choice} & allowed]


def page() -> str:
    """The whole page."""
    rows, elsewhere = [], []
    for name, locks in sorted(locked().items()):
        if locks == {"audit"}:  # in an environment of its own, and in nothing that anybody gets
            continue
        expression = licence(name)
        shipped = ", ".join(kind for kind in ("server", "server-torch", "server-cuda", "run") if kind in locks)
        if expression is None:
            elsewhere.append(f"`{name}`")
        else:
            rows.append(f"| `{name}` | {expression or '?'} | {shipped} |")
    allowed = ", ".join(sorted(ALLOWED))
    exceptions = "\n".join(
        f"- {kind}: {', '.join(f'`{name}`' for name in sorted(names))}; {why}."
        for kind, (names, why) in sorted(EXCEPTIONS.items())
    )
    return f"""# Licences

Ours is MIT. Below, all that `locks/` names, as its metadata say, and where it comes along: `server` is the image's slim
variant, `server-torch` its cpu variant, `server-cuda` what its cuda variant has beside that, `run` what the client
needs; what has no mark is only for tests and tools. An image's own list, with Debian's packages in it, is its SBOM
(`make sbom`). A test refuses every licence but these:
{allowed}.

And these, each for the packages named alone:

{exceptions}

| package | licence | comes with |
|---|---|---|
{chr(10).join(rows)}

Not installed where this list was made, being for other systems, other Pythons, or comparisons: {", ".join(elsewhere)}.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(REPOSITORY)} written")
