"""The tables of docs/performance.md, from what `make bench` kept in docs/performance.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

KEPT = Path(__file__).with_name("performance.json")

#: Side -> what it is called in the tables.
SIDES = {
    "tvetl": "**tvetl-server, exact**",
    "fast": "**tvetl-server, fast**",
    "fastapi": "(1) torchvision on the SDK's `FastAPIServer`, uvicorn",
    "flask": "(2) torchvision on the SDK's `FlaskServer`, gunicorn",
    "reference": "(3) torchvision in a loop",
    "engine": "our engine in a loop",
    "limit": "region decode alone in a loop: the limit",
}
WAYS = {"name": "by file name", "body": "by body", "loop": ""}
#: The inputs that goals speak of.
JUDGED = ("imagenet", "2mp", "12mp")
STAGES = ("read", "header", "draw", "decode, resize, flip, table", "encode", "rest")

Results = Mapping[str, Any]
Row = tuple[str, ...]


def load() -> Results:
    """What the last full run kept."""
    return json.loads(KEPT.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


# --- numbers ----------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """The median, and the range in brackets: ``2.31 (2.2 to 2.4)``; of one value, the value."""
    if len(set(values)) == 1:
        return _short(values[0])
    return f"{_short(median(values))} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def counts(checked: Mapping[str, Any]) -> bool:
    """Whether a side's figures count: all outputs equal, or no further off than is allowed."""
    return bool(checked["equal"] == checked["of"]) if "of" in checked else bool(checked.get("counts", True))


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round: a slow minute is in both."""
    return [a / b for a, b in zip(one, other, strict=True)]


def find(
    results: Results, side: str, kind: str, way: str = "name", pipeline: str = "train"
) -> Mapping[str, Any] | None:
    """The figures of one side, if it ran and they count."""
    for row in results["rates"]:
        if (row["side"], row["input"], row["way"], row["pipeline"]) == (side, kind, way, pipeline):
            return row if counts(row["checked"]) else None
    return None


def compared(results: Results, one: tuple[str, str], other: tuple[str, str], kind: str) -> list[float]:
    """Ratios of the images a second of two (side, way); empty where either did not run or does not count."""
    a, b = find(results, one[0], kind, one[1]), find(results, other[0], kind, other[1])
    return ratios(in_rounds(a, "rate"), in_rounds(b, "rate")) if a and b else []


def in_rounds(row: Mapping[str, Any], figure: str) -> list[float]:
    return [each[figure] for each in row["rounds"]]


# --- goals ------------------------------------------------------------------------------------------------------------


def goals(results: Results) -> str:
    """What was aimed at, what was measured, and whether it is met."""
    rows: list[Row] = []
    labels = {kind: facts["label"] for kind, facts in results["inputs"].items()}

    def goal(
        what: str, against: str, aim: str, found: Mapping[str, list[float]], met: Callable[[float], bool] | None
    ) -> None:
        """``found``: way -> rounds. Met where every way's median is; without ``met`` it is no goal."""
        measured = {way: values for way, values in found.items() if values}
        text = "; ".join(f"{spread(values)}{f' {way}' if way else ''}" for way, values in measured.items())
        verdict = ""
        if measured and met:
            verdict = "yes" if all(met(median(values)) for values in measured.values()) else "**no**"
        rows.append((what, against, aim, text or "not measured", verdict))

    for side, name, aims in (("tvetl", "exact", (2.0, 3.0, 3.0)), ("fast", "fast", (2.5, 6.0, 6.0))):
        for kind, aim in zip(JUDGED, aims, strict=True):
            found = {WAYS[way]: compared(results, (side, way), ("fastapi", way), kind) for way in ("name", "body")}
            what = f"{name}, {labels[kind]}, over HTTP"
            goal(what, "peer (1)", f"{aim} times", found, lambda value, aim=aim: value >= aim)
    for kind in JUDGED:
        most = {"": compared(results, ("limit", "loop"), ("fastapi", "name"), kind)}
        goal(f"the limit itself, {labels[kind]}", "peer (1)", "", most, None)
    for kind, found in results.get("views", {}).items():
        values = ratios(found["one"], found["eight"]) if counts(found["checked"]) else []
        what = f"8 views in one request, {labels[kind]}"
        goal(what, "8 requests", "3 times a view", {"": values}, lambda value: value >= 3)
    for kind in JUDGED:
        more = [100 * (value - 1) for value in compared(results, ("engine", "loop"), ("tvetl", "name"), kind)]
        goal(f"HTTP on top, {labels[kind]}", "our engine in a loop", "at most 15 %", {"%": more}, lambda v: v <= 15)
    for kind in JUDGED:
        part = [100 * value for value in compared(results, ("tvetl", "name"), ("limit", "loop"), kind)]
        what = f"whole exact request, {labels[kind]}"
        goal(what, "region decode alone", "at least 60 % of its rate", {"%": part}, lambda v: v >= 60)
    start = results.get("start")
    faster = ratios(start["fastapi"], start["tvetl"]) if start else []
    goal("start to first answer", "peer (1)", "10 times faster", {"": faster}, lambda value: value >= 10)
    for kind in ("imagenet", "12mp"):
        ours, peers = find(results, "tvetl", kind), find(results, "fastapi", kind)
        less = [peers["megabytes"] / ours["megabytes"]] if ours and peers else []
        goal(f"memory of a worker, {labels[kind]}", "peer (1)", "5 times less", {"": less}, lambda value: value >= 5)
    shard = results.get("shard")
    values = ratios(shard["shard"], shard["single"]) if shard and counts(shard["checked"]) else []
    what = f"a shard of {shard['megabytes']:,} MB" if shard else "a shard"
    goal(what, "image by image", "no slower", {"times": values}, lambda value: value >= 1)
    more = [shard["peak_mb"]["shard"] - shard["peak_mb"]["single"]] if values else []
    aim = "an eighth of the shard more at most"
    goal("its memory", "image by image", aim, {"MB more": more}, lambda value: value <= shard["megabytes"] / 8)
    return table(("", "against", "goal", "measured", "met"), rows)


