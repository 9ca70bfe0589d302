"""A state that cannot be built anew is taken away: its stage begins anew, and nothing of the past is executed."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from tests.integration.polling import Poller, linked
from tests.integration.test_upgrade import KEY, deletes, receipts, sources
from tests.waiting import taken_up, until
from worker import inspect
from worker.kafka import Connection
from worker.settings import KafkaSettings
from worker.simulator.drivly import Drivly
from worker.topics import partition_of

STAGES = ("poll", "requests", "executor")


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[str, Drivly]]:
    """Return two upstreams; every customer of the first names one of the second."""
    async with linked(6, KEY) as found:
        yield found


class Story:
    """A deployment whose customers are deleted one after the other."""

    def __init__(self, poller: Poller, upstreams: dict[str, Drivly]) -> None:
        self.poller, self.crm, self.shop = poller, upstreams["crm"], upstreams["shop"]

    async def polled(self) -> bool:
        """Return whether the table has whom the first upstream has."""
        return (await self.poller.latest("crm")).keys() == self.crm.customers().keys()

    async def delete(self) -> str:
        """Delete a customer of the first upstream, see that polled, and return whom it stands for in the second."""
        id_, row = next(iter(self.crm.customers().items()))
        self.crm.delete(int(id_))
        await until(self.polled)
        return str(row["customerId"])

    async def requests(self) -> int:
        """Return how many records the requests stage has written."""
        return len(await inspect.records(self.poller.config, self.poller.config.topics.requests))

    async def states(self) -> dict[str, str]:
        """Return the newest state of each customer's deletion."""
        rows = await inspect.records(self.poller.config, self.poller.config.topics.deletions)
        return {(row.key or b"").decode(): orjson.loads(row.value or b"{}").get("state", "") for row in rows}

    async def done(self) -> int:
        """Return how many deletions have ended."""
        return (await receipts(self.poller)).total()


async def test_emptied_deletes_begin_anew_and_execute_nothing_of_the_past(
    kafka: KafkaSettings, upstreams: dict[str, Drivly], tmp_path: Any
) -> None:
    """What was done is not done again, what was open is held for a person, what came meanwhile is let be."""
    poller, key = Poller(kafka, tmp_path), tmp_path / "key"
    await poller.configure(sources(upstreams, key), deletes(upstreams, key))
    story = Story(poller, upstreams)
    async with poller.running(*STAGES):
        await until(story.polled)
        await taken_up(*STAGES, partitions=kafka.partitions)
        first = await story.delete()
        await until(story.done)
    async with poller.running("poll", "requests"):
        await taken_up("poll", "requests", partitions=kafka.partitions)
        before = await story.requests()
        open_ = await story.delete()

        async def requested() -> bool:
            return await story.requests() > before

        await until(requested)
    async with poller.running("poll"):
        missed = await story.delete()

    code, _, errors = await poller.rollcall("rebuild", "deletes")
    assert (code, "`rollcall rebuild deletes --empty`" in errors) == (2, True)
    code, said, errors = await poller.rollcall("rebuild", "deletes", "--empty")
    assert code == 0, errors
    assert "now start the workers that run deletes again" in said

    async with poller.running(*STAGES):

        async def held() -> bool:
            return (await story.states()).get(f"shop/{open_}") == "HELD"

        await until(held)
        await taken_up(*STAGES, partitions=kafka.partitions)
        later = await story.delete()

        async def carried_out() -> bool:
            return await story.done() == 2

        await until(carried_out)
    assert (await story.states())[f"shop/{open_}"] == "HELD"
    assert set(story.shop.customers()) & {first, open_, missed, later} == {open_, missed}


async def test_a_stage_whose_input_is_gone_starts_after_what_its_error_names(
    kafka: KafkaSettings, upstreams: dict[str, Drivly], tmp_path: Any
) -> None:
    """Decisions were deleted before they were read: the worker says so, and the command it names helps."""
    poller, key = Poller(kafka, tmp_path), tmp_path / "key"
    await poller.configure(sources(upstreams, key), deletes(upstreams, key))
    config = poller.config
    connection, topics = Connection(config.file.kafka), config.topics
    name = next(name for name in (b"%d" % n for n in range(99)) if partition_of(name, topics.partitions) == 0)

    async def decide() -> None:
        await connection.publish(topics, [(topics.approvals, name, b"no decision")] * 2)

    letters = 0

    async def set_aside() -> bool:
        return len(await inspect.records(config, topics.deadletters)) == letters

    async def begun() -> bool:
        return len(await inspect.records(config, topics.state("executor"))) >= topics.partitions

    async with poller.running("executor"):
        await until(begun)
        await decide()
        letters += 2
        await until(set_aside)
    await decide()
    async with connection.admin() as admin:
        await admin.client.delete_records({TopicPartition(topics.approvals, 0): RecordsToDelete(before_offset=4)})
    code, _, errors = await poller.rollcall("handle", "executor")
    assert code == 1
    assert "were deleted unread" in errors
    assert "`rollcall rebuild executor --empty`" in errors
    code, _, errors = await poller.rollcall("rebuild", "executor", "--empty")
    assert code == 0, errors
    async with poller.running("executor"):
        await until(begun)
        await decide()
        letters += 2
        await until(set_aside)
