"""Where measurements are kept, and how they are shown: a table in Markdown and a plot in SVG.

One line of JSON a measurement, in `docs/benchmarks/results.jsonl`, with the machine and the versions; the tables and
plots are made of these lines and of nothing else.
"""

import os
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import orjson

from benchmarks.measure import PEERS, ROOT
from worker import normalize

FOLDER = Path(os.environ.get("BENCH_RESULTS", ROOT / "docs/benchmarks"))
FILE = FOLDER / "results.jsonl"
OURS = ("aiokafka", "aiohttp", "orjson", "lmdb", "uvloop")
THEIRS = ("airbyte-cdk", "dlt", "quixstreams", "faststream", "confluent-kafka")


def versions() -> str:
    """Return the versions of what was compared."""
    code = f"from importlib.metadata import version\nprint(*(n + ' ' + version(n) for n in {THEIRS!r}), sep=', ')"
    theirs = subprocess.run([PEERS, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return ", ".join([*(f"{name} {version(name)}" for name in OURS), theirs])


def build() -> str:
    """Return which build of Rollcall is measured."""
    return "compiled build" if Path(normalize.__file__).suffix == ".so" else "plain Python"


def add(bench: str, case: str, system: str, **figures: float) -> None:
    """Keep one measurement and print it."""
    load = os.getloadavg()[0]
    at = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"bench": bench, "case": case, "system": system, "at": at, "build": build()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FILE.open("ab") as out:
        out.write(orjson.dumps({**line, "load": round(load, 1), **figures}, option=orjson.OPT_APPEND_NEWLINE))
    told = (f"{name} {value:,.1f}" for name, value in figures.items())
    print(f"{bench:9s} {case:18s} {system:24s}", *told, flush=True)


def lines(bench: str) -> list[dict[str, Any]]:
    """Return what is kept of a benchmark."""
    rows = FILE.read_bytes().splitlines() if FILE.exists() else []
    return [row for row in map(orjson.loads, rows) if row["bench"] == bench]


def forget(bench: str) -> None:
    """Drop what is kept of a benchmark."""
    rows = FILE.read_bytes().splitlines(keepends=True) if FILE.exists() else []
    kept = [row for row in rows if orjson.loads(row)["bench"] != bench]
    if len(kept) < len(rows):
        FILE.write_bytes(b"".join(kept))


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (median, least, most)."""
    return statistics.median(values), min(values), max(values)


def grouped(rows: Iterable[Mapping[str, Any]], *by: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Return rows by the values of `by`, in the order of first appearance."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in by), []).append(row)
    return found


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return a table of (case, system), with median (least to most) of each of `columns` (name to heading)."""
    head = ["", "rounds", *columns.values()]
    text = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (case, system), found in grouped(rows, "case", "system").items():
        cells = [f"{case}: {system}" if case else str(system), str(len(found))]
        for name in columns:
            values = [float(row[name]) for row in found if name in row]
            cells.append(_cell(values) if values else "")
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def _cell(values: Sequence[float]) -> str:
    middle, least, most = spread(values)
    if least == most:
        return _number(middle)
    return f"{_number(middle)} ({_number(least)} to {_number(most)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def bars(name: str, title: str, unit: str, values: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Write a plot of bars: the median, with the spread as a line."""
    height, left, width = 28, 260, 420
    most = max(max(found) for _, found in values)
    size = f"{left + width + 110} {60 + height * len(values)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="13">',
        f'<text x="10" y="22" font-size="15">{escape(title)} ({escape(unit)})</text>',
    ]
    for place, (label, found) in enumerate(values):
        middle, least, high = spread(found)
        y = 40 + place * height
        color = "#2b6cb0" if "Rollcall" in label else "#a0aec0"
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{left}" y="{y}" width="{width * middle / most:.1f}" height="18" fill="{color}"/>',
            f'<path d="M{left + width * least / most:.1f} {y + 9}H{left + width * high / most:.1f}" stroke="#1a202c"/>',
            f'<text x="{left + width * high / most + 6:.1f}" y="{y + 14}">{_number(middle)}</text>',
        ]
    parts.append("</svg>\n")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.svg").write_text("\n".join(parts), encoding="utf-8")
