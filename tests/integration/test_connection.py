"""What the clients of a connection live through, on a real broker."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import BrokerMetadata

from tests.integration.conftest import Deployment, owner
from worker.embedded.layout import free_ports
from worker.kafka import linger

RECORDS, BYTES = 16, 1_000


async def test_the_topics_are_checked_while_a_broker_is_away(deployment: Deployment) -> None:
    """Whatever an admin client asks, another broker answers where one cannot be reached."""
    port = free_ports(1)[0].client
    async with deployment.connection.admin() as admin:
        cluster = admin._client._client.cluster
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
