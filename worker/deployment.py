"""Whose topics these are: one record on the status topic, written by the first worker that ever starts.

A worker that does not go with that record is refused before it joins a group, so that it cannot fence, read or mix
with what is not its own: a second deployment under the same prefix, known by its name or its pepper, or another
partition count than the state was made under. The record is written at most once, however many workers start together:
whoever writes it is the only one who may, as its producer fences every other, and reads once more before it writes.
"""

import asyncio
import random
import time
from dataclasses import asdict, dataclass
from typing import Final

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from worker.errors import FencedError, KafkaUnavailableError, StateError, TopicError, TransactionError
from worker.kafka import Connection, unreadable
from worker.topics import Topics, partition_of

KEY: Final = b"deployment"
# Between attempts, at random: workers that all start at once fence one another.
_PAUSE_SECONDS: Final = (0.05, 0.5)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What must not change under a deployment: `pepper` is the pepper's check (`Hasher.check`), never the pepper.

    `name` tells two deployments apart that have one pepper; it is empty where nobody gave one.
    """

    pepper: str
    partitions: int
    name: str = ""

    def encode(self) -> bytes:
        """Return it as the record's value."""
        return orjson.dumps({"kind": "deployment", **asdict(self)})

    def refuse(self, found: bytes, prefix: str) -> None:
        """Raise TopicError or StateError where the record that was `found` is of another deployment."""
        theirs = orjson.loads(found)
        if theirs["partitions"] != self.partitions:
            message = (
                f"the topics under the prefix {prefix!r} were first used with {theirs['partitions']} partitions, and "
                f"have {self.partitions} now: keys have moved away from their state"
            )
            raise TopicError(message, hint="A changed partition count needs a new prefix and a resync.")
        if theirs["pepper"] != self.pepper:
            message = (
                f"the topics under the prefix {prefix!r} belong to a deployment with another pepper (check "
                f"{theirs['pepper']}, ours is {self.pepper})"
            )
            hint = "Two deployments need two prefixes; for one, ROLLCALL_PEPPER has to keep its value."
            raise StateError(message, hint=hint)
        if theirs.get("name", "") != self.name:
            named = f"named {theirs['name']!r}" if theirs.get("name") else "without a name"
            ours = repr(self.name) if self.name else "empty"
            message = (
                f"the topics under the prefix {prefix!r} belong to a deployment {named}; `deployment` is {ours} here"
            )
            hint = "Two deployments need two prefixes; for one, `deployment` has to keep its value."
            raise StateError(message, hint=hint)


async def claim(connection: Connection, topics: Topics, mine: Deployment) -> None:
    """Make sure that the topics are `mine`, taking them where they are nobody's yet.

    Raises TopicError, StateError, KafkaUnavailableError, the last where that takes longer than `start_timeout`.
    """
    deadline = time.monotonic() + connection.settings.start_timeout
    while (found := await _read(connection, topics)) is None:
        if time.monotonic() > deadline:
            message = f"the record of the deployment on {topics.status} could not be written"
            raise KafkaUnavailableError(message, hint="See the brokers' logs; the next start tries again.")
        try:
            await _write(connection, topics, mine)
        except (FencedError, TransactionError):  # another worker writes it now, or nobody knows whether we have
            await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # ruff: ignore[suspicious-non-cryptographic-random-usage] - jitter
    mine.refuse(found, topics.prefix)


async def _write(connection: Connection, topics: Topics, mine: Deployment) -> None:
    producer = await connection.producer(f"{topics.prefix}.deployment")
    try:
        if await _read(connection, topics) is None:
            where = topics.status, partition_of(KEY, topics.partitions)
            await producer.transact({where: [(KEY, mine.encode(), [])]}, {}, "")
    finally:
        await producer.close()


async def _read(connection: Connection, topics: Topics) -> bytes | None:
    """Return the record; it is looked for in every partition, as their number may have changed."""
    where = [TopicPartition(topics.status, partition) for partition in range(topics.partitions)]
    try:
        seconds = connection.settings.start_timeout
        async with connection.reader("reader of the status topic") as consumer, asyncio.timeout(seconds):
            consumer.assign(where)
            ends = await consumer.end_offsets(where)
            await consumer.seek_to_beginning(*where)
            found, left = None, {one for one in where if ends[one]}
            while left:
                for records in (await consumer.getmany(*left, timeout_ms=500)).values():
                    found = next((record.value for record in records if record.key == KEY), found)
                left = {one for one in left if await consumer.position(one) < ends[one]}
            return found
    except (KafkaError, TimeoutError) as error:
        raise unreadable(topics.status, error) from error