# --- tables -----------------------------------------------------------------------------------------------------------


def rates(results: Results) -> str:
    """Every side on every input."""
    rows: list[Row] = []
    for row in results["rates"]:
        facts = results["inputs"][row["input"]]
        what = facts["label"] if row["pipeline"] == "train" else f"{facts['label']}, crop and flip alone"
        label = f"{SIDES[row['side']]}{', by body' if row['way'] == 'body' else ''}"
        head = (what, label)
        if not counts(row["checked"]):
            rows.append((*head, "does not count", "", "", "", "", "", outputs(row["checked"])))
            continue
        base = find(results, "fastapi", row["input"], "body" if row["way"] == "body" else "name", row["pipeline"])
        rate = in_rounds(row, "rate")
        times = _short(median(ratios(rate, in_rounds(base, "rate")))) if base else ""
        latencies = (in_rounds(row, each) for each in ("p50", "p99"))
        cells = [spread(rate), times, *(_short(median(each)) if each[0] is not None else "" for each in latencies)]
        cells.append(_short(median(in_rounds(row, "cpu"))))
        cells.append(_short(row["megabytes"]) if "megabytes" in row else "")
        rows.append((*head, *cells, outputs(row["checked"])))
    columns = "input, side, images/s, times (1), p50 ms, p99 ms, CPU ms an image, MB a worker, outputs"
    return table(columns.split(", "), _without_repeats(rows))


def outputs(checked: Mapping[str, Any]) -> str:
    """What the run found of a side's outputs."""
    if "of" in checked:
        same = checked["equal"] == checked["of"]
        return "equal" if same else f"{checked['equal']} of {checked['of']} equal"
    return f"PSNR {checked['median']:g} dB, lowest {checked['lowest']:g}"


