"""What the clients of a connection live through, on a real broker."""

import asyncio
from collections.abc import Awaitable
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
import uvloop
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import BrokerMetadata

from tests.integration.conftest import Deployment, owner
from worker.embedded.layout import free_ports
from worker.kafka import bounded_stop, linger
from worker.wire import AskingConnection

RECORDS, BYTES = 16, 1_000


async def test_the_topics_are_checked_while_a_broker_is_away(deployment: Deployment) -> None:
    """Whatever an admin client asks, another broker answers where one cannot be reached."""
    port = free_ports(1)[0].client
    async with deployment.connection.admin() as admin:
        cluster = admin.network.cluster
        for away in (101, 102, 103):
            cluster._brokers[away] = BrokerMetadata(away, "127.0.0.1", port, None)
        for _ in range(5):
            cluster_id, ids = await admin.topic_ids([deployment.topics.events])
            assert cluster_id == deployment.cluster_id
            assert list(await admin.found(ids)) == [deployment.topics.events]


@pytest.mark.parametrize(("milliseconds", "arrives"), [(20, True), (60_000, False)])
async def test_an_empty_partition_holds_up_a_full_one_no_longer_than_it_may(
    deployment: Deployment, milliseconds: int, arrives: object
) -> None:
    """While records are handled the broker is asked for the other partition alone, and the next ones wait for that."""
    full, empty = (TopicPartition(topic, 0) for topic in (deployment.topics.latest, deployment.topics.replays))
    writer = deployment.task("poll", folder="writer")
    await writer.start(owner)
    for number in range(RECORDS):
        await writer.transact(lambda tx, n=number: tx.send_to(full.topic, 0, b"%d" % n, bytes(BYTES), None))
    await writer.close()
    consumer = await deployment.connection.consumer(max_partition_fetch_bytes=4 * BYTES, fetch_max_wait_ms=60_000)
    try:
        consumer.assign([full, empty])
        linger(consumer, milliseconds)
        await consumer.seek_to_beginning(full, empty)

        async def read() -> None:
            count = 0
            while count < RECORDS:
                count += sum(map(len, (await consumer.getmany(timeout_ms=200, max_records=1)).values()))
                await asyncio.sleep(0.12)  # longer than aiokafka waits before it asks for the other partition

        reading = asyncio.ensure_future(read())
        done, _ = await asyncio.wait([reading], timeout=5)
        assert bool(done) is arrives
        reading.cancel()
    finally:
        await consumer.stop()


async def test_a_connection_that_is_made_while_its_client_closes_is_closed_as_well(deployment: Deployment) -> None:
    """The client knows nothing of it yet: it would stay open for as long as nobody collects it."""
    consumer = await deployment.connection.consumer()
    client = consumer._client
    (node,) = (broker.nodeId for broker in client.cluster.brokers())
    making = asyncio.ensure_future(client._get_conn(node, group=ConnectionGroup.COORDINATION))
    await asyncio.sleep(0)
    await consumer.stop()
    assert await making is None
    assert not any(connection.connected() for connection in client._conns.values())


async def test_a_client_that_is_cancelled_while_it_starts_leaves_no_connection(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a worker is stopped at once, or a broker that takes connections does not answer within its time."""
    asked: asyncio.Future[AIOKafkaConnection] = asyncio.get_running_loop().create_future()
    send = AIOKafkaConnection.send

    def unanswered(connection: AIOKafkaConnection, request: object, **more: object) -> Awaitable[Any]:
        if not isinstance(request, MetadataRequest):
            return cast("Awaitable[Any]", send(connection, request, **more))
        asked.set_result(connection)
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(AIOKafkaConnection, "send", unanswered)
    starting = asyncio.ensure_future(deployment.connection.consumer())
    connection = await asyncio.wait_for(asked, 30)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not connection.connected()


async def test_a_broken_connection_is_an_error_that_aiokafka_expects(deployment: Deployment) -> None:
    """On uvloop a write after a reset is a RuntimeError, over which a consumer's fetching ended without a word."""
    host, _, port = deployment.connection.settings.bootstrap.partition(":")

    async def write_after_reset() -> bool:
        connection = await create_conn(host, int(port), client_id="test")
        connection.__class__ = AskingConnection
        connection._writer.transport.abort()
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        return bool(connection.connected())

    assert await asyncio.to_thread(uvloop.run, write_after_reset()) is False


async def test_a_reset_while_a_connection_is_made_leaves_the_client_without_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for again, as where nobody answers."""
    consumer = await deployment.connection.consumer()
    try:
        node = next(iter(consumer._client.cluster.brokers())).nodeId
        consumer._client._conns.clear()
        with monkeypatch.context() as patched:
            patched.setattr("aiokafka.client.create_conn", AsyncMock(side_effect=RuntimeError("the handler is closed")))
            assert await consumer._client.ready(node) is False
        assert await consumer._client.ready(node) is True
    finally:
        await consumer.stop()


@pytest.mark.parametrize("whose", ["fetching", "metadata"])
async def test_a_consumer_says_that_it_can_hear_nothing_any_more(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """What ends aiokafka's own tasks is raised where records are read, not waited out for ever."""
    consumer = await deployment.connection.consumer()
    try:
        where = TopicPartition(deployment.topics.events, 0)
        consumer.assign([where])
        await consumer.seek_to_beginning(where)
        name = "send" if whose == "fetching" else "_metadata_update"
        monkeypatch.setattr(consumer._client, name, AsyncMock(side_effect=KeyError("not aiokafka's own error")))
        consumer._client.force_metadata_update()

        async def read() -> None:
            while True:
                await consumer.getmany(where, timeout_ms=200)

        with pytest.raises(KafkaError, match="nothing is fetched any more"):
            await asyncio.wait_for(read(), 30)
    finally:
        monkeypatch.undo()
        await bounded_stop(consumer.stop(), "deaf consumer")
    assert not any(connection.connected() for connection in consumer._client._conns.values())
