"""Builds a table of all live customers from `customers.latest`, with aiokafka and the CloudEvents SDK.

python table.py BOOTSTRAP        prints how many customers each source has, and goes no further

The topic is compacted: read from its beginning it gives every live customer once or more, the newest last. A null is a
deletion; its headers still say which version it is. A service would go on reading from where this stops.
"""

import asyncio
import sys
from collections import Counter

from aiokafka import AIOKafkaConsumer
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat


async def table(bootstrap: str) -> dict[str, dict]:
    """Return every live customer by its key."""
    consumer = AIOKafkaConsumer(  # without a group it is given every partition
        "customers.latest",
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    customers: dict[str, dict] = {}
    await consumer.start()
    try:
        while not (partitions := consumer.assignment()):  # it hears of the partitions a moment after its start
            await asyncio.sleep(0.1)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    key = record.key.decode()
                    if record.value is None:
                        customers.pop(key, None)
                        continue
                    message = KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value)
                    event = from_binary_event(message, JSONFormat())
                    customers[key] = {"version": int(event.get_extension("sequence")), **event.get_data()}
    finally:
        await consumer.stop()
    return customers


if __name__ == "__main__":
    found = asyncio.run(table(sys.argv[1]))
    for source, count in sorted(Counter(customer["source"] for customer in found.values()).items()):
        print(f"{source}: {count}")
