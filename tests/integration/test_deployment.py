"""Whose topics they are: the record that keeps two deployments apart, on a real broker."""

import asyncio

import pytest

from tests.integration.conftest import PARTITIONS, Deployment
from worker.deployment import Deployment as Record
from worker.deployment import claim
from worker.errors import StateError, TopicError

OURS = Record("aaaaaaaa", PARTITIONS)


async def test_the_first_worker_takes_the_topics_and_its_fellows_go_on(deployment: Deployment) -> None:
    """The record is written once; whoever has the same pepper and partition count is welcome."""
    for _ in range(2):
        await claim(deployment.connection, deployment.topics, OURS)
    assert [record.value for record in await deployment.read(deployment.topics.status)] == [OURS.encode()]


async def test_a_second_deployment_under_the_prefix_is_refused(deployment: Deployment) -> None:
    """Another pepper is another deployment, or one whose hashes do not fit any more."""
    await claim(deployment.connection, deployment.topics, OURS)
    with pytest.raises(StateError, match="another pepper"):
        await claim(deployment.connection, deployment.topics, Record("bbbbbbbb", PARTITIONS))


async def test_a_changed_partition_count_is_refused(deployment: Deployment) -> None:
    """Also where the topics and the configuration have been changed together."""
    await claim(deployment.connection, deployment.topics, Record("aaaaaaaa", PARTITIONS + 1))
    with pytest.raises(TopicError, match=f"with {PARTITIONS + 1} partitions, and have {PARTITIONS} now"):
        await claim(deployment.connection, deployment.topics, OURS)


async def test_of_two_that_start_at_once_one_wins(deployment: Deployment) -> None:
    """Two deployments that meet on empty topics do not both take them."""
    rivals = [claim(deployment.connection, deployment.topics, Record(name * 8, PARTITIONS)) for name in "abc"]
    outcomes = await asyncio.gather(*rivals, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StateError", "StateError"]
    assert len(await deployment.read(deployment.topics.status)) == 1
