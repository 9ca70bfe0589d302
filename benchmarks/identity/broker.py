"""The three stages as they run in a worker: on Apache Kafka, each task with its transactions and its store.

Customers are written to `customers.latest` and the clusters read from `customers.clusters`, as a subscriber reads them.
What is left out is what decides nothing here: the group that hands out partitions, and the processes.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
from aiokafka import TopicPartition

from handlers.dedupe import DedupeSettings, stages
from worker import embedded
from worker.consumer import HandlerLoop
from worker.events import Customer
from worker.handling import Handler
from worker.kafka import Connection, apply_topics
from worker.privacy import Hasher
from worker.settings import KafkaSettings
from worker.task import Task, TaskSpec
from worker.testkit import latest
from worker.topics import Topics

PARTITIONS = 2
PEPPER = b"a pepper for benchmarks"
BATCH = 500
DEADLINE = 900.0
_LOOK = 0.3
_CALM = 6


class Broker:
    """A running broker; each data set gets topics of its own."""

    def __init__(self, kafka: KafkaSettings) -> None:
        """Take the way to the broker."""
        self._kafka = kafka
        self._connection = Connection(kafka)
        self._runs = 0

    async def clusters(self, customers: Sequence[Customer], settings: DedupeSettings) -> list[set[str]]:
        """Stream customers through the stages; return the members of each published cluster, once all are at rest."""
        self._runs += 1
        topics = Topics(f"identity{self._runs}", partitions=PARTITIONS)
        await apply_topics(self._kafka, topics)
        async with self._running(topics, settings) as tasks:
            for start in range(0, len(customers), BATCH):
                records = [latest(customer, 1) for customer in customers[start : start + BATCH]]
                await self._connection.publish(topics, [(topics.latest, *record) for record in records])
            async with asyncio.timeout(DEADLINE):
                await self._at_rest(topics, tasks)
        return await self._read(topics)

    @asynccontextmanager
    async def _running(
        self, topics: Topics, settings: DedupeSettings
    ) -> AsyncGenerator[Mapping[str, tuple[str, Sequence[asyncio.Task[None]]]]]:
        async with self._connection.admin() as admin:
            cluster_id, ids = await admin.topic_ids([spec.name for spec in topics.declared()])
        running: dict[str, tuple[str, list[asyncio.Task[None]]]] = {}
        tasks: list[Task] = []
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollcall-identity-")))
            for make in stages(settings, topics, Hasher(PEPPER)):
                for partition in range(PARTITIONS):
                    handler: Handler = make()
                    stage = handler.stage
                    spec = TaskSpec(stage, handler.version, folder, cluster_id, ids[topics.state(stage)])
                    task = Task(self._connection, topics, spec, partition)
                    stack.push_async_callback(task.close)
                    await task.start(_mine)
                    tasks.append(task)
                    loops = running.setdefault(stage, (handler.inputs[0].topic, []))[1]
                    loops.append(asyncio.ensure_future(HandlerLoop(handler, task, {}).run()))
            try:
                yield running
            finally:
                for task in tasks:
                    task.stopping.set()
                await asyncio.gather(*(loop for _, loops in running.values() for loop in loops))

    async def _at_rest(self, topics: Topics, running: Mapping[str, tuple[str, Sequence[asyncio.Task[None]]]]) -> None:
        """Wait until each stage has committed all of its input, the first one first: what it sent is there then."""
        for stage, (topic, loops) in running.items():
            where = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
            consumer = await self._connection.consumer(group=topics.group(stage))
            try:
                ends = await self._connection.ends(where)
                calm = 0
                before: list[int] = []
                while calm < _CALM:
                    committed = [await consumer.committed(one) or 0 for one in where]
                    # The last offsets of a topic that is written in transactions are markers, of a writer each.
                    left = [ends[one] - at for one, at in zip(where, committed, strict=True)]
                    at_end = max(left) <= (0 if topic == topics.latest else PARTITIONS)
                    calm = calm + 1 if at_end and committed == before else 0
                    before = committed
                    for loop in loops:
                        if loop.done():
                            loop.result()
                    await asyncio.sleep(_LOOK)
            finally:
                await consumer.stop()

    async def _read(self, topics: Topics) -> list[set[str]]:
        where = [TopicPartition(topics.clusters, partition) for partition in range(PARTITIONS)]
        ends = await self._connection.ends(where)
        consumer = await self._connection.consumer()
        newest: dict[bytes, bytes | None] = {}
        try:
            consumer.assign(where)
            await consumer.seek_to_beginning(*where)
            while any([await consumer.position(one) < ends[one] for one in where]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    newest.update((record.key, record.value) for record in records)
        finally:
            await consumer.stop()
        found: dict[str, set[str]] = defaultdict(set)
        for key, value in newest.items():
            if value is not None:
                found[orjson.loads(value)["cluster"]].add(key.decode())
        return list(found.values())


async def _mine() -> None:
    """Confirm an ownership that nobody questions."""


@asynccontextmanager
async def broker() -> AsyncGenerator[Broker]:
    """Run Apache Kafka for as long as the context lasts."""
    async with embedded.cluster() as cluster:
        yield Broker(KafkaSettings(bootstrap=cluster.bootstrap, partitions=PARTITIONS))
