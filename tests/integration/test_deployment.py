"""Whose topics they are: the record that keeps two deployments apart, on a real broker."""

import asyncio
import re
from dataclasses import replace

import pytest

from tests.integration.conftest import PARTITIONS, Deployment
from worker import deployment as module
from worker.deployment import Deployment as Record
from worker.deployment import claim
from worker.errors import FencedError, StateError, TopicError
from worker.kafka import Connection
from worker.topics import Topics

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


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("north", "south", "a deployment named 'north'; `deployment` is 'south' here"),
        ("north", "", "a deployment named 'north'; `deployment` is empty here"),
        ("", "south", "a deployment without a name; `deployment` is 'south' here"),
    ],
)
async def test_a_second_deployment_with_the_same_pepper_is_told_by_its_name(
    deployment: Deployment, theirs: str, ours: str, words: str
) -> None:
    """A copy of the configuration, secrets and all, for other systems: its name is what differs."""
    await claim(deployment.connection, deployment.topics, replace(OURS, name=theirs))
    with pytest.raises(StateError, match=re.escape(words)):
        await claim(deployment.connection, deployment.topics, replace(OURS, name=ours))


async def test_a_changed_partition_count_is_refused(deployment: Deployment) -> None:
    """Also where the topics and the configuration have been changed together."""
    await claim(deployment.connection, deployment.topics, Record("aaaaaaaa", PARTITIONS + 1))
    with pytest.raises(TopicError, match=f"with {PARTITIONS + 1} partitions, and have {PARTITIONS} now"):
        await claim(deployment.connection, deployment.topics, OURS)


async def test_who_learns_late_that_another_was_first_goes_on(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may take longer to say so than a start may: what counts is whether the record is there."""
    settings, write = deployment.connection.settings.model_copy(update={"start_timeout": 2.0}), module._write

    async def late(connection: Connection, topics: Topics, mine: Record) -> None:
        await write(connection, topics, mine)
        await asyncio.sleep(settings.start_timeout)
        raise FencedError("another one writes it")

    monkeypatch.setattr(module, "_write", late)
    await claim(Connection(settings), deployment.topics, OURS)


async def test_of_two_that_start_at_once_one_wins(deployment: Deployment) -> None:
    """Two deployments that meet on empty topics do not both take them."""
    rivals = [claim(deployment.connection, deployment.topics, Record(name * 8, PARTITIONS)) for name in "abc"]
    outcomes = await asyncio.gather(*rivals, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StateError", "StateError"]
    assert len(await deployment.read(deployment.topics.status)) == 1


async def test_however_many_start_at_once_all_go_on(deployment: Deployment) -> None:
    """The workers of one deployment, at its very first start: none ends because others write the same record."""
    await asyncio.gather(*(claim(deployment.connection, deployment.topics, OURS) for _ in range(16)))
    assert [record.value for record in await deployment.read(deployment.topics.status)] == [OURS.encode()]
