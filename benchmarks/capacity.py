"""The figures of docs/capacity.md, measured: what one pod of each stage does, and what it needs.

    python -m benchmarks.capacity [CUSTOMERS]

Two simulated systems that have the same people, so that every customer has one duplicate; an embedded broker; and the
workers that production runs, one stage after the other so that each has the machine to itself (the broker takes its
share of it). Rates are by wall clock between the first and the last record; CPU is the worker's own. At the end every
local state is thrown away and read anew from Kafka.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import anonymous_mb, cpu_seconds, machine
from benchmarks.measure import simulator
from worker import config as configuration
from worker import embedded
from worker.config import Config
from worker.demo.workers import Workers
from worker.kafka import apply_topics

KEY = "connect-test-key"
NOWHERE, TARGET = "http://127.0.0.1:9", "http://127.0.0.2:9"
STAGES = ("keys", "pairs", "clusters", "requests")
PARTITIONS, MORE_PARTITIONS = 8, 32
QUIET_SECONDS = 3.0
LONGEST_SECONDS = 600.0
ROLES = {"poll": ["poll"], **{stage: ["handle", stage] for stage in STAGES}}


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage did: records, seconds by the clock, CPU seconds, the most anonymous memory in MB."""

    records: float
    seconds: float
    cpu: float
    memory: float

    def __str__(self) -> str:
        """Return rate and cost."""
        rate, each = self.records / self.seconds, self.cpu / self.records * 1e6
        return f"{self.records:>9,.0f} records {rate:>9,.0f}/s {each:>8.1f} us CPU each {self.memory:>6.0f} MB"


def written(folder: Path, bootstrap: str, urls: Sequence[str], *, prefix: str, partitions: int) -> Path:
    """Write a configuration; return its file."""
    source = {"kind": "connect", "key": {"env": "BENCH_KEY"}, "interval": "1ms", "rate": 1e6, "burst": 1000}
    target = {"kind": "http", "url": TARGET, "path": "/customers/{id}", "allow_private_addresses": True}
    content = {
        "prefix": prefix,
        "kafka": {"bootstrap": bootstrap, "partitions": partitions},
        "log": {"format": "json"},
        "state_dir": str(folder / prefix),
        "sources": {
            f"telco{number}": {**source, "url": url, "allow_private_addresses": True} for number, url in enumerate(urls)
        },
        "handlers": {
            "deletes": {
                "targets": {"shop": target},
                "routes": [{"source": "telco0", "target": "shop", "link": "reference", "reference": "customerId"}],
            }
        },
    }
    path = folder / f"{prefix}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


class Bench:
    """One deployment and its workers."""

    def __init__(self, config: Config, workers: Workers) -> None:
        """Keep them; an HTTP session reads the workers' metrics."""
        self.config = config
        self.workers = workers
        self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        """Stop every worker."""
        await self.workers.stop_all()
        await self._session.close()

    async def metric(self, name: str, sample: str, **labels: str) -> float:
        """Return the sum of a worker's samples that have these labels."""
        listening = [line for line in self.workers.log(name).splitlines() if '"listening"' in line][-1]
        async with self._session.get(f"http://127.0.0.1:{orjson.loads(listening)['port']}/metrics") as answer:
            text = await answer.text()
        return sum(
            one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.name == sample and labels.items() <= one.labels.items()
        )

    async def start(self, name: str) -> int:
        """Start a worker; return its process id once it is ready."""
        await self.workers.start(name)
        await self.workers.ready()
        return self.workers.pid(name)

    async def work(self, name: str, sample: str, *, until: float = 0.0, **labels: str) -> Work:
        """Return what a running worker does until `until` records are done, or none has been for a while."""
        pid, begun = self.workers.pid(name), time.monotonic()
        first = last = begun
        cpu = at_last = cpu_seconds(pid)
        memory = seen = 0.0
        while time.monotonic() - last < QUIET_SECONDS and time.monotonic() - begun < LONGEST_SECONDS:
            if died := self.workers.died():
                raise SystemExit("\n".join(died))
            memory = max(memory, anonymous_mb(pid))
            if (now := await self.metric(name, sample, **labels)) > seen:
                first = first if seen else time.monotonic()
                seen, last, at_last = now, time.monotonic(), cpu_seconds(pid)
            if until and seen >= until:
                break
            await asyncio.sleep(0.1)
        return Work(seen, max(last - begun, 0.1), at_last - cpu, memory)

    def size(self, stage: str) -> int:
        """Return the bytes on disk of a stage's local state."""
        files = (file for file in self.config.file.state_dir.glob(f"*/{stage}/**/*") if file.is_file())
        return sum(file.stat().st_blocks * 512 for file in files)


