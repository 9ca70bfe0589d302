"""From an upstream's change to a `read_committed` reader, at a low rate of changes and at half the highest.

    python -m benchmarks.latency [--customers 20000] [--interval 0.2] [--low 20] [--half 4000] [--seconds 20]

The upstream writes into each changed customer when it changed; the reader, a process of its own that reads
`customers.events`, subtracts. The goal is counted over the poll interval: a change waits half of it on average, and
never longer than all of it, before anybody could have asked. Half the highest rate is given in changes a second; the
highest is what `poll.py` measures.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks import results
from benchmarks.measure import broker, process, upstream
from benchmarks.poll import PARTITIONS, configuration_of
from worker import config as configuration
from worker.kafka import apply_topics

_WARM_UP = 12.0
"""Seconds after the first page at which changes begin: the first poll is over by then."""
_SETTLED = 3.0
"""Seconds of changes that are not counted."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie."""
    return values[min(len(values) - 1, int(share * len(values)))]


async def read(bootstrap: str, topic: str, partitions: int, seconds: float) -> list[tuple[float, float]]:
    """Return (when it changed, seconds until it was read) of every event of a changed customer."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level="read_committed", fetch_max_wait_ms=50
    )
    await consumer.start()
    found = []
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        await consumer.seek_to_end()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                now = time.monotonic_ns()
                for record in records:
                    place = record.value.find(b'"consumerTitle":"')
                    changed = int(record.value[place + 17 : place + 36]) if place >= 0 else 0
                    if changed:
                        found.append((changed / 1e9, (now - changed) / 1e9))
    finally:
        await consumer.stop()
    return found


async def reader(bootstrap: str, topic: str, partitions: int, seconds: float) -> list[tuple[float, float]]:
    """Return what `read` returns, by a process of its own, in the order of the changes."""
    child = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "benchmarks.latency",
            "--read",
            bootstrap,
            topic,
            str(partitions),
            "--seconds",
            str(seconds),
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    rows: list[tuple[float, float]] = sorted(orjson.loads(await child.stdout.read()))
    await child.wait()
    return rows


async def once(case: str, bootstrap: str, rate: float, arguments: argparse.Namespace, run: str) -> None:
    """Measure at one rate of changes."""
    seconds, interval = arguments.seconds, arguments.interval
    churn = ("--rate", str(rate), "--after", str(_WARM_UP), "--seconds", str(seconds))
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with upstream(arguments.customers, *churn) as url:
            path = configuration_of(bootstrap, url, folder, run, interval=f"{int(interval * 1000)}ms")
            config = configuration.load(path)
            await apply_topics(config.file.kafka, config.topics)
            command = [sys.executable, "-m", "worker.cli", "--config", path, "poll"]
            async with process(command, log=folder / "log") as sampled:
                rows = await reader(bootstrap, config.topics.events, PARTITIONS, _WARM_UP + seconds + 8)
                start = rows[0][0] + _SETTLED
                waits = sorted(wait for changed, wait in rows if changed >= start)
                used = sampled.used(start, rows[-1][0])
        results.add(
            "latency",
            case,
            f"Rollcall, {rate:g} changes a second, interval {interval * 1000:.0f} ms",
            events=len(waits),
            rate=len(waits) / (rows[-1][0] - start),
            p50_ms=1000 * percentile(waits, 0.5),
            p99_ms=1000 * percentile(waits, 0.99),
            p999_ms=1000 * percentile(waits, 0.999),
            over_ms=1000 * (percentile(waits, 0.99) - interval),
            cpu_percent=100 * used / (rows[-1][0] - start),
        )


async def main(arguments: argparse.Namespace) -> None:
    """Measure at both rates, round after round."""
    if arguments.read:
        bootstrap, topic, partitions = arguments.read
        found = await read(bootstrap, topic, int(partitions), arguments.seconds)
        sys.stdout.buffer.write(orjson.dumps(found))
        return
    stamp = int(time.time())
    async with broker(arguments.bootstrap) as bootstrap:
        for number in range(arguments.rounds):
            for case, rate in (("low", arguments.low), ("half", arguments.half)):
                if rate:
                    await once(case, bootstrap, rate, arguments, f"lat{stamp}-{case}-{number}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--interval", type=float, default=0.2)
    parser.add_argument("--low", type=float, default=20)
    parser.add_argument("--half", type=float, default=4_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--bootstrap", help="a running broker; default: an embedded one")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--read", nargs=3, metavar=("BOOTSTRAP", "TOPIC", "PARTITIONS"))
    asyncio.run(main(parser.parse_args()))
