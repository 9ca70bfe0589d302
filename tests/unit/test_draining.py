"""The handler loop of a worker on its way out: what it still does, and what it only says."""

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from worker.consumer import HandlerLoop
from worker.handling import STOPPING, Call, Done, Input, Outcome, Record, Reply, Tx
from worker.task import Task, Transaction
from worker.testkit import MemoryTx
from worker.topics import Topics

TOPICS = Topics(partitions=1)


class Calling:
    """A handler that asks for a second call once the first is answered."""

    stage = "executor"
    version = 1
    inputs = (Input(TOPICS.requests),)

    def __init__(self) -> None:
        """Start without replies."""
        self.replies: list[tuple[str, Reply]] = []

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:
        """Want no timer."""

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Do nothing."""
        return Done()

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Go on from the first call to the second."""
        self.replies.append((call.id, reply))
        if call.id == "1":
            tx.call(Call("2", "crm", "DELETE", "/customers/2"))

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Never come."""


class Owned(MemoryTx):
    """A transaction as the loop has it."""

    changes = outputs = ()

    def settle(self) -> None:
        """Do what was left to the end."""


def stopping() -> Task:
    """Return a task without Kafka that is to come to an end."""
    stop = asyncio.Event()
    stop.set()

    async def transact(work: Callable[[Transaction], Any]) -> Any:  # ruff: ignore[unused-async] - as the real one
        return work(cast("Transaction", Owned()))

    return cast("Task", SimpleNamespace(topics=TOPICS, partition=0, stopping=stop, transact=transact))


async def test_a_call_that_is_asked_for_while_stopping_is_answered_with_not_sent() -> None:
    """Its transaction is committed: without an answer, the next owner could not know that it was never made."""
    handler = Calling()
    loop = HandlerLoop(handler, stopping(), {})
    loop._replies.put_nowait((Call("1", "crm", "DELETE", "/customers/1"), Reply(200)))
    while not loop._replies.empty():
        await loop._take_replies(wait=False)
    assert handler.replies == [("1", Reply(200)), ("2", Reply(None, error=STOPPING, sent=False))]
