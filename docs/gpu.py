"""The tables about GPUs in docs/performance.md and docs/gpu.md, from what was kept in docs/gpu.json.

`make bench-gpu` keeps "bench on cuda" and "distance on cuda", with ARGS=--host "bench on host" and "distance on host".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from performance import counts, in_rounds, machine_and_versions, outputs, ratios, spread, table

KEPT = Path(__file__).with_name("gpu.json")

SIDES = {
    "gpu": "**tvetl-server, the device**, over HTTP",
    "cpu": "tvetl-server, exact, all cores, over HTTP",
    "core": "our exact engine in a loop, one core",
    "torchvision": "torchvision's decoder, transforms and encoder, batches of 32",
    "device": "the device's batches in a loop, encoded there",
    "pixels": "the device's batches in a loop, encoded by Pillow",
}
#: Times one core, and milliseconds at the 99th percentile.
_TIMES, _P99 = 10.0, 50.0
_NOT = "not measured: no GPU could be had"

Results = Mapping[str, Any]


def load() -> dict[str, Any]:
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}  # type: ignore[no-any-return]


def keep(name: str, results: Mapping[str, Any]) -> None:
    """Write one part anew, a line for each entry."""
    parts = {**load(), name: results}
    lines = [f" {json.dumps(part)}: {_lines(content)}" for part, content in sorted(parts.items())]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _lines(content: Mapping[str, Any]) -> str:
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()) + "\n }"


# --- what make bench-gpu measured -------------------------------------------------------------------------------------


def goals() -> str:
    """The two goals, for each input; they are of a GPU alone."""
    results = load().get("bench on cuda")
    if not results:
        rows = [
            ("ImageNet size", f"{_TIMES:g} times", _NOT, ""),
            ("ImageNet size, p99", f"under {_P99:g} ms", _NOT, ""),
        ]
        return table(("", "goal", "measured", "met"), rows)
    rows = []
    for kind, facts in results["inputs"].items():
        sides = {row["side"]: row for row in results["rates"] if row["input"] == kind and counts(row["checked"])}
        if {"gpu", "core"} <= sides.keys():
            times = ratios(in_rounds(sides["gpu"], "rate"), in_rounds(sides["core"], "rate"))
            met = "yes" if median(times) >= _TIMES else "**no**"
            rows.append((f"{facts['label']}, times one core", f"{_TIMES:g} times", spread(times), met))
            p99 = in_rounds(sides["gpu"], "p99")
            met = "yes" if median(p99) < _P99 else "**no**"
            rows.append((f"{facts['label']}, p99", f"under {_P99:g} ms", f"{spread(p99)} ms", met))
        else:
            rows.append((facts["label"], f"{_TIMES:g} times", "not measured: a side did not run or does not count", ""))
    return table(("", "goal", "measured", "met"), rows)


def on_cuda() -> str:
    results = load().get("bench on cuda")
    return measured(results) if results else f"*{_NOT[0].upper()}{_NOT[1:]}.*"


def measured(results: Results) -> str:
    """Sides and overhead of one run, and where it was."""
    rows = []
    for row in results["rates"]:
        label = results["inputs"][row["input"]]["label"]
        if not counts(row["checked"]):
            rows.append((label, SIDES[row["side"]], "does not count", "", "", "", _distance(row)))
            continue
        core = next((r for r in results["rates"] if r["side"] == "core" and r["input"] == row["input"]), None)
        rate, p50, p99 = (in_rounds(row, each) for each in ("rate", "p50", "p99"))
        times = spread(ratios(rate, in_rounds(core, "rate"))) if core else ""
        latencies = (spread(each) if each[0] is not None else "" for each in (p50, p99))
        rows.append((label, SIDES[row["side"]], spread(rate), times, *latencies, _distance(row)))
    parts = [table(("input", "side", "images/s", "times one core", "p50 ms", "p99 ms", "pixels; JPEGs"), rows)]
    parts.append("\n".join(f"- {line}" for line in _conditions(results)))
    return "\n\n".join(parts)


def overhead() -> str:
    """What the device's process costs beside the device: microseconds of CPU an image, of the run on the host."""
    results = load().get("bench on host")
    if not results:
        return "*Not measured.*"
    costs = results["overhead"]
    rows = [
        (f"an object of 113 kB in, 13 kB out, {each['decoders']} at a time", f"{each['microseconds']:g}",
         f"{each['rate']:,}", f"{each['batch']:g}")
        for each in costs["ipc"]
    ]  # fmt: skip
    calls = f"{costs['batch']['least']:g} at least, {costs['batch']['median']:g} in the middle"
    rows.append(("an image of 17 x 16 in a batch of 32, on the CPU", calls, "", "32"))
    machine = results["machine"]
    where = f"{machine['cores']} processors ({machine['cpu']}) at other work, too: load {machine['load']:g} before."
    return table(("", "CPU µs an image", "images/s", "a batch"), rows) + f"\n\n{where}"


