"""The report of soaks: tables that go into the documentation as they are, and whatever was wrong below them.

`python -m tests.faults.report run-1.json run-2.json` puts runs side by side that `--write` has kept.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from tests.faults.checking import KINDS
from tests.faults.fleet import Fleet

if TYPE_CHECKING:
    from tests.faults.soak import Run

Facts = Mapping[str, Any]

WITHIN: Final = 60.0
"""Seconds in which work has to go on after a fault that came alone."""
_GROWN: Final = 90.0
"""Seconds after which a process has everything that it needs: what it takes from then on is to stay the same."""
_FLAT_MB: Final = 25.0
"""What the bounded caches may still take then: of partitions by key, e-mail addresses, phones, company names."""


class Row(NamedTuple):
    """The memory of one role's workers, in MB of RssAnon."""

    role: str
    middle: float
    """Median over all samples of processes that had run for so long that they have what they need."""
    most: float
    growth: float
    """The most that such a process took more at its end than when it had what it needs."""
    judged: int
    """How many such processes ran for long enough to tell: where workers are killed all the time there are none."""


def memory(fleet: Fleet) -> list[Row]:
    """Return the memory of the workers, by role."""
    rows = []
    for role in ("poller", "handler"):
        lives: defaultdict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
        for worker in fleet.workers.values():
            for at, start, kilobytes in worker.memory:
                if worker.role == role:
                    lives[worker.name, start].append((at, kilobytes / 1024))
        grown = [[(at, mb) for at, mb in life if at - life[0][0] > _GROWN] for life in lives.values()]
        taken = [mb for life in grown for _, mb in life]
        growth = [median(_ends(life)[1]) - median(_ends(life)[0]) for life in grown if len(life) >= 2 * _SAMPLES]
        most = max((mb for life in lives.values() for _, mb in life), default=0.0)
        rows.append(Row(role, median(taken) if taken else 0.0, most, max(growth, default=0.0), len(growth)))
    return rows


_SAMPLES: Final = 5


def _ends(life: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [mb for _, mb in life[:_SAMPLES]], [mb for _, mb in life[-_SAMPLES:]]


def not_flat(rows: Iterable[Row]) -> list[str]:
    """Return which roles' memory went on growing."""
    return [f"a {row.role} grew by {row.growth:.0f} MB" for row in rows if row.growth > _FLAT_MB]


def facts(run: "Run", rows: Sequence[Row]) -> dict[str, Any]:
    """Return what is to be kept of a run."""
    verdict = run.verdict
    return {
        "seed": run.seed,
        "seconds": run.seconds,
        "writes": run.writes,
        "events": verdict.events,
        "customers": verdict.customers,
        "clusters": verdict.clusters,
        "deletes": verdict.deletes,
        "receipts": verdict.receipts,
        "stores": verdict.stores,
        "kills": run.kills,
        "faults": dict(run.faults),
        "wrong": {kind: verdict.counts()[kind] for kind in KINDS},
        "ended": len(run.dead) + len(run.failed) + len(run.complaints),
        "stuck": len(run.stuck),
        "recoveries": run.recoveries,
        "together": run.together,
        "unavailable": run.unavailable,
        "refused": run.refused,
        "settled": run.settled,
        "memory": [row._asdict() for row in rows],
    }


def _recoveries(one: Facts) -> str:
    times = [took for _, took in one["recoveries"]]
    return f"{len(times)}: {median(times):.1f} s, {max(times):.1f} s" if times else "none"


def _growth(row: Facts) -> str:
    judged = row.get("judged", 0)
    return f", {row['growth']:+.0f} MB in {judged} processes" if judged else ""


def _memory(role: str) -> Callable[[Facts], str]:
    def shown(one: Facts) -> str:
        found = [row for row in one["memory"] if row["role"] == role]
        return "".join(f"{row['middle']:.0f}, {row['most']:.0f} MB{_growth(row)}" for row in found)

    return shown


def _field(name: str) -> Callable[[Facts], str]:
    return lambda one: f"{one[name]:g}" if isinstance(one[name], float) else str(one[name])


_LINES: Final[Sequence[tuple[str, Callable[[Facts], str]]]] = (
    ("seconds", _field("seconds")),
    ("writes in the upstreams", _field("writes")),
    ("events", _field("events")),
    ("live customers, clusters", lambda one: f"{one['customers']}, {one['clusters']}"),
    ("DELETEs sent, receipts", lambda one: f"{one['deletes']}, {one['receipts']}"),
    ("local stores compared", lambda one: str(one.get("stores", "-"))),
    ("SIGKILLs of workers", _field("kills")),
    ("faults", lambda one: str(sum(one["faults"].values()))),
    *((kind, lambda one, kind=kind: str(one["wrong"].get(kind, "-"))) for kind in KINDS),
    ("sources or stages that did not go on", _field("stuck")),
    ("workers that ended by themselves, other complaints", _field("ended")),
    ("workers that found no Kafka when they started", _field("unavailable")),
    ("workers that refused a topic altered by a fault", _field("refused")),
    ("recovery after a spaced fault: how many, median, longest", _recoveries),
    ("recovery after the overlapping faults", lambda one: f"{one['together']:.1f} s"),
    ("all right after the last write", lambda one: f"{one['settled']:.0f} s"),
    ("RssAnon of a poller: usual, most, growth of those that ran long", _memory("poller")),
    ("RssAnon of a handler: usual, most, growth of those that ran long", _memory("handler")),
)
_SUMMED: Final = ("writes", "events", "kills")


def tables(runs: Sequence[Facts]) -> list[str]:
    """Return the report of runs, side by side, as Markdown."""
    head = " | ".join(f"seed {one['seed']}" for one in runs)
    rule = "|---" * len(runs)
    rows = [f"| {name} | {' | '.join(shown(one) for one in runs)} |" for name, shown in _LINES]
    total = ", ".join(f"{sum(one[name] for one in runs)} {name}" for name in _SUMMED)
    return [f"| | {head} |", f"|---{rule}|", *rows, "", f"Together: {total}.", "", *_faults(runs)]


def _faults(runs: Sequence[Facts]) -> list[str]:
    """Return how often each kind came, and how long work took to go on where it came alone."""
    times, alone = Counter[str](), defaultdict[str, list[float]](list)
    for one in runs:
        times.update(one["faults"])
        for kind, took in one["recoveries"]:
            alone[kind].append(took)
    rows = [
        f"| {kind} | {count} | {len(alone[kind])} | {_span(alone[kind])} |" for kind, count in sorted(times.items())
    ]
    return ["| fault | times | alone | work went on after: median, longest |", "|---|---|---|---|", *rows]


def _span(times: Sequence[float]) -> str:
    return f"{median(times):.1f} s, {max(times):.1f} s" if times else ""


def show(run: "Run", rows: Sequence[Row]) -> None:
    """Print the report, and everything that was wrong."""
    print("\n".join(tables([facts(run, rows)])))
    for name, found in [
        ("stuck", run.stuck),
        ("slow", run.slow),
        ("memory", not_flat(rows)),
        ("dead", run.dead),
        ("faults that failed", run.failed),
        ("raw lines", run.complaints),
    ]:
        for text in found[:20]:
            print(f"{name}: {text}")
    for kind, found in run.verdict.wrong.items():
        for text in found[:8]:
            print(f"{kind}: {text}")
    print("missed:", dict(run.missed))


if __name__ == "__main__":
    print("\n".join(tables([orjson.loads(Path(name).read_bytes()) for name in sys.argv[1:]])))
