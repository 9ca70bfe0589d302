"""The floor of dropping duplicates: aiokafka, one consumer and one transactional producer, a set in memory.

Usage: drop_floor.py BOOTSTRAP PREFIX FOLDER PARTITIONS.
"""

import asyncio
import sys

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


async def main(bootstrap: str, prefix: str) -> None:
    """Run until terminated."""
    consumer = AIOKafkaConsumer(
        f"{prefix}.in",
        bootstrap_servers=bootstrap,
        group_id=prefix,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=2 * 1024 * 1024,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=prefix, max_batch_size=512 * 1024, retry_backoff_ms=5
    )
    await consumer.start()
    await producer.start()
    seen: set[bytes] = set()
    while True:
        read = await consumer.getmany(timeout_ms=200, max_records=2_000)
        if not read:
            continue
        async with producer.transaction():
            futures = []
            for where, records in read.items():
                batch = producer.create_batch()
                for record in records:
                    if record.key in seen:
                        continue
                    seen.add(record.key)
                    if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                        futures.append(await producer.send_batch(batch, f"{prefix}.out", partition=where.partition))
                        batch = producer.create_batch()
                        batch.append(key=record.key, value=record.value, timestamp=None)
                if batch.record_count():
                    futures.append(await producer.send_batch(batch, f"{prefix}.out", partition=where.partition))
            await asyncio.gather(*futures)
            offsets = {where: records[-1].offset + 1 for where, records in read.items()}
            await producer.send_offsets_to_transaction(offsets, prefix)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:3]))
