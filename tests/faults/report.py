"""The report of a soak: a table that goes into the documentation as it is, and whatever was wrong below it."""

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.checking import KINDS
from tests.faults.fleet import Fleet

if TYPE_CHECKING:
    from tests.faults.soak import Run


class Row(NamedTuple):
    """The memory of one role's workers, in MB of RssAnon."""

    role: str
    early: float
    """Median in the first third of the run, of workers that have run for a while."""
    late: float
    """Median in the last third."""
    most: float


def memory(fleet: Fleet) -> list[Row]:
    """Return the memory of the workers, by role."""
    rows = []
    for role in ("poller", "handler"):
        samples = [sample for worker in fleet.workers.values() if worker.role == role for sample in worker.memory]
        if not samples:
            continue
        end = max(at for at, _, _ in samples)
        early = [kb / 1024 for at, _, kb in samples if at < end / 3]
        late = [kb / 1024 for at, _, kb in samples if at > end * 2 / 3]
        if early and late:
            rows.append(Row(role, median(early), median(late), max(kb for _, _, kb in samples) / 1024))
    return rows


def lines(run: "Run", rows: list[Row]) -> list[str]:
    """Return the report as Markdown."""
    verdict, times = run.verdict, [took for _, took in run.recoveries]
    shown = [
        ("seed, seconds", f"{run.seed}, {run.seconds:g}"),
        ("writes in the upstreams", str(run.writes)),
        ("events, live customers, clusters", f"{verdict.events}, {verdict.customers}, {verdict.clusters}"),
        ("DELETEs sent, receipts", f"{verdict.deletes}, {verdict.receipts}"),
        ("SIGKILLs of workers", str(run.kills)),
        ("faults", str(run.faults.total())),
        *((kind, str(count)) for kind, count in verdict.counts().items()),
        *((kind, "0") for kind in KINDS if kind not in verdict.counts()),
        ("recovery after a spaced fault: faults, median, longest", _times(times)),
        ("workers that found no Kafka when they started", str(run.unavailable)),
        ("until all was right after the last write", f"{run.settled:.0f} s"),
        *(
            (f"RssAnon of a {row.role}: early, late, most", f"{row.early:.0f}, {row.late:.0f}, {row.most:.0f} MB")
            for row in rows
        ),
    ]
    faults = [f"| {kind} | {count} |" for kind, count in sorted(run.faults.items())]
    return [
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in shown),
        "",
        "| fault | times |",
        "|---|---|",
        *faults,
    ]


def _times(times: list[float]) -> str:
    return f"{len(times)}, {median(times):.1f} s, {max(times):.1f} s" if times else "none"


def show(run: "Run", rows: list[Row]) -> None:
    """Print the report, and everything that was wrong."""
    print("\n".join(lines(run, rows)))
    for kind, took in sorted(run.recoveries, key=lambda one: -one[1])[:5]:
        print(f"slow: {kind}: {took:.1f} s")
    for name, found in [
        ("stuck", run.stuck),
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
