"""The topics on a cluster that makes whatever is asked for, as Kafka does by default."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from worker import embedded
from worker.errors import RollcallError, UsageError
from worker.kafka import Connection, apply_topics, plan_topics
from worker.reading import partitions_of
from worker.settings import KafkaSettings
from worker.topics import Plan, Topics, TopicSpec

PARTITIONS = 3


@pytest.fixture(scope="module")
async def eager() -> AsyncIterator[KafkaSettings]:
    """Run a broker that makes topics by itself."""
    async with embedded.cluster(config={"auto.create.topics.enable": "true"}) as cluster:
        yield KafkaSettings(bootstrap=cluster.bootstrap, partitions=PARTITIONS)


async def there(eager: KafkaSettings) -> set[str]:
    """Return the names of all topics of the cluster."""
    async with Connection(eager).admin() as admin:
        return set(await admin.client.list_topics())


async def test_to_plan_makes_nothing_and_to_apply_makes_what_is_declared(eager: KafkaSettings) -> None:
    """To ask for a topic is not to make it, with settings that are not ours."""
    topics = Topics(prefix="first", partitions=PARTITIONS)
    for _ in range(2):
        assert len((await plan_topics(eager, topics)).create) == len(topics.declared())
    made = await apply_topics(eager, topics)
    assert (len(made.create), made.there) == (len(topics.declared()), ())
    assert (await plan_topics(eager, topics)).empty


async def test_no_client_makes_what_it_asks_for(eager: KafkaSettings) -> None:
    """Whoever looks a topic up, reads it or writes to it, and it is not there."""
    connection = Connection(eager)
    with pytest.raises(UsageError, match="there is no topic looked-up"):
        await partitions_of(connection, "looked-up")
    consumer = await connection.consumer()
    member = await connection.consumer(group="nobody", auto_offset_reset="latest")
    member.subscribe(["joined"])
    producer = await connection.producer("nobody")
    try:
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(2):
                await consumer.beginning_offsets([TopicPartition("read", 0)])
        with suppress(RollcallError, TimeoutError):
            async with asyncio.timeout(2):
                await producer.transact({("written", 0): [(b"k", b"v", [])]}, {}, "")
    finally:
        await asyncio.gather(consumer.stop(), member.stop(), producer.close())
    assert not await there(eager) & {"looked-up", "read", "joined", "written"}


async def test_a_topic_that_is_deleted_under_its_users_stays_away(eager: KafkaSettings) -> None:
    """Clients ask for it for as long as they live; it would come back with settings that lose data."""
    connection = Connection(eager)
    spec = TopicSpec("deleted", "", "compact", 1, True, {})
    async with connection.admin() as admin:
        await admin.create([spec])
        producer = await connection.producer("writer")
        consumer = await connection.consumer()
        consumer.assign([TopicPartition("deleted", 0)])
        await consumer.seek_to_beginning()
        try:
            await producer.transact({("deleted", 0): [(b"k", b"v", [])]}, {}, "")
            assert await consumer.getone()
            await admin.client.delete_topics(["deleted"])
            for _ in range(5):
                for client in (producer._client.client, consumer._client):
                    await client.force_metadata_update()
                await consumer.getmany(timeout_ms=100)
        finally:
            await asyncio.gather(consumer.stop(), producer.close())
    assert "deleted" not in await there(eager)


async def test_what_somebody_else_has_made_meanwhile_is_said_and_mended(
    eager: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the making: it is not said that we made it, nor taken for what it should be."""
    topics = Topics(prefix="raced", partitions=PARTITIONS)
    early = await plan_topics(eager, topics)
    async with Connection(eager).admin() as admin:
        await admin.create([TopicSpec(topics.latest, "", "delete", PARTITIONS, True, {})])
        await admin.create([TopicSpec(topics.events, "", "delete", 1, True, {})])

    async def looked_early(*_: Any) -> Plan:  # ruff: ignore[unused-async] - in the other's place
        return early

    monkeypatch.setattr("worker.kafka.connection.plan_topics", looked_early)
    done = await apply_topics(eager, topics)
    assert sorted(done.there) == sorted([topics.latest, topics.events])
    assert not {spec.name for spec in done.create} & set(done.there)
    assert done.alter[topics.latest]["cleanup.policy"] == "compact"
    assert [line.split(" has 1 partitions")[0] for line in done.wrong] == [f"topic {topics.events}"]
    monkeypatch.undo()
    async with asyncio.timeout(20):
        while (left := await plan_topics(eager, topics)).alter:  # brokers hear of it a moment later
            await asyncio.sleep(0.1)
    assert (left.create, left.wrong) == ((), done.wrong)


async def test_a_topic_that_goes_away_while_it_is_looked_at_is_not_there(
    eager: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its partitions and its settings are two questions: what was deleted in between answers only the first."""
    specs = [TopicSpec(name, "", "compact", 1, True, {}) for name in ("stays", "goes")]
    async with Connection(eager).admin() as admin:
        await admin.create(specs)
        describe = admin.client.describe_topics

        async def deleted_meanwhile(names: list[str]) -> list[dict[str, Any]]:
            rows = await describe(names)
            await admin.client.delete_topics(["goes"])
            while any(row["topic"] == "goes" and not row["error_code"] for row in await describe(names)):
                await asyncio.sleep(0.05)
            return rows

        monkeypatch.setattr(admin.client, "describe_topics", deleted_meanwhile)
        assert set(await admin.found(["stays", "goes"])) == {"stays"}
