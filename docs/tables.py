"""Write the tables in README.md and docs/ from the code they describe: ``make tables``. A test compares them."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import typer

from tvetl.command.cli import app
from tvetl.conformance import CASES
from tvetl.spec import OPS
from tvetl.spec.arguments import ARGUMENTS
from tvetl.spec.ops import Param
from tvetl.spec.output import FORMATS
from tvetl.spec.parse import FIELDS
from tvetl_server.engine.plans import only_torch
from tvetl_server.problems import INTERNAL, PROBLEMS
from tvetl_server.settings import SETTINGS

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "docs"))  # where a test loads this file by its path, it is not there
import gpu  # noqa: E402
import performance  # noqa: E402
from performance import table as _table  # noqa: E402


def ops() -> str:
    """Every op: its parameters with their defaults, and whether torch is needed for it on a PIL image."""
    rows = []
    for op in OPS.values():
        parameters = ", ".join(
            f"`{name}`" if param.required else f"`{name}={_show(param)}`" for name, param in op.params.items()
        )
        rows.append((f"`{op.name}`", parameters, "yes" if op.random else "", "yes" if only_torch(op) else ""))
    return _table(("op", "parameters (torchvision's)", "random", "needs torch"), rows)


def _show(param: Param) -> str:
    value = param.default
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{part:.4g}" if isinstance(part, float) else str(part) for part in value) + "]"
    return str(value)


def settings() -> str:
    """Every environment variable of the server."""
    return _table(
        ("variable", "unit", "default", "meaning"), [(f"`{v.name}`", v.unit, v.default, v.help) for v in SETTINGS]
    )


def problems() -> str:
    """Every way an object can fail."""
    rows = [
        (str(p.status), f"`{p.code}`", _first_line(inspect.getdoc(kind)))
        for kind, p in PROBLEMS.items()
        if kind.__module__.startswith("tvetl_server")
    ]
    rows.append((str(INTERNAL.status), f"`{INTERNAL.code}`", "A bug of ours; the pod's log has it."))
    return _table(("status", "code", "meaning"), rows)


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n", 1)[0].replace("<", "&lt;")


def parameters() -> str:
    """Every parameter of every op, with what it may be."""
    return _table(
        ("op", "parameter", "may be", "default"),
        [row for op in OPS.values() for row in _params(op.params, f"`{op.name}`") or [(f"`{op.name}`", "", "", "")]],
    )


def fields() -> str:
    """Every field of a pipeline beside its steps and output."""
    return _table(("field", "may be", "default"), [row[1:] for row in _params(FIELDS, "")])


def outputs() -> str:
    """Every output format with its options."""
    rows = [row for name, options in FORMATS.items() for row in _params(options, f"`{name}`")]
    return _table(("format", "option", "may be", "default"), rows)


def arguments() -> str:
    """Every argument of a request."""
    return _table(("argument", "may be"), [row[1:3] for row in _params(ARGUMENTS, "")])


def _params(params: Mapping[str, Param], of: str) -> list[tuple[str, str, str, str]]:
    return [
        ("" if at else of, f"`{name}`", param.kind.expected, "" if param.required else f"`{_show(param)}`")
        for at, (name, param) in enumerate(params.items())
    ]


def commands() -> str:
    """Every command, and every option of its own."""
    rows = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        words = [f"`{param.metavar or param.name.upper()}`" for param in command.params if not _option(param)]
        rows.append((f"`tvetl {name}`", " ".join(words), _first_line(command.help)))
        options = [param for param in command.params if _option(param) and param.name not in _COMMON]
        rows += [("", f"`{', '.join(sorted(param.opts, key=len))}`", _first_line(param.help)) for param in options]
    return _table(("command", "argument or option", "what it does"), rows)


#: Options that every command has; the text above the table names them.
_COMMON = ("help", "endpoint", "as_json", "show_config")


def _option(param: typer.core.TyperArgument | typer.core.TyperOption) -> bool:
    return param.param_type_name == "option"


def conformance() -> str:
    """Every case of the protocol, and which servers passed it when they were last run."""
    servers = json.loads((REPOSITORY / "docs" / "conformance.json").read_text(encoding="utf-8"))
    words = {"passed": "yes", "failed": "no", "skipped": "-"}
    rows = [
        (f"`{case.name}`", case.severity, case.promise, *(words[results[case.name]] for results in servers.values()))
        for case in CASES
    ]
    passed = [str(sum(result == "passed" for result in results.values())) for results in servers.values()]
    return _table(("case", "severity", "promise", *servers), [*rows, ("passed", "", f"of {len(CASES)}", *passed)])


def reliability() -> str:
    """The figures of the hostile tests, as their last run with --keep-figures wrote them."""
    figures = json.loads((REPOSITORY / "docs" / "reliability.json").read_text(encoding="utf-8"))
    return _table(("what was tried", "what was found"), sorted(figures.items()))


def _measured(make: Callable[[performance.Results], str]) -> str:
    return make(performance.load())


#: Document -> marker in it (``<!-- name -->`` ... ``<!-- /name -->``) -> what stands between.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"ops": ops},
    "docs/server.md": {"settings": settings, "problems": problems},
    "docs/conformance.md": {"conformance": conformance},
    "docs/performance.md": {
        **{name: partial(_measured, make) for name, make in performance.TABLES.items()},
        "gpu-goals": gpu.goals,
        "gpu-cuda": gpu.on_cuda,
        "gpu-overhead": gpu.overhead,
    },
    "docs/gpu.md": {"distances": gpu.distances},
    "docs/reliability.md": {"reliability": reliability},
    "docs/reference.md": {
        "parameters": parameters,
        "fields": fields,
        "outputs": outputs,
        "arguments": arguments,
        "commands": commands,
    },
}


def rendered(document: str) -> str:
    """The document with its tables as they should be."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    for name, table in TABLES[document].items():
        before, found, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not found or not end:
            raise ValueError(f"{document} has no <!-- {name} --> ... <!-- /{name} -->")
        text = f"{before}{found}{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for name in TABLES:
        (REPOSITORY / name).write_text(rendered(name), encoding="utf-8")
        sys.stderr.write(f"wrote the tables of {name}\n")
