"""What the clients of a connection live through, on a real broker."""

from aiokafka.structs import BrokerMetadata

from tests.integration.conftest import Deployment
from worker.embedded.layout import free_ports


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
