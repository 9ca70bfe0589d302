"""A real broker for the whole run, and a deployment of its own (a topic prefix) for each test."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from worker import embedded
from worker.kafka import Connection, apply_topics, unawaited
from worker.settings import KafkaSettings
from worker.task import Task, TaskSpec
from worker.topics import Topics

PARTITIONS = 2
_numbers = itertools.count()


@dataclass(frozen=True)
class Deployment:
    """The topics of one test, and the way to them."""

    connection: Connection
    topics: Topics
    folder: Path
    cluster_id: str
    ids: dict[str, str]

    def spec(self, stage: str, *, folder: str = "state", version: int = 1) -> TaskSpec:
        """Return what a task of `stage` is; another `folder` is another machine."""
        return TaskSpec(stage, version, self.folder / folder, self.cluster_id, self.ids[self.topics.state(stage)])

    def task(self, stage: str, partition: int = 0, *, folder: str = "state", version: int = 1) -> Task:
        """Return a task that was not started."""
        return Task(self.connection, self.topics, self.spec(stage, folder=folder, version=version), partition)

    async def read(self, topic: str) -> list[ConsumerRecord]:
        """Return every committed record of a topic."""
        where = [TopicPartition(topic, partition) for partition in range(self.topics.partitions)]
        consumer = await self.connection.consumer()
        try:
            consumer.assign(where)
            ends = await self.connection.ends(where)
            await consumer.seek_to_beginning(*where)
            records = []
            while any([await consumer.position(one) < ends[one] for one in where]):
                for rows in (await consumer.getmany(timeout_ms=200)).values():
                    records += rows
            return records
        finally:
            await consumer.stop()


async def owner() -> None:
    """Confirm an ownership that nobody questions."""


@pytest.fixture(scope="session")
async def kafka() -> AsyncIterator[KafkaSettings]:
    """Run a broker of one node; what aiokafka leaves to nobody when a producer is fenced is treated as in a worker."""
    asyncio.get_running_loop().set_exception_handler(unawaited)
    async with embedded.cluster() as cluster:
        yield KafkaSettings(bootstrap=cluster.bootstrap, partitions=PARTITIONS)


@pytest.fixture
async def deployment(kafka: KafkaSettings, tmp_path: Path) -> Deployment:
    """Return a deployment with all its topics."""
    topics = replace(Topics(), prefix=f"test{next(_numbers)}", partitions=PARTITIONS)
    await apply_topics(kafka, topics)
    connection = Connection(kafka)
    async with connection.admin() as admin:
        cluster_id, ids = await admin.topic_ids([spec.name for spec in topics.declared()])
    return Deployment(connection, topics, tmp_path, cluster_id, ids)
