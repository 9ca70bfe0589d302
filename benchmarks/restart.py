"""A rolling restart of four workers: the longest that a change waits for its event meanwhile.

    python -m benchmarks.restart [--customers 1000] [--rounds 1]

Eight sources on eight partitions, four workers; twenty customers a second change, in all eight sources at once. Every
worker is stopped as a kubelet does it (SIGTERM) and started again when it has ended, one after the other, each when all
are ready. Printed are the quantiles of the time from a change to its event, and the longest.
"""

import argparse
import asyncio
import itertools
import tempfile
import time
from pathlib import Path

from benchmarks import results
from benchmarks.latency import percentile, reader
from benchmarks.measure import broker, upstream
from benchmarks.poll import configuration_of
from worker import config as configuration
from worker.demo.workers import Workers
from worker.kafka import apply_topics
from worker.topics import partition_of

PARTITIONS = 8
_WARM_UP = 15.0
_SECONDS = 60.0


def names() -> list[str]:
    """Return names of sources, one on each partition."""
    found: dict[int, str] = {}
    for number in itertools.count():
        if len(found) == PARTITIONS:
            return list(found.values())
        found.setdefault(partition_of(b"crm%d" % number, PARTITIONS), f"crm{number}")
    raise AssertionError


async def once(bootstrap: str, customers: int, run: str) -> dict[str, float]:
    """Restart all workers once, in turn."""
    churn = ("--rate", "20", "--after", str(_WARM_UP), "--seconds", str(_SECONDS - 5))
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with upstream(customers, *churn) as url:
            path = configuration_of(bootstrap, url, folder, run, names(), PARTITIONS, interval="200ms")
            config = configuration.load(path)
            await apply_topics(config.file.kafka, config.topics)
            workers = Workers(path, folder, {f"worker{number}": ["poll"] for number in range(4)})
            await workers.start_all()
            await workers.ready()
            reading = asyncio.ensure_future(reader(bootstrap, config.topics.events, PARTITIONS, _WARM_UP + _SECONDS))
            await asyncio.sleep(_WARM_UP + 3)
            began = time.monotonic()
            for worker in list(workers.names):
                await workers.stop(worker)
                await workers.start(worker)
                await workers.ready()
            took = time.monotonic() - began
            rows = await reading
            died = workers.died()
            await workers.stop_all()
            if died:
                raise RuntimeError("\n".join(died))
            waits = sorted(wait for changed, wait in rows if began - 1 <= changed <= began + took + 1)
            return {
                "events": len(waits),
                "seconds": took,
                "p50_ms": 1000 * percentile(waits, 0.5),
                "p99_ms": 1000 * percentile(waits, 0.99),
                "longest_ms": 1000 * waits[-1],
            }


async def main(arguments: argparse.Namespace) -> None:
    """Run some rounds."""
    stamp = int(time.time())
    async with broker(arguments.bootstrap) as bootstrap:
        for number in range(arguments.rounds):
            figures = await once(bootstrap, arguments.customers, f"roll{stamp}-{number}")
            results.add("restart", "", "rolling restart of 4 workers", **figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--customers", type=int, default=1_000)
    parser.add_argument("--bootstrap", help="a running broker; default: an embedded one")
    parser.add_argument("--rounds", type=int, default=1)
    asyncio.run(main(parser.parse_args()))