def _distance(row: Mapping[str, Any]) -> str:
    if row["side"] == "core":
        return "exact"
    return "; ".join(
        "equal" if each["largest"] == 0 else f"{outputs(each)}, at most {each['largest']:g} of 255"
        for each in (row["checked"]["lossless"], row["checked"]["crop"])
    )


def _conditions(results: Results) -> list[str]:
    settings, gpu = results["settings"], results["gpu"]
    card = f"GPU: {gpu['name']}"
    if "capability" in gpu:
        card += f", {gpu['memory_gb']} GB, capability {gpu['capability']}, driver {gpu['driver']}, CUDA {gpu['cuda']}"
    run = (
        f"the servers on {settings['cores']} of them, {settings['connections']} connections, batches up "
        f"to {settings['batch']}, {settings['rounds']} rounds of {settings['seconds']} s (12 MP: twice that)"
    )
    lines = [f"{card}.", *machine_and_versions(results, run)]
    lines += [
        f"{results['inputs'][row['input']]['label']}: the device did {100 * seen['share']:.1f} % of the images, "
        f"{seen['batch']:g} in a batch, in {seen['run_ms']:g} ms each; an image waited {seen['gather_ms']:g} ms for it."
        for row in results["rates"]
        if (seen := row.get("device"))
    ]
    return lines + [
        f"Not run: {SIDES[each['side']]}, {each['where']}: {each['reason']}." for each in results["skipped"]
    ]


# --- distances --------------------------------------------------------------------------------------------------------


def distances() -> str:
    """Each op's distance from exact, on the host, and on a GPU where one was had."""
    host, cuda = (load().get(f"distance on {where}", {}) for where in ("host", "cuda"))
    head = ("steps", "largest difference, of 255", "values that differ", "PSNR, dB: median", "lowest")
    if not cuda:
        return table(head, _together(host))
    both = (*head, *(f"on a GPU: {each}" for each in head[1:]))
    return table(both, [(name, *_figures(row), *_figures(cuda.get(name))) for name, row in host.items()])


def _together(rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """All that are equal in one line, at the end."""
    equal = [name for name, row in rows.items() if row.get("largest") == 0]
    apart = [(name, *_figures(row)) for name, row in rows.items() if name not in equal]
    return [*apart, ("; ".join(equal), "0", "none", "equal", "equal")] if equal else apart


def _figures(row: Mapping[str, float] | None) -> tuple[str, str, str, str]:
    if not row or not row["images"]:
        return ("by the CPU", "", "", "") if row else ("not measured", "", "", "")
    share = 100 * row["differ"]
    differ = "none" if not share else f"{share:.1f} %" if share >= 0.1 else "under 0.1 %"
    decibels = ("equal" if row[each] >= 99 else f"{row[each]:.1f}" for each in ("median", "lowest"))
    return (f"{row['largest']:g}", differ, *decibels)  # type: ignore[return-value]
