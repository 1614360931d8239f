"""Words are compiled too: the verbs that README and CONTRIBUTING name are the Makefile's, and the other way round."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import tvetl


def help_of(repository: Path) -> dict[str, str]:
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run([make, "--no-print-directory"], cwd=repository, capture_output=True, text=True, check=True)
    return dict(re.findall(r"^  make (\S+) +(\S.*)$", done.stdout, re.MULTILINE))


def test_make_alone_tells_every_verb(repository: Path) -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(help_of(repository)) == set(phony.split())


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_only_verbs_that_exist(repository: Path, document: str) -> None:
    text = (repository / document).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", code))
    assert named, f"{document} names no verb"
    assert named <= set(help_of(repository))


def test_the_changelog_begins_with_what_is_next_or_this_version(repository: Path) -> None:
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    (first, *_) = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert first in {"Unreleased", tvetl.__version__}


def test_no_file_is_longer_than_a_reader(repository: Path) -> None:
    sources = [*repository.glob("client/src/**/*.py"), *repository.glob("container/src/**/*.py")]
    assert sources
    long = {path.name: count for path in sources if (count := len(path.read_text(encoding="utf-8").splitlines())) > 700}
    assert not long, "split it: a module is one idea"
