"""State on a new machine: how long 1,000,000 fingerprints take to restore from the changelog, and in what memory.

    python -m benchmarks.restore [--fingerprints 1000000] [--rounds 1]

A changelog is written through the task runtime, one entry as detection keeps it a customer (110 bytes and its key), on
one partition. Then a process with an empty disk starts the same task. Measured is from its first step to the restored
task, the broker being on the same machine; the memory is anonymous (LMDB's map is page cache).
"""

import argparse
import asyncio
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import orjson

from benchmarks import results
from benchmarks.machine import memory
from benchmarks.measure import process
from worker import embedded
from worker.changes import Entry
from worker.kafka import Connection, apply_topics
from worker.settings import KafkaSettings
from worker.task import Task, TaskSpec, Transaction
from worker.times import now_ms
from worker.topics import Topics

BATCH = 20_000


def entry(number: int) -> bytes:
    """Return what is known of a customer, as `worker.detection` keeps it."""
    digest = hashlib.blake2b(b"%d" % number, digest_size=64).digest()
    known = Entry(
        live=True,
        missed=0,
        sequence=1,
        first_seen=now_ms(),
        updated=now_ms(),
        scope=digest[:4],
        fingerprint=digest[4:20],
        hashes=(digest * 2)[:68],
    )
    return known.pack()


async def task_of(bootstrap: str, prefix: str, folder: Path) -> Task:
    """Return the poll task of partition 0, not started."""
    settings = KafkaSettings(bootstrap=bootstrap, partitions=1)
    connection, topics = Connection(settings), Topics(prefix=prefix, partitions=1)
    async with connection.admin() as admin:
        cluster, ids = await admin.topic_ids([topics.state("poll")])
    return Task(connection, topics, TaskSpec("poll", 1, folder, cluster, ids[topics.state("poll")]), 0)


async def mine() -> None:
    """Confirm."""


async def restore(bootstrap: str, prefix: str, folder: str) -> None:
    """Restore, and say how long it took."""
    started = time.monotonic()
    task = await task_of(bootstrap, prefix, Path(folder))
    await task.start(mine)
    took = time.monotonic() - started
    status = memory(os.getpid())
    print(orjson.dumps({"seconds": took, "entries": task.store.entries(), "anonymous": status[1]}).decode(), flush=True)
    await task.close()


async def fill(bootstrap: str, prefix: str, folder: Path, count: int) -> float:
    """Write the changelog; return how many seconds that took."""
    await apply_topics(KafkaSettings(bootstrap=bootstrap, partitions=1), Topics(prefix=prefix, partitions=1))
    task = await task_of(bootstrap, prefix, folder)
    await task.start(mine)
    started = time.monotonic()
    for first in range(0, count, BATCH):

        def work(tx: Transaction, first: int = first) -> None:
            for number in range(first, min(count, first + BATCH)):
                tx.put(b"c/crm/%d" % (1_000_000 + number), entry(number))

        await task.transact(work)
    took = time.monotonic() - started
    await task.close()
    return took


def disk(folder: Path) -> float:
    """Return what a folder takes on the disk, in MB."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


async def main(arguments: argparse.Namespace) -> None:
    """Write once, restore some times."""
    if arguments.child:
        await restore(*arguments.child)
        return
    prefix = f"restore{int(time.time())}"
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with embedded.cluster(folder / "kafka") as kafka:
            await fill(kafka.bootstrap, prefix, folder / "filled", arguments.fingerprints)
            logs = [
                path for path in (folder / "kafka").rglob("*") if path.is_dir() and path.name.endswith("state.poll-0")
            ]
            for number in range(arguments.rounds):
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.restore",
                    "--child",
                    kafka.bootstrap,
                    prefix,
                    folder / f"new{number}",
                ]
                log = folder / f"log{number}"
                async with process(command, log=log) as sampled, asyncio.timeout(120):
                    while b'"anonymous"' not in log.read_bytes():
                        await asyncio.sleep(0.05)
                    said = orjson.loads(next(line for line in log.read_bytes().splitlines() if b'"anonymous"' in line))
                results.add(
                    "restore",
                    "",
                    f"{arguments.fingerprints:,} fingerprints",
                    seconds=said["seconds"],
                    rate=said["entries"] / said["seconds"],
                    cpu_us=1e6 * sampled.cpu[-1] / said["entries"],
                    anonymous_mb=sampled.anonymous,
                    disk_mb=disk(folder / f"new{number}"),
                    changelog_mb=sum(map(disk, logs)),
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fingerprints", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", nargs=3, metavar=("BOOTSTRAP", "PREFIX", "FOLDER"))
    asyncio.run(main(parser.parse_args()))