@asynccontextmanager
async def deployed(folder: Path, bootstrap: str, urls: Sequence[str], **given: Any) -> AsyncGenerator[Bench]:
    """Make the topics of a deployment; its workers are stopped in any case."""
    path = written(folder, bootstrap, urls, **given)
    config = configuration.load(path)
    await apply_topics(config.file.kafka, config.topics)
    logs = folder / f"logs-{given['prefix']}"
    logs.mkdir()
    bench = Bench(config, Workers(path, logs, ROLES))
    try:
        yield bench
    finally:
        await bench.close()


async def idle_memory(folder: Path, bootstrap: str, partitions: int) -> float:
    """Return the anonymous memory, in MB, of a worker that owns so many partitions and has nothing to do."""
    async with deployed(folder, bootstrap, [NOWHERE], prefix=f"idle{partitions}", partitions=partitions) as bench:
        return anonymous_mb(await bench.start("keys"))


async def polling(bench: Bench, customers: int) -> None:
    """Measure the first poll and passes over unchanged customers."""
    await bench.workers.start("poll")
    await bench.workers.ready()
    print(f"first poll     {await bench.work('poll', 'rollcall_events_total', until=customers)}", flush=True)
    before = await bench.metric("poll", "rollcall_rows_read_total", outcome="unchanged")
    more = await bench.work("poll", "rollcall_rows_read_total", until=before + 4 * customers, outcome="unchanged")
    print(f"unchanged      {Work(more.records - before, more.seconds, more.cpu, more.memory)}", flush=True)
    await bench.workers.stop("poll")


async def handling(bench: Bench) -> None:
    """Measure each stage, alone."""
    for stage in STAGES:
        await bench.start(stage)
        print(f"{stage:<14} {await bench.work(stage, 'rollcall_records_handled_total')}", flush=True)
        await bench.workers.stop(stage)


async def restoring(bench: Bench, customers: int) -> None:
    """Throw local states away and measure how they are read anew."""
    shutil.rmtree(bench.config.file.state_dir)
    for name in ROLES:
        await bench.workers.start(name)
        await bench.workers.ready()
        records = await bench.metric(name, "rollcall_restore_records_total")
        seconds = await bench.metric(name, "rollcall_restore_duration_seconds_sum")
        each = bench.size(name) / customers
        print(
            f"{name:<14} {records:>9,.0f} records restored, {records / customers:.1f} a customer, in "
            f"{seconds:.1f} s of {PARTITIONS} tasks; {each:,.0f} bytes of local state a customer",
            flush=True,
        )
        await bench.workers.stop(name)


def topic_sizes(data: Path, bench: Bench, customers: int) -> None:
    """Print the bytes that the broker holds of each topic, a customer."""
    topics = bench.config.topics
    for topic in (topics.latest, topics.events, topics.clusters, *(topics.state(stage) for stage in ROLES)):
        held = sum(file.stat().st_size for file in data.rglob("*.log") if file.parent.name.rpartition("-")[0] == topic)
        print(f"{topic:<32} {held / customers:>8,.0f} bytes a customer", flush=True)


async def main(customers: int) -> None:
    """Measure everything."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-capacity-"))
    os.environ |= {"ROLLCALL_PEPPER": "pepper", "BENCH_KEY": KEY}
    print(f"{machine()}; {customers:,} customers in two sources, {PARTITIONS} partitions", flush=True)
    try:
        async with AsyncExitStack() as stack:
            kafka = await stack.enter_async_context(embedded.cluster(folder / "kafka"))
            few, many = [await idle_memory(folder, kafka.bootstrap, n) for n in (PARTITIONS, MORE_PARTITIONS)]
            each = (many - few) / (MORE_PARTITIONS - PARTITIONS)
            print(f"idle worker    {few:.0f} MB with {PARTITIONS} partitions, {each:.1f} MB more each", flush=True)
            urls = [await stack.enter_async_context(simulator(customers // 2)) for _ in range(2)]
            own = {"prefix": "customers", "partitions": PARTITIONS}
            async with deployed(folder, kafka.bootstrap, urls, **own) as bench:
                await polling(bench, customers // 2 * 2)
                await handling(bench)
                topic_sizes(folder / "kafka", bench, customers)
                await restoring(bench, customers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
