"""What the command line reads from Kafka: records, the newest status of everything, and the answers to commands.

Reads only; needs Kafka and nothing else.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from worker.config import Config
from worker.errors import UnavailableError
from worker.handling import Record, decoded
from worker.kafka import Connection, bounded_stop, unreadable

_READ: Final = 2_000
_STALL_SECONDS: Final = 60.0
_ANSWER_POLL: Final = 0.3
ANSWER_SECONDS: Final = 20.0


async def read_all(config: Config, topic: str, partition: int | None = None) -> AsyncIterator[ConsumerRecord]:
    """Yield every committed record of a topic, or of one partition, that is there now, each partition in its order.

    Raises TopicError, and UnavailableError, also where a transaction stays open for longer than any of ours can.
    """
    connection = Connection(config.file.kafka)
    partitions = range(config.file.kafka.partitions) if partition is None else [partition]
    where = [TopicPartition(topic, one) for one in partitions]
    consumer = await connection.consumer()
    try:
        await connection.demand(consumer, topic)
        consumer.assign(where)
        ends = await connection.ends(where)
        await consumer.seek_to_beginning(*where)
        open_ = {one for one in where if await consumer.position(one) < ends[one]}
        moved = time.monotonic()
        while open_:
            read = await consumer.getmany(*open_, timeout_ms=500, max_records=_READ)
            for records in read.values():
                for record in records:
                    yield record
            if read:
                moved = time.monotonic()
            elif time.monotonic() - moved > _STALL_SECONDS:
                message = f"{topic} cannot be read to its end: a transaction has been open there for a minute"
                raise UnavailableError(message, hint="Is a replica missing, or a worker stopped in mid-transaction?")
            open_ = {one for one in open_ if await consumer.position(one) < ends[one]}
    except KafkaError as error:
        raise unreadable(topic, error) from error
    finally:
        await bounded_stop(consumer.stop(), "reader")


async def records(config: Config, topic: str) -> list[Record]:
    """Return every committed record of a topic that is there now, by partition and offset."""
    found = [
        Record(row.topic, row.partition, row.offset, row.timestamp, row.key, row.value, row.headers)
        async for row in read_all(config, topic)
    ]
    return sorted(found, key=lambda record: (record.partition, record.offset))


async def answers(config: Config, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Wait for what becomes of commands, and return it by their ids; UnavailableError for those not answered in time.

    A worker answers on the status topic, under `command/<id>`, in the transaction that carries the command out.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        found = {row["id"]: row for row in await statuses(config) if row.get("kind") == "command" and row["id"] in ids}
        missing = [id_ for id_ in ids if id_ not in found]
        if not missing:
            return found
        if time.monotonic() > deadline:
            message = f"no worker has answered the command{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
            hint = (
                "It is in Kafka and will be carried out. Is the worker that it is for running? See `rollcall status`."
            )
            raise UnavailableError(message, hint=hint)
        await asyncio.sleep(_ANSWER_POLL)


async def statuses(config: Config) -> list[dict[str, Any]]:
    """Return the newest status of everything, by key."""
    newest: dict[bytes, dict[str, Any]] = {}
    async for record in read_all(config, config.topics.status):
        if record.value is None:
            newest.pop(record.key, None)
        else:
            newest[record.key] = decoded(record)
    return [newest[key] for key in sorted(newest)]


def plain(text: str) -> str:
    """Return a text without what could command a terminal: it comes from outside."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
