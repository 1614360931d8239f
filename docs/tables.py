"""Write the tables in README.md and docs/ from the code they describe: ``make tables``. A test compares them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tvetl.spec import OPS
from tvetl.spec.ops import Param
from tvetl_server.engine.plan import only_torch
from tvetl_server.problems import INTERNAL, PROBLEMS
from tvetl_server.settings import SETTINGS

REPOSITORY = Path(__file__).resolve().parents[1]


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
        (str(p.status), f"`{p.code}`", _first_line(kind))
        for kind, p in PROBLEMS.items()
        if kind.__module__.startswith("tvetl_server")
    ]
    rows.append((str(INTERNAL.status), f"`{INTERNAL.code}`", "A bug of ours; the pod's log has it."))
    return _table(("status", "code", "meaning"), rows)


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n", 1)[0]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(" ".join(line.split()) for line in lines)


#: Document -> marker in it (``<!-- name -->`` ... ``<!-- /name -->``) -> what stands between.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"ops": ops},
    "docs/server.md": {"settings": settings, "problems": problems},
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
