"""Duplicate events dropped: a topic in which keys come twice is copied without them, with state that survives.

    python -m benchmarks.drop [--records 200000] [--rounds 3] [--shares 5,50] [--systems rollcall,quix,faststream,floor]

Records of 250 bytes on four partitions. Rollcall's and Quix's state is durable (a changelog) and all is exactly once;
FastStream's is in memory, at least once; the floor is aiokafka with a set in memory, exactly once. Measured is from the
first committed output to the last, so that no start-up counts.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
from aiokafka import AIOKafkaProducer

from benchmarks import results
from benchmarks.measure import EVERY, PEERS, ROOT, Topic, broker, process, topic
from benchmarks.poll import make_topic
from worker.kafka import apply_topics
from worker.settings import KafkaSettings
from worker.topics import Topics, murmur2

PARTITIONS = 4
PATIENCE = 60  # seconds without a record
SYSTEMS = ("rollcall", "quix", "faststream", "floor")
NAMES = {"rollcall": "Rollcall", "quix": "Quix Streams, exactly once", "faststream": "FastStream", "floor": "floor"}


def records(count: int, share: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value); of a hundred records, `share` have a key that was there before."""
    chance = random.Random(share)
    keys: list[bytes] = []
    for number in range(count):
        if keys and chance.random() * 100 < share:
            key = keys[chance.randrange(len(keys))]
        else:
            key = b"crm/%08d#%d" % (number, 1)
            keys.append(key)
        value = orjson.dumps({"id": key.decode(), "changed": ["emails", "phones"], "filler": ""})
        yield key, value[:-2] + b"x" * (250 - len(value)) + value[-2:]


async def fill(bootstrap: str, name: str, count: int, share: int) -> int:
    """Write the input; return how many different keys are in it."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=512 * 1024, enable_idempotence=True)
    await producer.start()
    rows: list[list[tuple[bytes, bytes]]] = [[] for _ in range(PARTITIONS)]
    different = set()
    for key, value in records(count, share):
        rows[(murmur2(key) & 0x7FFFFFFF) % PARTITIONS].append((key, value))
        different.add(key)
    for number, found in enumerate(rows):
        batch = producer.create_batch()
        for key, value in found:
            if batch.append(key=key, value=value, timestamp=None) is None:
                await (await producer.send_batch(batch, name, partition=number))
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
        await (await producer.send_batch(batch, name, partition=number))
    await producer.stop()
    return len(different)


async def once(system: str, bootstrap: str, count: int, share: int, run: str) -> dict[str, float]:
    """Run one system once; return its figures."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for end in ("in", "out"):
            await make_topic(bootstrap, f"{run}.{end}", PARTITIONS)
        if system == "rollcall":
            topics = Topics(prefix=run, partitions=PARTITIONS, plugins=("drop",))
            await apply_topics(KafkaSettings(bootstrap=bootstrap, partitions=PARTITIONS), topics)
        different = await fill(bootstrap, f"{run}.in", count, share)
        ours = [sys.executable, "-m", "benchmarks.drop_rollcall"]
        theirs = [PEERS, ROOT / "benchmarks/peers" / f"drop_{system}.py"]
        command = [*(ours if system == "rollcall" else theirs), bootstrap, run]
        async with (
            topic(bootstrap, f"{run}.out", PARTITIONS) as watched,
            process([*command, folder, PARTITIONS], log=folder / "log") as sampled,
        ):
            sizes = await grown(watched, different)
            (start, before), (end, after) = sizes[0], sizes[-1]
            sampled.sample()
            found = await watched.count()
            if found != different:
                raise RuntimeError(f"{system} wrote {found} records, not {different}")
            handled = count * (after - before) / after
            return {
                "records": handled,
                "seconds": end - start,
                "rate": handled / (end - start),
                "cpu_us": 1e6 * sampled.used(start, end) / handled,
                "rss_mb": sampled.rss,
            }


async def grown(watched: Topic, wanted: int) -> list[tuple[float, int]]:
    """Return (time, size) of a topic whenever it has grown, until all is there."""
    found: list[tuple[float, int]] = []
    began = time.monotonic()
    while True:
        size = await watched.size()
        if size and (not found or size > found[-1][1]):
            found.append((time.monotonic(), size))
        if found and found[-1][1] >= wanted and time.monotonic() - found[-1][0] > 1.5:
            return found
        if time.monotonic() - (found[-1][0] if found else began) > PATIENCE:
            raise RuntimeError(f"only {found[-1][1] if found else 0} of {wanted} records came")
        await asyncio.sleep(EVERY / 2)


async def main(arguments: argparse.Namespace) -> None:
    """Run all systems in turn, round after round."""
    stamp = int(time.time())
    async with broker(arguments.bootstrap) as bootstrap:
        for number in range(arguments.rounds):
            for share in map(int, arguments.shares.split(",")):
                for system in arguments.systems.split(","):
                    run = f"drop{stamp}-{system}-{share}-{number}"
                    figures = await once(system, bootstrap, arguments.records, share, run)
                    results.add("drop", f"{share} % duplicates", NAMES[system], **figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--bootstrap", help="a running broker; default: an embedded one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shares", default="5,50")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    asyncio.run(main(parser.parse_args()))
