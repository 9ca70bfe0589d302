"""Gives orders to sources and waits for what becomes of them; reads watch lists. Needs Kafka and nothing else.

What can be refused is refused here, before anything is written: whoever polls the source refuses the same things, but
a person at a terminal should not have to wait for that.
"""

import asyncio
import getpass
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from worker import answers, inspect, orders
from worker.changes import Entry
from worker.config import Config
from worker.errors import KafkaUnavailableError, UnavailableError, UsageError
from worker.kafka import Connection
from worker.keys import Keys
from worker.orders import Order, What
from worker.times import now_ms
from worker.topics import partition_of

_READ_MS: Final = 500
_NAMED: Final = 10


def user() -> str:
    """Return the user's name; where the machine knows none, as in a container, the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def who() -> str:
    """Return who gives an order, as claimed: user and machine."""
    return f"{user()}@{socket.gethostname()}"


def given(what: What, source: str, claimed: str | None = None, **more: Any) -> Order:
    """Return a new order to a source; `more` are further parts of `orders.order`."""
    return orders.order(secrets.token_hex(8), what, source, who=claimed or who(), at=now_ms(), **more)


def configured(config: Config, source: str) -> None:
    """Raise UsageError unless the source is configured."""
    if source not in config.sources:
        known = ", ".join(sorted(config.sources)) or "none"
        raise UsageError(f"there is no source {source!r}; there are {known}")


def left(config: Config, source: str) -> None:
    """Raise UsageError if the source is configured."""
    if source in config.sources:
        hint = "Take it out of the configuration and restart the pollers first."
        raise UsageError(f"the source {source!r} is configured", hint=hint)


def watchable(config: Config, source: str, ids: Iterable[str]) -> list[str]:
    """Return ids for a watch list, each once; raises UsageError where the source has none, or an id is no id of it."""
    configured(config, source)
    adapter = config.sources[source].adapter
    if adapter.feeds():
        raise UsageError(f"{source} is a source that lists its customers: there is nothing to watch")
    wanted = list(dict.fromkeys(ids))
    bad = [id_ for id_ in wanted if adapter.lookup(id_) is None]
    if bad:
        named = ", ".join(repr(id_) for id_ in bad[:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
        raise UsageError(f"{len(bad)} of {len(wanted)} are no ids of {source}: {named}", hint="Nothing was changed.")
    return wanted


async def carry_out(config: Config, wanted: Order, timeout: float) -> dict[str, Any]:  # ruff: ignore[async-function-with-timeout] - of the answer
    """Give an order and return the answer; UnavailableError where there is none within `timeout` seconds.

    All records of an order are in one transaction: it is given whole or not at all. Raises KafkaUnavailableError,
    TopicError.
    """
    kafka = config.file.kafka
    connection = Connection(kafka)
    key = answers.key(wanted["id"])
    status = TopicPartition(config.topics.status, partition_of(key, kafka.partitions))
    try:
        async with connection.reader("answers") as consumer:
            await connection.demand(consumer, status.topic, config.topics.control)
            consumer.assign([status])
            await consumer.seek_to_end(status)
            await consumer.position(status)  # from here on: the answer is not there yet
            await _give(config, connection, wanted)
            async with asyncio.timeout(timeout):
                return await _answer(consumer, status, key)
    except TimeoutError:
        message = f"the order {wanted['id']} was given, and not answered within {timeout:g} s"
        hint = f"It will be carried out as soon as the poller of {wanted['source']} runs: see `rollcall status`."
        raise UnavailableError(message, hint=hint) from None
    except KafkaError as error:
        message = f"the answer to the order {wanted['id']} cannot be read ({type(error).__name__})"
        raise KafkaUnavailableError(message) from error


async def _give(config: Config, connection: Connection, wanted: Order) -> None:
    topic, kafka = config.topics.control, config.file.kafka
    records = list(orders.parts(wanted, kafka.max_record_bytes))
    if len(records) == 1:
        await connection.publish(config.topics, [(topic, *records[0])])
        return
    producer = await connection.producer(f"{config.topics.prefix}.order.{wanted['id']}")
    try:
        where = topic, partition_of(wanted["source"].encode(), kafka.partitions)
        await producer.transact({where: [(key, value, []) for key, value in records]}, {}, "")
    finally:
        await producer.close()


async def _answer(consumer: AIOKafkaConsumer, status: TopicPartition, key: bytes) -> dict[str, Any]:
    while True:
        for record in (await consumer.getmany(status, timeout_ms=_READ_MS)).get(status, []):
            if record.key == key and record.value is not None:
                found: dict[str, Any] = orjson.loads(record.value)
                return found


async def watched(config: Config, source: str) -> list[tuple[str, str]]:
    """Return (id, what is known of it) of everyone on a watch list, in order: a reading of the state in Kafka.

    Known are: `live`, `deleted`, `not found`, `not looked up`, `set aside` (its look-up gives nothing of use).
    """
    configured(config, source)
    keys = Keys(source)
    listed, fresh, entries, aside = keys.listed, keys.fresh, keys.entries, keys.aside
    on, new, bad, known = set[bytes](), set[bytes](), set[bytes](), dict[bytes, str]()
    async for record in state_of(config, source):
        key, value = record.key, record.value
        if key.startswith(listed):
            (on.add if value == b"+" else on.discard)(key[len(listed) :])
        elif key.startswith(fresh):
            (new.discard if value is None else new.add)(key[len(fresh) :])
        elif key.startswith(aside):
            (bad.discard if value is None else bad.add)(key[len(aside) :])
        elif key.startswith(entries) and value is not None:
            entry = Entry.unpack(value)
            known[key[len(entries) :]] = "live" if entry.live else "deleted" if entry.sequence else "not found"
    known |= dict.fromkeys(bad, "set aside") | dict.fromkeys(new, "not looked up")
    return [(id_.decode(), known.get(id_, "not found")) for id_ in sorted(on)]


def state_of(config: Config, source: str) -> AsyncIterator[ConsumerRecord]:
    """Yield the records of the state that the source's poll task has in Kafka, other sources' among them."""
    partition = partition_of(source.encode(), config.file.kafka.partitions)
    return inspect.read_all(config, config.topics.state("poll"), partition)


def lines(text: str) -> Sequence[str]:
    """Return the ids in a file: one a line; empty lines and those that start with `#` are passed over."""
    found = (line.strip() for line in text.splitlines())
    return [line for line in found if line and not line.startswith("#")]
