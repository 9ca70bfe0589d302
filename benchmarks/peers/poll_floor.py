"""The floor of a first poll: fetch, parse, write: one topic, a transaction a page, nothing else.

Usage: poll_floor.py BOOTSTRAP URL TOPIC FOLDER.
"""

import asyncio
import sys

import aiohttp
import orjson
import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

PARTITIONS = 4


async def send(producer: AIOKafkaProducer, topic: str, docs: list[dict[str, object]]) -> None:
    """Write the records of a page in one transaction, one batch a partition."""
    batches = {}
    for doc in docs:
        key = b"%d" % doc["id"]
        partition = (murmur2(key) & 0x7FFFFFFF) % PARTITIONS
        batch = batches.get(partition) or batches.setdefault(partition, producer.create_batch())
        batch.append(key=key, value=orjson.dumps(doc), timestamp=None)
    async with producer.transaction():
        futures = [await producer.send_batch(batch, topic, partition=number) for number, batch in batches.items()]
        await asyncio.gather(*futures)


async def main(bootstrap: str, url: str, topic: str) -> None:
    """Read every page, and write it while the next one is read."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=topic, max_batch_size=1_000_000, retry_backoff_ms=5
    )
    await producer.start()
    async with aiohttp.ClientSession() as session:
        page, more = 1, True
        writing = None
        while more:
            async with session.get(f"{url}/api/customers?limit=100&page={page}") as response:
                answer = orjson.loads(await response.read())
            if writing is not None:
                await writing
            writing = asyncio.ensure_future(send(producer, topic, answer["docs"]))
            page, more = page + 1, answer["hasNextPage"]
        if writing is not None:
            await writing
    await producer.stop()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4]))
