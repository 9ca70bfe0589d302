"""Writes the tables and plots of docs/benchmarks.md out of the measurements that were kept, and nothing else.

    python -m benchmarks.report

A table stands between `<!-- name -->` and `<!-- end -->`.
"""

import re

from benchmarks import results
from benchmarks.measure import ROOT
from benchmarks.measuring import machine

PAGE = ROOT / "docs/benchmarks.md"
RATE = {"rate": "records/s", "cpu_us": "CPU us a record", "rss_mb": "RSS, MB"}
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
        text += f"\n\n{days[-1]}; load average before a round {min(loads)} to {max(loads)}."
        page = _put(page, name, text)
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
