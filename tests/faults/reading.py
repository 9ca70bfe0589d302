"""Readers of the topics as any subscriber has them: `read_committed`, one that follows along and one at the end."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from worker.kafka import bounded_stop

_SECONDS: Final = 90.0


class Read(NamedTuple):
    """One record."""

    offset: int
    timestamp: int
    key: str
    value: bytes | None
    headers: Mapping[str, str]

    @property
    def digest(self) -> bytes:
        """Return a hash of everything but the time."""
        content = repr((self.key, self.value, sorted(self.headers.items()))).encode()
        return hashlib.blake2b(content, digest_size=8).digest()


Log = dict[TopicPartition, list[Read]]


def _read(record: object) -> Read:
    headers = {name: value.decode() for name, value in record.headers}  # type: ignore[attr-defined]
    key = (record.key or b"").decode(errors="surrogateescape")  # type: ignore[attr-defined]
    return Read(record.offset, record.timestamp, key, record.value, headers)  # type: ignore[attr-defined]


def _consumer(bootstrap: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        request_timeout_ms=15_000,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )


@dataclass
class Follower:
    """Reads along while everything goes on, and keeps of each record its key, its headers and a hash."""

    bootstrap: str
    where: Sequence[TopicPartition]
    log: dict[TopicPartition, list[tuple[int, bytes]]] = field(default_factory=dict)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    newest: dict[str, Read] = field(default_factory=dict)
    """By key, of the topic of events."""
    events: str = ""

    async def run(self) -> None:
        """Read until cancelled; after an error go on where it stopped."""
        while True:
            consumer = _consumer(self.bootstrap)
            try:
                await consumer.start()
                consumer.assign(list(self.where))
                for where, end in self.ends.items():
                    consumer.seek(where, end)
                while True:
                    for where, records in (await consumer.getmany(timeout_ms=500, max_records=2_000)).items():
                        self._take(where, [_read(record) for record in records])
            except KafkaError:
                await asyncio.sleep(1)
            finally:
                await bounded_stop(consumer.stop(), "reader")

    def _take(self, where: TopicPartition, records: Sequence[Read]) -> None:
        self.log.setdefault(where, []).extend((record.offset, record.digest) for record in records)
        self.ends[where] = records[-1].offset + 1
        if where.topic == self.events:
            self.newest.update((record.key, record) for record in records)


async def read_all(bootstrap: str, where: Sequence[TopicPartition]) -> Log:
    """Return every committed record of the partitions that is there now."""
    consumer = _consumer(bootstrap)
    log: Log = {one: [] for one in where}
    try:
        async with asyncio.timeout(_SECONDS):
            await consumer.start()
            consumer.assign(list(where))
            ends = await consumer.end_offsets(list(where))
            left = {one for one in where if await consumer.position(one) < ends[one]}
            while left:
                for one, records in (await consumer.getmany(*left, timeout_ms=500, max_records=5_000)).items():
                    log[one] += map(_read, records)
                left = {one for one in left if await consumer.position(one) < ends[one]}
    finally:
        await bounded_stop(consumer.stop(), "reader")
    return log


async def ends(
    bootstrap: str, where: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Return how far a `read_committed` reader comes now, and where the partitions ended a moment before."""
    found = []
    for level in ("read_uncommitted", "read_committed"):
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level=level, request_timeout_ms=15_000)
        try:
            async with asyncio.timeout(_SECONDS):
                await consumer.start()
                found.append(await consumer.end_offsets(list(where)))
        finally:
            await bounded_stop(consumer.stop(), "reader")
    return found[1], found[0]
