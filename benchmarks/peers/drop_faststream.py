"""FastStream: a subscriber that publishes what it sees for the first time; its state is in memory, at least once.

Usage: drop_faststream.py BOOTSTRAP PREFIX FOLDER PARTITIONS.
"""

import logging
import sys

import uvloop
from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

BOOTSTRAP, PREFIX = sys.argv[1:3]
broker = KafkaBroker(BOOTSTRAP, log_level=logging.ERROR, linger_ms=20)
app = FastStream(broker, logger=None)
seen: set[bytes] = set()


@broker.subscriber(f"{PREFIX}.in", group_id=PREFIX, auto_offset_reset="earliest")
async def handle(message: KafkaMessage) -> None:
    """Pass a key on once."""
    key = message.raw_message.key
    if key in seen:
        return
    seen.add(key)
    await broker.publish(message.body, f"{PREFIX}.out", key=key, no_confirm=True)


if __name__ == "__main__":
    uvloop.run(app.run())
