"""Reacts to customers that are created, changed and deleted, with aiokafka: start it, stop it, start it again.

    python subscriber.py BOOTSTRAP [--group NAME] [--table FILE] [--once]

It keeps the highest sequence it has handled of each customer in a table, in the transaction of its work, and so drops
what it is given again. Without `--table` that table is in memory, which serves after a rebalance but not after a crash
between work and commit. Use a table of your own database, and a new one for another deployment of Rollcall. `--once`
stops at the end of the topic instead of waiting for more.
"""

import argparse
import asyncio
import json
import sqlite3
from contextlib import closing

from aiokafka import AIOKafkaConsumer, ConsumerRecord

TABLE = "CREATE TABLE IF NOT EXISTS handled (customer TEXT PRIMARY KEY, sequence INTEGER NOT NULL)"
# Changes a row only where the sequence is a new one.
NOTE = """INSERT INTO handled VALUES (?, ?) ON CONFLICT (customer)
          DO UPDATE SET sequence = excluded.sequence WHERE excluded.sequence > sequence"""


def react(event_type: str, key: str, sequence: int, event: dict) -> None:
    """Do what your service does: in the same transaction, which is committed when this returns."""
    if event_type == "customer.deleted":
        print(f"{key} #{sequence}: deleted ({event['reason']})")
    else:
        print(f"{key} #{sequence}: {event_type}, {len(event['changed'])} fields")


def handle(table: sqlite3.Connection, record: ConsumerRecord) -> None:
    """React to a record that was not handled before."""
    headers = {name: value.decode() for name, value in record.headers}
    key, sequence = record.key.decode(), int(headers["ce_sequence"])
    with table:  # one transaction
        if table.execute(NOTE, (key, sequence)).rowcount:  # else it is a duplicate event, or a replayed one
            react(headers["ce_type"], key, sequence, json.loads(record.value))


async def subscribe(bootstrap: str, group: str, table: sqlite3.Connection, *, once: bool) -> None:
    """Read `customers.events` as a member of `group`."""
    consumer = AIOKafkaConsumer(
        "customers.events",
        bootstrap_servers=bootstrap,
        group_id=group,
        isolation_level="read_committed",  # without it you would see what was never published
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    table.execute(TABLE)
    await consumer.start()
    try:
        while True:
            batch = await consumer.getmany(timeout_ms=1000)
            for records in batch.values():
                for record in records:
                    handle(table, record)
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
    parser.add_argument("--table", default=":memory:")
    parser.add_argument("--once", action="store_true")
    given = parser.parse_args()
    with closing(sqlite3.connect(given.table)) as connection:
        asyncio.run(subscribe(given.bootstrap, given.group, connection, once=given.once))
