"""How many deletions a second one worker carries downstream, against a target without a rate limit.

    python -m benchmarks.deletes [--customers 10000] [--concurrency 32]

A real broker, a real `rollcall handle deletes`, the simulated Drivly in a process of its own. Published deletions go in
as the poller would publish them; measured is the time from the first DELETE to the last receipt, by the receipts' own
times, the CPU of each process, and the worker's transactions. Every look-up before, DELETE and look-up after is a real
request: three a deletion.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml
from aiokafka import TopicPartition

from benchmarks.machine import cpu_seconds
from worker import config as configuration
from worker import embedded, inspect
from worker.config import Config
from worker.demo.workers import Workers
from worker.events import CREATED, DELETED, EventType, customer_key, event_headers
from worker.kafka import Connection, apply_topics
from worker.task import Task, TaskSpec, Transaction
from worker.times import now_ms, rfc3339

KEY = "users API-Key drivly-test-key"
BATCH = 2_000


def settings(bootstrap: str, url: str, folder: Path, concurrency: int) -> dict[str, object]:
    """Return a configuration without guard and rate limit."""
    api = {"url": f"{url}/api", "rate": 100_000, "burst": 10_000, "allow_private_addresses": True}
    target = {"kind": "drivly", "key": {"env": "BENCH_KEY"}, "concurrency": concurrency, "undo": False, **api}
    return {
        "kafka": {"bootstrap": bootstrap, "partitions": 4},
        "state_dir": str(folder / "state"),
        "log": {"format": "json"},
        "sources": {
            "crm": {"kind": "drivly", "key": {"env": "BENCH_KEY"}, **api, "url": "https://crm.example.com/api"}
        },
        "handlers": {
            "deletes": {
                "targets": {"shop": target},
                "routes": [{"source": "crm", "target": "shop"}],
                "guard": {"window": 0, "count": 1_000_000, "fraction": 1, "cap": 1_000_000},
            }
        },
    }


async def publish(config: Config, folder: Path, customers: int, *, deleted: bool) -> None:
    """Publish customers, or their deletions, as the poller does."""
    connection = Connection(config.file.kafka)
    async with connection.admin() as admin:
        cluster, ids = await admin.topic_ids([config.topics.state("poll")])
    spec = TaskSpec("poll", 1, folder, cluster, ids[config.topics.state("poll")])
    task = Task(connection, config.topics, spec, 0)

    async def mine() -> None:  # ruff: ignore[unused-async] - awaited by contract
        return

    await task.start(mine)
    for start in range(1, customers + 1, BATCH):

        def work(tx: Transaction, first: int = start) -> None:
            for number in range(first, min(first + BATCH, customers + 1)):
                key = customer_key("crm", str(number))
                kind: EventType = DELETED if deleted else CREATED
                headers = event_headers(
                    key=key,
                    source="crm",
                    type_=kind,
                    sequence=2 if deleted else 1,
                    time=rfc3339(now_ms()),
                    reason="gone" if deleted else None,
                )
                value = None if deleted else orjson.dumps({"source": "crm", "id": str(number), "references": []})
                tx.send(config.topics.latest, key, value, [*headers, ("ce_live", b"1000000")])

        await task.transact(work)
    await task.close()


async def receipts(config: Config) -> list[dict[str, Any]]:
    """Return the receipts there are."""
    return [orjson.loads(record.value or b"") for record in await inspect.records(config, config.topics.receipts)]


async def receipted(config: Config) -> int:
    """Return how many offsets the topic of receipts has: no fewer than receipts."""
    consumer = await Connection(config.file.kafka).consumer()
    try:
        where = [TopicPartition(config.topics.receipts, one) for one in range(config.topics.partitions)]
        return sum((await consumer.end_offsets(where)).values())
    finally:
        await consumer.stop()


async def transactions(log: str) -> dict[str, int]:
    """Return how many transactions each stage of the worker with this log has committed."""
    port = next(json.loads(line)["port"] for line in log.splitlines() if '"listening"' in line)
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r'rollcall_transactions_total\{outcome="committed",stage="(\w+)"\} (\S+)', text)
    return {stage: int(float(count)) for stage, count in found}


def seconds(rows: list[dict[str, Any]]) -> float:
    """Return the time from the first DELETE to the last receipt."""
    first = min(row["attempts"][0]["at"] for row in rows if row["attempts"])
    last = max(row["ended_at"] for row in rows)
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


async def run(customers: int, concurrency: int) -> None:
    """Run once and print the figures."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-bench-"))
    os.environ |= {"BENCH_KEY": KEY, "ROLLCALL_PEPPER": "a pepper for the benchmark"}
    simulator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.simulator", "drivly", "--customers", str(customers)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert simulator.stdout is not None
    url = json.loads(await simulator.stdout.readline())["url"]
    async with embedded.cluster(folder / "kafka") as kafka:
        path = folder / "rollcall.yaml"
        path.write_text(yaml.safe_dump(settings(kafka.bootstrap, url, folder, concurrency)), encoding="utf-8")
        config = configuration.load(path)
        await apply_topics(config.file.kafka, config.topics)
        workers = Workers(path, folder, {"deletes": ["handle", "deletes"]})
        await workers.start_all()
        await workers.ready()
        await publish(config, folder / "publisher", customers, deleted=False)
        assert kafka.nodes[0].pid is not None
        processes = {"worker": workers.pid("deletes"), "target": simulator.pid, "broker": kafka.nodes[0].pid}
        before = {name: cpu_seconds(pid) for name, pid in processes.items()}
        committed = await transactions(workers.log("deletes"))
        await publish(config, folder / "publisher", customers, deleted=True)
        done: list[dict[str, Any]] = []
        while len(done) < customers:
            if died := workers.died():
                raise RuntimeError("\n".join(died))
            await asyncio.sleep(1)
            if await receipted(config) >= customers:
                done = await receipts(config)
        used = {name: cpu_seconds(pid) - before[name] for name, pid in processes.items()}
        after = await transactions(workers.log("deletes"))
        await workers.stop_all()
    simulator.terminate()
    await simulator.wait()
    took, outcomes = seconds(done), sorted({str(receipt["outcome"]) for receipt in done})
    print(
        f"{customers} deletions, concurrency {concurrency}: {customers / took:.0f} a second ({took:.1f} s); {outcomes}"
    )
    print("CPU a deletion:", ", ".join(f"{name} {1e6 * one / customers:.0f} us" for name, one in used.items()))
    print("transactions:", ", ".join(f"{stage} {after[stage] - committed.get(stage, 0)}" for stage in after))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=32)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.customers, arguments.concurrency))


if __name__ == "__main__":
    main()
