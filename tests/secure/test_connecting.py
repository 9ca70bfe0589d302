"""Kafka over TLS, by password, by token and by certificate: who may come in does, and who may not is told why."""

import json
import sys

import pytest

from tests.programs import run
from tests.secure.conftest import Secured
from worker.errors import KafkaUnavailableError, TopicError
from worker.kafka import Connection, apply_topics, plan_topics
from worker.settings import KafkaSettings
from worker.topics import Topics


async def cluster_of(settings: KafkaSettings) -> str:
    """Return the id of the cluster that these settings lead to."""
    async with Connection(settings).admin() as admin:
        return (await admin.topic_ids([]))[0]


async def test_a_password_over_tls(secured: Secured) -> None:
    """SCRAM-SHA-512 lets in whoever knows the password."""
    settings = secured.settings(**await secured.user("jane"))
    assert await cluster_of(settings)


async def test_a_wrong_password(secured: Secured) -> None:
    """Who does not know it is told what to look at, and the password is not in the error."""
    await secured.user("joe")
    settings = secured.settings(username="joe", password=secured.secret("wrong", "not at all right"))
    with pytest.raises(KafkaUnavailableError) as refused:
        await cluster_of(settings)
    assert "username" in str(refused.value)
    assert "not at all right" not in str(refused.value)


CLOSE = """
import json, sys
import uvloop
from aiokafka import TopicPartition
from worker.kafka import Connection, bounded_stop
from worker.settings import KafkaSettings

async def main():
    for _ in range(8):
        consumer = await Connection(KafkaSettings.model_validate(json.loads(sys.argv[1]))).consumer()
        where = TopicPartition(sys.argv[2], 0)
        consumer.assign([where])
        ends = await consumer.end_offsets([where])
        await consumer.seek_to_beginning(where)
        while await consumer.position(where) < ends[where]:
            await consumer.getmany(where, timeout_ms=500)
        await bounded_stop(consumer.stop(), "reader")

uvloop.run(main())
"""


async def test_clients_close_over_tls_on_the_event_loop_of_workers(admin: KafkaSettings, topics: Topics) -> None:
    """None has to be given up: uvloop waits for a goodbye that a broker does not send."""
    await apply_topics(admin, topics)
    await Connection(admin).publish(topics, [(topics.status, b"key", b"{}")])
    settings = json.dumps(admin.model_dump(mode="json", exclude_defaults=True))
    code, output, errors = await run([sys.executable, "-c", CLOSE, settings, topics.status])
    logged = output + errors
    assert code == 0, logged
    assert "kafka_client_abandoned" not in logged


async def test_a_token(secured: Secured) -> None:
    """OAUTHBEARER lets in by a token of the token endpoint, which is asked once for many connections."""
    secured.issuer.clients["rollcall"] = "secret of the client"
    oauth = {
        "token_url": secured.issuer.url,
        "client_id": "rollcall",
        "client_secret": secured.secret("client", "secret of the client"),
        "scope": "kafka",
        "ca_file": str(secured.authority.ca),
    }
    settings = secured.settings(sasl_mechanism="OAUTHBEARER", oauth=oauth)
    connection = Connection(settings)
    secured.issuer.asked.clear()
    for _ in range(2):
        async with connection.admin() as admin:
            assert (await admin.topic_ids([]))[0]
    assert secured.issuer.asked == [{"grant_type": "client_credentials", "scope": "kafka"}]


async def test_topics_that_may_not_be_looked_at_are_not_taken_for_missing(
    secured: Secured, admin: KafkaSettings, topics: Topics
) -> None:
    """Who may not ask for a topic would be told to make it; and those who read it, that there is none."""
    await apply_topics(admin, topics)
    stranger = secured.settings(**await secured.user("stranger"))
    with pytest.raises(TopicError, match=r"topic \S+ cannot be looked at: .*[Aa]uthoriz") as refused:
        await plan_topics(stranger, topics)
    assert "DESCRIBE" in (refused.value.hint or "")
