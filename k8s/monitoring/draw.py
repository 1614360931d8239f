"""Draw the dashboard's panels from a Prometheus' data as one SVG: what Grafana would show, without Grafana.

    .venv/bin/python k8s/monitoring/draw.py http://127.0.0.1:9090 docs/dashboard.svg --minutes 4

Asks Prometheus each panel's own queries, so the picture is as true as the dashboard; the drawing is ours.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from html import escape
from pathlib import Path
from typing import TypeAlias

import requests

HERE = Path(__file__).parent
COLOURS = ("#3274d9", "#e0b400", "#56a64b", "#e02f44", "#8f3bb8", "#ff780a", "#00a3a3", "#7c6f64")
WIDTH, HEIGHT = 560, 210
LEFT, TOP, RIGHT, BOTTOM = 56, 30, 12, 40
UNITS = {"Bps": (1000, ("B/s", "kB/s", "MB/s", "GB/s")), "s": (0.001, ("s", "ms", "µs"))}

Series: TypeAlias = "dict[str, list[tuple[float, float]]]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=4)
    told = parser.parse_args()
    end = time.time()
    start, step = end - told.minutes * 60, max(1.0, told.minutes * 60 / 240)
    panels = json.loads((HERE / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    panels = [panel for panel in panels if panel["type"] != "row"]  # what is shut, Grafana does not show
    drawn = []
    for at, panel in enumerate(panels):
        series = ask(told.prometheus, panel, start, end, step)
        shift = f"translate({at % 2 * (WIDTH + 16) + 8} {at // 2 * (HEIGHT + 16) + 8})"
        drawn.append(f'<g transform="{shift}">{draw(panel, series, start, end)}</g>')
    rows = math.ceil(len(panels) / 2)
    size = f'width="{2 * WIDTH + 32}" height="{rows * (HEIGHT + 16)}"'
    style = "text{font:11px sans-serif;fill:#333} .title{font-size:13px;font-weight:bold} .axis{fill:#777}"
    told.out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#f4f5f5"/>{"".join(drawn)}</svg>\n',
        encoding="utf-8",
    )


def ask(prometheus: str, panel: dict[str, object], start: float, end: float, step: float) -> Series:
    """Every line of a panel by its name, as (time, value), values that are no number left out."""
    found: Series = {}
    for target in panel["targets"]:  # type: ignore[attr-defined]
        query = target["expr"].replace("$__rate_interval", "15s").replace("$pod", ".*")
        given = {"query": query, "start": start, "end": end, "step": step}
        answer = requests.get(f"{prometheus}/api/v1/query_range", params=given, timeout=30)  # type: ignore[arg-type]
        answer.raise_for_status()
        for line in answer.json()["data"]["result"]:
            name = target["legendFormat"]
            for label, value in line["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            values = [(float(at), float(value)) for at, value in line["values"]]
            found[name] = [(at, value) for at, value in values if math.isfinite(value)]
    return {name: values for name, values in found.items() if any(value for _, value in values)}


def draw(panel: dict[str, object], series: Series, start: float, end: float) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]  # type: ignore[index]
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"  # type: ignore[index]
    lines = stack(series) if stacked else series
    top = nice(max((value for values in lines.values() for _, value in values), default=1.0))
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(at: float, value: float) -> str:
        return f"{LEFT + (at - start) / (end - start) * inner_width:.1f},{TOP + (1 - value / top) * inner_height:.1f}"

    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="3" fill="#fff" stroke="#ddd"/>',
        f'<text class="title" x="10" y="19">{escape(str(panel["title"]))}</text>',
    ]
    for tick in range(5):
        y = TOP + (1 - tick / 4) * inner_height
        parts.append(f'<path d="M{LEFT} {y:.1f}h{inner_width}" stroke="#eee"/>')
        parts.append(
            f'<text class="axis" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{tell(top * tick / 4, unit)}</text>'
        )
    for minute in range(int((end - start) // 60) + 1):
        x = LEFT + minute * 60 / (end - start) * inner_width
        label = f"{minute} min"
        parts.append(f'<text class="axis" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{label}</text>')
    for at, values in reversed([*enumerate(lines.values())]):
        colour = COLOURS[at % len(COLOURS)]
        points = " ".join(place(*point) for point in values)
        if stacked and values:
            floor = f"{place(values[-1][0], 0)} {place(values[0][0], 0)}"
            parts.append(f'<polygon points="{points} {floor}" fill="{colour}" fill-opacity="0.85"/>')
        else:
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    x = LEFT
    for at, name in enumerate(lines):
        parts.append(f'<rect x="{x}" y="{HEIGHT - 16}" width="10" height="10" fill="{COLOURS[at % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 14}" y="{HEIGHT - 7}">{escape(name)}</text>')
        x += 26 + 7 * len(name)
    return "".join(parts)


def stack(series: Series) -> Series:
    """Each line on top of those before it; one that has no value at a time counts as nothing there."""
    times = sorted({at for values in series.values() for at, _ in values})
    below = dict.fromkeys(times, 0.0)
    stacked: Series = {}
    for name, values in series.items():
        given = dict(values)
        below = {at: below[at] + given.get(at, 0.0) for at in times}
        stacked[name] = [*below.items()]
    return stacked


def nice(value: float) -> float:
    """The next round number: 1, 2, 4, 5 or 8 times a power of ten."""
    power = 10 ** math.floor(math.log10(value)) if value > 0 else 1
    return next(step * power for step in (1, 2, 4, 5, 8, 10, 20) if step * power >= value)


def tell(value: float, unit: str) -> str:
    factor, names = UNITS.get(unit, (1, ("",)))
    at = 0
    while at + 1 < len(names) and value and (value >= 1000 if factor > 1 else value < 1):
        value, at = value / factor, at + 1
    return f"{value:.3g} {names[at]}".strip()


if __name__ == "__main__":
    main()