def stages(results: Results) -> str:
    """Where an exact image's time goes, in CPU milliseconds."""
    rows: list[Row] = []
    for kind, found in results.get("stages", {}).items():
        spent = [median(found[stage]) for stage in STAGES]
        server, engine = find(results, "tvetl", kind), find(results, "engine", kind, "loop")
        http = median(in_rounds(server, "cpu")) - median(in_rounds(engine, "cpu")) if server and engine else None
        limit = find(results, "limit", kind, "loop")
        cells = [_short(value) for value in (*spent, sum(spent))]
        cells.append(_short(http) if http is not None else "")
        cells.append(_short(median(in_rounds(limit, "cpu"))) if limit else "")
        rows.append((results["inputs"][kind]["label"], *cells))
    return table(("input", *STAGES, "all of the engine", "HTTP", "the limit"), rows)


def others(results: Results) -> str:
    """Start, views and the shard, in their own units."""
    rows: list[Row] = []
    for side, seconds in results.get("start", {}).items():
        rows.append(("start to first answer, s", SIDES[side], spread(seconds), ""))
    for kind, found in results.get("views", {}).items():
        what = f"8 views of an object, views/s, {results['inputs'][kind]['label']}"
        for each, label in (("one", "one request"), ("eight", "8 requests")):
            rows.append((what, label, spread(found[each]), outputs(found["checked"])))
    if shard := results.get("shard"):
        what = f"{shard['images']:,} photographs, {shard['megabytes']:,} MB, one worker, images/s"
        for each, label in (("shard", "as a tar, in one request"), ("single", "image by image")):
            measured = f"{spread(shard[each])}; peak {_short(shard['peak_mb'][each])} MB"
            rows.append((what, label, measured, outputs(shard["checked"])))
    return table(("", "", "measured", "outputs"), _without_repeats(rows))


def conditions(results: Results) -> str:
    """The machine, the versions and the sides that did not run, in sentences."""
    settings = results["settings"]
    sizes = "; ".join(
        f"{facts['label']}: {facts['objects']} objects of {facts['photographs']} photographs, "
        f"{facts['megapixels']:g} MP and {facts['kilobytes']:,.0f} kB on average"
        for facts in results["inputs"].values()
    )
    run = (
        f"{_number(settings['workers'], 'worker')} of one thread a side, "
        f"{_number(settings['connections'], 'connection')}, {_number(settings['rounds'], 'round')} of "
        f"{settings['seconds']} s, {settings['minutes']:g} minutes in all"
    )
    lines = [*machine_and_versions(results, run), f"Inputs: {sizes}."]
    for each in results["skipped"]:
        where = f", {each['where']}" if each["where"] else ""
        lines.append(f"Not run: {SIDES[each['side']]}{where}: {each['reason']}.")
    return "\n".join(f"- {line}" for line in lines)


def machine_and_versions(results: Results, run: str) -> list[str]:
    """Two sentences: the machine, with how it was used for this ``run``, and the versions of packages."""
    machine = results["machine"]
    versions = [f"Python {machine['python']}", *(f"{name} {text}" for name, text in results["versions"].items())]
    return [
        f"{machine['cores']} processors ({machine['cpu']}), {machine['memory_gb']} GB, load {machine['load']:g} before "
        f"the run; {run}.",
        f"{', '.join(versions)}.",
    ]


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _without_repeats(rows: Sequence[Row]) -> Iterable[Row]:
    before = ""
    for row in rows:
        yield ("" if row[0] == before else row[0], *row[1:])
        before = row[0]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(" ".join(line.split()) for line in lines)


#: Marker in docs/performance.md -> what stands between.
TABLES: dict[str, Callable[[Results], str]] = {
    "goals": goals,
    "rates": rates,
    "stages": stages,
    "others": others,
    "conditions": conditions,
}


def everything(results: Results) -> str:
    """All of it, as `make bench` prints it."""
    return "\n\n".join(make(results) for make in TABLES.values())
