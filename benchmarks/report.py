"""Writes the tables and plots of docs/benchmarks.md out of the measurements that were kept, and nothing else.

    python -m benchmarks.report

A table stands between `<!-- name -->` and `<!-- end -->`.
"""

import re
import statistics

from benchmarks import results
from benchmarks.machine import machine
from benchmarks.measure import ROOT

PAGE = ROOT / "docs/benchmarks.md"
RATE = {"records": "records", "rate": "records/s", "cpu_us": "CPU us a record", "rss_mb": "RSS, MB"}
TABLES = {
    "poll": RATE,
    "drop": RATE,
    "latency": {
        "events": "events",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "p999_ms": "p99.9, ms",
        "cpu_percent": "CPU, %",
    },
    "restore": {
        "seconds": "seconds",
        "rate": "entries/s",
        "cpu_us": "CPU us an entry",
        "anonymous_mb": "RssAnon, MB",
        "disk_mb": "store on disk, MB",
        "changelog_mb": "changelog, MB",
    },
    "restart": {
        "events": "events",
        "seconds": "seconds it took",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "longest_ms": "longest, ms",
    },
    "scaling": {"rate": "records/s", "cpu_us": "CPU us a record", "broker_us": "the broker's CPU us a record"},
}
PLOTS = {
    "poll": ("First poll", "records a second", "rate"),
    "drop": ("Duplicate events dropped", "records a second", "rate"),
    "latency": ("From change to reader, p99", "ms", "p99_ms"),
    "scaling": ("First poll by processes", "records a second", "rate"),
}


def goals() -> str:
    """Return the goals with what was measured, as a table: medians of the rounds, ratios of medians."""
    rows = [
        ("First poll: times Airbyte CDK's rate", "at least 1.5", _faster("poll", "", "Airbyte CDK")),
        ("First poll: times dlt's rate", "at least 3", _faster("poll", "", "dlt")),
        *(
            (f"{case}: times Quix's rate", "at least 1.8", _faster("drop", case, "Quix Streams, exactly once"))
            for case in ("5 % duplicates", "50 % duplicates")
        ),
        *(
            (
                f"Latency, {system.removeprefix('Rollcall, ')}: p99 over the interval",
                "at most 250 ms",
                f"{_median('latency', case, system, 'over_ms'):.0f} ms",
            )
            for case, system in dict.fromkeys((row["case"], row["system"]) for row in results.lines("latency"))
        ),
        ("Restore of 1,000,000 fingerprints", "at most 20 s", f"{_median('restore', '', None, 'seconds'):.1f} s"),
        ("Restore: RssAnon", "at most 300 MB", f"{_median('restore', '', None, 'anonymous_mb'):.0f} MB"),
    ]
    return "\n".join(["| | goal | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def _faster(bench: str, case: str, system: str) -> str:
    rate = _median(bench, case, "Rollcall", "rate") / _median(bench, case, system, "rate")
    cpu = _median(bench, case, system, "cpu_us") / _median(bench, case, "Rollcall", "cpu_us")
    return f"{rate:.2f} by the clock, {cpu:.2f} by CPU a record"


def _median(bench: str, case: str, system: str | None, figure: str) -> float:
    rows = [row for row in results.lines(bench) if row["case"] == case and system in {None, row["system"]}]
    return statistics.median(float(row[figure]) for row in rows)


def main() -> None:
    """Write the page's tables and the plots anew."""
    page = PAGE.read_text(encoding="utf-8")
    for name, columns in TABLES.items():
        rows = results.lines(name)
        if not rows:
            continue
        text = results.table(rows, columns)
        days = sorted({str(row["at"])[:10] for row in rows})
        loads = [float(row["load"]) for row in rows]
        builds = " and ".join(sorted({str(row.get("build", "plain Python")) for row in rows}))
        text += f"\n\n{days[-1]}; {builds}; load average at the end of a round {min(loads)} to {max(loads)}."
        page = _put(page, name, text)
    page = _put(page, "goals", goals())
    page = _put(page, "machine", f"{machine()}. {results.versions()}.")
    PAGE.write_text(page, encoding="utf-8")
    for name, (title, unit, figure) in PLOTS.items():
        rows = results.lines(name)
        groups = results.grouped(rows, "case", "system")
        if groups:
            labels = [
                (": ".join(filter(None, group)), [float(row[figure]) for row in found])
                for group, found in groups.items()
            ]
            results.bars(name, title, unit, labels)


def _put(page: str, name: str, text: str) -> str:
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{text}\n{found[2]}", page, flags=re.DOTALL)


if __name__ == "__main__":
    main()
