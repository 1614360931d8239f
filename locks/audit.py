"""Known vulnerabilities of all that the locks name: ``make audit`` (ARGS=--if-reachable in CI).

pip-audit asks the package index for them (or with ``--osv-url`` a service of OSV's kind). Status 0: all was asked
about, and nothing is known that locks/accepted.json does not accept until a day that is yet to come. 1: something is
known, by its id. 3: the index would not say, for all or some; that is told, and with ``--if-reachable`` is no failure.

Needs nothing but pip-audit's own environment.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).resolve().parent
FOUND, NOT_ASKED = 1, 3


def pins(folder: Path) -> set[tuple[str, str]]:
    """Every (project, version) that a lock names, for whatever system."""
    found = set()
    for lock in sorted(folder.glob("*.txt")):
        found |= set(re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\\n]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def in_turns(found: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Lists in which no project is there twice, which pip-audit would refuse."""
    left = sorted(found)
    while left:
        chosen = dict(reversed(left))  # the first version of each
        yield sorted(chosen.items())
        left = [pin for pin in left if chosen[pin[0]] != pin[1]]


def ask(pinned: Iterable[tuple[str, str]], osv_url: str) -> list[dict[str, Any]]:
    """pip-audit's report: ``name`` with ``version`` and ``vulns``, or with the ``skip_reason``."""
    service = ["--vulnerability-service", "osv", "--osv-url", osv_url] if osv_url else []
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "asked.txt", Path(folder) / "told.json"
        asked.write_text("".join(f"{name}=={version}\n" for name, version in pinned), encoding="utf-8")
        argv = [sys.executable, "-m", "pip_audit", "--requirement", str(asked), "--no-deps", "--disable-pip", *service]
        argv += ["--format", "json", "--output", str(told), "--progress-spinner", "off", "--cache-dir", folder]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        if not told.exists() or not told.stat().st_size:  # no answer at all
            why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            return [{"name": name, "skip_reason": why} for name, _ in pinned]
        return list(json.loads(told.read_text(encoding="utf-8"))["dependencies"])


def ask_all(pinned: list[tuple[str, str]], osv_url: str) -> list[dict[str, Any]]:
    """About all of them; but not where nothing is said of the first few: many an index serves wheels alone."""
    first, *others = in_turns(pinned)
    report = ask(first[:3], osv_url)
    if all("skip_reason" in row for row in report):
        return [{"name": name, "skip_reason": report[0]["skip_reason"]} for name, _ in pinned]
    return report + [row for turn in (first[3:], *others) if turn for row in ask(turn, osv_url)]


def judge(
    report: Iterable[Mapping[str, Any]], accepted: Mapping[str, Mapping[str, str]], today: datetime.date
) -> tuple[list[str], list[str], list[str]]:
    """What is known and not accepted; of which projects nothing could be learned; what is accepted for nothing."""
    known, silent, used = [], [], set()
    for each in report:
        if "skip_reason" in each:
            silent.append(str(each["name"]))
        for found in each.get("vulns", ()):
            names = [found["id"], *found.get("aliases", ())]
            entry = next((accepted[name] for name in names if name in accepted), None)
            used |= accepted.keys() & set(names)
            if entry and datetime.date.fromisoformat(entry["until"]) >= today:
                continue
            late = f" (accepted until {entry['until']})" if entry else ""
            fixed = ", ".join(found.get("fix_versions") or ()) or "no version"
            known.append(f"{each['name']} {each['version']}: {' = '.join(names)}, mended in {fixed}{late}")
    return known, silent, sorted(accepted.keys() - used)


def main() -> int:
    """The status, see above."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--if-reachable", action="store_true", help="what cannot be asked is no failure")
    asked.add_argument("--osv-url", default="", help="ask a service of OSV's kind here, not the package index")
    asked.add_argument("--locks", type=Path, default=LOCKS, help="the folder of the locks and of accepted.json")
    options = asked.parse_args()
    accepted = json.loads((options.locks / "accepted.json").read_text(encoding="utf-8"))
    report = ask_all(sorted(pins(options.locks)), options.osv_url)
    known, silent, idle = judge(report, accepted, datetime.datetime.now(datetime.timezone.utc).date())
    for line in known:
        print(line)
    for name in idle:
        print(f"locks/accepted.json: {name} is accepted, and nothing here has it")
    if silent:
        more = f" and {len(set(silent)) - 5} more" if len(set(silent)) > 5 else ""
        names = ", ".join(sorted(set(silent))[:5])
        print(f"NOT CHECKED: of {names}{more} nothing could be learned: does the index tell of vulnerabilities?")
    print(f"{len(report) - len(silent)} of {len(report)} asked about, {len(known)} known vulnerabilities not accepted")
    return FOUND if known else NOT_ASKED if silent and not options.if_reachable else 0


if __name__ == "__main__":
    sys.exit(main())
