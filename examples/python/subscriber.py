"""Reacts to customers that are created, changed and deleted, with aiokafka: start it, stop it, start it again.

    python subscriber.py BOOTSTRAP [--group NAME] [--once]

It keeps the highest sequence it has handled of each customer, as your table would, and so drops duplicate events after
a crash between its work and its commit. `--once` stops at the end of the topic instead of waiting for more.
"""

import argparse
import asyncio
import json

from aiokafka import AIOKafkaConsumer


def react(event_type: str, key: str, sequence: int, event: dict) -> None:
    """Do what your service does."""
    if event_type == "customer.deleted":
        print(f"{key} #{sequence}: deleted ({event['reason']})")
    else:
        print(f"{key} #{sequence}: {event_type}, {len(event['changed'])} fields")


async def subscribe(bootstrap: str, group: str, *, once: bool) -> None:
    """Read `customers.events` as a member of `group`."""
    consumer = AIOKafkaConsumer(
        "customers.events",
        bootstrap_servers=bootstrap,
        group_id=group,
        isolation_level="read_committed",  # without it you would see what was never published
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    handled: dict[str, int] = {}
    await consumer.start()
    try:
        while True:
            batch = await consumer.getmany(timeout_ms=1000)
            for records in batch.values():
                for record in records:
                    headers = {name: value.decode() for name, value in record.headers}
                    key, sequence = record.key.decode(), int(headers["ce_sequence"])
                    if sequence <= handled.get(key, 0):
                        continue  # a duplicate event, or a replayed one
                    react(headers["ce_type"], key, sequence, json.loads(record.value))
                    handled[key] = sequence
            if batch:
                await consumer.commit()
            elif once and await at_end(consumer):
                return
    finally:
        await consumer.stop()


async def at_end(consumer: AIOKafkaConsumer) -> bool:
    """Return whether everything there is has been read."""
    mine = consumer.assignment()
    ends = await consumer.end_offsets(mine)
    return bool(mine) and all([await consumer.position(one) >= ends[one] for one in mine])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("--group", default="example-python")
    parser.add_argument("--once", action="store_true")
    given = parser.parse_args()
    asyncio.run(subscribe(given.bootstrap, given.group, once=given.once))
