"""How soon `rollcall tail` shows something on a very large topic, and how fast a replay reads and filters.

    python benchmarks/recovery.py [--records 10000000] [--events 200000]

A real broker. `customers.events` is filled with small records first, then with events as they are published (about
1.4 KB each). Measured are whole processes, from their start: `rollcall tail` from a time near the end until it has
printed and ended, beside `rollcall --version`, which reads nothing; and the CPU that counting a replay takes an event,
of which every tenth is wanted.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
import yaml

from worker import config as configuration
from worker import embedded, replay
from worker.config import Config
from worker.events import CREATED, UPDATED, EventType, customer_key, event_headers
from worker.kafka import Connection, apply_topics
from worker.reading import Moment, Span, Wanted
from worker.testkit import person
from worker.times import now_ms, rfc3339
from worker.topics import partition_of

PARTITIONS = 4
PART = 100_000


async def fill(config: Config, count: int) -> None:
    """Write small records, evenly."""
    producer = await Connection(config.file.kafka).producer("bench.fill")
    row = (b"crm/1", b"{}", [("ce_type", b"customer.updated"), ("ce_sequence", b"1")])
    for _ in range(0, count, PART):
        share = [row] * (PART // PARTITIONS)
        await producer.transact({(config.topics.events, one): share for one in range(PARTITIONS)}, {}, "")
    await producer.close()


async def publish(config: Config, count: int) -> None:
    """Publish events as they are published: of two sources, one in ten of the second."""
    producer = await Connection(config.file.kafka).producer("bench.events")
    for start in range(0, count, PART // 10):
        outputs: dict[tuple[str, int], list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]] = {}
        for number in range(start, min(start + PART // 10, count)):
            source = "shop" if number % 10 == 0 else "crm"
            key = customer_key(source, str(number))
            customer = person(source, str(number), given="Ada", family="Archer", emails=["ada@example.com"])
            type_: EventType = UPDATED if number % 2 else CREATED
            headers = event_headers(key=key, source=source, type_=type_, sequence=1, time=rfc3339(now_ms()))
            value = orjson.dumps({"source": source, "id": str(number), "customer": customer, "changed": ["name"]})
            where = (config.topics.events, partition_of(key, PARTITIONS))
            outputs.setdefault(where, []).append((key, value, headers))
        await producer.transact(outputs, {}, "")
    await producer.close()


async def timed(path: Path, *arguments: str) -> tuple[float, int]:
    """Run the command line to its end; return the seconds that took, and the lines it has printed."""
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.cli", "--config", str(path), *arguments), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {process.returncode}")
    return time.monotonic() - started, output.count(b"\n")


async def measure(config: Config, path: Path, records: int, events: int) -> None:
    """Fill, measure and print."""
    await fill(config, records)
    middle = now_ms()
    await asyncio.sleep(0.1)
    await publish(config, events)
    late = now_ms()
    await asyncio.sleep(0.1)
    await publish(config, 100)
    stamp = datetime.fromtimestamp(late / 1000, UTC).isoformat()
    for _ in range(3):
        nothing, _ = await timed(path, "--version")
        took, lines = await timed(path, "tail", "events", "--from", stamp, "--until", "end")
        print(f"tail from a time, behind {records} records: {took:.2f} s ({lines} lines); --version: {nothing:.2f} s")
    target = replay.Target("topic", "nowhere", PARTITIONS)
    plan = await replay.plan(config, target, Wanted("shop"), Span(Moment(time=middle), Moment(edge="end")))
    started, used = time.monotonic(), time.process_time()
    found = await replay.count(config, plan)
    took, used = time.monotonic() - started, time.process_time() - used
    wanted = sum(found.wanted.values())
    print(f"replay: {found.read} events read, {wanted} wanted, {found.read / used:.0f} a second of CPU", end=", ")
    print(f"{found.read / took:.0f} a second of time")


async def run(records: int, events: int) -> None:
    """Run once and print the figures."""
    os.environ |= {"ROLLCALL_PEPPER": "a pepper for the benchmark"}
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as name:
        folder = Path(name)
        async with embedded.cluster(folder / "kafka") as kafka:
            path = folder / "rollcall.yaml"
            content = {"kafka": {"bootstrap": kafka.bootstrap, "partitions": PARTITIONS}}
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
            config = configuration.load(path)
            await apply_topics(config.file.kafka, config.topics)
            await measure(config, path, records, events)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--events", type=int, default=200_000)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.records, arguments.events))


if __name__ == "__main__":
    main()
