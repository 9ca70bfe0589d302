"""What a membership makes of work that ends by itself, without Kafka."""

import asyncio
import time
from typing import Any, cast

import structlog
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from worker import membership
from worker.kafka import Connection
from worker.membership import Membership
from worker.settings import KafkaSettings


class Plain:
    """A task that starts and closes without a broker."""

    stage = "trial"

    def __init__(self, _: int) -> None:
        self.log = structlog.get_logger()
        self.stopping = asyncio.Event()

    async def start(self, _: object) -> None:
        """Do nothing."""

    def resume(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


async def test_work_that_was_cancelled_by_what_it_waited_for_begins_again(monkeypatch: Any) -> None:
    """It is a failure like any other; only who takes the partition away ends it."""
    monkeypatch.setattr(membership, "_PAUSES", (0.0,))
    starts, again = 0, asyncio.Event()

    async def run(task: object) -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise asyncio.CancelledError
        again.set()
        await asyncio.Event().wait()

    member = Membership(Connection(KafkaSettings()), "group", "topic", cast("Any", Plain), run, grace=0.1)
    with capture_logs() as logs:
        await member.on_partitions_assigned([TopicPartition("topic", 0)])
        async with asyncio.timeout(5):
            await again.wait()
        await member.on_partitions_assigned([])
        await asyncio.gather(*member._closing.values())
    assert [entry["reason"] for entry in logs if entry["event"] == "task_failed"] == [
        "something that it waited for was cancelled"
    ]
    assert (starts, member.tasks, member._fatal.done()) == (2, {}, False)


def said(member: Membership) -> list[str]:
    """Return what is said of the group just now."""
    with capture_logs() as logs:
        member._notice_silence()
    return [entry["event"] for entry in logs]


async def test_a_group_that_does_not_answer_is_said_once() -> None:  # ruff: ignore[unused-async] - a membership needs a loop
    """Also to a worker that has nothing to do, and so would not notice; one without partitions is missed by nobody."""
    member = Membership(Connection(KafkaSettings()), "group", "topic", cast("Any", Plain), cast("Any", None), grace=0.1)
    assert said(member) == []
    member._assigned, member._heard = {0}, time.monotonic() - KafkaSettings().session_timeout - 1
    assert (said(member), said(member)) == (["group_silent"], [])
    member._heard = time.monotonic()
    assert (said(member), said(member)) == (["group_heard_again"], [])
