"""The product can be read: no module is longer than a sitting, no function than a screen, no folder too full."""

from __future__ import annotations

import ast
from pathlib import Path

#: Longer by their nature: tables, and the command, which is a list of its verbs.
TABLES = {"settings.py", "cli.py", "api.py"}
LINES, SCREEN, ROOMS = 400, 60, 10
PACKAGES = ("client/src/tvetl", "container/src/tvetl_server")


def sources(repository: Path) -> list[Path]:
    found = [path for package in PACKAGES for path in (repository / package).rglob("*.py")]
    assert len(found) > 50
    return found


def test_no_module_is_longer_than_four_hundred_lines(repository: Path) -> None:
    lengths = {
        str(path.relative_to(repository)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(repository)
        if path.name not in TABLES
    }
    assert {name: count for name, count in lengths.items() if count > LINES} == {}


def test_no_function_is_longer_than_a_screen(repository: Path) -> None:
    long = {}
    for path in sources(repository):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > SCREEN:
                    long[f"{path.relative_to(repository)}: {node.name}"] = count
    assert long == {}


def test_helpers_of_the_tests_lie_in_support(repository: Path) -> None:
    tests = repository / "tests"
    helpers = [
        str(path.relative_to(tests))
        for path in tests.rglob("*.py")
        if path.parts[len(tests.parts)] not in ("support", "benchmarks")
        and not path.name.startswith("test_")
        and path.name != "conftest.py"
    ]
    assert helpers == []


def test_no_folder_has_more_than_ten_rooms(repository: Path) -> None:
    for package in PACKAGES:
        for folder in [repository / package, *(repository / package).rglob("*/")]:
            rooms = [path for path in folder.iterdir() if (path / "__init__.py").is_file()]
            assert len(rooms) <= ROOMS, folder


def test_the_first_line_of_every_room_says_what_is_in_it(repository: Path) -> None:
    for path in sources(repository):
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = words.partition("\n")[0]
        assert first.endswith((".", "!", "?", ":")) or "\n" in words, path
        assert words, f"{path} has no first line"
