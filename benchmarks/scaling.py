"""First poll by one process and by two, each with a source of its own, and what the broker spends on it.

    python -m benchmarks.scaling [--customers 20000] [--rounds 3]

Tasks share nothing but the broker, so processes are run as deployments of their own, started at once. On a machine of
two cores the second one competes with the first, with the broker and with the upstreams: the CPU a record tells what
more cores would give.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks import results
from benchmarks.measure import Sampled, process, topic, upstream
from benchmarks.poll import PARTITIONS, asked_at, configuration_of
from worker import config as configuration
from worker import embedded
from worker.kafka import apply_topics


async def once(processes: int, kafka: embedded.Cluster, customers: int, run: str) -> dict[str, float]:
    """Run so many processes at once; return the figures of all together."""
    bootstrap = kafka.bootstrap
    async with AsyncExitStack() as stack:
        urls, watched, workers, commands = [], [], [], []
        for number in range(processes):
            name = tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(name))
            urls.append(await stack.enter_async_context(upstream(customers)))
            path = configuration_of(bootstrap, urls[-1], folder, f"{run}-{number}")
            config = configuration.load(path)
            await apply_topics(config.file.kafka, config.topics)
            watched.append(await stack.enter_async_context(topic(bootstrap, config.topics.events, PARTITIONS)))
            commands.append((folder, [sys.executable, "-m", "worker.cli", "--config", path, "poll"]))
        broker = Sampled(kafka.nodes[0].pid)
        broker.sample()
        for folder, command in commands:
            workers.append(await stack.enter_async_context(process(command, log=folder / "log")))
        ends = await asyncio.gather(*(one.finished(customers) for one in watched))
        starts = [await asked_at(url) for url in urls]
        broker.sample()
        for worker in workers:
            worker.sample()
        took, total = max(ends) - min(starts), customers * processes
        pairs = zip(workers, starts, ends, strict=True)
        return {
            "records": total,
            "seconds": took,
            "rate": total / took,
            "cpu_us": 1e6 * sum(worker.used(start, end) for worker, start, end in pairs) / total,
            "broker_us": 1e6 * (broker.cpu[-1] - broker.cpu[0]) / total,
        }


async def main(arguments: argparse.Namespace) -> None:
    """Run one and two processes in turn."""
    stamp = int(time.time())
    async with embedded.cluster() as kafka:
        for number in range(arguments.rounds):
            for processes in (1, 2):
                figures = await once(processes, kafka, arguments.customers, f"scale{stamp}-{number}-{processes}")
                results.add("scaling", "", f"Rollcall, {processes} process{'es'[: 2 * (processes - 1)]}", **figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(main(parser.parse_args()))
